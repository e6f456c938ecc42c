//! `/keys/upload`: a device tells its keys.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysupload>

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ruma::{CanonicalJsonObject, DeviceId, UserId};
use serde_json::value::RawValue;

use super::{
    ATTEMPTS, Counts, E2eeError, FallbackKey, Keys, OneTimeKey,
    changes::{Changed, queue_change},
    removal::queue_one_time_removal,
    signed::{self, MAX_ID_BYTES},
};
use crate::{
    storage::{
        Batch, Json, Range, StorageError,
        intern::UserNumber,
        schema::{DEVICE_KEYS, DEVICES, FALLBACK_KEYS, ONE_TIME_KEYS},
    },
    users::session::Session,
};

/// How many one-time keys a device may have at a time.
const MAX_ONE_TIME_KEYS: usize = 1_000;
/// For how many algorithms a device may have fallback keys.
const MAX_FALLBACK_KEYS: usize = 16;

/// What a device uploads.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    /// Its identity keys.
    pub(crate) identity: Option<Box<RawValue>>,
    /// One-time keys by `algorithm:id`.
    pub(crate) one_time: BTreeMap<String, Box<RawValue>>,
    /// Fallback keys by `algorithm:id`, one for each algorithm.
    pub(crate) fallback: BTreeMap<String, Box<RawValue>>,
}

impl Keys {
    /// Stores the keys of a device, and tells what it has now.
    ///
    /// Identity keys must be the device's own and signed by themselves. A one-time key may be
    /// uploaded again as it was; nothing changes then.
    ///
    /// # Errors
    /// [`E2eeError`] by what is wrong with a key; nothing is stored then.
    pub(crate) async fn upload(
        &self,
        session: &Session,
        upload: &Upload,
    ) -> Result<Arc<Counts>, E2eeError> {
        self.upload_for(session.user, &session.user_id, &session.device_id, upload).await
    }

    /// As [`Self::upload`], for any device of a user.
    pub(super) async fn upload_for(
        &self,
        user: UserNumber,
        user_id: &UserId,
        device_id: &DeviceId,
        upload: &Upload,
    ) -> Result<Arc<Counts>, E2eeError> {
        let device_keys = upload.identity.as_deref().map(signed::object).transpose()?;
        if let Some(keys) = &device_keys {
            check_device_keys(keys, user_id, device_id)?;
        }
        check_ids(upload)?;
        let key = (user, device_id);
        for _ in 0..ATTEMPTS {
            let device = DEVICES.get(self.db(), &key).await?.ok_or(E2eeError::UnknownDevice)?;
            let mut batch = Batch::new();
            let replaced = match &device_keys {
                Some(keys) => self.queue_device_keys(&mut batch, user, device_id, keys).await?,
                None => false,
            };
            self.queue_one_time_keys(&mut batch, user, device_id, upload, replaced).await?;
            for (id, fallback) in &upload.fallback {
                let fallback = FallbackKey { id: id.clone(), key: fallback.clone(), used: false };
                let row = (user, device_id, algorithm_of(id));
                // The same key again is as used as it was.
                let old = FALLBACK_KEYS.get(self.db(), &row).await?;
                if old.is_none_or(|Json(old)| {
                    old.id != fallback.id || !same_json(&old.key, &fallback.key)
                }) {
                    FALLBACK_KEYS.put(&mut batch, &row, &Json(fallback));
                }
            }
            if batch.is_empty() {
                return Ok(self.counts(user, device_id).await?);
            }
            DEVICES.require_equals(&mut batch, &key, &device);
            let done = self.db().commit(batch).await;
            self.forget_counts([(user, device_id)]);
            match done {
                Err(StorageError::Precondition { .. }) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(self.counts(user, device_id).await?),
            }
        }
        Err(E2eeError::Busy)
    }

    /// Queues a device's identity keys, if they are new. True if they replace others.
    async fn queue_device_keys(
        &self,
        batch: &mut Batch,
        user: UserNumber,
        device_id: &DeviceId,
        keys: &CanonicalJsonObject,
    ) -> Result<bool, E2eeError> {
        let key = (user, device_id);
        let mut keys = keys.clone();
        keys.remove("unsigned");
        let new = serde_json::to_vec(&keys)
            .map_err(|_| E2eeError::Invalid { what: "the device keys are no JSON" })?;
        let old = DEVICE_KEYS.get(self.db(), &key).await?;
        if old.as_ref() == Some(&new) {
            return Ok(false);
        }
        let mut replaced = false;
        if let Some(old) = &old {
            DEVICE_KEYS.require_equals(batch, &key, old);
            let old: CanonicalJsonObject = serde_json::from_slice(old)
                .map_err(|_| StorageError::Corrupt { table: DEVICE_KEYS.id.name() })?;
            replaced = identity_key(&old, device_id) != identity_key(&keys, device_id);
        } else {
            DEVICE_KEYS.require_absent(batch, &key);
        }
        if replaced {
            // What the old identity has signed is of no use to the new one.
            queue_one_time_removal(self.db(), batch, user, device_id).await?;
        }
        DEVICE_KEYS.put(batch, &key, &new);
        queue_change(self.db(), batch, user, &[Changed::Device(device_id)]).await?;
        Ok(replaced)
    }

    /// Queues one-time keys behind those that are there: they are handed out in the order in which
    /// they came, those of one upload by their IDs.
    async fn queue_one_time_keys(
        &self,
        batch: &mut Batch,
        user: UserNumber,
        device_id: &DeviceId,
        upload: &Upload,
        replaced: bool,
    ) -> Result<(), E2eeError> {
        if upload.one_time.is_empty() {
            return Ok(());
        }
        let present = if replaced {
            Vec::new()
        } else {
            let range = Range::prefix(&(user, device_id));
            ONE_TIME_KEYS.scan(self.db(), &range, usize::MAX).await?
        };
        let known: HashMap<&str, &RawValue> =
            present.iter().map(|(_, Json(key))| (key.id.as_str(), &*key.key)).collect();
        let mut next =
            present.iter().map(|((_, _, _, number), _)| *number).max().map_or(0, |last| last + 1);
        let mut count = present.len();
        for (id, key) in &upload.one_time {
            match known.get(id.as_str()) {
                Some(old) if same_json(old, key) => continue,
                Some(old) => {
                    return Err(E2eeError::OneTimeKeyExists {
                        id: id.clone(),
                        old: old.get().into(),
                        new: key.get().into(),
                    });
                }
                None => {}
            }
            count += 1;
            if count > MAX_ONE_TIME_KEYS {
                return Err(E2eeError::TooMany {
                    what: "a device may have at most 1000 one-time keys",
                });
            }
            let row = (user, device_id, algorithm_of(id), next);
            if !replaced {
                // Another upload of the device at the same time would take the same place.
                ONE_TIME_KEYS.require_absent(batch, &row);
            }
            let key = OneTimeKey { id: id.clone(), key: key.clone() };
            ONE_TIME_KEYS.put(batch, &row, &Json(key));
            next += 1;
        }
        Ok(())
    }
}

/// Identity keys must name their owner and be signed with the Ed25519 key among them.
fn check_device_keys(
    keys: &CanonicalJsonObject,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<(), E2eeError> {
    if signed::text(keys, "user_id") != Some(user_id.as_str())
        || signed::text(keys, "device_id") != Some(device_id.as_str())
    {
        return Err(E2eeError::NotOwn);
    }
    if keys.get("algorithms").is_none_or(|algorithms| algorithms.as_array().is_none()) {
        return Err(E2eeError::Invalid { what: "device keys must list their algorithms" });
    }
    let public_key = identity_key(keys, device_id)
        .ok_or(E2eeError::Invalid { what: "device keys must hold an Ed25519 key" })?;
    if signed::is_signed_by(keys, user_id, device_id.as_str(), public_key) {
        Ok(())
    } else {
        Err(E2eeError::InvalidSignature { what: "device keys" })
    }
}

/// The Ed25519 key of a device.
pub(super) fn identity_key<'a>(
    keys: &'a CanonicalJsonObject,
    device_id: &DeviceId,
) -> Option<&'a str> {
    signed::text(signed::inner(keys, "keys")?, &format!("ed25519:{device_id}"))
}

/// The part of `algorithm:id` before the colon.
fn algorithm_of(id: &str) -> &str {
    id.split_once(':').map_or(id, |(algorithm, _)| algorithm)
}

fn check_ids(upload: &Upload) -> Result<(), E2eeError> {
    for (id, key) in upload.one_time.iter().chain(&upload.fallback) {
        let parts = id.split_once(':').filter(|(a, b)| !a.is_empty() && !b.is_empty());
        let Some((algorithm, _)) = parts.filter(|_| id.len() <= MAX_ID_BYTES) else {
            return Err(E2eeError::Invalid { what: "a key's ID must read algorithm:id" });
        };
        if key.get().len() > signed::MAX_KEY_BYTES {
            return Err(E2eeError::TooLarge { what: "a key may have at most 64 KiB" });
        }
        if algorithm.starts_with("signed_") {
            let object = signed::object(key)?;
            if signed::text(&object, "key").is_none()
                || signed::inner(&object, "signatures").is_none()
            {
                return Err(E2eeError::Invalid { what: "a signed key needs key and signatures" });
            }
        }
    }
    let mut algorithms: Vec<&str> = upload.fallback.keys().map(|id| algorithm_of(id)).collect();
    algorithms.dedup();
    if algorithms.len() < upload.fallback.len() {
        return Err(E2eeError::Invalid { what: "there is one fallback key for each algorithm" });
    }
    if algorithms.len() > MAX_FALLBACK_KEYS {
        return Err(E2eeError::TooMany { what: "there are at most 16 fallback keys" });
    }
    Ok(())
}

fn same_json(a: &RawValue, b: &RawValue) -> bool {
    let value = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get()).ok();
    a.get() == b.get() || value(a) == value(b)
}
