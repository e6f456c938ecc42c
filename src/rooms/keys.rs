//! The key pair this server signs its events with: made at the first start, kept from then on.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use ruma::{
    OwnedServerName, ServerName,
    signatures::{Ed25519KeyPair, Ed25519KeyPairParseError},
};

use super::record::SigningKeyRecord;
use crate::{
    clock::Random,
    storage::{Batch, Db, Range, StorageError, schema::SIGNING_KEYS},
};

/// This server's name and the key it signs with.
pub(crate) struct ServerKey {
    server_name: OwnedServerName,
    key_id: String,
    key: SigningKey,
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ServerKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl ServerKey {
    /// The newest key in the database; made now if there is none.
    pub(crate) async fn load(
        db: &Db,
        random: &Random,
        server_name: &ServerName,
    ) -> Result<Self, StorageError> {
        let newest = SIGNING_KEYS.scan_back(db, &Range::all(), 1).await?.pop();
        let record = if let Some((_, record)) = newest {
            record
        } else {
            // Four hexadecimal digits tell keys of the same server name apart when a server is
            // set up anew: others keep the old key under its own ID.
            let [high, low] = random.bytes::<2>();
            let record =
                SigningKeyRecord { version: format!("{high:02x}{low:02x}"), seed: random.bytes() };
            let mut batch = Batch::new();
            SIGNING_KEYS.require_absent(&mut batch, &0_u64);
            SIGNING_KEYS.put(&mut batch, &0_u64, &record);
            db.commit(batch).await?;
            record
        };
        Ok(Self {
            server_name: server_name.to_owned(),
            key_id: format!("ed25519:{}", record.version),
            key: SigningKey::from_bytes(&record.seed),
        })
    }

    /// Whose key it is.
    pub(crate) fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// `ed25519:` and the key's version.
    pub(crate) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public half.
    pub(crate) fn verifying_key(&self) -> VerifyingKey {
        self.key.verifying_key()
    }

    /// The public half, in unpadded base64.
    pub(crate) fn public_key(&self) -> String {
        BASE64_STANDARD_NO_PAD.encode(self.key.verifying_key().as_bytes())
    }

    /// The same key for ruma, which signs requests with it.
    ///
    /// # Errors
    /// What ruma has against it.
    pub(crate) fn key_pair(&self) -> Result<Ed25519KeyPair, Ed25519KeyPairParseError> {
        // PKCS #8 of an Ed25519 key is this and the seed (RFC 8410, section 7).
        const HEAD: [u8; 16] =
            [0x30, 0x2E, 2, 1, 0, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let document = [&HEAD[..], &self.key.to_bytes()].concat();
        let version = self.key_id.strip_prefix("ed25519:").unwrap_or_default().to_owned();
        Ed25519KeyPair::from_der(&document, version)
    }

    /// The signature of `bytes`, in unpadded base64.
    pub(crate) fn sign(&self, bytes: &[u8]) -> String {
        BASE64_STANDARD_NO_PAD.encode(self.key.sign(bytes).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[tokio::test]
    async fn the_key_of_the_first_start_is_kept() {
        let db = Db::in_memory().await;
        let name = server_name!("localhost");
        let first = ServerKey::load(&db, &Random::seeded(1), name).await.unwrap();
        let second = ServerKey::load(&db, &Random::seeded(2), name).await.unwrap();
        assert_eq!(first.key_id(), second.key_id());
        assert_eq!(first.sign(b"tea"), second.sign(b"tea"));
    }
}
