//! Writing a change: its rows, its positions, its one batch.

use std::sync::{Arc, atomic::Ordering};

use super::{
    error::RoomError,
    partial::PartialRoom,
    record::{Membership, RoomRecord, UserRoom},
    tail,
    whole::Whole,
    writer::{Added, MemberChange, RoomWriter, Shown, Transaction},
};
use crate::{
    storage::{
        Json, Position,
        intern::UserNumber,
        schema::{
            CURRENT_STATES, DEPARTURES, EVENT_IDS, EVENTS, FORWARDED, GAPS, MEMBERSHIPS, OUTBOX,
            PARTIAL_ROOMS, REFUSED_EVENTS, ROOM_HEADS, ROOM_MEMBERS, ROOMS, TIMELINE, TRANSACTIONS,
            USER_ROOMS,
        },
    },
    to_the_end::to_the_end,
};

impl RoomWriter {
    /// Queues the change, gives the room to the next writer, and waits until it is on disk.
    ///
    /// # Errors
    /// [`RoomError::Storage`] with a failed precondition if the transaction is answered already, or
    /// if a change that this one builds on failed.
    pub(super) async fn commit(mut self) -> Result<(), RoomError> {
        let rooms = self.rooms.clone();
        let db = rooms.db();
        let room = Arc::clone(&self.room);
        let listeners = self.listeners().await?;
        let live = self.added.iter().filter(|added| added.shown == Shown::Live).count();
        let mut positions = Vec::with_capacity(live);
        for _ in 0..live {
            positions.push(db.position().await?);
        }
        let whole = match self.whole.take() {
            Some(whole) => Some((whole, db.position().await?)),
            None => None,
        };
        self.count_partial();
        let mut positions = positions.into_iter();
        // Nothing waits from here on until the batch is queued.
        let mut affected = Vec::new();
        let mut last_position = None;
        let (mut to_send, mut departed, mut only_messages) = (false, false, true);
        let transaction = self.transaction.take();
        let (mut events, mut timeline) = (Vec::new(), Vec::new());
        for (place, added) in std::mem::take(&mut self.added).into_iter().enumerate() {
            events.push((added.record.event_id.clone(), added.record.verdict()));
            affected.extend(added.members.iter().map(|member| member.user));
            departed |= added.members.iter().any(MemberChange::is_departure);
            to_send |= added.outbox;
            only_messages &= added.current.is_none() && !added.record.is_state();
            let position = match added.shown {
                Shown::Live => positions.next(),
                Shown::Backfilled(_) | Shown::Nowhere => None,
            };
            let value = position.as_ref().map_or(0, Position::value);
            if value > 0 {
                last_position = Some(value);
                if let Some(listeners) = &listeners {
                    listeners.tell(&mut self.batch, place, (room.number, added.number), value);
                }
            }
            timeline.extend(self.write(added, value, transaction.as_ref()));
            if let Some(position) = position {
                self.batch.hold(position);
            }
        }
        if let Some((whole, position)) = whole {
            (last_position, only_messages, to_send) = (Some(position.value()), false, true);
            events.extend(whole.events.iter().cloned());
            affected.extend(whole.members.iter().map(|member| member.user));
            departed |= whole.members.iter().any(MemberChange::is_departure);
            self.write_whole(whole, position);
        }
        if self.head.0 == 1 {
            ROOM_HEADS.require_absent(&mut self.batch, &room.number);
        } else {
            ROOM_HEADS.require_equals(&mut self.batch, &room.number, &self.head);
        }
        if self.founding {
            self.write_room();
        }
        ROOM_HEADS.put(&mut self.batch, &room.number, &self.graph.next);
        self.wake_members(only_messages);
        self.batch.wake(affected);
        self.batch.wake([UserNumber::FOR_OTHER_SERVERS].into_iter().filter(|_| departed));
        // Readers must not find the position visible and the room unchanged.
        if let Some(position) = last_position {
            self.batch.wake([UserNumber::EVERYBODY]);
            rooms.note_last_position(room.number, position);
            rooms.shared.news.note(room.number, position);
        }
        if self.founding {
            // Whoever hears of the room at once must not read it from disk beside this one.
            rooms.shared.loaded.note(&room);
        }
        room.in_flight.fetch_add(1, Ordering::AcqRel);
        room.tail.add(timeline);
        // The state of a very large room; the rows that make it visible come last.
        for part in self.batch.split_off_first() {
            drop(db.enqueue(part));
        }
        let pending = db.enqueue(std::mem::take(&mut self.batch));
        let snapshots = std::mem::take(&mut self.snapshots);
        self.dirty = false;
        drop(self);

        // The outcome is noted even if nobody waits for the answer any more.
        let outcome = to_the_end(async move {
            let outcome = pending.await;
            if outcome.is_err() {
                room.failed.store(true, Ordering::Release);
            } else {
                rooms.written(&room, &snapshots, &events);
                if to_send {
                    rooms.shared.outbox_changed.notify_one();
                }
            }
            room.in_flight.fetch_sub(1, Ordering::AcqRel);
            outcome
        });
        Ok(outcome.await?)
    }

    /// The change concerns who is in the room.
    fn wake_members(&mut self, only_messages: bool) {
        let members = self.room.local_members();
        if only_messages {
            self.batch.wake_in(self.room.number, members.iter().copied());
        } else {
            self.batch.wake(members.iter().copied());
        }
    }

    /// The row by which the room is here.
    fn write_room(&mut self) {
        let table = self.table.read();
        let create = table.room().create_event().map_or(1, |create| table.number(create).0);
        let record = RoomRecord { version: self.room.version.clone(), create };
        ROOMS.put(&mut self.batch, &self.room.number, &Json(record));
    }

    /// The rows by which the room is whole from this position on.
    fn write_whole(&mut self, whole: Whole, position: Position) {
        let room = self.room.number;
        let since = position.value();
        whole.queue_devices(&mut self.batch, since);
        let partial = PartialRoom { whole_since: Some(since), ..whole.partial };
        PARTIAL_ROOMS.put(&mut self.batch, &room, &Json(partial.clone()));
        *self.room.partial.write() = Some(partial);
        CURRENT_STATES.put(&mut self.batch, &(room, since), &whole.current);
        *self.room.current_since.lock() = Some((since, whole.current));
        for member in whole.members {
            self.write_member(member, since);
        }
        // Rows of it may be gone.
        self.room.tail.forget();
        self.batch.wake([UserNumber::FOR_OTHER_SERVERS]);
        self.batch.hold(position);
    }

    /// The rows of one event. Returns the one of the timeline.
    fn write(
        &mut self,
        added: Added,
        position: u64,
        transaction: Option<&Transaction>,
    ) -> Option<tail::Row> {
        let room = self.room.number;
        let Added { number, mut record, shown, missing, current, members, outbox } = added;
        let batch = &mut self.batch;
        record.position = position;
        if let Shown::Backfilled(key) = shown {
            record.backfill_key = Some(key);
        }
        EVENT_IDS.put(batch, &record.event_id, &(room, number));
        let mut row = None;
        if shown != Shown::Nowhere {
            let key = record.timeline_key();
            if record.backfill_key.is_some() {
                TIMELINE.require_absent(batch, &(room, key));
            }
            TIMELINE.put(batch, &(room, key), &number);
            row = Some((key, number));
            if !missing.is_empty() {
                GAPS.put(batch, &(room, key), &Json(missing));
            }
            let searchable = self.rooms.settings().search.enabled;
            super::indexes::added(batch, room, key, number, &record, searchable);
        } else if !record.outlier {
            REFUSED_EVENTS.put(batch, &(room, self.rooms.clock().now_ms(), number), &());
        }
        if let Some(transaction) = transaction {
            TRANSACTIONS.require_absent(batch, &transaction.key());
            TRANSACTIONS.put(batch, &transaction.key(), &record.event_id);
            record.transaction = Some((transaction.device.1.clone(), transaction.id.clone()));
        }
        if let Some(current) = current {
            CURRENT_STATES.put(batch, &(room, position), &current);
            *self.room.current_since.lock() = Some((position, current));
        }
        if outbox {
            OUTBOX.put(batch, &position, &(room, number));
            if self.forwarding {
                FORWARDED.put(batch, &(room, position), &());
            }
        }
        EVENTS.put(batch, &(room, number), &record);
        for member in members {
            self.write_member(member, position);
        }
        row
    }

    fn write_member(&mut self, member: MemberChange, position: u64) {
        let room = self.room.number;
        if member.is_departure() && (!member.is_local || self.has_others()) {
            DEPARTURES.put(&mut self.batch, &(position, room, member.user), &());
        }
        let batch = &mut self.batch;
        if let Some(old) = member.old.filter(|old| Some(*old) != member.new) {
            ROOM_MEMBERS.delete(batch, &(room, old, member.user));
        }
        if let Some(new) = member.new {
            ROOM_MEMBERS.put(batch, &(room, new, member.user), &member.event);
        }
        // Whoever has no member event any more is as one who left.
        let membership = member.new.unwrap_or(Membership::Leave);
        let user_room = UserRoom {
            membership,
            event: member.event,
            position,
            forgotten: false,
            was_joined: member.old == Some(Membership::Join),
            stripped_state: member.stripped_state,
        };
        USER_ROOMS.put(batch, &(member.user, room), &user_room);
        if member.is_local {
            MEMBERSHIPS.put(batch, &(room, member.user, position), &membership);
            self.room.set_local_member(member.user, membership == Membership::Join);
        }
    }
}
