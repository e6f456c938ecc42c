//! With whom a room is shared, and what becomes of kept lists when none is any more.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::collections::{BTreeMap, BTreeSet};

use ruma::UserId;

use super::{Keys, changes::joined_rooms, tracked::TrackedList};
use crate::{
    rooms::record::Membership,
    storage::{
        Batch, Json, Range, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::{
            CROSS_SIGNING_KEYS, DEPARTURES, DEVICE_KEYS, MEMBERSHIPS, ROOM_MEMBERS, ROOM_SERVERS,
            STALE_LISTS, TRACKED_LISTS, USER_ROOMS,
        },
    },
};

/// How many departures are settled with one reading.
const STEP: usize = 100;

impl Keys {
    /// Whether somebody of this server is in a room with another server's user.
    pub(super) async fn is_shared(&self, user: UserNumber) -> Result<bool, StorageError> {
        let rooms = joined_rooms(self.db(), user).await?;
        let keys = rooms.into_iter().map(|room| (room, &*self.shared.server_name));
        Ok(ROOM_SERVERS.multi_get(self.db(), keys).await?.iter().any(Option::is_some))
    }

    /// Whether there is a room that a user and somebody of this server were both in at a stream
    /// position and have been in since then.
    pub(super) async fn is_shared_since(
        &self,
        user: UserNumber,
        at: u64,
    ) -> Result<bool, StorageError> {
        let db = self.db();
        for ((_, room), row) in USER_ROOMS.scan(db, &Range::prefix(&(user,)), usize::MAX).await? {
            if row.membership != Membership::Join || row.position > at {
                continue;
            }
            if self.is_held_since(room, at).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether somebody of this server was in a room at a stream position and has been since then.
    async fn is_held_since(&self, room: RoomNumber, at: u64) -> Result<bool, StorageError> {
        // The last row of each of this server's users there is what they are to the room now.
        let rows = MEMBERSHIPS.scan(self.db(), &Range::prefix(&(room,)), usize::MAX).await?;
        let mut here: BTreeMap<UserNumber, Option<u64>> = BTreeMap::new();
        for ((_, member, position), membership) in rows {
            let since = here.entry(member).or_default();
            *since = match membership {
                Membership::Join => Some(since.unwrap_or(position)),
                _ => None,
            };
        }
        Ok(here.values().flatten().any(|since| *since <= at))
    }

    /// Looks at who left rooms: with whom no room is shared any more, of them nothing is kept, and
    /// whoever came back meanwhile may have changed without us.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn settle_departures(&self) -> Result<(), StorageError> {
        let db = self.db();
        loop {
            if DEPARTURES.scan(db, &Range::all(), 1).await?.is_empty() {
                return Ok(());
            }
            let _lists = self.shared.lists.lock().await;
            let rows = DEPARTURES.scan(db, &Range::all(), STEP).await?;
            // The last position at which each of them was surely still heard of.
            let mut concerned: BTreeMap<UserNumber, u64> = BTreeMap::new();
            for ((position, room, user), ()) in &rows {
                let at = position.saturating_sub(1);
                for user in self.concerned(*room, *user, at).await? {
                    let until = concerned.entry(user).or_insert(at);
                    *until = (*until).min(at);
                }
            }
            let mut batch = Batch::unsynced();
            for (user, until) in concerned {
                if self.is_shared_since(user, until).await? {
                    continue;
                }
                let user_id = db.users().name(db, user).await?;
                let Some(Json(list)) = TRACKED_LISTS.get(db, &user).await? else { continue };
                TRACKED_LISTS.require_equals(&mut batch, &user, &Json(list));
                self.queue_forgetting(&mut batch, &user_id, user, list).await?;
            }
            for (row, ()) in &rows {
                DEPARTURES.delete(&mut batch, row);
            }
            for part in batch.split_off_first() {
                db.commit(part).await?;
            }
            db.commit(batch).await?;
        }
    }

    /// Whose lists a departure concerns: that of who left, or of everybody in a room that nobody of
    /// this server has been in without a break since the stream position before it.
    async fn concerned(
        &self,
        room: RoomNumber,
        user: UserNumber,
        at: u64,
    ) -> Result<BTreeSet<UserNumber>, StorageError> {
        let db = self.db();
        let mut users = BTreeSet::from([user]);
        if !self.is_held_since(room, at).await? {
            let members = Range::prefix(&(room, Membership::Join));
            let rows = ROOM_MEMBERS.scan(db, &members, usize::MAX).await?;
            users.extend(rows.into_iter().map(|((_, _, member), _)| member));
        }
        let rows = TRACKED_LISTS.multi_get(db, users.iter().copied()).await?;
        Ok(users.into_iter().zip(rows).filter_map(|(user, row)| row.map(|_| user)).collect())
    }

    async fn queue_forgetting(
        &self,
        batch: &mut Batch,
        user_id: &UserId,
        user: UserNumber,
        list: TrackedList,
    ) -> Result<(), StorageError> {
        let db = self.db();
        let stale_row = (user_id.server_name(), user);
        if self.is_shared(user).await? {
            TRACKED_LISTS.put(batch, &user, &Json(TrackedList { stale: true, ..list }));
            STALE_LISTS.put(batch, &stale_row, &());
            batch.wake([UserNumber::FOR_OTHER_SERVERS]);
            return Ok(());
        }
        TRACKED_LISTS.delete(batch, &user);
        STALE_LISTS.delete(batch, &stale_row);
        for (row, _) in DEVICE_KEYS.scan(db, &Range::prefix(&(user,)), usize::MAX).await? {
            DEVICE_KEYS.delete(batch, &row);
        }
        for (row, _) in CROSS_SIGNING_KEYS.scan(db, &Range::prefix(&(user,)), usize::MAX).await? {
            CROSS_SIGNING_KEYS.delete(batch, &row);
        }
        Ok(())
    }
}
