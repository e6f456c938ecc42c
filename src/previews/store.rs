//! Previews that are known already.

use std::time::Duration;

use super::{PreviewError, Previews, fetch::Made, rows::PreviewRecord};
use crate::{
    shutdown::Stopping,
    storage::{
        Batch, Json, Range, StorageError,
        schema::{PREVIEW_EXPIRY, PREVIEWS},
    },
};

/// A preview and its picture stay for so long after it was last given out: clients have shown it and
/// may ask for the picture.
const STAYS_MS: u64 = 24 * 60 * 60 * 1000;
const EVERY: Duration = Duration::from_hours(1);
/// Removed at a time.
const AT_ONCE: usize = 500;
/// The largest answer that is kept.
const MAX_BODY_BYTES: usize = 90_000;

impl Previews {
    /// The preview of an address, if it is fresh.
    pub(super) async fn known(&self, key: &[u8; 32]) -> Result<Option<String>, StorageError> {
        let record = PREVIEWS.get(&self.shared.db, key).await?.map(|Json(record)| record);
        let fresh = record.filter(|record| {
            self.shared.clock.now_ms() < record.fetched_ms.saturating_add(self.fresh_ms())
        });
        Ok(fresh.map(|record| record.body))
    }

    fn fresh_ms(&self) -> u64 {
        self.shared.settings.cache_seconds.saturating_mul(1000)
    }

    /// Keeps a preview; it may be lost in a power failure.
    pub(super) async fn remember(&self, key: &[u8; 32], made: &Made) -> Result<(), StorageError> {
        let fetched_ms = self.shared.clock.now_ms();
        let mut batch = Batch::unsynced();
        if made.body.len() <= MAX_BODY_BYTES {
            let record = PreviewRecord { body: made.body.clone(), fetched_ms };
            PREVIEWS.put(&mut batch, key, &Json(record));
        }
        let until_ms = fetched_ms.saturating_add(self.fresh_ms()).saturating_add(STAYS_MS);
        let picture = made.picture.as_deref().unwrap_or_default();
        PREVIEW_EXPIRY.put(&mut batch, &(until_ms, *key, picture), &());
        self.shared.db.commit(batch).await
    }

    /// Removes old previews until the server stops.
    pub(crate) async fn keep_up(self, stopping: Stopping) {
        while tokio::time::timeout(EVERY, stopping.wait()).await.is_err() {
            if let Err(error) = self.expire().await {
                tracing::warn!(%error, "old previews were not removed");
            }
        }
    }

    /// Removes previews whose time is over, and their pictures.
    pub(super) async fn expire(&self) -> Result<(), PreviewError> {
        let shared = &*self.shared;
        loop {
            let now_ms = shared.clock.now_ms();
            let due = Range::all().before(&(now_ms + 1, [0; 32], ""));
            let due = PREVIEW_EXPIRY.scan(&shared.db, &due, AT_ONCE).await?;
            let done = due.len() < AT_ONCE;
            for (row, ()) in due {
                let (_, key, picture) = &row;
                if !picture.is_empty() {
                    shared.content.remove_own(picture).await?;
                }
                let mut batch = Batch::unsynced();
                PREVIEW_EXPIRY.delete(&mut batch, &row);
                // The page may have been fetched again since.
                if self.known(key).await?.is_none() {
                    PREVIEWS.delete(&mut batch, key);
                }
                shared.db.commit(batch).await?;
            }
            if done {
                return Ok(());
            }
        }
    }
}
