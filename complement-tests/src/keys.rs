//! Keys of end-to-end encryption, as a client makes them.

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use crate::Client;

/// An Ed25519 key pair that signs JSON.
pub struct Signer {
    key: SigningKey,
}

impl Signer {
    /// The pair of that name: the same name makes the same pair.
    pub fn named(name: &str) -> Self {
        let mut seed = [0; 32];
        for (seed, byte) in seed.iter_mut().zip(Sha1::digest(name.as_bytes())) {
            *seed = byte;
        }
        Self { key: SigningKey::from_bytes(&seed) }
    }

    /// The identity key of a client's device.
    pub fn of_device(client: &Client) -> Self {
        Self::named(&format!("{} {}", client.user_id, client.device_id))
    }

    /// The public key in base64.
    pub fn public_key(&self) -> String {
        BASE64_STANDARD_NO_PAD.encode(self.key.verifying_key().as_bytes())
    }

    /// The signature of all of this object.
    pub fn signature(&self, object: &Value) -> String {
        // Keys are sorted, and nothing in tests needs escaping: this is canonical JSON.
        let signature = self.key.sign(object.to_string().as_bytes());
        BASE64_STANDARD_NO_PAD.encode(signature.to_bytes())
    }

    /// Adds the signature of `user_id` by the key called `ed25519:key_name`.
    pub fn sign(&self, user_id: &str, key_name: &str, mut object: Value) -> Value {
        let mut signed = object.clone();
        if let Some(signed) = signed.as_object_mut() {
            signed.remove("signatures");
            signed.remove("unsigned");
        }
        let signature = self.signature(&signed);
        object["signatures"][user_id][format!("ed25519:{key_name}")] = signature.into();
        object
    }

    /// The identity keys of a client's device, signed.
    pub fn device_keys(&self, client: &Client) -> Value {
        let device = &client.device_id;
        let keys = json!({
            "user_id": client.user_id,
            "device_id": device,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("ed25519:{device}"): self.public_key(),
                format!("curve25519:{device}"): Self::named(device).public_key(),
            },
        });
        self.sign(&client.user_id, device, keys)
    }

    /// A one-time or fallback key of a client's device, signed.
    pub fn one_time_key(&self, client: &Client, name: &str, fallback: bool) -> Value {
        let mut key = json!({ "key": Self::named(name).public_key() });
        if fallback {
            key["fallback"] = true.into();
        }
        self.sign(&client.user_id, &client.device_id, key)
    }

    /// This key as a cross-signing key of a user.
    pub fn cross_signing_key(&self, user_id: &str, usage: &str) -> Value {
        let public_key = self.public_key();
        json!({
            "user_id": user_id,
            "usage": [usage],
            "keys": { format!("ed25519:{public_key}"): public_key },
        })
    }
}
