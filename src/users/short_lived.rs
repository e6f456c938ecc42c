//! What is known for a while only, and for one use mostly.

use sha2::{Digest, Sha256};

use super::rows::{Fact, ShortLived};
use crate::{
    clock::Clock,
    storage::{
        Batch, Db, Json, Range, StorageError,
        schema::{SHORT_LIVED, SHORT_LIVED_EXPIRY},
    },
};

/// How many expired rows each new one takes away.
const SWEEP: usize = 8;

/// The short-lived facts.
#[derive(Clone)]
pub(crate) struct ShortLivedFacts {
    db: Db,
    clock: Clock,
}

/// The key of what is asked for with `secret`; `kind` keeps the secrets of different kinds apart.
pub(crate) fn key(kind: &str, secret: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(kind.as_bytes());
    hash.update([0]);
    hash.update(secret.as_bytes());
    hash.finalize().into()
}

impl ShortLivedFacts {
    /// The facts in `db`.
    pub(crate) fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock }
    }

    /// The row at `key`, if it has not expired.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn get(&self, key: &[u8; 32]) -> Result<Option<ShortLived>, StorageError> {
        let now = self.clock.now_ms();
        let row = SHORT_LIVED.get(&self.db, key).await?.map(|Json(row)| row);
        Ok(row.filter(|row| row.expires_ms > now))
    }

    /// Queues a row, and the removal of a few that have expired: so the table stays as large as
    /// what is alive.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn put(
        &self,
        batch: &mut Batch,
        key: &[u8; 32],
        lives_ms: u64,
        what: Fact,
    ) -> Result<(), StorageError> {
        self.sweep().await?;
        let expires_ms = self.clock.now_ms() + lives_ms;
        SHORT_LIVED.put(batch, key, &Json(ShortLived { expires_ms, what }));
        SHORT_LIVED_EXPIRY.put(batch, &(expires_ms, *key), &());
        Ok(())
    }

    /// Queues a changed row that expires when it did before.
    pub(crate) fn replace(batch: &mut Batch, key: &[u8; 32], old: &ShortLived, what: Fact) {
        SHORT_LIVED.require_equals(batch, key, &Json(old.clone()));
        SHORT_LIVED.put(batch, key, &Json(ShortLived { expires_ms: old.expires_ms, what }));
    }

    /// Queues the removal of a row; the batch fails if it was used or changed in the meantime.
    pub(crate) fn consume(batch: &mut Batch, key: &[u8; 32], row: &ShortLived) {
        SHORT_LIVED.require_equals(batch, key, &Json(row.clone()));
        SHORT_LIVED.delete(batch, key);
        SHORT_LIVED_EXPIRY.delete(batch, &(row.expires_ms, *key));
    }

    async fn sweep(&self) -> Result<(), StorageError> {
        let now = self.clock.now_ms();
        let expired = Range::all().before(&(now + 1, [0; 32]));
        let expired = SHORT_LIVED_EXPIRY.scan(&self.db, &expired, SWEEP).await?;
        if expired.is_empty() {
            return Ok(());
        }
        let rows =
            SHORT_LIVED.multi_get(&self.db, expired.iter().map(|((_, key), ())| key)).await?;
        let mut batch = Batch::unsynced();
        for (((expires_ms, key), ()), row) in expired.into_iter().zip(rows) {
            SHORT_LIVED_EXPIRY.delete(&mut batch, &(expires_ms, key));
            // A row may have been put again since, to live longer.
            if let Some(row) = row.filter(|Json(row)| row.expires_ms <= now) {
                SHORT_LIVED.require_equals(&mut batch, &key, &row);
                SHORT_LIVED.delete(&mut batch, &key);
            }
        }
        match self.db.commit(batch).await {
            // Somebody else sweeps too.
            Err(StorageError::Precondition { .. }) => Ok(()),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn what_has_expired_is_not_found_and_goes_away() {
        let (db, clock) = (Db::in_memory().await, Clock::manual(1_000));
        let facts = ShortLivedFacts::new(db.clone(), clock.clone());
        for name in ["a", "b", "c"] {
            let mut batch = Batch::new();
            facts.put(&mut batch, &key("test", name), 60_000, Fact::Nonce).await.unwrap();
            db.commit(batch).await.unwrap();
        }
        assert!(facts.get(&key("test", "a")).await.unwrap().is_some());
        assert!(facts.get(&key("other", "a")).await.unwrap().is_none());
        clock.advance(Duration::from_mins(1));
        assert!(facts.get(&key("test", "a")).await.unwrap().is_none());
        facts.sweep().await.unwrap();
        assert!(SHORT_LIVED.scan(&db, &Range::all(), 9).await.unwrap().is_empty());
        assert!(SHORT_LIVED_EXPIRY.scan(&db, &Range::all(), 9).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_fact_is_consumed_once() {
        let db = Db::in_memory().await;
        let facts = ShortLivedFacts::new(db.clone(), Clock::manual(1_000));
        let key = key("test", "a");
        let mut batch = Batch::new();
        facts.put(&mut batch, &key, 60_000, Fact::Nonce).await.unwrap();
        db.commit(batch).await.unwrap();
        let row = facts.get(&key).await.unwrap().unwrap();
        for expected in [true, false] {
            let mut batch = Batch::new();
            ShortLivedFacts::consume(&mut batch, &key, &row);
            assert_eq!(db.commit(batch).await.is_ok(), expected);
        }
    }
}
