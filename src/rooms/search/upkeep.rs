//! Keeping the index whole: what was there before it, and what is left when it is switched off.

use std::time::Duration;

use super::index;
use crate::{
    rooms::{RoomError, Rooms, record::EventNumber},
    storage::{
        Batch, Range, StorageError, Value,
        intern::RoomNumber,
        key::{AsKey, Key},
        schema::{EVENTS, META, SEARCH_WORDS, TIMELINE},
    },
};

/// How far the index goes: see [`Progress`].
const PROGRESS: &str = "search.progress";
/// How many events are indexed at a time, and how many rows are deleted.
const EVENTS_AT_ONCE: usize = 50;
const ROWS_AT_ONCE: usize = 1_000;
/// How long the others have the database in between, and how long one rests after a failure.
const PAUSE: Duration = Duration::from_millis(5);
const REST: Duration = Duration::from_secs(5);

/// A place in the table of timelines.
type Cursor = (RoomNumber, i64);

/// How far the index goes. No row: nothing is indexed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    /// Everything up to here is.
    UpTo(Cursor),
    /// Everything is.
    Done,
    /// It is being deleted.
    Leaving,
}

impl Value for Progress {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        match self {
            Self::UpTo(cursor) => {
                out.push(1);
                cursor.encode(out);
            }
            Self::Done => out.push(2),
            Self::Leaving => out.push(3),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (1, mut rest) => Some(Self::UpTo(Cursor::decode(&mut rest)?)),
            (2, []) => Some(Self::Done),
            (3, []) => Some(Self::Leaving),
            _ => None,
        }
    }
}

fn note(batch: &mut Batch, progress: Progress) {
    let mut bytes = Vec::new();
    progress.to_bytes(&mut bytes);
    META.put(batch, PROGRESS, &bytes);
}

impl Rooms {
    /// Indexes what came before there was an index, or deletes the index if there is to be none. What
    /// was interrupted goes on where it was.
    pub(crate) async fn run_search_upkeep(self) {
        while let Err(error) = self.keep_search_index().await {
            tracing::error!(%error, "the index of words could not be kept up");
            tokio::time::sleep(REST).await;
        }
    }

    /// The same, once.
    pub(in crate::rooms) async fn keep_search_index(&self) -> Result<(), RoomError> {
        let progress = self.search_progress().await?;
        if !self.settings().search.enabled {
            return match progress {
                Some(_) => self.delete_search_index().await,
                None => Ok(()),
            };
        }
        let mut cursor = match progress {
            Some(Progress::Done) => return Ok(()),
            Some(Progress::UpTo(cursor)) => Some(cursor),
            Some(Progress::Leaving) | None => None,
        };
        loop {
            match self.index_some(cursor).await {
                Ok(None) => return Ok(()),
                Ok(next) => cursor = next,
                // An event was redacted at this moment: what is left of it is read again.
                Err(RoomError::Storage(StorageError::Precondition { .. })) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn search_progress(&self) -> Result<Option<Progress>, RoomError> {
        let corrupt = RoomError::Corrupt { what: "the progress of an index" };
        match META.get(self.db(), PROGRESS).await? {
            Some(bytes) => Progress::from_bytes(&bytes).map(Some).ok_or(corrupt),
            None => Ok(None),
        }
    }

    /// Indexes the events after a place. Up to where; none if those were the last.
    async fn index_some(&self, after: Option<Cursor>) -> Result<Option<Cursor>, RoomError> {
        let mut range = Range::all();
        if let Some(after) = after {
            range = range.after(&after);
        }
        let rows = TIMELINE.scan(self.db(), &range, EVENTS_AT_ONCE).await?;
        let keys: Vec<(RoomNumber, EventNumber)> =
            rows.iter().map(|((room, _), number)| (*room, *number)).collect();
        let records = EVENTS.multi_get(self.db(), &keys).await?;
        let mut batch = Batch::unsynced();
        for ((key, (_, timeline_key)), record) in
            keys.iter().zip(rows.iter().map(|(key, _)| *key)).zip(records)
        {
            let Some(record) = record else { continue };
            EVENTS.require_equals(&mut batch, key, &record);
            index(&mut batch, key.0, timeline_key, key.1, &record);
        }
        let last = rows.last().filter(|_| rows.len() == EVENTS_AT_ONCE).map(|(key, _)| *key);
        note(&mut batch, last.map_or(Progress::Done, Progress::UpTo));
        self.db().commit(batch).await?;
        Ok(last)
    }

    async fn delete_search_index(&self) -> Result<(), RoomError> {
        let mut batch = Batch::unsynced();
        note(&mut batch, Progress::Leaving);
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
