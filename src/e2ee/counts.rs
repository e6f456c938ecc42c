//! How many keys a device has left: its clients are told in every sync.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use ruma::DeviceId;
use serde::Serialize;

use super::Keys;
use crate::storage::{
    Json, Range, StorageError,
    intern::UserNumber,
    schema::{FALLBACK_KEYS, ONE_TIME_KEYS},
};

/// The algorithm that all clients use: told of even if there are no keys, since an absent count is
/// not understood by all of them.
const USUAL: &str = "signed_curve25519";

/// The keys that a device has left.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Counts {
    /// One-time keys by algorithm.
    pub(crate) one_time: BTreeMap<String, u64>,
    /// Algorithms with a fallback key that was never handed out.
    pub(crate) unused_fallback: Vec<String>,
}

impl Counts {
    /// Whether some of them are gone since.
    pub(crate) fn are_fewer_than(&self, before: &Self) -> bool {
        let left = |algorithm| self.one_time.get(algorithm).copied().unwrap_or(0);
        before.one_time.iter().any(|(algorithm, count)| left(algorithm) < *count)
            || before.unused_fallback.iter().any(|kind| !self.unused_fallback.contains(kind))
    }
}

impl Keys {
    /// The keys that a device has left. In memory, mostly.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn counts(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
    ) -> Result<Arc<Counts>, StorageError> {
        let shared = &self.shared;
        let key = (user, device_id.to_owned());
        if let Some(counts) = shared.counts.get(&key) {
            return Ok(counts);
        }
        let before = shared.changes.load(Ordering::Acquire);
        let counts = Arc::new(self.read_counts(user, device_id).await?);
        shared.counts.insert(key.clone(), Arc::clone(&counts));
        if shared.changes.load(Ordering::Acquire) != before {
            shared.counts.remove(&key);
        }
        Ok(counts)
    }

    /// What a device was told last of the keys it has left. After a restart that is taken to be what
    /// it has now: with whatever else it is told next, it is told this too.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn told(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
    ) -> Result<Arc<Counts>, StorageError> {
        let key = (user, device_id.to_owned());
        if let Some(told) = self.shared.told.get(&key) {
            return Ok(told);
        }
        let now = self.counts(user, device_id).await?;
        self.shared.told.get_or_insert_with(&key, || Ok(now))
    }

    /// Notes what a device is told.
    pub(crate) fn tell(&self, user: UserNumber, device_id: &DeviceId, now: &Arc<Counts>) {
        self.shared.told.insert((user, device_id.to_owned()), Arc::clone(now));
    }

    async fn read_counts(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
    ) -> Result<Counts, StorageError> {
        let keys = Range::prefix(&(user, device_id));
        let mut counts = Counts::default();
        counts.one_time.insert(USUAL.to_owned(), 0);
        for ((_, _, algorithm, _), _) in ONE_TIME_KEYS.scan(self.db(), &keys, usize::MAX).await? {
            *counts.one_time.entry(algorithm).or_default() += 1;
        }
        let keys = Range::prefix(&(user, device_id));
        for ((_, _, algorithm), Json(key)) in
            FALLBACK_KEYS.scan(self.db(), &keys, usize::MAX).await?
        {
            if !key.used {
                counts.unused_fallback.push(algorithm);
            }
        }
        Ok(counts)
    }

    /// Forgets what is known of these devices: their keys have changed.
    pub(crate) fn forget_counts<'a>(
        &self,
        devices: impl IntoIterator<Item = (UserNumber, &'a DeviceId)>,
    ) {
        self.shared.changes.fetch_add(1, Ordering::AcqRel);
        for (user, device_id) in devices {
            self.shared.counts.remove(&(user, device_id.to_owned()));
        }
    }
}
