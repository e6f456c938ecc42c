//! The thread that an event is in.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#threaded-read-receipts>

use ruma::{EventId, OwnedEventId};

use super::RelatesTo;
use crate::{
    rooms::record::EventRecord,
    storage::{
        Read, StorageError,
        intern::RoomNumber,
        schema::{EVENT_IDS, EVENTS},
    },
};

/// How far an event may be from its thread.
const MAX_HOPS: usize = 3;

/// The root of the thread that an event is in; none: it is in the main timeline, as roots are and
/// what relates to them otherwise.
pub(crate) async fn thread_of(
    at: &impl Read,
    room: RoomNumber,
    record: &EventRecord,
) -> Result<Option<OwnedEventId>, StorageError> {
    let mut relation = RelatesTo::in_content(record.content());
    for _ in 0..MAX_HOPS {
        let Some(to) = relation else { return Ok(None) };
        if to.rel_type == "m.thread" {
            return Ok(Some(to.parent));
        }
        let Some(parent) = event_of(at, room, &to.parent).await? else { return Ok(None) };
        relation = RelatesTo::in_content(parent.content());
    }
    Ok(None)
}

/// An event of the room, if it is here.
pub(crate) async fn event_of(
    at: &impl Read,
    room: RoomNumber,
    event: &EventId,
) -> Result<Option<EventRecord>, StorageError> {
    match EVENT_IDS.get(at, event).await? {
        Some((in_room, number)) if in_room == room => {
            Ok(EVENTS.get(at, &(in_room, number)).await?)
        }
        _ => Ok(None),
    }
}
