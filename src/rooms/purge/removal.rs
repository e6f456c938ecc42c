//! Removing a room with everything that is known of it.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use ruma::RoomId;

use super::{PAUSE, STEP, remove};
use crate::{
    rooms::{
        Rooms, auth_record::SnapshotNumber, error::RoomError, record::Membership,
        subscriptions::clear_subscriptions,
    },
    storage::{
        Batch, Range, StorageError, Table, Value,
        intern::{RoomNumber, UserNumber},
        key::Key,
        schema::{
            ANNOTATIONS, AUTH_EVENTS, BACKWARD_EXTREMITIES, BUNDLED, CURRENT_STATE, CURRENT_STATES,
            EVENT_STATES, EVENTS, FORWARD_EXTREMITIES, FORWARDED, GAPS, MEMBERSHIPS, OUTLIERS,
            OUTSIDE_EVENTS, PARTIAL_ROOMS, RECEIPT_CHANGES, RECEIPTS, REFUSED_EVENTS, RELATIONS,
            ROOM_HEADS, ROOM_MEMBERS, ROOM_PURGES, ROOM_SERVERS, ROOMS, SEARCH_WORDS, STAGED,
            STATE_HASHES, STATE_SNAPSHOTS, STATES_TO_COLLECT, SUCCEEDED, THREAD_EVENTS,
            THREAD_PARTICIPANTS, TIMELINE, TIMESTAMPS, UNREAD, USER_ROOMS, WAITING,
            WAITING_REDACTIONS,
        },
    },
};

/// How often it is looked whether other servers have got the last events, 1/10 s apart.
const LOOKS: usize = 300;

impl Rooms {
    /// Removes a room that no user of this server is in. It may be joined again afterwards, as one
    /// that was never here. How many events there were.
    pub(super) async fn remove_room(
        &self,
        id: &RoomId,
        room: RoomNumber,
    ) -> Result<usize, RoomError> {
        self.wait_for_others(room).await?;
        // Who looks at their rooms must not find one that is half gone.
        self.forget_for_all(room).await?;
        if let Ok(loaded) = self.numbered(room).await {
            let writer = self.writer(&loaded).await?;
            let mut batch = Batch::new();
            ROOMS.delete(&mut batch, &room);
            // Whatever was built on it fails.
            ROOM_HEADS.delete(&mut batch, &room);
            let queued = self.db().enqueue(batch);
            loaded.failed.store(true, Ordering::Release);
            drop(writer);
            queued.await?;
        }
        self.shared.loaded.forget(room).await;
        let mut events = 0;
        loop {
            let rows = EVENTS.scan(self.db(), &Range::prefix(&(room,)), STEP).await?;
            let mut batch = Batch::new();
            for ((_, number), record) in &rows {
                remove(&mut batch, room, *number, record);
            }
            self.db().commit(batch).await?;
            events += rows.len();
            if rows.len() < STEP {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.shared.media_freed.notify_one();
        macro_rules! clear {
            ($($table:ident),* $(,)?) => {
                $(self.clear(&$table, &Range::prefix(&(room,))).await?;)*
            };
        }
        clear!(
            TIMELINE,
            FORWARD_EXTREMITIES,
            CURRENT_STATE,
            AUTH_EVENTS,
            STATE_HASHES,
            EVENT_STATES,
            CURRENT_STATES,
            MEMBERSHIPS,
            ROOM_SERVERS,
            BACKWARD_EXTREMITIES,
            SUCCEEDED,
            GAPS,
            WAITING_REDACTIONS,
            ROOM_MEMBERS,
            STAGED,
            OUTLIERS,
            FORWARDED,
            RELATIONS,
            BUNDLED,
            ANNOTATIONS,
            THREAD_EVENTS,
            THREAD_PARTICIPANTS,
            TIMESTAMPS,
            REFUSED_EVENTS,
            SEARCH_WORDS,
            RECEIPTS,
            RECEIPT_CHANGES,
        );
        let first = |room: RoomNumber| ((room, SnapshotNumber(0)), 0_u32);
        let range = Range::all().from(&first(room)).before(&first(RoomNumber(room.0 + 1)));
        self.clear(&STATE_SNAPSHOTS, &range).await?;
        let mut batch = Batch::new();
        ROOM_PURGES.delete(&mut batch, &room);
        PARTIAL_ROOMS.delete(&mut batch, &room);
        STATES_TO_COLLECT.delete(&mut batch, &room);
        self.db().commit(batch).await?;
        // What is in memory of its states goes by its number: one that comes again has another.
        self.db().rooms().release(self.db(), id, room).await?;
        Ok(events)
    }

    /// Deletes the rows of a range, some at a time.
    async fn clear<K: Key + Clone, V: Value>(
        &self,
        table: &Table<K, V>,
        range: &Range<K>,
    ) -> Result<(), StorageError> {
        loop {
            let rows = table.scan(self.db(), range, STEP).await?;
            let mut batch = Batch::unsynced();
            for (key, _) in &rows {
                table.delete(&mut batch, key);
            }
            self.db().commit(batch).await?;
            if rows.len() < STEP {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Other servers are to hear that the members have left; but not for ever.
    async fn wait_for_others(&self, room: RoomNumber) -> Result<(), RoomError> {
        for _ in 0..LOOKS {
            let rows = WAITING.scan(self.db(), &Range::all(), usize::MAX).await?;
            if rows.iter().all(|((_, waits), _)| *waits != room) {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let mut batch = Batch::new();
        for ((server, waits), _) in WAITING.scan(self.db(), &Range::all(), usize::MAX).await? {
            if waits == room {
                WAITING.delete(&mut batch, &(&*server, room));
            }
        }
        Ok(self.db().commit(batch).await?)
    }

    /// Takes the room out of the lists of all who ever were in it.
    async fn forget_for_all(&self, room: RoomNumber) -> Result<(), RoomError> {
        let mut users: BTreeSet<UserNumber> = BTreeSet::new();
        let mut range = Range::prefix(&(room,));
        loop {
            let rows = MEMBERSHIPS.scan(self.db(), &range, STEP).await?;
            users.extend(rows.iter().map(|((_, user, _), _)| *user));
            let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) else { break };
            range = range.after(last);
        }
        for membership in [
            Membership::Join,
            Membership::Invite,
            Membership::Knock,
            Membership::Leave,
            Membership::Ban,
        ] {
            users.extend(self.members(self.db(), room, membership).await?);
        }
        let users: Vec<UserNumber> = users.into_iter().collect();
        for users in users.chunks(STEP) {
            let mut batch = Batch::new();
            for user in users {
                USER_ROOMS.delete(&mut batch, &(*user, room));
                UNREAD.delete(&mut batch, &(*user, room));
                OUTSIDE_EVENTS.delete(&mut batch, &(*user, room));
                clear_subscriptions(self.db(), &mut batch, *user, Some(room)).await?;
            }
            self.db().commit(batch).await?;
        }
        Ok(())
    }
}
