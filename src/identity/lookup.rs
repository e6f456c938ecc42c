//! Whose an address is.
//!
//! Spec: <https://spec.matrix.org/v1.19/identity-service-api/#association-lookup>

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::Method;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Access, Address, IdentityError, IdentityServers, bad_answer};

/// A pepper may be changed between the two questions; not each time.
const TRIES: usize = 2;

/// How addresses are written in a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Algorithm {
    Sha256,
    /// As they are.
    Plain,
}

#[derive(Deserialize)]
struct HashDetails {
    lookup_pepper: String,
    algorithms: Vec<String>,
}

impl HashDetails {
    fn algorithm(&self) -> Option<Algorithm> {
        let has = |name: &str| self.algorithms.iter().any(|one| one == name);
        if has("sha256") {
            Some(Algorithm::Sha256)
        } else {
            has("none").then_some(Algorithm::Plain)
        }
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Plain => "none",
        }
    }

    /// The address as the question has it.
    fn write(self, Address { medium, address }: &Address, pepper: &str) -> String {
        match self {
            Self::Sha256 => {
                let hash = Sha256::digest(format!("{address} {medium} {pepper}"));
                BASE64_URL_SAFE_NO_PAD.encode(hash)
            }
            Self::Plain => format!("{address} {medium}"),
        }
    }
}

impl IdentityServers {
    /// The user whose address it is, if the identity server knows one.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub(crate) async fn lookup(
        &self,
        access: &Access,
        address: &Address,
    ) -> Result<Option<OwnedUserId>, IdentityError> {
        #[derive(Deserialize)]
        struct Found {
            mappings: BTreeMap<String, String>,
        }
        let mut tried = 0;
        let (asked, found) = loop {
            tried += 1;
            let details: HashDetails = self.ask(access, Method::GET, "/hash_details", None).await?;
            let algorithm = details.algorithm().ok_or_else(|| {
                bad_answer(access.server.as_str(), "it knows no algorithm of the specification")
            })?;
            let pepper = &details.lookup_pepper;
            let asked = algorithm.write(address, pepper);
            let question =
                json!({ "algorithm": algorithm.name(), "pepper": pepper, "addresses": [&asked] });
            match self.ask::<Found>(access, Method::POST, "/lookup", Some(&question)).await {
                Err(IdentityError::Refused { errcode, .. })
                    if errcode == "M_INVALID_PEPPER" && tried < TRIES => {}
                found => break (asked, found?),
            }
        };
        let Some(user) = found.mappings.get(&asked) else { return Ok(None) };
        let user = OwnedUserId::try_from(user.as_str());
        user.map(Some).map_err(|error| bad_answer(access.server.as_str(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec: <https://spec.matrix.org/v1.19/identity-service-api/#sha256>
    #[test]
    fn the_examples_of_the_specification() {
        for (address, medium, hash) in [
            ("alice@example.com", "email", "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc"),
            ("bob@example.com", "email", "LJwSazmv46n0hlMlsb_iYxI0_HXEqy_yj6Jm636cdT8"),
            ("18005552067", "msisdn", "nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I"),
        ] {
            let address = Address::new(medium, address).unwrap();
            assert_eq!(Algorithm::Sha256.write(&address, "matrixrocks"), hash);
        }
        let alice = Address::new("email", "Alice@Example.com").unwrap();
        assert_eq!(Algorithm::Plain.write(&alice, "matrixrocks"), "alice@example.com email");
    }

    #[test]
    fn hashes_are_preferred() {
        let details = |algorithms: &[&str]| HashDetails {
            lookup_pepper: "p".to_owned(),
            algorithms: algorithms.iter().map(|&one| one.to_owned()).collect(),
        };
        assert_eq!(details(&["none", "sha256"]).algorithm(), Some(Algorithm::Sha256));
        assert_eq!(details(&["none"]).algorithm(), Some(Algorithm::Plain));
        assert_eq!(details(&["md5"]).algorithm(), None);
    }
}
