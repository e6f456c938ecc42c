//! What is kept of the devices of other servers' users: lists that their servers keep us up to
//! date about, as long as a room is shared.
//!
//! A list is complete, or marked as stale and fetched again. It is stale when an update is missing,
//! and forgotten when no room is shared any more: from then on nobody tells of changes.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedDeviceId, OwnedUserId, ServerName, UserId,
    api::federation::{
        device::get_devices,
        transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    ATTEMPTS, E2eeError, Keys,
    changes::queue_change,
    elsewhere::{is_of_device, is_of_user},
    query::Usage,
    signed,
};
use crate::storage::{
    Batch, Json, Range, StorageError,
    intern::UserNumber,
    schema::{CROSS_SIGNING_KEYS, DEVICE_KEYS, STALE_LISTS, TRACKED_LISTS},
};

/// The largest list that is kept; a larger one is asked for each time.
const MAX_LIST_BYTES: usize = 2 << 20;
/// What is known of the devices of another server's user.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct TrackedList {
    /// The last change that is in it, as the user's server counts them.
    pub(super) stream_id: u64,
    /// Whether something is missing in it.
    pub(super) stale: bool,
}

impl TrackedList {
    /// Whether it is to be fetched again.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }
}

/// What came of fetching a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fetched {
    /// It is kept.
    Kept,
    /// It is too large to be kept, or no room is shared any more.
    NotKept,
    /// The user's server can't be asked.
    Unreachable,
}

/// A list that is being fetched.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    /// By how many.
    count: usize,
    /// Something changed meanwhile: what is fetched may be without it.
    outdated: bool,
}

/// The fetching of a list; over when dropped.
struct Fetch<'a> {
    keys: &'a Keys,
    user: UserNumber,
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        let mut fetching = self.keys.shared.fetching.lock();
        if let Some(one) = fetching.get_mut(&self.user) {
            one.count -= 1;
            if one.count == 0 {
                fetching.remove(&self.user);
            }
        }
    }
}

impl Keys {
    /// Takes in that a device of a user of `origin` changed.
    ///
    /// # Errors
    /// [`E2eeError::NotOwn`] for another server's user, [`E2eeError::Invalid`] for what makes no
    /// sense.
    pub(crate) async fn take_device_update(
        &self,
        origin: &ServerName,
        update: DeviceListUpdateContent,
    ) -> Result<(), E2eeError> {
        let user_id = &*update.user_id;
        let gone = update.deleted == Some(true);
        let keys = update.keys.map(Raw::into_json).filter(|_| !gone);
        if let Some(keys) = &keys
            && !is_of_device(keys, user_id, &update.device_id)
        {
            return Err(E2eeError::Invalid { what: "the keys are not those of the device" });
        }
        let keys = keys.map(|keys| stored_device(&keys, update.device_display_name.as_deref()));
        let keys = keys.transpose()?;
        let stream_id = u64::from(update.stream_id);
        let Some(user) = self.known(origin, user_id).await? else { return Ok(()) };
        let _lists = self.shared.lists.lock().await;
        self.outdate(user);
        for _ in 0..ATTEMPTS {
            let Some(list) = self.tracked_by_rooms(user).await? else { return Ok(()) };
            let mut batch = Batch::new();
            if let Some(list) = list {
                if !list.stale && stream_id <= list.stream_id {
                    // It came twice, or later than one that has it.
                    return Ok(());
                }
                let follows = update.prev_id.iter().any(|id| u64::from(*id) == list.stream_id);
                let next = TrackedList { stream_id, stale: list.stale || !follows };
                TRACKED_LISTS.require_equals(&mut batch, &user, &Json(list));
                TRACKED_LISTS.put(&mut batch, &user, &Json(next));
                let row = (user, &*update.device_id);
                match &keys {
                    _ if next.stale => STALE_LISTS.put(&mut batch, &(origin, user), &()),
                    Some(keys) => DEVICE_KEYS.put(&mut batch, &row, keys),
                    None => DEVICE_KEYS.delete(&mut batch, &row),
                }
            }
            match self.commit_change(batch, user).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done?),
            }
        }
        Err(E2eeError::Busy)
    }

    /// Takes in that the cross-signing keys of a user of `origin` changed.
    ///
    /// # Errors
    /// As [`Self::take_device_update`].
    pub(crate) async fn take_signing_keys(
        &self,
        origin: &ServerName,
        update: SigningKeyUpdateContent,
    ) -> Result<(), E2eeError> {
        let user_id = &*update.user_id;
        let keys = [
            (Usage::Master, update.master_key.map(Raw::into_json)),
            (Usage::SelfSigning, update.self_signing_key.map(Raw::into_json)),
        ];
        let mut stored = Vec::new();
        for (usage, key) in keys {
            let Some(key) = key else { continue };
            stored.push((usage, stored_key(&key, user_id)?));
        }
        let Some(user) = self.known(origin, user_id).await? else { return Ok(()) };
        let _lists = self.shared.lists.lock().await;
        self.outdate(user);
        for _ in 0..ATTEMPTS {
            let Some(list) = self.tracked_by_rooms(user).await? else { return Ok(()) };
            let mut batch = Batch::new();
            if let Some(list) = list {
                TRACKED_LISTS.require_equals(&mut batch, &user, &Json(list));
                for (usage, key) in &stored {
                    CROSS_SIGNING_KEYS.put(&mut batch, &(user, usage.number()), key);
                }
            }
            match self.commit_change(batch, user).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done?),
            }
        }
        Err(E2eeError::Busy)
    }

    /// The number of a user of `origin`; none for somebody nobody here ever had to do with.
    async fn known(
        &self,
        origin: &ServerName,
        user_id: &UserId,
    ) -> Result<Option<UserNumber>, E2eeError> {
        if user_id.server_name() != origin {
            return Err(E2eeError::NotOwn);
        }
        Ok(self.db().users().find(self.db(), user_id).await?)
    }

    /// What is kept of a user with whom a room is shared; none if no room is.
    async fn tracked_by_rooms(
        &self,
        user: UserNumber,
    ) -> Result<Option<Option<TrackedList>>, StorageError> {
        if !self.is_shared(user).await? {
            return Ok(None);
        }
        Ok(Some(TRACKED_LISTS.get(self.db(), &user).await?.map(|Json(list)| list)))
    }

    /// Commits what changed of another server's user, and tells those here.
    async fn commit_change(&self, mut batch: Batch, user: UserNumber) -> Result<(), StorageError> {
        queue_change(self.db(), &mut batch, user, &[]).await?;
        batch.wake([UserNumber::FOR_OTHER_SERVERS]);
        self.db().commit(batch).await
    }

    fn outdate(&self, user: UserNumber) {
        if let Some(fetching) = self.shared.fetching.lock().get_mut(&user) {
            fetching.outdated = true;
        }
    }

    /// Fetches the list of a user and keeps it.
    ///
    /// # Errors
    /// [`E2eeError::Storage`].
    pub(super) async fn fetch_list(
        &self,
        user_id: &UserId,
        user: UserNumber,
    ) -> Result<Fetched, E2eeError> {
        let Some(remote) = self.shared.remote.as_deref() else { return Ok(Fetched::Unreachable) };
        let began = self.db().visible_position();
        self.shared.fetching.lock().entry(user).or_default().count += 1;
        let fetch = Fetch { keys: self, user };
        let Some(list) = remote.devices(user_id).await else { return Ok(Fetched::Unreachable) };
        let Some(rows) = Rows::of(list, user_id) else { return Ok(Fetched::NotKept) };
        let _lists = self.shared.lists.lock().await;
        if !self.is_shared_since(user, began).await? {
            return Ok(Fetched::NotKept);
        }
        let fetching = fetch.keys.shared.fetching.lock().get(&user).map(|one| one.outdated);
        let stale = fetching.unwrap_or_default();
        for _ in 0..ATTEMPTS {
            match self.store_list(user_id, user, &rows, stale).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done.map(|()| Fetched::Kept)?),
            }
        }
        Err(E2eeError::Busy)
    }

    async fn store_list(
        &self,
        user_id: &UserId,
        user: UserNumber,
        rows: &Rows,
        stale: bool,
    ) -> Result<(), StorageError> {
        let db = self.db();
        let mut batch = Batch::new();
        let list = TrackedList { stream_id: rows.stream_id, stale };
        let before = TRACKED_LISTS.get(db, &user).await?;
        match &before {
            Some(before) => TRACKED_LISTS.require_equals(&mut batch, &user, before),
            None => TRACKED_LISTS.require_absent(&mut batch, &user),
        }
        TRACKED_LISTS.put(&mut batch, &user, &Json(list));
        let stale_row = (user_id.server_name(), user);
        if stale {
            STALE_LISTS.put(&mut batch, &stale_row, &());
        } else {
            STALE_LISTS.delete(&mut batch, &stale_row);
        }
        let mut differs = false;
        let all = Range::prefix(&(user,));
        let mut old: BTreeMap<OwnedDeviceId, Vec<u8>> = BTreeMap::new();
        for ((_, id), keys) in DEVICE_KEYS.scan(db, &all, usize::MAX).await? {
            if !rows.devices.contains_key(&id) {
                DEVICE_KEYS.delete(&mut batch, &(user, &*id));
                differs = true;
            }
            old.insert(id, keys);
        }
        for (id, keys) in &rows.devices {
            if old.get(id) != Some(keys) {
                DEVICE_KEYS.put(&mut batch, &(user, &**id), keys);
                differs = true;
            }
        }
        for usage in [Usage::Master, Usage::SelfSigning] {
            let row = (user, usage.number());
            let new = rows.keys.get(&usage.number());
            if CROSS_SIGNING_KEYS.get(db, &row).await?.as_ref() != new {
                differs = true;
                match new {
                    Some(key) => CROSS_SIGNING_KEYS.put(&mut batch, &row, key),
                    None => CROSS_SIGNING_KEYS.delete(&mut batch, &row),
                }
            }
        }
        // As long as nothing was kept, whoever asked was given what was new.
        if differs && before.is_some() {
            queue_change(db, &mut batch, user, &[]).await?;
        }
        db.commit(batch).await
    }

    /// Has the list of a user fetched later, to be kept from then on.
    pub(super) async fn want_list(
        &self,
        user_id: &UserId,
        user: UserNumber,
    ) -> Result<(), StorageError> {
        let mut batch = Batch::unsynced();
        STALE_LISTS.put(&mut batch, &(user_id.server_name(), user), &());
        batch.wake([UserNumber::FOR_OTHER_SERVERS]);
        self.db().commit(batch).await
    }

    /// The users of a server whose lists are to be fetched, at most `limit`.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) async fn stale_of(
        &self,
        server: &ServerName,
        after: Option<UserNumber>,
        limit: usize,
    ) -> Result<Vec<(OwnedUserId, UserNumber)>, StorageError> {
        let db = self.db();
        let mut range = Range::prefix(&(server,));
        if let Some(after) = after {
            range = range.after(&(server, after));
        }
        let mut users = Vec::new();
        for ((_, user), ()) in STALE_LISTS.scan(db, &range, limit).await? {
            users.push((db.users().name(db, user).await?, user));
        }
        Ok(users)
    }

    /// A list that is wanted no longer, or can't be kept.
    pub(super) async fn leave_stale(
        &self,
        server: &ServerName,
        user: UserNumber,
    ) -> Result<(), StorageError> {
        let mut batch = Batch::unsynced();
        STALE_LISTS.delete(&mut batch, &(server, user));
        self.db().commit(batch).await
    }
}

/// What is stored of a list.
struct Rows {
    stream_id: u64,
    devices: BTreeMap<OwnedDeviceId, Vec<u8>>,
    keys: BTreeMap<u8, Vec<u8>>,
}

impl Rows {
    /// None if the list is larger than can be kept. Keys that make no sense are left out.
    fn of(list: get_devices::v1::Response, user_id: &UserId) -> Option<Self> {
        let mut devices = BTreeMap::new();
        for device in list.devices {
            let keys = device.keys.into_json();
            if is_of_device(&keys, user_id, &device.device_id)
                && let Ok(keys) = stored_device(&keys, device.device_display_name.as_deref())
            {
                devices.insert(device.device_id, keys);
            }
        }
        let mut keys = BTreeMap::new();
        for (usage, key) in
            [(Usage::Master, list.master_key), (Usage::SelfSigning, list.self_signing_key)]
        {
            if let Some(key) = key.map(Raw::into_json)
                && let Ok(key) = stored_key(&key, user_id)
            {
                keys.insert(usage.number(), key);
            }
        }
        let bytes = devices.values().chain(keys.values()).map(Vec::len).sum::<usize>();
        let stream_id = list.stream_id.into();
        (bytes <= MAX_LIST_BYTES).then_some(Self { stream_id, devices, keys })
    }
}

/// The keys of a device as they are kept: with its name, if one was told.
fn stored_device(keys: &RawValue, name: Option<&str>) -> Result<Vec<u8>, E2eeError> {
    let mut keys = signed::object(keys)?;
    keys.remove("unsigned");
    if let Some(name) = name.filter(|name| name.len() <= signed::MAX_KEY_BYTES) {
        let name = CanonicalJsonValue::String(name.to_owned());
        let unsigned = CanonicalJsonObject::from([("device_display_name".to_owned(), name)]);
        keys.insert("unsigned".to_owned(), CanonicalJsonValue::Object(unsigned));
    }
    serde_json::to_vec(&keys).map_err(|_| E2eeError::Invalid { what: "the keys are no JSON" })
}

fn stored_key(key: &RawValue, user_id: &UserId) -> Result<Vec<u8>, E2eeError> {
    if !is_of_user(key, user_id) {
        return Err(E2eeError::NotOwn);
    }
    serde_json::to_vec(&signed::object(key)?)
        .map_err(|_| E2eeError::Invalid { what: "the key is no JSON" })
}
