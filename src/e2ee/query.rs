//! `/keys/query`: the keys of users' devices, and of the users themselves.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery>

use std::collections::{BTreeMap, HashMap};

use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};
use serde_json::{Map, Value, value::RawValue};

use super::{E2eeError, KeySignature, Keys};
use crate::{
    storage::{
        Json, Range, StorageError,
        intern::UserNumber,
        schema::{CROSS_SIGNING_KEYS, DEVICE_KEYS, DEVICES, KEY_SIGNATURES},
    },
    users::session::Session,
};

/// How many users one request may ask for.
pub(super) const MAX_USERS: usize = 10_000;

/// The three keys of a user, in the order in which they are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Usage {
    Master = 0,
    SelfSigning = 1,
    UserSigning = 2,
}

impl Usage {
    /// As tables have it.
    pub(super) fn number(self) -> u8 {
        self as u8
    }

    /// Its name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

/// Keys of a user, by device or alone.
type ByUser<T> = BTreeMap<OwnedUserId, T>;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct QueriedKeys {
    /// Keys of devices.
    pub(crate) device_keys: ByUser<BTreeMap<OwnedDeviceId, Box<RawValue>>>,
    /// Master signing keys.
    pub(crate) master_keys: ByUser<Box<RawValue>>,
    /// Self-signing keys.
    pub(crate) self_signing_keys: ByUser<Box<RawValue>>,
    /// The user-signing key of the one who asks.
    pub(crate) user_signing_keys: ByUser<Box<RawValue>>,
    /// Servers whose users were asked for and that could not be asked.
    pub(crate) unreachable: Vec<OwnedServerName>,
}

/// Signatures that were added to a user's keys: by key, then by who made them.
type Added = HashMap<String, Vec<(UserNumber, String, String)>>;

impl Keys {
    /// The keys of users: of some devices, or of all for an empty list.
    ///
    /// Of the signatures that were added after the upload, those by the owner of the key are there,
    /// and those by the one who asks; nobody else learns who has verified whom.
    ///
    /// # Errors
    /// [`E2eeError::TooMany`] for more than 10,000 users.
    pub(crate) async fn query(
        &self,
        session: &Session,
        wanted: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> Result<QueriedKeys, E2eeError> {
        if wanted.len() > MAX_USERS {
            return Err(E2eeError::TooMany {
                what: "at most 10000 users may be asked for at once",
            });
        }
        let asking = Asking { user: session.user, user_id: &session.user_id };
        let mut found = QueriedKeys::default();
        let mut elsewhere = BTreeMap::new();
        for (user_id, devices) in wanted {
            if self.is_local(user_id) {
                self.query_local(Some(asking), user_id, devices, &mut found).await?;
            } else {
                elsewhere.insert(user_id, devices.as_slice());
            }
        }
        if !elsewhere.is_empty() {
            self.query_elsewhere(asking, elsewhere, &mut found).await?;
        }
        Ok(found)
    }

    /// The keys of a user of this server, as another server is given them: it learns no names of
    /// devices.
    ///
    /// # Errors
    /// [`E2eeError::Storage`].
    pub(super) async fn query_local(
        &self,
        asking: Option<Asking<'_>>,
        user_id: &OwnedUserId,
        wanted: &[OwnedDeviceId],
        found: &mut QueriedKeys,
    ) -> Result<(), E2eeError> {
        let db = self.db();
        let Some(user) = db.users().find(db, &**user_id).await? else { return Ok(()) };
        let all = Range::prefix(&(user,));
        let names: HashMap<OwnedDeviceId, Option<String>> = DEVICES
            .scan(db, &all, usize::MAX)
            .await?
            .into_iter()
            .map(|((_, id), Json(device))| (id, device.display_name))
            .collect();
        let owners = Owners { user, user_id, asking };
        let added = self.added_signatures(&owners).await?;
        let all = Range::prefix(&(user,));
        // A user of this server is in the answer also without any device.
        let devices = found.device_keys.entry(user_id.clone()).or_default();
        for ((_, id), keys) in DEVICE_KEYS.scan(db, &all, usize::MAX).await? {
            let Some(name) = names.get(&id) else { continue };
            if wanted.is_empty() || wanted.contains(&id) {
                let mut keys = parsed(&keys, DEVICE_KEYS.id.name())?;
                owners.add(&mut keys, added.get(id.as_str()));
                let mut unsigned = Map::new();
                if let Some(name) = name.as_ref().filter(|_| asking.is_some()) {
                    unsigned.insert("device_display_name".to_owned(), name.clone().into());
                }
                keys.insert("unsigned".to_owned(), unsigned.into());
                devices.insert(id, raw(keys));
            }
        }
        self.add_cross_signing(&owners, &added, found).await
    }

    /// Adds the keys that are kept of another server's user.
    pub(super) async fn query_tracked(
        &self,
        asking: Asking<'_>,
        (user, user_id): (UserNumber, &OwnedUserId),
        wanted: &[OwnedDeviceId],
        found: &mut QueriedKeys,
    ) -> Result<(), E2eeError> {
        let owners = Owners { user, user_id, asking: Some(asking) };
        let added = self.added_signatures(&owners).await?;
        let devices = found.device_keys.entry(user_id.clone()).or_default();
        let all = Range::prefix(&(user,));
        for ((_, id), keys) in DEVICE_KEYS.scan(self.db(), &all, usize::MAX).await? {
            if wanted.is_empty() || wanted.contains(&id) {
                devices.insert(id, raw(parsed(&keys, DEVICE_KEYS.id.name())?));
            }
        }
        self.add_cross_signing(&owners, &added, found).await
    }

    async fn add_cross_signing(
        &self,
        owners: &Owners<'_>,
        added: &Added,
        found: &mut QueriedKeys,
    ) -> Result<(), E2eeError> {
        let all = Range::prefix(&(owners.user,));
        for ((_, usage), key) in CROSS_SIGNING_KEYS.scan(self.db(), &all, usize::MAX).await? {
            let mut key = parsed(&key, CROSS_SIGNING_KEYS.id.name())?;
            let added = public_key_of(&key).and_then(|public_key| added.get(public_key));
            owners.add(&mut key, added);
            let of = owners.user_id.to_owned();
            if usage == Usage::Master.number() {
                found.master_keys.insert(of, raw(key));
            } else if usage == Usage::SelfSigning.number() {
                found.self_signing_keys.insert(of, raw(key));
            } else if owners.asking.is_some_and(|asking| asking.user == owners.user) {
                // Spec: "only the user's own"
                found.user_signing_keys.insert(of, raw(key));
            }
        }
        Ok(())
    }

    /// Adds to a master key that another server gave what `asking` has signed of it.
    pub(super) async fn with_signatures(
        &self,
        asking: Asking<'_>,
        (user, user_id): (UserNumber, &UserId),
        key: &RawValue,
    ) -> Result<Option<Box<RawValue>>, E2eeError> {
        let owners = Owners { user, user_id, asking: Some(asking) };
        let added = self.added_signatures(&owners).await?;
        let Ok(mut key) = serde_json::from_str::<Map<String, Value>>(key.get()) else {
            return Ok(None);
        };
        let added = public_key_of(&key).and_then(|public_key| added.get(public_key));
        owners.add(&mut key, added);
        Ok(Some(raw(key)))
    }

    /// The signatures that were added to the keys of a user, as the one who asks may see them.
    async fn added_signatures(&self, owners: &Owners<'_>) -> Result<Added, StorageError> {
        let mut added = Added::new();
        let range = Range::prefix(&(owners.user,));
        let rows = KEY_SIGNATURES.scan(self.db(), &range, usize::MAX).await?;
        for ((_, key_id, signer, by), Json(KeySignature { signature, .. })) in rows {
            if owners.name(signer).is_some() {
                added.entry(key_id).or_default().push((signer, by, signature));
            }
        }
        Ok(added)
    }
}

/// Which user of this server asks.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) user: UserNumber,
    pub(super) user_id: &'a UserId,
}

/// Whose keys are asked for, and by whom: none for another server.
struct Owners<'a> {
    user: UserNumber,
    user_id: &'a UserId,
    asking: Option<Asking<'a>>,
}

impl Owners<'_> {
    /// Who signed, if the one who asks may know.
    fn name(&self, signer: UserNumber) -> Option<&UserId> {
        if signer == self.user {
            return Some(self.user_id);
        }
        self.asking.filter(|asking| asking.user == signer).map(|asking| asking.user_id)
    }

    /// Puts signatures into a key.
    fn add(&self, key: &mut Map<String, Value>, added: Option<&Vec<(UserNumber, String, String)>>) {
        let Some(added) = added else { return };
        let signatures = key.entry("signatures").or_insert_with(|| Map::new().into());
        let Some(signatures) = signatures.as_object_mut() else { return };
        for (signer, by, signature) in added {
            let Some(signer) = self.name(*signer) else { continue };
            let by_signer = signatures.entry(signer.as_str()).or_insert_with(|| Map::new().into());
            if let Some(by_signer) = by_signer.as_object_mut() {
                by_signer.insert(by.clone(), signature.clone().into());
            }
        }
    }
}

/// The public key in a cross-signing key: there is just one.
fn public_key_of(key: &Map<String, Value>) -> Option<&str> {
    key.get("keys")?.as_object()?.values().next()?.as_str()
}

fn parsed(json: &[u8], table: &'static str) -> Result<Map<String, Value>, StorageError> {
    serde_json::from_slice(json).map_err(|_| StorageError::Corrupt { table })
}

fn raw(object: Map<String, Value>) -> Box<RawValue> {
    serde_json::value::to_raw_value(&Value::Object(object))
        .expect("a JSON value has string keys only")
}
