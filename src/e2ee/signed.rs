//! Signed JSON: what was signed, and whether by whom it says.
//!
//! Spec: <https://spec.matrix.org/v1.19/appendices/#signing-json>

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, SigningKeyAlgorithm, UserId,
    serde::Base64,
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use serde_json::value::RawValue;

use super::E2eeError;

/// The largest key that is taken.
pub(super) const MAX_KEY_BYTES: usize = 64 * 1024;
/// The longest name of a key.
pub(super) const MAX_ID_BYTES: usize = 255;

/// The object in `raw`, of bounded size.
pub(super) fn object(raw: &RawValue) -> Result<CanonicalJsonObject, E2eeError> {
    if raw.get().len() > MAX_KEY_BYTES {
        return Err(E2eeError::TooLarge { what: "a key may have at most 64 KiB" });
    }
    serde_json::from_str(raw.get())
        .map_err(|_| E2eeError::Invalid { what: "a key is no canonical JSON object" })
}

/// The text at `key`.
pub(super) fn text<'a>(object: &'a CanonicalJsonObject, key: &str) -> Option<&'a str> {
    object.get(key).and_then(CanonicalJsonValue::as_str)
}

/// The object at `key`.
pub(super) fn inner<'a>(
    object: &'a CanonicalJsonObject,
    key: &str,
) -> Option<&'a CanonicalJsonObject> {
    object.get(key).and_then(CanonicalJsonValue::as_object)
}

/// The signatures that `user` made of `object`, by key ID.
pub(super) fn signatures_by<'a>(
    object: &'a CanonicalJsonObject,
    user: &UserId,
) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    inner(object, "signatures")
        .and_then(|signatures| inner(signatures, user.as_str()))
        .into_iter()
        .flatten()
        .filter_map(|(id, signature)| Some((id.as_str(), signature.as_str()?)))
}

/// Whether `signature` is that of `object` by the Ed25519 key `public_key`, both in base64.
pub(super) fn verifies(object: &CanonicalJsonObject, public_key: &str, signature: &str) -> bool {
    let (Ok(public_key), Ok(signature)) = (
        Base64::<ruma::serde::base64::Standard>::parse(public_key),
        Base64::<ruma::serde::base64::Standard>::parse(signature),
    ) else {
        return false;
    };
    let Ok(signed) = to_canonical_json_string_for_signing(object) else { return false };
    verify_canonical_json_bytes(
        &SigningKeyAlgorithm::Ed25519,
        public_key.as_bytes(),
        signature.as_bytes(),
        signed.as_bytes(),
    )
    .is_ok()
}

/// Whether `object` carries a right signature of `user` by `ed25519:key_name`.
pub(super) fn is_signed_by(
    object: &CanonicalJsonObject,
    user: &UserId,
    key_name: &str,
    public_key: &str,
) -> bool {
    let id = format!("ed25519:{key_name}");
    signatures_by(object, user)
        .any(|(by, signature)| by == id && verifies(object, public_key, signature))
}

/// Whether both say the same, signatures and `unsigned` left aside.
pub(super) fn same_but_signatures(a: &CanonicalJsonObject, b: &CanonicalJsonObject) -> bool {
    let rest = |object: &CanonicalJsonObject| to_canonical_json_string_for_signing(object).ok();
    let a = rest(a);
    a.is_some() && a == rest(b)
}
