//! The key pairs this server signs its events with: one is made at the first start, and further ones
//! when whoever runs the server wants them.

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
    storage::{
        Batch, Db, Range, StorageError,
        schema::{RETIRED_SIGNING_KEYS, SIGNING_KEYS},
    },
};

/// This server's name, the key it signs with, and those it signed with before.
pub(crate) struct ServerKey {
    server_name: OwnedServerName,
    key_id: String,
    key: SigningKey,
    retired: Vec<RetiredKey>,
}

/// A key that events were signed with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RetiredKey {
    /// `ed25519:` and the key's version.
    pub(crate) key_id: String,
    /// The public half.
    pub(crate) key: VerifyingKey,
    /// Since when it is no longer signed with, in ms since the Unix epoch.
    pub(crate) expired_ms: u64,
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ServerKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl ServerKey {
    /// The newest key in the database, made now if there is none, and the ones before it.
    pub(crate) async fn load(
        db: &Db,
        random: &Random,
        server_name: &ServerName,
    ) -> Result<Self, StorageError> {
        let mut records = SIGNING_KEYS.scan(db, &Range::all(), usize::MAX).await?;
        let record = if let Some((_, record)) = records.pop() {
            record
        } else {
            let record = new_record(random, &[]);
            let mut batch = Batch::new();
            SIGNING_KEYS.require_absent(&mut batch, &0_u64);
            SIGNING_KEYS.put(&mut batch, &0_u64, &record);
            db.commit(batch).await?;
            record
        };
        let mut retired = Vec::with_capacity(records.len());
        for (number, record) in records {
            retired.push(RetiredKey {
                key_id: key_id(&record),
                key: SigningKey::from_bytes(&record.seed).verifying_key(),
                expired_ms: RETIRED_SIGNING_KEYS.get(db, &number).await?.unwrap_or_default(),
            });
        }
        Ok(Self {
            server_name: server_name.to_owned(),
            key_id: key_id(&record),
            key: SigningKey::from_bytes(&record.seed),
            retired,
        })
    }

    /// A key that no database knows.
    #[cfg(feature = "bench")]
    pub(super) fn of_seed(server_name: &ServerName, seed: [u8; 32]) -> Self {
        let record = SigningKeyRecord { version: "bench".to_owned(), seed };
        Self {
            server_name: server_name.to_owned(),
            key_id: key_id(&record),
            key: SigningKey::from_bytes(&record.seed),
            retired: Vec::new(),
        }
    }

    /// Makes a new key and retires the one there is. Whatever runs goes on with the old one: the
    /// server must not be running.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn rotate(
        db: &Db,
        random: &Random,
        server_name: &ServerName,
        now_ms: u64,
    ) -> Result<Self, StorageError> {
        // Whoever never had one has just got one.
        Self::load(db, random, server_name).await?;
        let records = SIGNING_KEYS.scan(db, &Range::all(), usize::MAX).await?;
        let last = records.last().map_or(0, |(number, _)| *number);
        let known: Vec<SigningKeyRecord> = records.into_iter().map(|(_, record)| record).collect();
        let mut batch = Batch::new();
        SIGNING_KEYS.require_absent(&mut batch, &(last + 1));
        SIGNING_KEYS.put(&mut batch, &(last + 1), &new_record(random, &known));
        RETIRED_SIGNING_KEYS.put(&mut batch, &last, &now_ms);
        db.commit(batch).await?;
        Self::load(db, random, server_name).await
    }

    /// The keys that were signed with before, oldest first.
    pub(crate) fn retired(&self) -> &[RetiredKey] {
        &self.retired
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

/// A key whose version no other of these has.
fn new_record(random: &Random, known: &[SigningKeyRecord]) -> SigningKeyRecord {
    loop {
        // Four hexadecimal digits tell keys of the same server name apart when a server is
        // set up anew: others keep the old key under its own ID.
        let [high, low] = random.bytes::<2>();
        let record =
            SigningKeyRecord { version: format!("{high:02x}{low:02x}"), seed: random.bytes() };
        if known.iter().all(|other| other.version != record.version) {
            return record;
        }
    }
}

fn key_id(record: &SigningKeyRecord) -> String {
    format!("ed25519:{}", record.version)
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
        assert_eq!(second.retired(), []);
    }

    #[tokio::test]
    async fn a_new_key_takes_the_place_of_the_old_one_which_is_remembered() {
        let (db, random) = (Db::in_memory().await, Random::seeded(1));
        let name = server_name!("localhost");
        let first = ServerKey::load(&db, &random, name).await.unwrap();
        let second = ServerKey::rotate(&db, &random, name, 1_000).await.unwrap();
        assert_ne!(first.key_id(), second.key_id());
        let third = ServerKey::rotate(&db, &random, name, 2_000).await.unwrap();
        let old = |key: &ServerKey, expired_ms| RetiredKey {
            key_id: key.key_id().to_owned(),
            key: key.verifying_key(),
            expired_ms,
        };
        assert_eq!(third.retired(), [old(&first, 1_000), old(&second, 2_000)]);
        let again = ServerKey::load(&db, &random, name).await.unwrap();
        assert_eq!(again.key_id(), third.key_id());
    }
}
