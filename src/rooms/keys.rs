//! The key pair this server signs its events with: made at the first start, kept from then on.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use ruma::{OwnedServerName, ServerName};

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

    /// The public half, in unpadded base64.
    #[cfg(test)]
    pub(crate) fn public_key(&self) -> String {
        BASE64_STANDARD_NO_PAD.encode(self.key.verifying_key().as_bytes())
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
