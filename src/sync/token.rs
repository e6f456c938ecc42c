//! Sync tokens: opaque to clients, made, read and compared only here.

use std::{fmt, str::FromStr};

/// Up to where a client has seen everything.
///
/// As text: `s1_POSITION`. The leading version changes when parts are added (a position for each
/// writer, the to-device inbox), so that an older server refuses what it does not understand and a
/// newer one still reads this form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SyncToken {
    /// The stream position that was visible when the response was made.
    pub(crate) position: u64,
}

/// Text that is no token of this server.
#[derive(Debug, thiserror::Error)]
#[error("this is no sync token of this server")]
pub(crate) struct InvalidToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s1_{}", self.position)
    }
}

impl FromStr for SyncToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let digits = text.strip_prefix("s1_").ok_or(InvalidToken)?;
        // `parse` would take a sign or leading zeros too; a token has one spelling only.
        let position: u64 = digits.parse().map_err(|_| InvalidToken)?;
        if position.to_string() != digits {
            return Err(InvalidToken);
        }
        Ok(Self { position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_round_trip(position: u64) {
            let token = SyncToken { position };
            prop_assert_eq!(token.to_string().parse::<SyncToken>().unwrap(), token);
        }

        #[test]
        fn any_text_is_refused_or_is_the_spelling_of_a_token(text: String) {
            if let Ok(token) = text.parse::<SyncToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for text in ["", "s1_", "s1_+1", "s1_01", "s2_1", "s72594_4483_1934", "s1_-1", "s1_1_"] {
            assert!(text.parse::<SyncToken>().is_err(), "{text}");
        }
    }
}
