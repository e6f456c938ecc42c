//! What other servers are told of the keys of this server's users.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption>

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId, ServerName, UserId};
use serde_json::value::RawValue;

use super::{
    E2eeError, Keys,
    query::{MAX_USERS, QueriedKeys},
};
use crate::storage::{
    Batch, Range, StorageError,
    intern::UserNumber,
    schema::{
        ACCOUNTS, CROSS_SIGNING_CHANGES, DEVICE_CHANGES, DEVICE_LIST_POSITIONS, DEVICE_LISTS_TOLD,
    },
};

/// If more devices changed, the other server is told of the last one alone, and to fetch all.
const MAX_UPDATES: usize = 20;

/// A user's devices, and the position up to which this is what they are.
#[derive(Debug)]
pub(crate) struct ServedDevices {
    /// The last change that is in it.
    pub(crate) stream_id: u64,
    /// The keys by device.
    pub(crate) devices: BTreeMap<OwnedDeviceId, Box<RawValue>>,
    /// The user's master key.
    pub(crate) master: Option<Box<RawValue>>,
    /// The user's self-signing key.
    pub(crate) self_signing: Option<Box<RawValue>>,
}

/// What another server is told of what changed.
#[derive(Debug)]
pub(crate) enum DeviceUpdate {
    /// A device.
    Device {
        /// Which.
        device_id: OwnedDeviceId,
        /// The position of the change.
        stream_id: u64,
        /// That of the change before it, if the server was told of it.
        prev_id: Option<u64>,
        /// Its keys; none if it is gone.
        keys: Option<Box<RawValue>>,
    },
    /// The user's own keys.
    SigningKeys {
        /// The master key.
        master: Option<Box<RawValue>>,
        /// The self-signing key.
        self_signing: Option<Box<RawValue>>,
    },
}

impl Keys {
    /// The keys of this server's users, for another server.
    ///
    /// # Errors
    /// [`E2eeError::TooMany`] for more than 10,000 users.
    pub(crate) async fn query_for_server(
        &self,
        wanted: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> Result<QueriedKeys, E2eeError> {
        if wanted.len() > MAX_USERS {
            return Err(E2eeError::TooMany {
                what: "at most 10000 users may be asked for at once",
            });
        }
        let mut found = QueriedKeys::default();
        for (user_id, devices) in wanted.iter().filter(|(user_id, _)| self.is_local(user_id)) {
            self.query_local(None, user_id, devices, &mut found).await?;
        }
        Ok(found)
    }

    /// All devices of a user of this server, for `origin`: what changes later comes after this.
    ///
    /// # Errors
    /// [`E2eeError::NotFound`] if this server has no such user.
    pub(crate) async fn devices_for_server(
        &self,
        origin: &ServerName,
        user_id: &UserId,
    ) -> Result<ServedDevices, E2eeError> {
        let db = self.db();
        let unknown = E2eeError::NotFound { what: "there is no such user" };
        let Some(user) = db.users().find(db, user_id).await? else { return Err(unknown) };
        if !self.is_local(user_id) || !ACCOUNTS.contains(db, &user).await? {
            return Err(unknown);
        }
        // Before the keys: what changes while they are read is told of once more.
        let stream_id = DEVICE_LIST_POSITIONS.get(db, &user).await?.unwrap_or_default();
        let mut found = QueriedKeys::default();
        let user_id = user_id.to_owned();
        self.query_local(None, &user_id, &[], &mut found).await?;
        let mut batch = Batch::unsynced();
        DEVICE_LISTS_TOLD.put(&mut batch, &(origin, user), &(stream_id, stream_id));
        db.commit(batch).await?;
        Ok(ServedDevices {
            stream_id,
            devices: found.device_keys.remove(&user_id).unwrap_or_default(),
            master: found.master_keys.remove(&user_id),
            self_signing: found.self_signing_keys.remove(&user_id),
        })
    }

    /// What changed of a user's keys since `server` was told last, and what is kept of that when it
    /// was told: see [`Self::queue_told`].
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn updates_for_server(
        &self,
        server: &ServerName,
        user: UserNumber,
    ) -> Result<(Vec<DeviceUpdate>, (u64, u64)), E2eeError> {
        let db = self.db();
        let told = DEVICE_LISTS_TOLD.get(db, &(server, user)).await?;
        let (since, last_device) = told.unwrap_or_default();
        let mut changes: Vec<(u64, OwnedDeviceId)> = DEVICE_CHANGES
            .scan(db, &Range::prefix(&(user,)), usize::MAX)
            .await?
            .into_iter()
            .filter(|(_, position)| *position > since)
            .map(|((_, device), position)| (position, device))
            .collect();
        changes.sort_unstable();
        let signing = CROSS_SIGNING_CHANGES.get(db, &user).await?;
        let signing = signing.filter(|position| *position > since);
        let user_id = db.users().name(db, user).await?;
        let mut found = QueriedKeys::default();
        self.query_local(None, &user_id, &[], &mut found).await?;
        let mut devices = found.device_keys.remove(&user_id).unwrap_or_default();
        let newest = changes.last().map(|(position, _)| *position);
        let last = newest.max(signing).unwrap_or(since);
        // Without an ID before it, an update says that there were others.
        let mut prev_id = told.map(|_| last_device);
        if told.is_none() || changes.len() > MAX_UPDATES {
            changes.drain(..changes.len().saturating_sub(1));
            prev_id = None;
        }
        let mut updates = Vec::new();
        if signing.is_some() {
            updates.push(DeviceUpdate::SigningKeys {
                master: found.master_keys.remove(&user_id),
                self_signing: found.self_signing_keys.remove(&user_id),
            });
        }
        for (stream_id, device_id) in changes {
            let keys = devices.remove(&device_id);
            updates.push(DeviceUpdate::Device { device_id, stream_id, prev_id, keys });
            prev_id = Some(stream_id);
        }
        Ok((updates, (last, newest.unwrap_or(last_device))))
    }

    /// Notes what `server` was told of a user, unless it was told more meanwhile.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn queue_told(
        &self,
        batch: &mut Batch,
        server: &ServerName,
        user: UserNumber,
        now: (u64, u64),
    ) -> Result<(), StorageError> {
        let told = DEVICE_LISTS_TOLD.get(self.db(), &(server, user)).await?;
        if told.is_none_or(|told| told < now) {
            DEVICE_LISTS_TOLD.put(batch, &(server, user), &now);
        }
        Ok(())
    }
}
