//! Web Push: messages that only the device can read, and signatures that say who sends them.
//!
//! Spec: <https://www.rfc-editor.org/rfc/rfc8291> (encryption, with RFC 8188),
//! <https://www.rfc-editor.org/rfc/rfc8292> (VAPID)

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use ring::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING as ES256, EcdsaKeyPair, KeyPair as _},
};
use serde_json::json;
use url::Url;

use crate::storage::{Batch, Db, StorageError, schema::PUSH_SECRETS};

/// A point of the curve, uncompressed.
pub(super) const PUBLIC_KEY_BYTES: usize = 65;
/// The secret that a device gives with its key.
pub(super) const AUTH_BYTES: usize = 16;
/// Bytes of the salt of a message.
const SALT_BYTES: usize = 16;
/// Push services take messages of up to this many bytes.
const MAX_MESSAGE_BYTES: usize = 4_096;
/// What encryption adds: salt, record size, key length and key, padding delimiter, tag.
const OVERHEAD_BYTES: usize = SALT_BYTES + 4 + 1 + PUBLIC_KEY_BYTES + 1 + 16;
/// The most that can be said in one message.
pub(super) const MAX_PAYLOAD_BYTES: usize = MAX_MESSAGE_BYTES - OVERHEAD_BYTES;
/// How long a signature is good for, in seconds. At most a day.
const SIGNATURE_SECONDS: u64 = 12 * 60 * 60;
/// The key's name in `push_secrets`.
const VAPID: &str = "vapid";

/// Whom a message is for: the keys of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver {
    public: [u8; PUBLIC_KEY_BYTES],
    auth: [u8; AUTH_BYTES],
}

impl Receiver {
    /// Reads keys in base64url; none if they are no keys.
    pub(super) fn parse(public: &str, auth: &str) -> Option<Self> {
        let public: [u8; PUBLIC_KEY_BYTES] = decode(public)?.try_into().ok()?;
        let auth = decode(auth)?.try_into().ok()?;
        // The form without compression; whether it is on the curve shows when it is used.
        (public.first() == Some(&4)).then_some(Self { public, auth })
    }
}

/// Some clients add what pads base64, which the proposal leaves out.
fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.trim_end_matches('=')).ok()
}

/// How many bytes are derived.
struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive<const N: usize>(from: &Prk, info: &[&[u8]]) -> Result<[u8; N], Unspecified> {
    let mut out = [0; N];
    from.expand(info, Bytes(N))?.fill(&mut out)?;
    Ok(out)
}

/// A message that only the receiver can read: header and one record (`aes128gcm`).
///
/// # Errors
/// If the receiver's key is none, or the payload is longer than [`MAX_PAYLOAD_BYTES`].
pub(super) fn encrypt(
    payload: &[u8],
    receiver: &Receiver,
    salt: [u8; SALT_BYTES],
) -> Result<Vec<u8>, Unspecified> {
    let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())?;
    let public = own.compute_public_key()?;
    let theirs = UnparsedPublicKey::new(&ECDH_P256, receiver.public);
    agreement::agree_ephemeral(own, &theirs, |shared| {
        seal(payload, receiver, salt, public.as_ref(), shared)
    })?
}

/// The same with what the two keys have in common.
fn seal(
    payload: &[u8],
    receiver: &Receiver,
    salt: [u8; SALT_BYTES],
    own_public: &[u8],
    shared: &[u8],
) -> Result<Vec<u8>, Unspecified> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(Unspecified);
    }
    // RFC 8291 section 3.4: both secrets, bound to both keys.
    let both = Salt::new(HKDF_SHA256, &receiver.auth).extract(shared);
    let secret: [u8; 32] = derive(&both, &[b"WebPush: info\0", &receiver.public, own_public])?;
    // RFC 8188 section 2.2 and 2.3.
    let key = Salt::new(HKDF_SHA256, &salt).extract(&secret);
    let cek: [u8; 16] = derive(&key, &[b"Content-Encoding: aes128gcm\0"])?;
    let nonce: [u8; 12] = derive(&key, &[b"Content-Encoding: nonce\0"])?;
    // The last record ends with 2.
    let mut record = payload.to_vec();
    record.push(2);
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &cek)?).seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::empty(),
        &mut record,
    )?;
    let mut message = Vec::with_capacity(OVERHEAD_BYTES + payload.len());
    message.extend_from_slice(&salt);
    message.extend_from_slice(&4_096_u32.to_be_bytes());
    message.push(u8::try_from(own_public.len()).map_err(|_| Unspecified)?);
    message.extend_from_slice(own_public);
    message.extend_from_slice(&record);
    Ok(message)
}

/// The key by which push services know this server.
#[derive(Clone)]
pub(crate) struct Vapid {
    key: Arc<EcdsaKeyPair>,
    /// Whom the operator of a push service may turn to.
    subject: Arc<str>,
}

impl Vapid {
    /// Reads the key, or makes it the first time.
    ///
    /// # Errors
    /// [`StorageError`] if it can't be read or written.
    pub(crate) async fn load(db: &Db, subject: &str) -> Result<Self, StorageError> {
        let corrupt = || StorageError::Corrupt { table: PUSH_SECRETS.id.name() };
        let random = SystemRandom::new();
        let stored = if let Some(stored) = PUSH_SECRETS.get(db, VAPID).await? {
            stored
        } else {
            let new = EcdsaKeyPair::generate_pkcs8(&ES256, &random).map_err(|_| corrupt())?;
            let new = new.as_ref().to_vec();
            let mut batch = Batch::new();
            PUSH_SECRETS.put(&mut batch, VAPID, &new);
            db.commit(batch).await?;
            new
        };
        let key = EcdsaKeyPair::from_pkcs8(&ES256, &stored, &random).map_err(|_| corrupt())?;
        Ok(Self { key: Arc::new(key), subject: subject.into() })
    }

    /// The public key, which clients subscribe with: a point in base64url.
    pub(crate) fn public_key(&self) -> String {
        BASE64.encode(self.key.public_key().as_ref())
    }

    /// The `Authorization` of a request to a push service; `now` in seconds since the Unix epoch.
    ///
    /// # Errors
    /// If there is no randomness to be had.
    pub(super) fn authorization(&self, to: &Url, now: u64) -> Result<String, Unspecified> {
        let claims = json!({
            "aud": to.origin().ascii_serialization(),
            "exp": now + SIGNATURE_SECONDS,
            "sub": &*self.subject,
        });
        let header = BASE64.encode(r#"{"typ":"JWT","alg":"ES256"}"#);
        let signed = format!("{header}.{}", BASE64.encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes())?;
        let token = format!("{signed}.{}", BASE64.encode(signature.as_ref()));
        Ok(format!("vapid t={token}, k={}", self.public_key()))
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey as Verifier};

    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        BASE64.decode(text).unwrap()
    }

    const PUBLIC: &str =
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"; // typo on purpose
    const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    /// RFC 8291, section 5 and appendix A: from the shared secret on, all is as it is there.
    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let receiver = Receiver::parse(PUBLIC, AUTH).unwrap();
        let shared = bytes("kyrL1jIIOHEzg3sM2ZWRHDRB62YACZhhSlknJ672kSs");
        let own_public = bytes(
            "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8",
        );
        let salt = bytes("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap();
        let payload = b"When I grow up, I want to be a watermelon";
        let message = seal(payload, &receiver, salt, &own_public, &shared).unwrap();
        assert_eq!(
            BASE64.encode(message),
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmY\
             WAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSg\
             Sxsj_Qulcy4a-fN"
        );
    }

    #[test]
    fn a_device_can_read_what_was_sent_to_it() {
        let device = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
        let public = BASE64.encode(device.compute_public_key().unwrap().as_ref());
        let receiver = Receiver::parse(&public, AUTH).unwrap();
        let payload = vec![b'x'; MAX_PAYLOAD_BYTES];
        let message = encrypt(&payload, &receiver, [7; SALT_BYTES]).unwrap();
        assert_eq!(message.len(), MAX_MESSAGE_BYTES);
        let sender = message[21..21 + PUBLIC_KEY_BYTES].to_vec();
        let theirs = UnparsedPublicKey::new(&ECDH_P256, &sender);
        let again = agreement::agree_ephemeral(device, &theirs, |shared| {
            seal(&payload, &receiver, [7; SALT_BYTES], &sender, shared)
        });
        assert_eq!(again.unwrap().unwrap(), message, "both sides derive the same key");
        assert!(encrypt(&[0; MAX_PAYLOAD_BYTES + 1], &receiver, [7; SALT_BYTES]).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let compressed = BASE64.encode([2; PUBLIC_KEY_BYTES]);
        for (public, auth) in [("", AUTH), (PUBLIC, ""), ("!", "!"), (&*compressed, AUTH)] {
            assert!(Receiver::parse(public, auth).is_none(), "{public} {auth}");
        }
        // Of the right form, and not on the curve.
        let mut point = [9; PUBLIC_KEY_BYTES];
        point[0] = 4;
        let receiver = Receiver::parse(&BASE64.encode(point), AUTH).unwrap();
        assert!(encrypt(b"x", &receiver, [7; SALT_BYTES]).is_err());
        assert!(Receiver::parse(PUBLIC, &format!("{AUTH}==")).is_some(), "padded");
    }

    /// RFC 8292 section 2 and 3.
    #[tokio::test]
    async fn requests_are_signed_by_the_same_key_after_a_restart() {
        let db = Db::in_memory().await;
        let vapid = Vapid::load(&db, "https://example.org").await.unwrap();
        assert_eq!(Vapid::load(&db, "x").await.unwrap().public_key(), vapid.public_key());
        let to = Url::parse("https://push.example:8443/send/abc?x").unwrap();
        let authorization = vapid.authorization(&to, 1_000).unwrap();
        let rest = authorization.strip_prefix("vapid t=").unwrap();
        let (token, key) = rest.split_once(", k=").unwrap();
        assert_eq!(key, vapid.public_key());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let verifier = Verifier::new(&ECDSA_P256_SHA256_FIXED, bytes(key));
        verifier.verify(signed.as_bytes(), &bytes(signature)).unwrap();
        let claims: serde_json::Value =
            serde_json::from_slice(&bytes(signed.split_once('.').unwrap().1)).unwrap();
        let expected = json!({
            "aud": "https://push.example:8443", "exp": 44_200, "sub": "https://example.org",
        });
        assert_eq!(claims, expected);
    }
}
