//! Sync tokens: opaque to clients, made, read and compared only here.

use std::{fmt, str::FromStr};

/// Up to where a client has seen everything.
///
/// As text: `s2_POSITION_TODEVICE`. The leading version changes when parts are added, so that an
/// older server refuses what it does not understand. `s1_POSITION`, from before there were messages
/// between devices, is still read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SyncToken {
    /// The stream position that was visible when the response was made.
    pub(crate) position: u64,
    /// The position up to which the device has the messages sent to it. Behind `position` while
    /// there are more than one response brings.
    pub(crate) to_device: u64,
}

/// Text that is no token of this server.
#[derive(Debug, thiserror::Error)]
#[error("this is no sync token of this server")]
pub(crate) struct InvalidToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s2_{}_{}", self.position, self.to_device)
    }
}

impl FromStr for SyncToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let (position, to_device) = match text.strip_prefix("s1_") {
            Some(position) => (position, "0"),
            None => text
                .strip_prefix("s2_")
                .and_then(|parts| parts.split_once('_'))
                .ok_or(InvalidToken)?,
        };
        Ok(Self { position: number(position)?, to_device: number(to_device)? })
    }
}

/// `parse` would take a sign or leading zeros too; a token has one spelling only.
fn number(digits: &str) -> Result<u64, InvalidToken> {
    let number: u64 = digits.parse().map_err(|_| InvalidToken)?;
    if number.to_string() == digits { Ok(number) } else { Err(InvalidToken) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_round_trip(position: u64, to_device: u64) {
            let token = SyncToken { position, to_device };
            prop_assert_eq!(token.to_string().parse::<SyncToken>().unwrap(), token);
        }

        #[test]
        fn any_text_is_refused_or_is_the_spelling_of_a_token(text: String) {
            if let Ok(token) = text.parse::<SyncToken>() {
                let old = format!("s1_{}", token.position);
                prop_assert!(text == token.to_string() || text == old);
            }
        }
    }

    #[test]
    fn a_token_from_before_messages_between_devices_is_read() {
        let token = SyncToken { position: 7, to_device: 0 };
        assert_eq!("s1_7".parse::<SyncToken>().unwrap(), token);
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for text in [
            "",
            "s1_",
            "s1_+1",
            "s1_01",
            "s2_1",
            "s2_1_",
            "s2_1_01",
            "s2_1_1_1",
            "s3_1_1",
            "s72594_4483_1934",
            "s1_-1",
            "s1_1_",
        ] {
            assert!(text.parse::<SyncToken>().is_err(), "{text}");
        }
    }
}
