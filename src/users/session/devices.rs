//! The devices that users are logged in on: found, named, and removed with all that is theirs.

use ruma::{DeviceId, OwnedDeviceId};

use super::{ATTEMPTS, Ended, Sessions, end};
use crate::{
    clock::Random,
    e2ee::{queue_change, queue_device_removal},
    push,
    storage::{
        Batch, Json, Range, StorageError,
        intern::UserNumber,
        schema::{DEVICE_ACTIVITY, DEVICE_KEYS, DEVICES},
    },
    users::rows::Device,
};

/// The longest device ID.
const MAX_DEVICE_ID_BYTES: usize = 255;
/// The longest display name of a device; longer ones are cut.
pub(super) const MAX_DISPLAY_NAME_CHARS: usize = 100;

impl Sessions {
    /// Ends a device: its tokens, and all that is kept for it.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn remove_device(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
    ) -> Result<(), StorageError> {
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new();
            let ended = self.queue_removal(&mut batch, user, device_id).await?;
            match self.commit(batch, ended).await {
                Err(StorageError::Precondition { .. }) => {}
                done => {
                    self.shared.activities.forget(user, device_id);
                    if let Some(removed) = self.shared.removed.get() {
                        removed(user, device_id);
                    }
                    return done;
                }
            }
        }
        Err(StorageError::Precondition { table: DEVICES.id.name() })
    }

    /// Queues the end of a device. The batch fails if tokens are given to it in the meantime.
    ///
    /// Here is where whatever else belongs to a device must go with it.
    async fn queue_removal(
        &self,
        batch: &mut Batch,
        user: UserNumber,
        device_id: &DeviceId,
    ) -> Result<Ended, StorageError> {
        let key = (user, device_id);
        let device = DEVICES.get(&self.shared.db, &key).await?;
        match &device {
            Some(device) => DEVICES.require_equals(batch, &key, device),
            None => DEVICES.require_absent(batch, &key),
        }
        DEVICES.delete(batch, &key);
        DEVICE_ACTIVITY.delete(batch, &key);
        queue_device_removal(&self.shared.db, batch, user, device_id).await?;
        push::queue_device_removal(&self.shared.db, batch, user, device_id).await?;
        // A sync of the device that waits ends now, rather than with the next message.
        batch.wake([user]);
        let hashes = self.hashes(user, device_id).await?;
        Ok(end(batch, user, device_id, &hashes))
    }

    /// Ends all devices of a user but `keep`.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails; some devices may be gone then.
    pub(crate) async fn remove_all(
        &self,
        user: UserNumber,
        keep: Option<&DeviceId>,
    ) -> Result<(), StorageError> {
        for (device_id, _) in self.devices(user).await? {
            if Some(&*device_id) != keep {
                self.remove_device(user, &device_id).await?;
            }
        }
        Ok(())
    }

    /// The devices of a user, by their IDs.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn devices(
        &self,
        user: UserNumber,
    ) -> Result<Vec<(OwnedDeviceId, Device)>, StorageError> {
        let rows = DEVICES.scan(&self.shared.db, &Range::prefix(&(user,)), usize::MAX).await?;
        Ok(rows.into_iter().map(|((_, id), Json(device))| (id, device)).collect())
    }

    /// One device of a user.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn device(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
    ) -> Result<Option<Device>, StorageError> {
        let row = DEVICES.get(&self.shared.db, &(user, device_id)).await?;
        Ok(row.map(|Json(device)| device))
    }

    /// Whether a user has this device.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn has_device(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
    ) -> Result<bool, StorageError> {
        DEVICES.contains(&self.shared.db, &(user, device_id)).await
    }

    /// Makes a device that nobody is logged in on, or renames one that is there; true if it is new.
    /// For application services, which need no tokens.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/application-service-api/#device-management>
    pub(crate) async fn put_device(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<bool, StorageError> {
        let mut batch = Batch::new();
        let key = (user, device_id);
        DEVICES.require_absent(&mut batch, &key);
        let device = Device {
            display_name: display_name.clone().map(cut),
            created_ms: self.shared.clock.now_ms(),
            tokens_given: 0,
        };
        DEVICES.put(&mut batch, &key, &Json(device));
        match self.shared.db.commit(batch).await {
            Err(StorageError::Precondition { .. }) => {
                if display_name.is_some() {
                    self.rename_device(user, device_id, display_name).await?;
                }
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    /// Renames a device; false if there is none.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn rename_device(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<bool, StorageError> {
        let display_name = display_name.map(cut);
        let key = (user, device_id);
        for _ in 0..ATTEMPTS {
            let Some(old) = DEVICES.get(&self.shared.db, &key).await? else { return Ok(false) };
            let new = Device { display_name: display_name.clone(), ..old.0.clone() };
            let mut batch = Batch::new();
            DEVICES.require_equals(&mut batch, &key, &old);
            DEVICES.put(&mut batch, &key, &Json(new));
            // The name is shown with the device's keys, though not to other servers.
            if DEVICE_KEYS.contains(&self.shared.db, &key).await? {
                queue_change(&self.shared.db, &mut batch, user, &[]).await?;
            }
            match self.shared.db.commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return done.map(|()| true),
            }
        }
        Err(StorageError::Precondition { table: DEVICES.id.name() })
    }
}

/// Whether a client may choose this device ID.
pub(crate) fn is_acceptable_device_id(device_id: &DeviceId) -> bool {
    let id = device_id.as_str();
    !id.is_empty() && id.len() <= MAX_DEVICE_ID_BYTES && !id.contains(char::is_control)
}

pub(super) fn new_device_id(random: &Random) -> OwnedDeviceId {
    let letters = random.bytes::<10>().map(|byte| char::from(b'A' + byte % 26));
    OwnedDeviceId::from(letters.iter().collect::<String>())
}

pub(super) fn cut(name: String) -> String {
    if name.len() <= MAX_DISPLAY_NAME_CHARS {
        return name;
    }
    name.chars().take(MAX_DISPLAY_NAME_CHARS).collect()
}
