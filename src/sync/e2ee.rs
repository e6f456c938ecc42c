//! What a sync tells of end-to-end encryption: messages to the device, whose keys changed, and how
//! many keys the device has left.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#extensions-to-sync-2>

use std::collections::BTreeSet;

use ruma::{OwnedUserId, UserId};
use serde::Serialize;

use super::{SyncError, token::SyncToken, v3::Sync};
use crate::{
    e2ee,
    rooms::{
        auth::membership_in,
        record::{Membership, UserRoom},
    },
    storage::{
        Snapshot, StorageError,
        intern::{RoomNumber, UserNumber},
    },
    users::session::Session,
};

/// Users whose keys a client must fetch again, or need no longer keep.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct DeviceLists {
    /// They changed, or they share a room since now.
    pub(crate) changed: Vec<OwnedUserId>,
    /// They share no room any more.
    pub(crate) left: Vec<OwnedUserId>,
}

impl DeviceLists {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

impl Sync {
    /// Whose keys changed after `since` and up to `until`, as far as they share a room with the user,
    /// and with whom the user has begun or ceased to share one. `rooms` are the user's.
    ///
    /// # Errors
    /// [`SyncError`] if the database fails.
    pub(crate) async fn device_lists(
        &self,
        at: &Snapshot,
        session: &Session,
        (since, until): (u64, u64),
        rooms: &[(RoomNumber, UserRoom)],
    ) -> Result<DeviceLists, SyncError> {
        let keys = &self.e2ee.keys;
        let mut candidates = keys.changed(at, session.user, since, until).await?;
        let own = candidates.remove(&session.user);
        let mut came_or_went = BTreeSet::new();
        for (room, user_room) in rooms {
            self.add_who_came_or_went(
                at,
                session,
                (since, until),
                *room,
                user_room,
                &mut came_or_went,
            )
            .await?;
        }
        came_or_went.remove(&session.user);
        candidates.extend(&came_or_went);
        let mut lists = DeviceLists::default();
        if own {
            lists.changed.push(session.user_id.clone());
        }
        if candidates.is_empty() {
            return Ok(lists);
        }
        let joined: BTreeSet<RoomNumber> = rooms
            .iter()
            .filter(|(_, row)| row.membership == Membership::Join)
            .map(|(room, _)| *room)
            .collect();
        for user in candidates {
            let theirs = e2ee::joined_rooms(at, user).await?;
            if theirs.iter().any(|room| joined.contains(room)) {
                lists.changed.push(self.name(user).await?);
            } else if came_or_went.contains(&user) {
                lists.left.push(self.name(user).await?);
            }
        }
        Ok(lists)
    }

    /// What the lists between two tokens say.
    ///
    /// # Errors
    /// [`SyncError::FromTheFuture`] for a token that this server has not given out.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges>
    pub(crate) async fn key_changes(
        &self,
        session: &Session,
        from: SyncToken,
        to: SyncToken,
    ) -> Result<DeviceLists, SyncError> {
        let visible = self.db.visible_position();
        if from.position > visible || to.position > visible {
            return Err(SyncError::FromTheFuture);
        }
        let at = self.db.snapshot();
        let rooms = self.rooms.user_rooms(&at, session.user).await?;
        self.device_lists(&at, session, (from.position, to.position), &rooms).await
    }

    /// Adds those who joined or left one room, or everybody in it if it was the user who did.
    async fn add_who_came_or_went(
        &self,
        at: &Snapshot,
        session: &Session,
        (since, until): (u64, u64),
        number: RoomNumber,
        user_room: &UserRoom,
        found: &mut BTreeSet<UserNumber>,
    ) -> Result<(), SyncError> {
        let is_member = user_room.membership == Membership::Join;
        let own_changed = user_room.position > since;
        // Most rooms of most syncs: nothing happened, and memory knows it.
        if !own_changed && (!is_member || self.rooms.last_position(number).await? <= since) {
            return Ok(());
        }
        // Somebody invited by another server need not have met anybody: the room is not here.
        let Some(room) = self.rooms.room_if_here(number).await? else { return Ok(()) };
        let membership_at_since = async |user: &UserId| {
            let then =
                self.rooms.state_event_at(at, &room, "m.room.member", user.as_str(), since).await?;
            Ok::<_, SyncError>(then.and_then(|event| membership_in(event.content())))
        };
        let was_member = if own_changed {
            membership_at_since(&session.user_id).await? == Some(Membership::Join)
        } else {
            is_member
        };
        if was_member != is_member {
            found.extend(self.rooms.members(at, number, Membership::Join).await?);
        }
        if !was_member {
            return Ok(());
        }
        // Of a room that was left, those who were there at that time count: whoever left before the
        // user did, and after the token, is gone too.
        for (_, event) in self.rooms.state_delta(at, &room, since, until).await? {
            if event.event_type != "m.room.member" {
                continue;
            }
            let Some(member) = event.state_key.as_deref().and_then(|key| UserId::parse(key).ok())
            else {
                continue;
            };
            let is = membership_in(event.content()) == Some(Membership::Join);
            let was = membership_at_since(&member).await? == Some(Membership::Join);
            if is != was
                && let Some(user) = self.db.users().find(&self.db, &*member).await?
            {
                found.insert(user);
            }
        }
        Ok(())
    }

    async fn name(&self, user: UserNumber) -> Result<OwnedUserId, StorageError> {
        self.db.users().name(&self.db, user).await
    }
}
