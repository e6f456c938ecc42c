//! Cross-signing: the keys by which a user vouches for their devices and for other users.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#cross-signing>

use ruma::{CanonicalJsonObject, DeviceId, UserId};
use serde_json::value::RawValue;

use super::{
    E2eeError, Keys,
    changes::{Changed, queue_change},
    query::Usage,
    removal::queue_signature_removal,
    signed,
};
use crate::{
    storage::{
        Batch, StorageError,
        intern::UserNumber,
        schema::{CROSS_SIGNING_KEYS, DEVICES},
    },
    users::session::Session,
};

/// The keys of a user, as they were uploaded.
#[derive(Debug, Default)]
pub(crate) struct CrossSigningUpload {
    /// Signs the others.
    pub(crate) master: Option<Box<RawValue>>,
    /// Signs the user's devices.
    pub(crate) self_signing: Option<Box<RawValue>>,
    /// Signs the master keys of other users.
    pub(crate) user_signing: Option<Box<RawValue>>,
}

/// Keys that were checked and may be stored.
#[derive(Debug)]
pub(crate) struct CrossSigningPlan {
    user: UserNumber,
    /// The keys to store; what they replace.
    changes: Vec<(Usage, CanonicalJsonObject, Option<Vec<u8>>)>,
    /// The master key that was there, which the decision was made on.
    master: Option<Vec<u8>>,
    /// Whether the user must prove who they are first.
    pub(crate) needs_proof: bool,
}

impl Keys {
    /// Checks keys, and says whether the user must prove who they are before they are stored: not
    /// for the first ones, and not if there is nothing new among them.
    ///
    /// # Errors
    /// [`E2eeError`] by what is wrong with a key.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload>
    pub(crate) async fn plan_cross_signing(
        &self,
        session: &Session,
        upload: &CrossSigningUpload,
    ) -> Result<CrossSigningPlan, E2eeError> {
        let user_id = &*session.user_id;
        let stored_master = self.stored(session.user, Usage::Master).await?;
        let uploaded = [
            (Usage::Master, &upload.master),
            (Usage::SelfSigning, &upload.self_signing),
            (Usage::UserSigning, &upload.user_signing),
        ];
        let mut changes = Vec::new();
        let mut master: Option<String> =
            stored_master.as_deref().map(parsed).transpose()?.and_then(|key| public_key(&key));
        for (usage, key) in uploaded {
            let Some(key) = key.as_deref() else { continue };
            let key = signed::object(key)?;
            let public_key = check(&key, usage, user_id)?;
            if DEVICES.contains(self.db(), &(session.user, <&DeviceId>::from(&*public_key))).await?
            {
                return Err(E2eeError::KeyIdInUse);
            }
            if usage == Usage::Master {
                master = Some(public_key);
            } else {
                let master = master.as_deref().ok_or(E2eeError::NoMasterKey)?;
                if !signed::is_signed_by(&key, user_id, master, master) {
                    return Err(E2eeError::InvalidSignature {
                        what: "self-signing or user-signing key",
                    });
                }
            }
            let old = self.stored(session.user, usage).await?;
            let same = match old.as_deref() {
                Some(old) => signed::same_but_signatures(&parsed(old)?, &key),
                None => false,
            };
            if !same {
                changes.push((usage, key, old));
            }
        }
        // A new master key without the others would leave those signed by the one before.
        let needs_proof = stored_master.is_some() && !changes.is_empty();
        Ok(CrossSigningPlan { user: session.user, changes, master: stored_master, needs_proof })
    }

    /// Stores keys that were checked.
    ///
    /// # Errors
    /// [`E2eeError::Busy`] if the user's keys have changed since.
    pub(crate) async fn store_cross_signing(
        &self,
        plan: CrossSigningPlan,
    ) -> Result<(), E2eeError> {
        if plan.changes.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        let key = (plan.user, Usage::Master.number());
        match &plan.master {
            Some(master) => CROSS_SIGNING_KEYS.require_equals(&mut batch, &key, master),
            None => CROSS_SIGNING_KEYS.require_absent(&mut batch, &key),
        }
        for (usage, new, old) in plan.changes {
            let key = (plan.user, usage.number());
            if let Some(old) = &old {
                CROSS_SIGNING_KEYS.require_equals(&mut batch, &key, old);
                if let Some(old) = public_key(&parsed(old)?) {
                    queue_signature_removal(self.db(), &mut batch, plan.user, &old).await?;
                }
            }
            let new = serde_json::to_vec(&new)
                .map_err(|_| E2eeError::Invalid { what: "the key is no JSON" })?;
            CROSS_SIGNING_KEYS.put(&mut batch, &key, &new);
        }
        queue_change(self.db(), &mut batch, plan.user, &[Changed::CrossSigning]).await?;
        match self.db().commit(batch).await {
            Err(StorageError::Precondition { .. }) => Err(E2eeError::Busy),
            done => Ok(done?),
        }
    }

    /// One of a user's keys, as it is stored.
    pub(super) async fn stored(
        &self,
        user: UserNumber,
        usage: Usage,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        CROSS_SIGNING_KEYS.get(self.db(), &(user, usage.number())).await
    }

    /// One of a user's keys, and the public key in it.
    pub(super) async fn cross_signing_key(
        &self,
        user: UserNumber,
        usage: Usage,
    ) -> Result<Option<(String, CanonicalJsonObject)>, StorageError> {
        let Some(stored) = self.stored(user, usage).await? else { return Ok(None) };
        let key = parsed(&stored)?;
        Ok(public_key(&key).map(|public_key| (public_key, key)))
    }
}

fn parsed(json: &[u8]) -> Result<CanonicalJsonObject, StorageError> {
    serde_json::from_slice(json)
        .map_err(|_| StorageError::Corrupt { table: CROSS_SIGNING_KEYS.id.name() })
}

/// The public key in a cross-signing key.
fn public_key(key: &CanonicalJsonObject) -> Option<String> {
    Some(signed::inner(key, "keys")?.values().next()?.as_str()?.to_owned())
}

/// A key must name its user and its use, and hold one public key that is also its ID.
fn check(key: &CanonicalJsonObject, usage: Usage, user_id: &UserId) -> Result<String, E2eeError> {
    if signed::text(key, "user_id") != Some(user_id.as_str()) {
        return Err(E2eeError::NotOwn);
    }
    let usages = key.get("usage").and_then(|usage| usage.as_array()).unwrap_or_default();
    if !usages.iter().any(|name| name.as_str() == Some(usage.as_str())) {
        return Err(E2eeError::Invalid { what: "a key is not meant for what it is uploaded as" });
    }
    let keys = signed::inner(key, "keys").filter(|keys| keys.len() == 1);
    let named = keys
        .and_then(|keys| keys.first_key_value())
        .and_then(|(id, public_key)| Some((id.strip_prefix("ed25519:")?, public_key.as_str()?)));
    match named {
        Some((id, public_key)) if id == public_key && id.len() <= signed::MAX_ID_BYTES => {
            Ok(public_key.to_owned())
        }
        _ => Err(E2eeError::Invalid {
            what: "a cross-signing key holds one Ed25519 key, which is its own ID",
        }),
    }
}
