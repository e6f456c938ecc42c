//! When and from where devices were active: gathered in memory, written now and then.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId};

use super::{
    rows::Activity,
    session::{Session, Sessions},
};
use crate::{
    api::extract::Caller,
    shutdown::Stopping,
    storage::{
        Batch, Db, Json, StorageError,
        intern::UserNumber,
        schema::{DEVICE_ACTIVITY, DEVICES},
    },
};

/// A device is noted at most once in this time.
const NOTE_EVERY_MS: u64 = 60_000;
/// How many notes wait to be written; more are dropped.
const MAX_WAITING: usize = 50_000;
/// How many notes are written at a time.
const WRITTEN_AT_ONCE: usize = 1_000;

type Waiting = HashMap<(UserNumber, OwnedDeviceId), Activity>;

/// How often what was noted is written.
const WRITE_EVERY: Duration = Duration::from_mins(1);

/// Writes what was noted now and then, and once more when the server stops.
pub(crate) async fn keep_writing(sessions: Sessions, stopping: Stopping) {
    loop {
        let stop = tokio::time::timeout(WRITE_EVERY, stopping.wait()).await.is_ok();
        if let Err(error) = sessions.activities().write().await {
            tracing::warn!(%error, "the last activity of devices was not written");
        }
        if stop {
            return;
        }
    }
}

/// The activity of devices.
#[derive(Clone)]
pub(crate) struct Activities {
    db: Db,
    waiting: Arc<Mutex<Waiting>>,
}

impl Activities {
    /// The activity kept in `db`.
    pub(super) fn new(db: Db) -> Self {
        Self { db, waiting: Arc::default() }
    }

    /// Notes that a device is active, unless that was noted just before (`noted_ms`).
    pub(super) fn note(
        &self,
        session: &Session,
        caller: &Caller,
        now_ms: u64,
        noted_ms: &AtomicU64,
    ) {
        let before = noted_ms.load(Ordering::Relaxed);
        if now_ms < before.saturating_add(NOTE_EVERY_MS) {
            return;
        }
        noted_ms.store(now_ms, Ordering::Relaxed);
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING {
            let activity = Activity {
                at_ms: now_ms,
                address: caller.address,
                user_agent: caller.user_agent.clone(),
            };
            waiting.insert((session.user, session.device_id.clone()), activity);
        }
    }

    /// Writes what was noted. Losing a minute of it in a power failure does no harm, so nobody
    /// waits for the disk.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails; the notes are lost then.
    pub(crate) async fn write(&self) -> Result<(), StorageError> {
        let noted: Vec<_> = std::mem::take(&mut *self.waiting.lock()).into_iter().collect();
        for noted in noted.chunks(WRITTEN_AT_ONCE) {
            let devices = DEVICES
                .multi_get(&self.db, noted.iter().map(|((user, id), _)| (*user, id)))
                .await?;
            let mut batch = Batch::unsynced();
            for (((user, id), activity), device) in noted.iter().zip(devices) {
                // It may have been removed since.
                if device.is_some() {
                    DEVICE_ACTIVITY.put(&mut batch, &(*user, id), &Json(activity.clone()));
                }
            }
            self.db.commit(batch).await?;
        }
        Ok(())
    }

    /// The last activity of each of these devices of a user.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn of(
        &self,
        user: UserNumber,
        devices: &[&DeviceId],
    ) -> Result<Vec<Option<Activity>>, StorageError> {
        let written =
            DEVICE_ACTIVITY.multi_get(&self.db, devices.iter().map(|id| (user, *id))).await?;
        let waiting = self.waiting.lock();
        Ok(devices
            .iter()
            .zip(written)
            .map(|(id, written)| {
                let noted = waiting.get(&(user, (*id).to_owned())).cloned();
                noted.or_else(|| written.map(|Json(activity)| activity))
            })
            .collect())
    }

    /// Drops what was noted about a device that is gone.
    pub(super) fn forget(&self, user: UserNumber, device_id: &DeviceId) {
        self.waiting.lock().remove(&(user, device_id.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::rows::Device;
    use ruma::{device_id, user_id};

    #[tokio::test]
    async fn the_last_activity_is_seen_before_and_after_it_is_written() {
        let db = Db::in_memory().await;
        let activities = Activities::new(db.clone());
        let (user, phone) = (UserNumber(1), device_id!("PHONE"));
        let mut batch = Batch::new();
        DEVICES.put(&mut batch, &(user, phone), &Json(Device::default()));
        db.commit(batch).await.unwrap();
        let session = Session {
            user_id: user_id!("@alice:localhost").to_owned(),
            user,
            device_id: phone.to_owned(),
            guest: false,
            appservice: None,
        };
        let noted = AtomicU64::new(0);
        let caller = Caller { address: "192.0.2.1".parse().ok(), user_agent: None };
        activities.note(&session, &caller, 100_000, &noted);
        // Too soon after.
        activities.note(&session, &Caller::default(), 120_000, &noted);
        for _ in 0..2 {
            let [last] = activities.of(user, &[phone]).await.unwrap().try_into().unwrap();
            assert_eq!(
                last.map(|last| (last.at_ms, last.address)),
                Some((100_000, caller.address))
            );
            activities.write().await.unwrap();
        }
    }
}
