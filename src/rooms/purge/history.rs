//! Which part of a room's history an operator means, and which media it shows.

use std::collections::BTreeSet;

use ruma::{OwnedEventId, OwnedServerName, RoomId};

use super::STEP;
use crate::{
    rooms::{
        Rooms, error::RoomError, media_references, record::EventNumber, timeline_key::TimelineKey,
    },
    storage::{
        Range,
        schema::{EVENTS, TIMESTAMPS},
    },
};

/// What the first event is that stays.
#[derive(Clone, Debug)]
pub(crate) enum HistoryEnd {
    /// This one.
    Event(OwnedEventId),
    /// The first that was sent at this time or later, in ms since the Unix epoch.
    Time(u64),
}

impl Rooms {
    /// The timeline key of the first event that stays; the largest key if none does.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`], [`RoomError::UnknownEvent`].
    pub(crate) async fn key_of_end(
        &self,
        room_id: &RoomId,
        end: &HistoryEnd,
    ) -> Result<TimelineKey, RoomError> {
        let room = self.room(room_id).await?;
        match end {
            HistoryEnd::Event(event_id) => {
                let (_, record) = self.stored(&room, event_id).await?;
                match record.timeline_key() {
                    TimelineKey::NOWHERE => {
                        Err(RoomError::UnknownEvent { event: event_id.clone() })
                    }
                    key => Ok(key),
                }
            }
            HistoryEnd::Time(ts_ms) => {
                let range =
                    Range::prefix(&(room.number,)).from(&(room.number, *ts_ms, EventNumber(0)));
                let first = TIMESTAMPS.scan(self.db(), &range, 1).await?.pop();
                let Some(((_, _, number), ())) = first else { return Ok(TimelineKey::MAX) };
                let record = EVENTS.get(self.db(), &(room.number, number)).await?;
                Ok(record.map_or(TimelineKey::MAX, |record| record.timeline_key()))
            }
        }
    }

    /// The media that the events of a room name, by server and ID.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`].
    pub(crate) async fn media_of_room(
        &self,
        room_id: &RoomId,
    ) -> Result<BTreeSet<(OwnedServerName, String)>, RoomError> {
        let room = self.room(room_id).await?;
        let mut found = BTreeSet::new();
        let mut range = Range::prefix(&(room.number,));
        loop {
            let rows = EVENTS.scan(self.db(), &range, STEP).await?;
            for (_, record) in &rows {
                found.extend(media_references::named(record));
            }
            let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) else {
                return Ok(found);
            };
            range = range.after(last);
        }
    }
}
