//! What is kept beside the events of a room so that they are found: written in an event's batch.

use super::{
    media_references, people,
    record::{EventNumber, EventRecord},
    relations, search,
    timeline_key::TimelineKey,
    timestamps,
};
use crate::storage::{Batch, intern::RoomNumber};

/// Queues the rows that lead to an event which comes into the timeline at `key`; those of its words
/// if it is `searchable`.
pub(super) fn added(
    batch: &mut Batch,
    room: RoomNumber,
    key: TimelineKey,
    number: EventNumber,
    record: &EventRecord,
    searchable: bool,
) {
    media_references::index(batch, room, number, record);
    relations::index(batch, room, key, number, record);
    timestamps::index(batch, room, number, record);
    people::index(batch, record);
    if searchable {
        search::index(batch, room, key, number, record);
    }
}

/// Queues the deletion of the rows that lead to an event which is redacted; `record` is what it was
/// before.
pub(super) fn redacted(
    batch: &mut Batch,
    room: RoomNumber,
    number: EventNumber,
    record: &EventRecord,
) {
    media_references::forget(batch, room, number, record);
    relations::forget(batch, room, record.timeline_key(), record);
    search::forget(batch, room, record);
}

/// Queues the deletion of the rows that lead to an event which is removed.
pub(super) fn removed(
    batch: &mut Batch,
    room: RoomNumber,
    number: EventNumber,
    record: &EventRecord,
) {
    redacted(batch, room, number, record);
    timestamps::forget(batch, room, number, record);
}
