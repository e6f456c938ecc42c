//! Indexes of events that came before the index: made in the background, in steps that go on where
//! they were after a restart.

use std::time::Duration;

use super::{
    Rooms,
    error::RoomError,
    record::{EventNumber, EventRecord},
    timeline_key::TimelineKey,
};
use crate::storage::{
    Batch, Range, Read, StorageError, Value,
    intern::RoomNumber,
    key::{AsKey, Key},
    schema::{EVENTS, META, TIMELINE},
};

/// How many events are indexed at a time.
const EVENTS_AT_ONCE: usize = 50;
/// How long the others have the database in between.
const PAUSE: Duration = Duration::from_millis(5);

/// A place in the table of timelines.
type Cursor = (RoomNumber, TimelineKey);

/// How far an index goes. No row: nothing is indexed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Progress {
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

impl Progress {
    /// How far the index goes that has this row.
    pub(super) async fn read(at: &impl Read, row: &str) -> Result<Option<Self>, StorageError> {
        match META.get(at, row).await? {
            Some(bytes) => Self::from_bytes(&bytes)
                .map(Some)
                .ok_or(StorageError::Corrupt { table: META.id.name() }),
            None => Ok(None),
        }
    }

    /// Queues that row.
    pub(super) fn note(self, batch: &mut Batch, row: &str) {
        let mut bytes = Vec::new();
        self.to_bytes(&mut bytes);
        META.put(batch, row, &bytes);
    }
}

/// Queues the rows of an event that is in the timeline at a key.
pub(super) type Index = fn(&mut Batch, RoomNumber, TimelineKey, EventNumber, &EventRecord);

impl Rooms {
    /// Indexes what is not indexed yet, as the row says.
    pub(super) async fn index_all(&self, row: &str, index: Index) -> Result<(), RoomError> {
        let mut cursor = match Progress::read(self.db(), row).await? {
            Some(Progress::Done) => return Ok(()),
            Some(Progress::UpTo(cursor)) => Some(cursor),
            Some(Progress::Leaving) | None => None,
        };
        loop {
            match self.index_some(row, index, cursor).await {
                Ok(None) => return Ok(()),
                Ok(next) => cursor = next,
                // An event was redacted at this moment: what is left of it is read again.
                Err(RoomError::Storage(StorageError::Precondition { .. })) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Indexes the events after a place. Up to where; none if those were the last.
    async fn index_some(
        &self,
        row: &str,
        index: Index,
        after: Option<Cursor>,
    ) -> Result<Option<Cursor>, RoomError> {
        let mut range = Range::all();
        if let Some(after) = after {
            range = range.after(&after);
        }
        let rows = TIMELINE.scan(self.db(), &range, EVENTS_AT_ONCE).await?;
        let keys = rows.iter().map(|((room, _), number)| (*room, *number));
        let records = EVENTS.multi_get(self.db(), keys).await?;
        let mut batch = Batch::unsynced();
        for (((room, key), number), record) in rows.iter().zip(records) {
            let Some(record) = record else { continue };
            EVENTS.require_equals(&mut batch, &(*room, *number), &record);
            index(&mut batch, *room, *key, *number, &record);
        }
        let last = rows.last().filter(|_| rows.len() == EVENTS_AT_ONCE).map(|(key, _)| *key);
        last.map_or(Progress::Done, Progress::UpTo).note(&mut batch, row);
        self.db().commit(batch).await?;
        Ok(last)
    }
}
