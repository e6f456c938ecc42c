//! Events of timelines, read and taken apart once for all members.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;
use ruma::{OwnedEventId, api::Direction};

use super::{Unread, event::PushEvent};
use crate::{
    rooms::{
        Room, RoomError,
        record::{EventNumber, EventRecord},
        relations::{event_of, thread_of},
        timeline_key::live_events,
    },
    storage::{
        Read,
        intern::RoomNumber,
        schema::{EVENT_IDS, EVENTS},
    },
};

/// How many events one step takes.
pub(super) const STEP: usize = 500;

/// Events taken apart, by stream position.
pub(super) type Looked = Vec<(u64, Arc<PushEvent>)>;

/// What was looked at within the last moments: a window after one position and up to another.
pub(super) type Looks = Cache<(RoomNumber, u64, u64), Arc<Looked>>;

/// For how long a window is kept. What is redacted in it meanwhile is looked at again with the
/// redaction, which lies behind it.
const LOOK_FOR: Duration = Duration::from_secs(2);
/// How many events of such windows are kept, about 20 bytes each; and what they hold lives as long,
/// some kB each, so that it is well that they go by themselves.
const MAX_LOOKED_AT: u64 = 50_000;

/// An empty one.
pub(super) fn looks() -> Looks {
    let weigh = |_: &(RoomNumber, u64, u64), looked: &Arc<Looked>| {
        u32::try_from(looked.len() + 5).unwrap_or(u32::MAX)
    };
    Cache::builder().weigher(weigh).max_capacity(MAX_LOOKED_AT).time_to_live(LOOK_FOR).build()
}

/// Live events of a room's timeline, by position.
type Rows = Vec<(u64, EventNumber)>;

impl Unread {
    /// The latest events of a window, latest first. All members of a room look at the same ones
    /// when a message wakes them.
    pub(super) async fn look(
        &self,
        at: &impl Read,
        room: &Room,
        after: u64,
        upto: u64,
    ) -> Result<Arc<Looked>, RoomError> {
        let key = (room.number, after, upto);
        if let Some(looked) = self.memory.looks.get(&key) {
            return Ok(looked);
        }
        let looked = Arc::new(self.look_back(at, room, after, upto, STEP).await?);
        self.memory.looks.insert(key, Arc::clone(&looked));
        Ok(looked)
    }

    /// The same, for one reader.
    pub(super) async fn look_back(
        &self,
        at: &impl Read,
        room: &Room,
        after: u64,
        upto: u64,
        limit: usize,
    ) -> Result<Looked, RoomError> {
        let rows = live_events(at, room.number, (after, upto), limit, Direction::Backward).await?;
        self.take_apart(at, room, rows).await
    }

    /// The first events of a window, first first.
    pub(super) async fn look_on(
        &self,
        at: &impl Read,
        room: &Room,
        after: u64,
        upto: u64,
    ) -> Result<Looked, RoomError> {
        let rows = live_events(at, room.number, (after, upto), STEP, Direction::Forward).await?;
        self.take_apart(at, room, rows).await
    }

    async fn take_apart(
        &self,
        at: &impl Read,
        room: &Room,
        rows: Rows,
    ) -> Result<Looked, RoomError> {
        let key = |number: &EventNumber| (room.number, *number);
        let mut known: Vec<Option<Arc<PushEvent>>> =
            rows.iter().map(|(_, number)| self.memory.events.get(&key(number))).collect();
        let missing: Vec<EventNumber> = rows
            .iter()
            .zip(&known)
            .filter_map(|((_, number), event)| event.is_none().then_some(*number))
            .collect();
        let records = EVENTS.multi_get(at, missing.iter().map(key)).await?;
        let mut records = missing.iter().zip(records);
        let mut redacted: Vec<OwnedEventId> = Vec::new();
        for slot in known.iter_mut().filter(|slot| slot.is_none()) {
            let Some((number, Some(record))) = records.next() else { continue };
            let event = Arc::new(self.event(at, room, &record).await?);
            self.memory.events.insert(key(number), Arc::clone(&event));
            *slot = Some(event);
            redacted.extend(record.redacts);
        }
        for target in redacted {
            // It may be in memory as it was before.
            let Some(record) = event_of(at, room.number, &target).await? else { continue };
            let event = Arc::new(self.event(at, room, &record).await?);
            if let Some((_, number)) = EVENT_IDS.get(at, &*target).await? {
                self.memory.events.insert((room.number, number), Arc::clone(&event));
            }
            let same = |slot: &&mut Option<Arc<PushEvent>>| {
                slot.as_ref().is_some_and(|old| old.event_id == target)
            };
            if let Some(slot) = known.iter_mut().find(same) {
                *slot = Some(event);
            }
        }
        let keys = rows.into_iter().map(|(key, _)| key);
        Ok(keys.zip(known).filter_map(|(key, event)| Some((key, event?))).collect())
    }

    /// Takes an event apart and finds the thread it is in.
    pub(crate) async fn event(
        &self,
        at: &impl Read,
        room: &Room,
        record: &EventRecord,
    ) -> Result<PushEvent, RoomError> {
        let thread = thread_of(at, room.number, record).await?;
        Ok(PushEvent::new(room, record, thread))
    }
}
