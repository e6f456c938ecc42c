//! End-to-end encryption: the keys of devices and users, who must hear of changes, messages from
//! device to device, and what clients keep here of their keys. The server sees public keys and
//! ciphertext only.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#end-to-end-encryption>

mod backup;
mod changes;
mod claim;
mod counts;
mod cross_signing;
mod dehydrated;
mod departures;
mod device_keys;
mod elsewhere;
mod error;
mod query;
mod records;
mod removal;
mod serve;
mod signatures;
mod signed;
mod to_device;
mod tracked;
mod upkeep;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedDeviceId, OwnedServerName, ServerName, UserId};

pub(crate) use backup::{BackupVersion, Backups, NewKey, Part};
pub(crate) use changes::{joined_rooms, queue_change, servers_sharing, sharing};
pub(crate) use claim::{ClaimedKeys, WantedKeys};
pub(crate) use counts::Counts;
pub(crate) use cross_signing::CrossSigningUpload;
pub(crate) use dehydrated::{Dehydrated, DehydratedDevices};
pub(crate) use device_keys::Upload;
pub(crate) use elsewhere::RemoteKeys;
pub(crate) use error::E2eeError;
pub(crate) use records::{FallbackKey, KeySignature, OneTimeKey};
pub(crate) use removal::{clear_user, queue_device_removal};
pub(crate) use serve::DeviceUpdate;
pub(crate) use to_device::{DELIVERED_AT_ONCE, Inbox, ToDevice, delivery};
#[cfg(test)]
pub(crate) use to_device::{Delivery, Target};
pub(crate) use tracked::TrackedList;

use crate::storage::{Db, intern::UserNumber};

/// How often a change is tried again when another one was faster.
const ATTEMPTS: usize = 16;
/// Of how many devices the key counts are kept in memory.
const CACHED_COUNTS: usize = 100_000;

/// What sync tells of this area.
#[derive(Clone)]
pub(crate) struct E2ee {
    /// The keys of devices and users.
    pub(crate) keys: Keys,
    /// Messages between devices.
    pub(crate) to_device: ToDevice,
}

/// The public keys of devices and users.
#[derive(Clone)]
pub(crate) struct Keys {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    server_name: OwnedServerName,
    /// One-time keys that are being handed out: others take the next one at once instead of
    /// finding this one gone when it is their turn.
    claimed: Mutex<HashSet<claim::Slot>>,
    counts: Cache<(UserNumber, OwnedDeviceId), Arc<Counts>>,
    /// What devices were told last of their counts.
    told: Cache<(UserNumber, OwnedDeviceId), Arc<Counts>>,
    /// Raised by every change of one-time or fallback keys, before what it made wrong is dropped
    /// from `counts`: whoever has counted before does not leave the count there after.
    changes: AtomicU64,
    signed: Signed,
    /// Other servers; none if there are none.
    remote: Option<Arc<dyn RemoteKeys>>,
    /// Held while what is kept of their users changes.
    lists: tokio::sync::Mutex<()>,
    /// Lists that are being fetched.
    fetching: Mutex<HashMap<UserNumber, tracked::Fetching>>,
}

/// When somebody last signed the key of another user.
struct Signed {
    /// Positions before this one belong to a process that is gone.
    started_at: u64,
    /// The last position since then; 0 if there was none.
    latest: AtomicU64,
}

impl Keys {
    /// The keys in `db`, and those that `remote` tells.
    pub(crate) fn new(
        db: Db,
        server_name: &ServerName,
        remote: Option<Arc<dyn RemoteKeys>>,
    ) -> Self {
        let signed = Signed { started_at: db.visible_position(), latest: AtomicU64::new(0) };
        Self {
            shared: Arc::new(Shared {
                db,
                server_name: server_name.to_owned(),
                claimed: Mutex::default(),
                counts: Cache::new(CACHED_COUNTS),
                told: Cache::new(CACHED_COUNTS),
                changes: AtomicU64::new(0),
                signed,
                remote,
                lists: tokio::sync::Mutex::default(),
                fetching: Mutex::default(),
            }),
        }
    }

    fn db(&self) -> &Db {
        &self.shared.db
    }

    fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.shared.server_name
    }
}
