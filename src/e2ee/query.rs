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
const MAX_USERS: usize = 10_000;

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
        let mut found = QueriedKeys::default();
        for (user_id, devices) in wanted {
            if self.is_local(user_id) {
                self.query_local(session, user_id, devices, &mut found).await?;
            } else {
                let server = user_id.server_name().to_owned();
                if !found.unreachable.contains(&server) {
                    found.unreachable.push(server);
                }
            }
        }
        Ok(found)
    }

    async fn query_local(
        &self,
        session: &Session,
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
        let added = self.added_signatures(user, session.user).await?;
        let owners = Owners { user, user_id, asking: session.user, asking_id: &session.user_id };
        let all = Range::prefix(&(user,));
        // A user of this server is in the answer also without any device.
        let devices = found.device_keys.entry(user_id.clone()).or_default();
        for ((_, id), keys) in DEVICE_KEYS.scan(db, &all, usize::MAX).await? {
            let Some(name) = names.get(&id) else { continue };
            if wanted.is_empty() || wanted.contains(&id) {
                let mut keys = parsed(&keys, DEVICE_KEYS.id.name())?;
                owners.add(&mut keys, added.get(id.as_str()));
                let mut unsigned = Map::new();
                if let Some(name) = name {
                    unsigned.insert("device_display_name".to_owned(), name.clone().into());
                }
                keys.insert("unsigned".to_owned(), unsigned.into());
                devices.insert(id, raw(keys));
            }
        }
        let all = Range::prefix(&(user,));
        for ((_, usage), key) in CROSS_SIGNING_KEYS.scan(db, &all, usize::MAX).await? {
            let mut key = parsed(&key, CROSS_SIGNING_KEYS.id.name())?;
            let added = public_key_of(&key).and_then(|public_key| added.get(public_key));
            owners.add(&mut key, added);
            let of = user_id.clone();
            if usage == Usage::Master.number() {
                found.master_keys.insert(of, raw(key));
            } else if usage == Usage::SelfSigning.number() {
                found.self_signing_keys.insert(of, raw(key));
            } else if user == session.user {
                // Spec: "only the user's own"
                found.user_signing_keys.insert(of, raw(key));
            }
        }
        Ok(())
    }

    /// The signatures that were added to the keys of `user`, as `asking` may see them.
    async fn added_signatures(
        &self,
        user: UserNumber,
        asking: UserNumber,
    ) -> Result<Added, StorageError> {
        let mut added = Added::new();
        let rows = KEY_SIGNATURES.scan(self.db(), &Range::prefix(&(user,)), usize::MAX).await?;
        for ((_, key_id, signer, by), Json(KeySignature { signature, .. })) in rows {
            if signer == user || signer == asking {
                added.entry(key_id).or_default().push((signer, by, signature));
            }
        }
        Ok(added)
    }
}

/// Whose keys are asked for, and by whom.
struct Owners<'a> {
    user: UserNumber,
    user_id: &'a UserId,
    asking: UserNumber,
    asking_id: &'a UserId,
}

impl Owners<'_> {
    /// Puts signatures into a key.
    fn add(&self, key: &mut Map<String, Value>, added: Option<&Vec<(UserNumber, String, String)>>) {
        let Some(added) = added else { return };
        let signatures = key.entry("signatures").or_insert_with(|| Map::new().into());
        let Some(signatures) = signatures.as_object_mut() else { return };
        for (signer, by, signature) in added {
            let signer = if *signer == self.user {
                self.user_id
            } else if *signer == self.asking {
                self.asking_id
            } else {
                continue;
            };
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
