//! Finding the event that was sent closest to a time.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event>

use ruma::{OwnedEventId, RoomId, api::Direction};

use super::{
    Rooms, Visibility,
    error::RoomError,
    record::{EventNumber, EventRecord},
};
use crate::{
    storage::{
        Batch, Range,
        intern::RoomNumber,
        schema::{EVENTS, TIMESTAMPS},
    },
    users::session::Session,
};

/// How many events the user may not see are passed over.
const MAX_LOOKED_AT: usize = 5_000;
/// How many rows one step takes.
const STEP: usize = 50;

/// Queues the row of an event that came into the timeline.
pub(super) fn index(
    batch: &mut Batch,
    room: RoomNumber,
    number: EventNumber,
    record: &EventRecord,
) {
    TIMESTAMPS.put(batch, &(room, record.origin_server_ts, number), &());
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
        let room = self.readable(room_id).await?;
        let at = self.db().snapshot();
        let visibility = Visibility::load(self, &at, &room, session.user).await?;
        if !visibility.may_read() {
            return Err(RoomError::NotInRoom { room: room.id.clone() });
        }
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
                Direction::Forward => TIMESTAMPS.scan(&at, &range, STEP).await?,
                Direction::Backward => TIMESTAMPS.scan_back(&at, &range, STEP).await?,
            };
            let keys = rows.iter().map(|((_, _, number), ())| (room.number, *number));
            let events = EVENTS.multi_get(&at, keys).await?;
            if let Some(event) = events.into_iter().flatten().find(|event| visibility.allows(event))
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
}
