//! Tokens: secrets given to clients, known to the database by their hash only.
//!
//! `myl_` + 32 random bytes in base64url + `_` + CRC-32 of all before, in hex. The prefix lets
//! scanners for leaked secrets find them; the checksum refuses a mistyped one without a look-up.

use sha2::{Digest, Sha256};

use crate::clock::Random;

/// What a token is good for; each has a prefix of its own, so none passes for another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TokenUse {
    /// Requests.
    Access,
    /// A new access token.
    Refresh,
    /// One login.
    Login,
    /// Proving to others who somebody is.
    OpenId,
}

/// Random bytes in a token.
const SECRET_BYTES: usize = 32;
/// The same in base64url without padding.
const SECRET_CHARS: usize = 43;
/// The checksum in hex, with the underscore before it.
const CHECKSUM_CHARS: usize = 9;

impl TokenUse {
    fn prefix(self) -> &'static str {
        match self {
            Self::Access => "myl_",
            Self::Refresh => "mylr_",
            Self::Login => "myll_",
            Self::OpenId => "mylo_",
        }
    }

    /// A new token.
    pub(crate) fn generate(self, random: &Random) -> String {
        let signed = format!("{}{}", self.prefix(), random.token::<SECRET_BYTES>());
        let checksum = crc32fast::hash(signed.as_bytes());
        format!("{signed}_{checksum:08x}")
    }

    /// The hash under which `token` is stored; none if it can't be a token of this kind.
    pub(crate) fn hash(self, token: &str) -> Option<[u8; 32]> {
        let body = token.strip_prefix(self.prefix())?;
        if body.len() != SECRET_CHARS + CHECKSUM_CHARS {
            return None;
        }
        let (signed, checksum) = token.split_at_checked(token.len() - CHECKSUM_CHARS)?;
        let checksum = u32::from_str_radix(checksum.strip_prefix('_')?, 16).ok()?;
        if crc32fast::hash(signed.as_bytes()) != checksum {
            return None;
        }
        Some(Sha256::digest(token.as_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_recognised_for_its_own_use_only() {
        let random = Random::seeded(1);
        let token = TokenUse::Access.generate(&random);
        assert!(token.starts_with("myl_"));
        assert_eq!(TokenUse::Access.hash(&token), Some(Sha256::digest(&token).into()));
        assert_eq!(TokenUse::Refresh.hash(&token), None);
        assert_eq!(TokenUse::Access.hash(&TokenUse::Login.generate(&random)), None);
    }

    #[test]
    fn what_is_mistyped_or_cut_is_no_token() {
        let token = TokenUse::Access.generate(&Random::seeded(1));
        let mut typo = token.clone().into_bytes();
        typo[10] ^= 1;
        assert_eq!(TokenUse::Access.hash(std::str::from_utf8(&typo).unwrap()), None);
        for len in 0..token.len() {
            assert_eq!(TokenUse::Access.hash(&token[..len]), None);
        }
        assert_eq!(TokenUse::Access.hash(&format!("myl_{}", "é".repeat(26))), None);
    }
}
