//! What a server publishes of its keys, and when a key counts.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys>

use std::collections::BTreeMap;

use base64::Engine as _;
use ed25519_dalek::{Signature, VerifyingKey};
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use serde::Deserialize;

use crate::x_matrix::BASE64;

/// The longest a key is trusted without asking for it again.
const MAX_VALIDITY_MS: u64 = 7 * 24 * 3_600_000;
/// The most keys of one server, old ones included.
const MAX_KEYS: usize = 100;
/// The largest answer about one server.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

/// What a key is needed for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// A request that is made now.
    Request,
    /// An event that says it was sent at this time (ms since the Unix epoch), in a room whose
    /// version looks at how long keys are valid.
    Event {
        /// `origin_server_ts`
        origin_server_ts: u64,
    },
    /// An event of a room version that takes any key the server ever had.
    AnyEvent,
}

/// The keys of one server, proven by its own signature.
#[derive(Clone, Debug)]
pub struct ServerKeys {
    server: OwnedServerName,
    current: BTreeMap<String, VerifyingKey>,
    old: BTreeMap<String, (VerifyingKey, u64)>,
    valid_until_ms: u64,
    json: String,
}

/// Why an answer about keys is not believed.
#[derive(Debug, thiserror::Error)]
pub enum BadKeys {
    /// It is not of the right form, or too large.
    #[error("not the keys of a server: {0}")]
    Malformed(String),
    /// It speaks of another server.
    #[error("the keys are those of {0}")]
    OtherServer(OwnedServerName),
    /// The server's own signature is missing or wrong.
    #[error("the keys are not signed by their server")]
    Unsigned,
}

impl ServerKeys {
    /// Reads what `server` published; `json` is the answer of `/_matrix/key/v2/server`, or one of
    /// those of a notary, whose further signatures do not matter here.
    ///
    /// # Errors
    /// [`BadKeys`]; one valid signature of the server itself is needed.
    pub fn parse(server: &ServerName, json: &str) -> Result<Self, BadKeys> {
        #[derive(Deserialize)]
        struct Key {
            key: String,
        }
        #[derive(Deserialize)]
        struct OldKey {
            key: String,
            expired_ts: u64,
        }
        #[derive(Deserialize)]
        struct Published {
            server_name: OwnedServerName,
            verify_keys: BTreeMap<String, Key>,
            #[serde(default)]
            old_verify_keys: BTreeMap<String, OldKey>,
            valid_until_ts: u64,
            signatures: BTreeMap<String, BTreeMap<String, String>>,
        }
        let malformed = |error: &dyn std::fmt::Display| BadKeys::Malformed(error.to_string());
        if json.len() > MAX_BYTES {
            return Err(malformed(&"too large"));
        }
        let published: Published = serde_json::from_str(json).map_err(|error| malformed(&error))?;
        if published.server_name != server {
            return Err(BadKeys::OtherServer(published.server_name));
        }
        if published.verify_keys.len() + published.old_verify_keys.len() > MAX_KEYS {
            return Err(malformed(&"too many keys"));
        }
        // A key of an unknown kind harms nobody.
        let current: BTreeMap<String, VerifyingKey> = published
            .verify_keys
            .into_iter()
            .filter_map(|(id, key)| Some((id.clone(), public_key(&id, &key.key)?)))
            .collect();
        let old = published
            .old_verify_keys
            .into_iter()
            .filter_map(|(id, key)| {
                Some((id.clone(), (public_key(&id, &key.key)?, key.expired_ts)))
            })
            .collect();
        let signed = signed_part(json).map_err(|error| malformed(&error))?;
        let own = published.signatures.get(server.as_str());
        let proven = own.is_some_and(|own| {
            own.iter().any(|(id, signature)| {
                current.get(id).is_some_and(|key| is_signed_by(key, &signed, signature))
            })
        });
        if !proven {
            return Err(BadKeys::Unsigned);
        }
        Ok(Self {
            server: published.server_name,
            current,
            old,
            valid_until_ms: published.valid_until_ts,
            json: json.to_owned(),
        })
    }

    /// Whose keys.
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// What was published, as it came.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Until when the current keys count, in ms since the Unix epoch, as the server says.
    pub fn valid_until_ms(&self) -> u64 {
        self.valid_until_ms
    }

    /// The key with this ID, if it counts for the purpose. Keys count no longer than a week after
    /// `fetched_at_ms`.
    pub fn key(
        &self,
        id: &str,
        purpose: Purpose,
        now_ms: u64,
        fetched_at_ms: u64,
    ) -> Option<VerifyingKey> {
        let valid_until_ms = self.valid_until_ms.min(fetched_at_ms.saturating_add(MAX_VALIDITY_MS));
        let current = self.current.get(id).copied();
        let old = self.old.get(id).copied();
        match purpose {
            Purpose::Request => current.filter(|_| now_ms <= valid_until_ms),
            Purpose::Event { origin_server_ts } => {
                current.filter(|_| origin_server_ts <= valid_until_ms).or_else(|| {
                    old.filter(|(_, expired)| origin_server_ts <= *expired).map(|(key, _)| key)
                })
            }
            Purpose::AnyEvent => current.or(old.map(|(key, _)| key)),
        }
    }

    /// Whether asking the server again is worth it, half-way to the end of the validity.
    pub fn is_fresh(&self, now_ms: u64, fetched_at_ms: u64) -> bool {
        let valid_until_ms = self.valid_until_ms.min(fetched_at_ms.saturating_add(MAX_VALIDITY_MS));
        let half = fetched_at_ms.saturating_add(valid_until_ms.saturating_sub(fetched_at_ms) / 2);
        now_ms < half
    }
}

/// The canonical JSON without `signatures` and `unsigned`.
fn signed_part(json: &str) -> Result<Vec<u8>, serde_json::Error> {
    let mut object: CanonicalJsonObject = serde_json::from_str(json)?;
    object.remove("signatures");
    object.remove("unsigned");
    serde_json::to_vec(&object)
}

fn is_signed_by(key: &VerifyingKey, signed: &[u8], signature: &str) -> bool {
    let Ok(bytes) = BASE64.decode(signature) else { return false };
    let Ok(signature) = Signature::from_slice(&bytes) else { return false };
    key.verify_strict(signed, &signature).is_ok()
}

fn public_key(id: &str, base64: &str) -> Option<VerifyingKey> {
    id.strip_prefix("ed25519:").filter(|version| !version.is_empty())?;
    let bytes: [u8; 32] = BASE64.decode(base64).ok()?.try_into().ok()?;
    VerifyingKey::from_bytes(&bytes).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use ruma::server_name;
    use serde_json::json;

    use super::*;

    /// What a server with the key `ed25519:1` made of `seed` publishes.
    pub(crate) fn published(server: &str, seed: u8, valid_until_ms: u64) -> String {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let old = SigningKey::from_bytes(&[99; 32]).verifying_key();
        sign(
            server,
            &key,
            json!({
                "server_name": server,
                "verify_keys": {
                    "ed25519:1": { "key": BASE64.encode(key.verifying_key().as_bytes()) },
                    "rsa:1": { "key": "AAAA" },
                },
                "old_verify_keys": {
                    "ed25519:0": { "key": BASE64.encode(old.as_bytes()), "expired_ts": 500 },
                },
                "valid_until_ts": valid_until_ms,
            }),
        )
    }

    fn sign(server: &str, key: &SigningKey, mut object: serde_json::Value) -> String {
        let canonical: CanonicalJsonObject = serde_json::from_value(object.clone()).unwrap();
        let signature = key.sign(&serde_json::to_vec(&canonical).unwrap());
        let signature = BASE64.encode(signature.to_bytes());
        object["signatures"] = json!({ server: { "ed25519:1": signature } });
        object.to_string()
    }

    const WEEK_MS: u64 = MAX_VALIDITY_MS;

    #[test]
    fn a_current_key_counts_until_its_end_and_an_old_one_for_its_events() {
        let server = server_name!("a.example");
        let keys = ServerKeys::parse(server, &published("a.example", 1, 1_000)).unwrap();
        let has = |id, purpose, now| keys.key(id, purpose, now, 0).is_some();
        assert!(has("ed25519:1", Purpose::Request, 1_000));
        assert!(!has("ed25519:1", Purpose::Request, 1_001));
        assert!(has("ed25519:1", Purpose::Event { origin_server_ts: 1_000 }, 9_999));
        assert!(!has("ed25519:1", Purpose::Event { origin_server_ts: 1_001 }, 0));
        assert!(has("ed25519:1", Purpose::AnyEvent, 9_999));
        assert!(!has("ed25519:0", Purpose::Request, 0), "old keys sign no requests");
        assert!(has("ed25519:0", Purpose::Event { origin_server_ts: 500 }, 9_999));
        assert!(!has("ed25519:0", Purpose::Event { origin_server_ts: 501 }, 0));
        assert!(!has("rsa:1", Purpose::AnyEvent, 0));
        assert!(!has("ed25519:2", Purpose::AnyEvent, 0));
    }

    /// Spec: `valid_until_ts` counts for at most seven days from when it was fetched.
    #[test]
    fn no_key_counts_for_more_than_a_week_without_asking_again() {
        let server = server_name!("a.example");
        let keys = ServerKeys::parse(server, &published("a.example", 1, 1 << 50)).unwrap();
        assert!(keys.key("ed25519:1", Purpose::Request, WEEK_MS + 7, 7).is_some());
        assert!(keys.key("ed25519:1", Purpose::Request, WEEK_MS + 8, 7).is_none());
        assert!(keys.is_fresh(WEEK_MS / 2 - 1, 0));
        assert!(!keys.is_fresh(WEEK_MS / 2 + 1, 0));
    }

    #[test]
    fn keys_of_somebody_else_or_without_a_signature_are_not_believed() {
        let json = published("a.example", 1, 1_000);
        let other = ServerKeys::parse(server_name!("b.example"), &json);
        assert!(matches!(other, Err(BadKeys::OtherServer(_))));
        let server = server_name!("a.example");
        let changed = json.replace("1000", "1001");
        assert!(matches!(ServerKeys::parse(server, &changed), Err(BadKeys::Unsigned)));
        // Signed with a key that is not among those published.
        let mut mixed: serde_json::Value = serde_json::from_str(&json).unwrap();
        let forged: serde_json::Value =
            serde_json::from_str(&published("a.example", 2, 1_000)).unwrap();
        mixed["signatures"] = forged["signatures"].clone();
        assert!(matches!(ServerKeys::parse(server, &mixed.to_string()), Err(BadKeys::Unsigned)));
        for bad in ["", "{}", "[1]", r#"{"server_name":"a.example"}"#] {
            assert!(matches!(ServerKeys::parse(server, bad), Err(BadKeys::Malformed(_))));
        }
    }
}
