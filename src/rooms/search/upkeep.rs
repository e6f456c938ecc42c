//! Keeping the index whole: what was there before it, and what is left when it is switched off.

use std::time::Duration;

use super::index;
use crate::{
    rooms::{RoomError, Rooms, reindex::Progress},
    storage::{
        Batch, Range,
        schema::{META, SEARCH_WORDS},
    },
};

/// The row that says how far the index goes.
const PROGRESS: &str = "search.progress";
/// How many rows are deleted at a time.
const ROWS_AT_ONCE: usize = 1_000;
/// How long the others have the database in between, and how long one rests after a failure.
const PAUSE: Duration = Duration::from_millis(5);
const REST: Duration = Duration::from_secs(5);

impl Rooms {
    /// Indexes what came before there was an index, or deletes the index if there is to be none. What
    /// was interrupted goes on where it was.
    pub(in crate::rooms) async fn run_search_upkeep(self) {
        while let Err(error) = self.keep_search_index().await {
            tracing::error!(%error, "the index of words could not be kept up");
            tokio::time::sleep(REST).await;
        }
    }

    /// The same, once.
    pub(in crate::rooms) async fn keep_search_index(&self) -> Result<(), RoomError> {
        if self.settings().search.enabled {
            return self.index_all(PROGRESS, index).await;
        }
        if Progress::read(self.db(), PROGRESS).await?.is_none() {
            return Ok(());
        }
        let mut batch = Batch::unsynced();
        Progress::Leaving.note(&mut batch, PROGRESS);
        self.db().commit(batch).await?;
        loop {
            let rows = SEARCH_WORDS.scan(self.db(), &Range::all(), ROWS_AT_ONCE).await?;
            let mut batch = Batch::unsynced();
            for (key, _) in &rows {
                SEARCH_WORDS.delete(&mut batch, key);
            }
            if rows.len() < ROWS_AT_ONCE {
                META.delete(&mut batch, PROGRESS);
            }
            self.db().commit(batch).await?;
            if rows.len() < ROWS_AT_ONCE {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
