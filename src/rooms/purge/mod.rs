//! Removing events for good: those that have outlived their room's retention, history that an
//! operator wants gone, whole rooms.
//!
//! The state never goes, nor do the ends of the graph; what goes leaves no row that leads to it.
//! Everything is done in small steps, each by itself complete, so that it goes on where it was after
//! a restart and others have the database in between.

mod blocks;
mod collection;
mod history;
mod jobs;
mod refused;
mod removal;
mod retention;

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub(crate) use blocks::Block;
pub(crate) use history::HistoryEnd;
pub(crate) use jobs::{Deletion, Job, JobId, Outcome, Status, Work};

use super::{
    Rooms, error::RoomError, indexes, record::EventNumber, record::EventRecord, room::Room,
    timeline_key::TimelineKey,
};
use crate::storage::{
    Batch, Json, Range,
    intern::RoomNumber,
    schema::{
        BUNDLED, EVENT_IDS, EVENTS, FORWARD_EXTREMITIES, GAPS, ROOM_PURGES, STATES_TO_COLLECT,
        TIMELINE, TRANSACTIONS,
    },
};

/// How many events or rows are removed at a time.
const STEP: usize = 200;
/// How long the others have the database in between.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a worker rests after a failure.
const REST: Duration = Duration::from_secs(5);

/// How far a room's history was removed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Purged {
    /// Everything that was sent before this was looked at, in ms since the Unix epoch.
    pub(crate) before_ms: u64,
    /// The first timeline key at that time: if there is an earlier one, older events came since.
    pub(crate) first_key: TimelineKey,
}

impl Rooms {
    /// Removes those of some events that may be, and that `wanted` names. How many those were.
    async fn remove_events(
        &self,
        room: &Arc<Room>,
        numbers: &[EventNumber],
        wanted: impl Fn(&EventRecord) -> bool,
    ) -> Result<usize, RoomError> {
        // Nobody else changes the room between what is read here and what is queued.
        let writer = self.writer(room).await?;
        let mut ends: HashSet<EventNumber> =
            writer.graph.extremities.iter().map(|end| end.number).collect();
        let range = Range::prefix(&(room.number,));
        let stored = FORWARD_EXTREMITIES.scan(self.db(), &range, usize::MAX).await?;
        ends.extend(stored.into_iter().map(|((_, number), ())| number));
        let keys = numbers.iter().map(|number| (room.number, *number));
        let records = EVENTS.multi_get(self.db(), keys).await?;
        let mut batch = Batch::new();
        let mut removed = 0;
        for (number, record) in numbers.iter().zip(records) {
            let Some(record) = record else { continue };
            if record.is_state() || ends.contains(number) || !wanted(&record) {
                continue;
            }
            remove(&mut batch, room.number, *number, &record);
            removed += 1;
        }
        if removed == 0 {
            return Ok(0);
        }
        let number = u64::from_be_bytes(self.shared.random.bytes());
        STATES_TO_COLLECT.put(&mut batch, &room.number, &number);
        let queued = self.db().enqueue(batch);
        drop(writer);
        queued.await?;
        self.shared.media_freed.notify_one();
        tokio::time::sleep(PAUSE).await;
        Ok(removed)
    }

    /// Notes that everything sent before a time was looked at, or only that some of the history is
    /// gone.
    async fn note_purged(&self, room: RoomNumber, before_ms: Option<u64>) -> Result<(), RoomError> {
        let old = ROOM_PURGES.get(self.db(), &room).await?.map(|Json(old)| old);
        let before_ms = before_ms.or(old.map(|old| old.before_ms)).unwrap_or(0);
        let purged = Purged { before_ms, first_key: self.first_key(room).await? };
        let mut batch = Batch::unsynced();
        ROOM_PURGES.put(&mut batch, &room, &Json(purged));
        Ok(self.db().commit(batch).await?)
    }

    /// The first timeline key of a room.
    async fn first_key(&self, room: RoomNumber) -> Result<TimelineKey, RoomError> {
        let first = TIMELINE.scan(self.db(), &Range::prefix(&(room,)), 1).await?.pop();
        Ok(first.map_or(TimelineKey::MAX, |((_, key), _)| key))
    }

    /// Told when media may have lost the last event that showed it.
    pub(crate) fn media_freed(&self) -> &Arc<tokio::sync::Notify> {
        &self.shared.media_freed
    }
}

/// Queues the deletion of everything that an event has.
fn remove(batch: &mut Batch, room: RoomNumber, number: EventNumber, record: &EventRecord) {
    EVENTS.delete(batch, &(room, number));
    EVENT_IDS.delete(batch, &*record.event_id);
    TIMELINE.delete(batch, &(room, record.timeline_key()));
    GAPS.delete(batch, &(room, record.timeline_key()));
    BUNDLED.delete(batch, &(room, &*record.event_id));
    indexes::removed(batch, room, number, record);
    if let Some((device, id)) = &record.transaction {
        for kind in kinds(room, record) {
            TRANSACTIONS.delete(batch, &(record.sender, device.clone(), kind, id.clone()));
        }
    }
}

/// The kinds of requests that may have sent an event.
fn kinds(room: RoomNumber, record: &EventRecord) -> Vec<String> {
    match &record.redacts {
        Some(target) => {
            vec![format!("{}/redact/{target}", room.0), format!("{}/send/{target}", room.0)]
        }
        None => vec![format!("{}/send/{}", room.0, record.event_type)],
    }
}
