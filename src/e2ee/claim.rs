//! `/keys/claim`: a one-time key is handed out once, ever.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim>

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};
use serde_json::value::RawValue;

use super::{ATTEMPTS, E2eeError, FallbackKey, Keys};
use crate::storage::{
    Batch, Json, Range, StorageError,
    intern::UserNumber,
    schema::{FALLBACK_KEYS, ONE_TIME_KEYS},
};

/// How many devices one request may ask for.
const MAX_CLAIMED: usize = 10_000;
/// How many rows are read for one key: those before it are being handed out to others.
const LOOKED_AT: usize = 8;

/// Where a one-time key is kept.
pub(super) type Slot = (UserNumber, OwnedDeviceId, String, u64);

/// Keys by user and device, each with its ID.
pub(crate) type ClaimedKeys =
    BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, BTreeMap<String, Box<RawValue>>>>;

/// Of which devices keys are wanted, and of which algorithm.
pub(crate) type WantedKeys = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>;

/// What was claimed.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    /// The keys; devices that have none left are missing.
    pub(crate) keys: ClaimedKeys,
    /// Servers whose users were asked for and that could not be asked.
    pub(crate) unreachable: Vec<OwnedServerName>,
}

/// Keys marked as being handed out; the marks go when this is dropped. By then the rows are gone,
/// or else they are free again.
struct Marks<'a> {
    keys: &'a Keys,
    slots: Vec<Slot>,
}

impl Drop for Marks<'_> {
    fn drop(&mut self) {
        let mut claimed = self.keys.shared.claimed.lock();
        for slot in &self.slots {
            claimed.remove(slot);
        }
    }
}

impl Keys {
    /// Takes a one-time key of each device, or its fallback key if it has none left.
    ///
    /// The keys are gone from the disk before they are handed out: neither a concurrent request
    /// nor one after a crash gets the same.
    ///
    /// # Errors
    /// [`E2eeError::TooMany`] for more than 10,000 devices.
    pub(crate) async fn claim(&self, wanted: &WantedKeys) -> Result<Claimed, E2eeError> {
        let keys = self.claim_local(wanted).await?;
        let mut claimed = Claimed { keys, unreachable: Vec::new() };
        self.claim_elsewhere(wanted, &mut claimed).await;
        Ok(claimed)
    }

    /// The same of this server's users alone: what another server claims.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub(crate) async fn claim_local(&self, wanted: &WantedKeys) -> Result<ClaimedKeys, E2eeError> {
        if wanted.values().map(BTreeMap::len).sum::<usize>() > MAX_CLAIMED {
            return Err(E2eeError::TooMany { what: "at most 10000 keys may be claimed at once" });
        }
        let mut local = Vec::new();
        for (user_id, devices) in wanted.iter().filter(|(user_id, _)| self.is_local(user_id)) {
            if let Some(user) = self.db().users().find(self.db(), &**user_id).await? {
                local.extend(devices.iter().map(|(device, algorithm)| {
                    (user_id.clone(), (user, device.clone(), algorithm.clone()))
                }));
            }
        }
        for _ in 0..ATTEMPTS {
            match self.try_claim(&local).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done?),
            }
        }
        Err(E2eeError::Busy)
    }

    async fn try_claim(
        &self,
        wanted: &[(OwnedUserId, (UserNumber, OwnedDeviceId, String))],
    ) -> Result<ClaimedKeys, StorageError> {
        let mut found = ClaimedKeys::new();
        let mut batch = Batch::new();
        let mut marks = Marks { keys: self, slots: Vec::new() };
        for (user_id, (user, device, algorithm)) in wanted {
            let taken =
                match self.take_one(&mut batch, &mut marks, *user, device, algorithm).await? {
                    Some(taken) => Some(taken),
                    None => self.take_fallback(&mut batch, *user, device, algorithm).await?,
                };
            if let Some((id, key)) = taken {
                let devices = found.entry(user_id.clone()).or_default();
                devices.entry(device.clone()).or_default().insert(id, key);
            }
        }
        if !batch.is_empty() {
            let done = self.db().commit(batch).await;
            self.forget_counts(wanted.iter().map(|(_, (user, device, _))| (*user, &**device)));
            done?;
            // Nothing has changed that has a position; syncs that wait tell the new counts, so that
            // clients make new keys before the last one is gone.
            let mut users: Vec<UserNumber> = wanted.iter().map(|(_, (user, ..))| *user).collect();
            users.dedup();
            self.db().wake(&users);
        }
        Ok(found)
    }

    /// Takes the first one-time key that nobody else is being given.
    async fn take_one(
        &self,
        batch: &mut Batch,
        marks: &mut Marks<'_>,
        user: UserNumber,
        device: &OwnedDeviceId,
        algorithm: &str,
    ) -> Result<Option<(String, Box<RawValue>)>, StorageError> {
        let mut range = Range::prefix(&(user, device, algorithm));
        loop {
            let rows = ONE_TIME_KEYS.scan(self.db(), &range, LOOKED_AT).await?;
            let more = rows.len() == LOOKED_AT;
            for (slot, row) in rows {
                range = range.after(&slot);
                if !self.shared.claimed.lock().insert(slot.clone()) {
                    continue;
                }
                marks.slots.push(slot.clone());
                // Somebody may have taken it since it was read, and be done with it.
                ONE_TIME_KEYS.require_equals(batch, &slot, &row);
                ONE_TIME_KEYS.delete(batch, &slot);
                return Ok(Some((row.0.id, row.0.key)));
            }
            if !more {
                return Ok(None);
            }
        }
    }

    async fn take_fallback(
        &self,
        batch: &mut Batch,
        user: UserNumber,
        device: &OwnedDeviceId,
        algorithm: &str,
    ) -> Result<Option<(String, Box<RawValue>)>, StorageError> {
        let row = (user, device, algorithm);
        let Some(Json(fallback)) = FALLBACK_KEYS.get(self.db(), &row).await? else {
            return Ok(None);
        };
        if !fallback.used {
            FALLBACK_KEYS.require_equals(batch, &row, &Json(fallback.clone()));
            let spent = FallbackKey { used: true, ..fallback.clone() };
            FALLBACK_KEYS.put(batch, &row, &Json(spent));
        }
        Ok(Some((fallback.id, fallback.key)))
    }
}
