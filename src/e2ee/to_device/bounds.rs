//! How much one sender may leave in a device's inbox.
//!
//! Nothing that was accepted is ever thrown away: what would be too much is refused, and its sender
//! hears so. Since each sender has a bound of their own, none can use up what others have.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;
use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;

use super::{super::E2eeError, ToDevice};
use crate::{
    storage::{Range, StorageError, intern::UserNumber, schema::TO_DEVICE},
    users::limits::LimitExceeded,
};

/// How many messages of one sender may wait in one inbox, about.
const MAX_WAITING: usize = 10_000;
/// And how many bytes.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// Inboxes are looked at after so many messages to them, or so many bytes.
const LOOK_AFTER: u64 = 1_000;
const LOOK_AFTER_BYTES: usize = MAX_WAITING_BYTES / 10;
/// How many rows are read at once.
const READ_AT_ONCE: usize = 500;
/// Of how many inboxes it is kept how much came since they were looked at.
const MAX_COUNTED: u64 = 20_000;
/// How many senders of one inbox are known to have no place there.
const MAX_SENDERS: usize = 100;
/// For how long an inbox is taken to be as full as it was.
const FULL_FOR: Duration = Duration::from_mins(1);

/// What came into inboxes since they were looked at.
#[derive(Clone)]
pub(super) struct Inboxes {
    /// A look is due at [`LOOK_AFTER`]: a message counts as one, and large ones as more.
    since_look: Cache<(UserNumber, OwnedDeviceId), Arc<AtomicU64>>,
    /// Senders of whom there is no place for more.
    full: Cache<(UserNumber, OwnedDeviceId), Arc<Mutex<BTreeSet<OwnedUserId>>>>,
}

impl Default for Inboxes {
    fn default() -> Self {
        Self {
            since_look: Cache::new(MAX_COUNTED),
            full: Cache::builder().max_capacity(MAX_COUNTED).time_to_live(FULL_FOR).build(),
        }
    }
}

impl Inboxes {
    /// A device has taken messages out of its inbox.
    pub(super) fn emptied(&self, user: UserNumber, device_id: &DeviceId) {
        self.full.invalidate(&(user, device_id.to_owned()));
    }
}

impl ToDevice {
    /// Whether a message of this size has a place in an inbox.
    ///
    /// # Errors
    /// [`E2eeError::Limit`] if too much of the same sender waits there.
    pub(super) async fn require_place(
        &self,
        sender: &UserId,
        (user, device_id): (UserNumber, &DeviceId),
        bytes: usize,
    ) -> Result<(), E2eeError> {
        const FULL: E2eeError = E2eeError::Limit(LimitExceeded { retry_after: FULL_FOR });
        let inboxes = &self.inboxes;
        let inbox = (user, device_id.to_owned());
        let size = 1 + (bytes * 1_000 / LOOK_AFTER_BYTES) as u64;
        let since_look = inboxes.since_look.get_with(inbox.clone(), Arc::default);
        if since_look.fetch_add(size, Ordering::Relaxed) + size < LOOK_AFTER {
            return Ok(());
        }
        if inboxes.full.get(&inbox).is_some_and(|senders| senders.lock().contains(sender)) {
            return Err(FULL);
        }
        if self.is_full_of(sender, user, device_id).await? {
            let senders = inboxes.full.get_with(inbox, Arc::default);
            let mut senders = senders.lock();
            if senders.len() < MAX_SENDERS {
                senders.insert(sender.to_owned());
            }
            return Err(FULL);
        }
        since_look.store(0, Ordering::Relaxed);
        Ok(())
    }

    async fn is_full_of(
        &self,
        sender: &UserId,
        user: UserNumber,
        device_id: &DeviceId,
    ) -> Result<bool, StorageError> {
        #[derive(Deserialize)]
        struct Sent {
            sender: OwnedUserId,
        }
        let mut range = Range::prefix(&(user, device_id));
        let (mut count, mut bytes) = (0, 0);
        loop {
            let rows = TO_DEVICE.scan(&self.db, &range, READ_AT_ONCE).await?;
            for (_, message) in &rows {
                let sent = serde_json::from_slice::<Sent>(message);
                if sent.is_ok_and(|sent| sent.sender == sender) {
                    count += 1;
                    bytes += message.len();
                }
            }
            if count >= MAX_WAITING || bytes >= MAX_WAITING_BYTES {
                return Ok(true);
            }
            let Some((last, _)) = rows.last().filter(|_| rows.len() == READ_AT_ONCE) else {
                return Ok(false);
            };
            range = range.after(last);
        }
    }
}
