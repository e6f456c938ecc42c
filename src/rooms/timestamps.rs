//! Finding the event that was sent closest to a time.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event>

use ruma::{OwnedEventId, RoomId, ServerName, api::Direction};

use super::{
    Room, Rooms, Visibility,
    error::RoomError,
    record::{EventNumber, EventRecord},
};
use crate::{
    storage::{
        Batch, Range, Snapshot,
        intern::RoomNumber,
        schema::{EVENTS, TIMESTAMPS},
    },
    users::session::Session,
};

/// How many events the user may not see are passed over.
const MAX_LOOKED_AT: usize = 5_000;
/// How many rows one step takes.
const STEP: usize = 50;

/// Who asks for an event.
enum Reader<'a> {
    User(&'a Visibility),
    Server(&'a ServerName),
}

/// Queues the row of an event that came into the timeline.
pub(super) fn index(
    batch: &mut Batch,
    room: RoomNumber,
    number: EventNumber,
    record: &EventRecord,
) {
    TIMESTAMPS.put(batch, &(room, record.origin_server_ts, number), &());
}

/// Queues the deletion of the row of an event that is removed.
pub(super) fn forget(
    batch: &mut Batch,
    room: RoomNumber,
    number: EventNumber,
    record: &EventRecord,
) {
    TIMESTAMPS.delete(batch, &(room, record.origin_server_ts, number));
}

impl Rooms {
    /// The first event at or after a time, or the last one at or before it, that the user may see,
    /// with its time.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`]; [`RoomError::NoEventThen`].
    pub(crate) async fn event_at(
        &self,
        session: &Session,
        room_id: &RoomId,
        ts_ms: u64,
        direction: Direction,
    ) -> Result<(OwnedEventId, u64), RoomError> {
        let (room, at, visibility, _) = self.open_timeline(session, room_id).await?;
        self.find_event_at(&at, &room, ts_ms, direction, &Reader::User(&visibility)).await
    }

    /// The same for another server that is in the room.
    ///
    /// # Errors
    /// [`RoomError::NoEventThen`].
    pub(crate) async fn event_at_for(
        &self,
        server: &ServerName,
        room: &Room,
        ts_ms: u64,
        direction: Direction,
    ) -> Result<(OwnedEventId, u64), RoomError> {
        let at = self.db().snapshot();
        self.find_event_at(&at, room, ts_ms, direction, &Reader::Server(server)).await
    }

    async fn find_event_at(
        &self,
        at: &Snapshot,
        room: &Room,
        ts_ms: u64,
        direction: Direction,
        reader: &Reader<'_>,
    ) -> Result<(OwnedEventId, u64), RoomError> {
        let all = Range::prefix(&(room.number,));
        let mut range = match direction {
            Direction::Forward => all.from(&(room.number, ts_ms, EventNumber(0))),
            Direction::Backward => {
                all.before(&(room.number, ts_ms.saturating_add(1), EventNumber(0)))
            }
        };
        let mut looked_at = 0;
        loop {
            let rows = match direction {
                Direction::Forward => TIMESTAMPS.scan(at, &range, STEP).await?,
                Direction::Backward => TIMESTAMPS.scan_back(at, &range, STEP).await?,
            };
            let keys: Vec<_> =
                rows.iter().map(|((_, _, number), ())| (room.number, *number)).collect();
            let records = EVENTS.multi_get(at, keys.iter().copied()).await?;
            let events = keys.iter().zip(records);
            let events: Vec<(EventNumber, EventRecord)> =
                events.filter_map(|((_, number), record)| Some((*number, record?))).collect();
            if let Some(first) = self.first_readable(room, &events, reader).await?
                && let Some((_, event)) = events.into_iter().nth(first)
            {
                return Ok((event.event_id, event.origin_server_ts));
            }
            looked_at += rows.len();
            let last = rows.last().filter(|_| rows.len() == STEP && looked_at < MAX_LOOKED_AT);
            let Some((last, ())) = last else { return Err(RoomError::NoEventThen) };
            range = match direction {
                Direction::Forward => range.after(last),
                Direction::Backward => range.before(last),
            };
        }
    }

    /// The place of the first event that may be read.
    async fn first_readable(
        &self,
        room: &Room,
        events: &[(EventNumber, EventRecord)],
        reader: &Reader<'_>,
    ) -> Result<Option<usize>, RoomError> {
        Ok(match reader {
            Reader::User(visibility) => {
                events.iter().position(|(_, event)| visibility.allows(event))
            }
            Reader::Server(server) => {
                let visible = self.server_may_see(room, server, events).await?;
                visible.into_iter().position(|visible| visible)
            }
        })
    }
}
