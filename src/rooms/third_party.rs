//! Signatures of third-party invitations.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#third-party-invites>

use base64::{Engine as _, alphabet, engine::general_purpose};
use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use ruma::CanonicalJsonObject;
use serde_json::{Map, Value as JsonValue, value::RawValue};
use state_resolution::Signatures;

/// The most signatures and the most keys that are tried.
const MAX_TRIED: usize = 8;

/// Padded or not: both are found in the wild, and so are both alphabets.
const STANDARD: general_purpose::GeneralPurpose = lenient(&alphabet::STANDARD);
const URL_SAFE: general_purpose::GeneralPurpose = lenient(&alphabet::URL_SAFE);

const fn lenient(alphabet: &alphabet::Alphabet) -> general_purpose::GeneralPurpose {
    let config = general_purpose::GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    general_purpose::GeneralPurpose::new(alphabet, config)
}

/// Verifies the signatures of third-party invitations. Those of events are verified before the
/// rules are asked.
#[derive(Debug)]
pub(super) struct ThirdPartySignatures;

impl Signatures for ThirdPartySignatures {
    fn third_party_invite(
        &self,
        signed: &Map<String, JsonValue>,
        public_keys: &[Box<str>],
    ) -> bool {
        is_signed(signed, public_keys.iter().map(|key| &**key))
    }

    // Among the signatures that are verified before an event comes here.
    fn authorised_join(&self, _event_id: &str, _user_id: &str) -> bool {
        true
    }
}

/// Whether this text is an object that was signed with a key: what an identity server says of an
/// address.
pub(crate) fn is_signed_with(signed: &RawValue, public_key: &str) -> bool {
    let signed: Result<Map<String, JsonValue>, _> = serde_json::from_str(signed.get());
    signed.is_ok_and(|signed| is_signed(&signed, [public_key]))
}

fn is_signed<'a>(
    signed: &Map<String, JsonValue>,
    public_keys: impl IntoIterator<Item = &'a str>,
) -> bool {
    let Ok(mut object) =
        serde_json::from_value::<CanonicalJsonObject>(JsonValue::Object(signed.clone()))
    else {
        return false;
    };
    object.remove("signatures");
    object.remove("unsigned");
    let message = super::event::json(&object);
    let keys: Vec<VerifyingKey> =
        public_keys.into_iter().take(MAX_TRIED).filter_map(verifying_key).collect();
    let signatures = signed.get("signatures").and_then(JsonValue::as_object);
    signatures
        .into_iter()
        .flat_map(Map::values)
        .filter_map(JsonValue::as_object)
        .flatten()
        .filter(|(id, _)| id.starts_with("ed25519:"))
        .filter_map(|(_, signature)| Signature::from_slice(&decode(signature.as_str()?)?).ok())
        .take(MAX_TRIED)
        .any(|signature| keys.iter().any(|key| key.verify(message.as_bytes(), &signature).is_ok()))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

fn verifying_key(text: &str) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(&decode(text)?.try_into().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
    use ed25519_dalek::{Signer as _, SigningKey};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_signature_by_one_of_the_keys_is_enough_and_a_changed_user_breaks_it() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let other = SigningKey::from_bytes(&[8; 32]);
        let message = r#"{"mxid":"@bob:b","token":"t"}"#;
        let signature = BASE64_STANDARD_NO_PAD.encode(key.sign(message.as_bytes()).to_bytes());
        let signed = json!({
            "mxid": "@bob:b", "token": "t",
            "signatures": {"id.example": {"ed25519:0": signature}},
        });
        let public = |key: &SigningKey| BASE64_STANDARD.encode(key.verifying_key().as_bytes());
        let keys = [public(&other).into(), public(&key).into()];
        let check = |signed: &JsonValue, keys: &[Box<str>]| {
            ThirdPartySignatures.third_party_invite(signed.as_object().unwrap(), keys)
        };
        assert!(check(&signed, &keys));
        assert!(!check(&signed, &keys[..1]));
        let mut changed = signed.clone();
        changed["mxid"] = json!("@eve:b");
        assert!(!check(&changed, &keys));
        assert!(!check(&json!({"mxid": "@bob:b", "token": "t"}), &keys));
    }
}
