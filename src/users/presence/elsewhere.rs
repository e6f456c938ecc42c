//! Presence across servers: what others say of their users, and who is told of ours.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#presence>

use std::collections::BTreeSet;

use ruma::{OwnedServerName, ServerName};

use super::{Level, MAX_STATUS_BYTES, Presence, Told};
use crate::{
    e2ee::joined_rooms,
    storage::{
        Range, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::ROOM_SERVERS,
    },
};

/// Other servers are told of somebody who is there at least this often.
const REMINDED_MS: u64 = 20 * 60_000;

/// What another server says of one of its users.
#[derive(Clone, Debug)]
pub(crate) struct RemoteStatus {
    /// How much they are there.
    pub(crate) level: Level,
    /// Whether they did something just now.
    pub(crate) currently_active: bool,
    /// What they say of themselves.
    pub(crate) message: Option<String>,
    /// How long ago they were active.
    pub(crate) active_ago_ms: u64,
}

impl Presence {
    /// Has `told` tell other servers. Set once, when the server is put together.
    pub(crate) fn when_told(&self, told: Told) {
        self.shared.told.get_or_init(|| told);
    }

    /// Notes what another server says of its user, if they share a room with somebody here: whether
    /// they do.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn heard(
        &self,
        user: UserNumber,
        status: RemoteStatus,
    ) -> Result<bool, StorageError> {
        if !self.is_federated() || !self.is_near(user).await? {
            return Ok(false);
        }
        let now = self.shared.clock.now_ms();
        let mut known = self.shared.known.lock();
        let person = known.people.entry(user).or_default();
        person.remote = Some((status.level, status.currently_active, now));
        person.active_ms = now.saturating_sub(status.active_ago_ms).max(1);
        let message = status.message.filter(|message| !message.is_empty());
        person.message = message.filter(|message| message.len() <= MAX_STATUS_BYTES);
        Ok(true)
    }

    /// Whether presence is exchanged with other servers.
    pub(crate) fn is_federated(&self) -> bool {
        self.shared.settings.enabled && self.shared.settings.federate
    }

    /// Whether somebody of this server is in a room with the user that is not too large.
    async fn is_near(&self, user: UserNumber) -> Result<bool, StorageError> {
        let db = &self.shared.db;
        for room in joined_rooms(db, user).await? {
            if self.members(db, room).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The other servers in rooms of a user of this one that are not too large.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn servers(
        &self,
        user: UserNumber,
        own: &ServerName,
    ) -> Result<BTreeSet<OwnedServerName>, StorageError> {
        let db = &self.shared.db;
        let mut found = BTreeSet::new();
        for room in joined_rooms(db, user).await? {
            let servers = ROOM_SERVERS.scan(db, &Range::prefix(&(room,)), usize::MAX).await?;
            if servers.len() > 1 && self.members(db, room).await?.is_some() {
                found.extend(servers.into_iter().map(|((_, server), _)| server));
            }
        }
        found.remove(own);
        Ok(found)
    }

    /// Whether servers that come into a room are told who is there: it is not too large.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn is_told_in(&self, room: RoomNumber) -> Result<bool, StorageError> {
        Ok(self.is_federated() && self.members(&self.shared.db, room).await?.is_some())
    }

    /// Tells other servers of these users, and of those who are there and whom they were not told
    /// of for long.
    pub(super) fn tell_others(&self, mut changed: BTreeSet<UserNumber>) {
        let Some(told) = self.shared.told.get().filter(|_| self.shared.settings.federate) else {
            return;
        };
        let now = self.shared.clock.now_ms();
        let mut known = self.shared.known.lock();
        changed.extend(known.people.iter().filter_map(|(user, person)| {
            let is_due = now.saturating_sub(person.reminded_ms) > REMINDED_MS;
            (is_due && person.told.level != Level::Offline).then_some(*user)
        }));
        changed.retain(|user| {
            let person = known.people.get_mut(user).filter(|person| person.remote.is_none());
            person.is_some_and(|person| {
                person.reminded_ms = now;
                true
            })
        });
        drop(known);
        if !changed.is_empty() {
            told(changed.into_iter().collect());
        }
    }
}
