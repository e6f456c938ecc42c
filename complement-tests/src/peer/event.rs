//! Events of room version 11: hashes, signatures, redaction.
//!
//! Written from the spec, apart from what the server under test uses.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::Signer;

/// The time that its events claim, in ms since the Unix epoch.
pub(super) const NOW_MS: u64 = 1_700_000_000_000;

/// An event with its ID.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// Its ID.
    pub id: String,
    /// As it is sent.
    pub json: Value,
}

impl Pdu {
    /// Hashes and signs an event.
    pub(super) fn signed(mut draft: Value, server: &str, key_name: &str, key: &Signer) -> Self {
        draft["hashes"] = json!({ "sha256": content_hash(&draft) });
        draft["signatures"] = json!({});
        add_signature(&mut draft, server, key_name, key);
        Self { id: reference_id(&draft), json: draft }
    }

    /// An event that came from elsewhere.
    pub fn of(json: Value) -> Self {
        Self { id: reference_id(&json), json }
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#adding-hashes-and-signatures-to-outgoing-events>
pub(super) fn add_signature(event: &mut Value, server: &str, key_name: &str, key: &Signer) {
    let signature = signature_of(event, key);
    event["signatures"][server][format!("ed25519:{key_name}")] = signature.into();
}

/// The signature of an event by a key, in base64.
pub fn signature_of(event: &Value, key: &Signer) -> String {
    let mut signed = redacted(event);
    signed.remove("signatures");
    key.signature(&Value::Object(signed))
}

/// Whether a server signed an event with this key, whose public half is in base64.
pub fn is_signed(event: &Value, server: &str, key_id: &str, public_key: &str) -> bool {
    let mut signed = redacted(event);
    signed.remove("signatures");
    let signature = event["signatures"][server][key_id].as_str();
    signature.is_some_and(|signature| is_signature(&Value::Object(signed), signature, public_key))
}

/// Whether this is the signature of all of an object by a key, both in base64.
pub fn is_signature(object: &Value, signature: &str, public_key: &str) -> bool {
    let decoded = |text: &str| BASE64_STANDARD_NO_PAD.decode(text).ok();
    let key: Option<[u8; 32]> = decoded(public_key).and_then(|bytes| bytes.try_into().ok());
    let key = key.and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(&bytes).ok());
    let signature =
        decoded(signature).and_then(|bytes| ed25519_dalek::Signature::from_slice(&bytes).ok());
    match (key, signature) {
        (Some(key), Some(signature)) => {
            key.verify_strict(object.to_string().as_bytes(), &signature).is_ok()
        }
        _ => false,
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#calculating-the-content-hash-for-an-event>
pub fn content_hash(event: &Value) -> String {
    let mut hashed = event.as_object().cloned().unwrap_or_default();
    for key in ["unsigned", "signatures", "hashes"] {
        hashed.remove(key);
    }
    BASE64_STANDARD_NO_PAD.encode(Sha256::digest(Value::Object(hashed).to_string()))
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#calculating-the-reference-hash-for-an-event>
pub fn reference_id(event: &Value) -> String {
    let mut hashed = redacted(event);
    hashed.remove("signatures");
    let hash = Sha256::digest(Value::Object(hashed).to_string());
    format!("${}", BASE64_URL_SAFE_NO_PAD.encode(hash))
}

/// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#redactions>
fn redacted(event: &Value) -> Map<String, Value> {
    let kept = [
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    ];
    let mut event = event.as_object().cloned().unwrap_or_default();
    event.retain(|key, _| kept.contains(&key.as_str()));
    let kept: &[&str] = match event.get("type").and_then(Value::as_str).unwrap_or_default() {
        "m.room.create" => return event,
        "m.room.member" => &["membership", "join_authorised_via_users_server"],
        "m.room.join_rules" => &["join_rule", "allow"],
        "m.room.power_levels" => &[
            "ban",
            "events",
            "events_default",
            "invite",
            "kick",
            "redact",
            "state_default",
            "users",
            "users_default",
        ],
        "m.room.history_visibility" => &["history_visibility"],
        "m.room.redaction" => &["redacts"],
        _ => &[],
    };
    if let Some(content) = event.get_mut("content").and_then(Value::as_object_mut) {
        content.retain(|key, _| kept.contains(&key.as_str()));
    }
    event
}
