//! Keys for tests, each made from a number.

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ruma::{
    CanonicalJsonObject,
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

fn public_key(seed: u8) -> String {
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    BASE64_STANDARD_NO_PAD.encode(key.verifying_key().as_bytes())
}

/// Identity keys of a device, signed by themselves.
pub(crate) fn device_keys(user_id: &str, device: &str, seed: u8) -> Value {
    let head = [0x30, 0x2E, 2, 1, 0, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let document = [&head[..], &[seed; 32]].concat();
    let pair = Ed25519KeyPair::from_der(&document, device.to_owned()).unwrap();
    let keys = json!({
        "user_id": user_id, "device_id": device, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {
            format!("ed25519:{device}"): public_key(seed), format!("curve25519:{device}"): "c",
        },
    });
    let mut object: CanonicalJsonObject = serde_json::from_value(keys).unwrap();
    sign_json(user_id, &pair, &mut object).unwrap();
    json!(object)
}

/// The master key of a user.
pub(crate) fn master_key(user_id: &str, seed: u8) -> Value {
    let key = public_key(seed);
    json!({ "user_id": user_id, "usage": ["master"], "keys": { format!("ed25519:{key}"): key } })
}
