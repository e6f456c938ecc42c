//! Dehydrated devices: a device without anybody logged in, which receives keys while its user has no
//! other one.
//!
//! Proposal: <https://github.com/matrix-org/matrix-spec-proposals/pull/3814>

use ruma::{DeviceId, OwnedDeviceId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ATTEMPTS, E2eeError, Inbox, Keys, ToDevice, Upload, signed::MAX_KEY_BYTES};
use crate::{
    clock::Clock,
    storage::{
        Batch, Db, Json, StorageError,
        intern::UserNumber,
        schema::{DEHYDRATED_DEVICES, DEVICES},
    },
    users::{
        rows::Device,
        session::{Session, Sessions, is_acceptable_device_id},
    },
};

/// The dehydrated devices of all users: each has at most one.
#[derive(Clone)]
pub(crate) struct DehydratedDevices {
    db: Db,
    clock: Clock,
    sessions: Sessions,
    keys: Keys,
    to_device: ToDevice,
}

/// A dehydrated device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Dehydrated {
    /// Its ID.
    pub(crate) device_id: OwnedDeviceId,
    /// What the client needs to bring it to life, encrypted.
    pub(crate) device_data: Box<RawValue>,
}

impl DehydratedDevices {
    /// The devices in `db`, with the areas that a device belongs to.
    pub(crate) fn new(
        db: Db,
        clock: Clock,
        sessions: Sessions,
        keys: Keys,
        to_device: ToDevice,
    ) -> Self {
        Self { db, clock, sessions, keys, to_device }
    }

    /// Puts a device in the place of the one before.
    ///
    /// # Errors
    /// [`E2eeError`] by what is wrong with its keys; there is no device then.
    pub(crate) async fn put(
        &self,
        session: &Session,
        device: Dehydrated,
        display_name: Option<String>,
        upload: &Upload,
    ) -> Result<(), E2eeError> {
        let user = session.user;
        if !is_acceptable_device_id(&device.device_id) {
            return Err(E2eeError::Invalid { what: "this is no device ID" });
        }
        if device.device_data.get().len() > MAX_KEY_BYTES {
            return Err(E2eeError::TooLarge { what: "a device may have at most 64 KiB" });
        }
        self.delete(user).await?;
        let key = (user, &*device.device_id);
        let mut batch = Batch::new();
        // A device that somebody is logged in on does not become a dehydrated one.
        DEVICES.require_absent(&mut batch, &key);
        let row = Device { display_name, created_ms: self.clock.now_ms(), ..Device::default() };
        DEVICES.put(&mut batch, &key, &Json(row));
        DEHYDRATED_DEVICES.put(&mut batch, &user, &Json(device.clone()));
        match self.db.commit(batch).await {
            Err(StorageError::Precondition { .. }) => {
                return Err(E2eeError::Invalid { what: "there is a device of that ID" });
            }
            done => done?,
        }
        let uploaded =
            self.keys.upload_for(user, &session.user_id, &device.device_id, upload).await;
        if let Err(error) = uploaded {
            self.delete(user).await?;
            return Err(error);
        }
        Ok(())
    }

    /// The user's dehydrated device, if it is still there.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn get(&self, user: UserNumber) -> Result<Option<Dehydrated>, StorageError> {
        let Some(Json(device)) = DEHYDRATED_DEVICES.get(&self.db, &user).await? else {
            return Ok(None);
        };
        // It may have been deleted like any other device.
        let there = DEVICES.contains(&self.db, &(user, &*device.device_id)).await?;
        Ok(there.then_some(device))
    }

    /// Deletes the user's dehydrated device; its ID, if there was one.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn delete(
        &self,
        user: UserNumber,
    ) -> Result<Option<OwnedDeviceId>, StorageError> {
        for _ in 0..ATTEMPTS {
            let Some(row) = DEHYDRATED_DEVICES.get(&self.db, &user).await? else {
                return Ok(None);
            };
            let device_id = row.0.device_id.clone();
            self.sessions.remove_device(user, &device_id).await?;
            let mut batch = Batch::new();
            DEHYDRATED_DEVICES.require_equals(&mut batch, &user, &row);
            DEHYDRATED_DEVICES.delete(&mut batch, &user);
            match self.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return done.map(|()| Some(device_id)),
            }
        }
        Err(StorageError::Precondition { table: DEHYDRATED_DEVICES.id.name() })
    }

    /// The messages for the user's dehydrated device after the position `from`, at most `limit`.
    /// They stay until the device is deleted: whoever takes it over may have to begin again.
    ///
    /// # Errors
    /// [`E2eeError::NotFound`] if it is not that device.
    pub(crate) async fn events(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
        from: u64,
        limit: usize,
    ) -> Result<Inbox, E2eeError> {
        let device = self.get(user).await?.filter(|device| device.device_id == device_id);
        if device.is_none() {
            return Err(E2eeError::NotFound { what: "this is not the dehydrated device" });
        }
        let window = (from, self.db.visible_position());
        Ok(self.to_device.inbox(&self.db, user, device_id, window, limit).await?)
    }
}
