//! Whose devices or keys changed, and who must hear of it: everybody who shares a room.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user>

use std::{collections::BTreeSet, sync::atomic::Ordering};

use ruma::{DeviceId, OwnedServerName, ServerName};

use super::Keys;
use crate::{
    rooms::record::Membership,
    storage::{
        Batch, Db, Position, Range, Read, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::{
            CROSS_SIGNING_CHANGES, DEVICE_CHANGES, DEVICE_LIST_CHANGES, DEVICE_LIST_OUTBOX,
            DEVICE_LIST_POSITIONS, ROOM_MEMBERS, ROOM_SERVERS, USER_ROOMS, USER_SIGNATURE_CHANGES,
        },
    },
};

/// What of a user's keys changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Changed<'a> {
    /// The keys or the name of a device, or it is gone.
    Device(&'a DeviceId),
    /// The keys of the user, or who signed them.
    CrossSigning,
}

/// Queues the note that the devices or the keys of `user` changed, and wakes all who share a room
/// with them. Returns the position of the change, for what else is kept by position. Other servers
/// are told of `changes`: there are none for their users.
///
/// There is one row for each user, which moves on with each change: what changed since a position
/// is read by a scan that does not grow with how often somebody changed. The batch fails with
/// [`StorageError::Precondition`] if the user's keys change at the same time.
pub(crate) async fn queue_change(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    changes: &[Changed<'_>],
) -> Result<u64, StorageError> {
    let old = DEVICE_LIST_POSITIONS.get(db, &user).await?;
    let mut concerned = sharing(db, user).await?;
    concerned.insert(user);
    let position: Position = db.position().await?;
    let value = position.value();
    match old {
        Some(old) => {
            DEVICE_LIST_POSITIONS.require_equals(batch, &user, &old);
            DEVICE_LIST_CHANGES.delete(batch, &old);
        }
        None => DEVICE_LIST_POSITIONS.require_absent(batch, &user),
    }
    DEVICE_LIST_POSITIONS.put(batch, &user, &value);
    DEVICE_LIST_CHANGES.put(batch, &value, &user);
    for change in changes {
        match change {
            Changed::Device(device) => DEVICE_CHANGES.put(batch, &(user, *device), &value),
            Changed::CrossSigning => CROSS_SIGNING_CHANGES.put(batch, &user, &value),
        }
    }
    if !changes.is_empty() {
        DEVICE_LIST_OUTBOX.put(batch, &user, &value);
        batch.wake([UserNumber::FOR_OTHER_SERVERS]);
    }
    batch.hold(position);
    batch.wake(concerned);
    Ok(value)
}

/// The rooms that `user` is joined to.
pub(crate) async fn joined_rooms(
    at: &impl Read,
    user: UserNumber,
) -> Result<Vec<RoomNumber>, StorageError> {
    let rows = USER_ROOMS.scan(at, &Range::prefix(&(user,)), usize::MAX).await?;
    Ok(rows
        .into_iter()
        .filter_map(|((_, room), row)| (row.membership == Membership::Join).then_some(room))
        .collect())
}

/// Everybody who is joined to a room that `user` is joined to, without `user`.
pub(crate) async fn sharing(
    at: &impl Read,
    user: UserNumber,
) -> Result<BTreeSet<UserNumber>, StorageError> {
    let mut found = BTreeSet::new();
    for room in joined_rooms(at, user).await? {
        let members = Range::prefix(&(room, Membership::Join));
        let rows = ROOM_MEMBERS.scan(at, &members, usize::MAX).await?;
        found.extend(rows.into_iter().map(|((_, _, member), _)| member));
    }
    found.remove(&user);
    Ok(found)
}

/// The other servers with somebody in a room that `user` is joined to.
pub(crate) async fn servers_sharing(
    at: &impl Read,
    user: UserNumber,
    own: &ServerName,
) -> Result<BTreeSet<OwnedServerName>, StorageError> {
    let mut found = BTreeSet::new();
    for room in joined_rooms(at, user).await? {
        let rows = ROOM_SERVERS.scan(at, &Range::prefix(&(room,)), usize::MAX).await?;
        found.extend(rows.into_iter().map(|((_, server), _)| server));
    }
    found.remove(own);
    Ok(found)
}

impl Keys {
    /// Whose devices or keys changed after `since` and up to `until` and not once more since then,
    /// whether they share a room with anybody or not; with them those whose keys `asking` has
    /// signed.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn changed(
        &self,
        at: &impl Read,
        asking: UserNumber,
        since: u64,
        until: u64,
    ) -> Result<BTreeSet<UserNumber>, StorageError> {
        let past = until.saturating_add(1);
        let range = Range::all().after(&since).before(&past);
        let rows = DEVICE_LIST_CHANGES.scan(at, &range, usize::MAX).await?;
        let mut changed: BTreeSet<UserNumber> = rows.into_iter().map(|(_, user)| user).collect();
        // Most syncs need not look any further: memory knows that nobody has signed anything.
        let signed = &self.shared.signed;
        if since < signed.started_at || since < signed.latest.load(Ordering::Acquire) {
            let range = Range::prefix(&(asking,))
                .from(&(asking, since.saturating_add(1), UserNumber(0)))
                .before(&(asking, past, UserNumber(0)));
            let rows = USER_SIGNATURE_CHANGES.scan(at, &range, usize::MAX).await?;
            changed.extend(rows.into_iter().map(|((_, _, user), ())| user));
        }
        Ok(changed)
    }
}
