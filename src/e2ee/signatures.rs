//! `/keys/signatures/upload`: users vouch for their devices and for each other.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload>

use std::{collections::BTreeMap, sync::atomic::Ordering};

use ruma::{CanonicalJsonObject, DeviceId, OwnedUserId};
use serde_json::value::RawValue;

use super::{
    ATTEMPTS, E2eeError, KeySignature, Keys,
    changes::{Changed, queue_change},
    device_keys::identity_key,
    query::Usage,
    signed,
};
use crate::{
    storage::{
        Batch, Json, StorageError,
        intern::UserNumber,
        schema::{DEVICE_KEYS, KEY_SIGNATURES, USER_SIGNATURE_CHANGES},
    },
    users::session::Session,
};

/// How many keys may be signed by one request.
const MAX_SIGNED: usize = 1_000;

/// Keys whose signatures were not taken, by user and key ID, with the reason.
pub(crate) type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, E2eeError>>;

/// A signature that was checked.
struct Checked {
    target: UserNumber,
    key_id: String,
    by: String,
    signature: String,
    /// Whether it is of a master key, or else of a device.
    is_master: bool,
}

impl Checked {
    fn changed(&self) -> Changed<'_> {
        if self.is_master {
            Changed::CrossSigning
        } else {
            Changed::Device(self.key_id.as_str().into())
        }
    }
}

impl Keys {
    /// Adds signatures to keys: of the user's own devices and master key, and of other users' master
    /// keys. Keys that can't be signed so are reported, the others are stored.
    ///
    /// # Errors
    /// [`E2eeError::TooMany`] for more than 1,000 keys.
    pub(crate) async fn add_signatures(
        &self,
        session: &Session,
        signed_keys: &BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>,
    ) -> Result<SignatureFailures, E2eeError> {
        if signed_keys.values().map(BTreeMap::len).sum::<usize>() > MAX_SIGNED {
            return Err(E2eeError::TooMany { what: "at most 1000 keys may be signed at once" });
        }
        let mut failures = SignatureFailures::new();
        let mut checked = Vec::new();
        for (user_id, keys) in signed_keys {
            for (key_id, key) in keys {
                match self.check_signatures(session, user_id, key_id, key).await {
                    Ok(signatures) => checked.extend(signatures),
                    Err(E2eeError::Storage(error)) => return Err(error.into()),
                    Err(error) => {
                        failures.entry(user_id.clone()).or_default().insert(key_id.clone(), error);
                    }
                }
            }
        }
        for _ in 0..ATTEMPTS {
            match self.store_signatures(session.user, &checked).await {
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done.map(|()| failures)?),
            }
        }
        Err(E2eeError::Busy)
    }

    async fn store_signatures(
        &self,
        signer: UserNumber,
        signatures: &[Checked],
    ) -> Result<(), StorageError> {
        let db = self.db();
        let mut new = Vec::new();
        for signature in signatures {
            let row = (signature.target, &*signature.key_id, signer, &*signature.by);
            let old = KEY_SIGNATURES.get(db, &row).await?;
            if old.as_ref().is_none_or(|Json(old)| old.signature != signature.signature) {
                new.push((row, signature, old));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        // Everybody sees what users sign of their own; what they sign of others only they see.
        let own = new.iter().filter(|(_, signature, _)| signature.target == signer);
        let own: Vec<Changed<'_>> = own.map(|(_, signature, _)| signature.changed()).collect();
        let position = if own.is_empty() {
            let position = db.position().await?;
            let value = position.value();
            batch.hold(position);
            batch.wake([signer]);
            value
        } else {
            queue_change(db, &mut batch, signer, &own).await?
        };
        self.shared.signed.latest.fetch_max(position, Ordering::AcqRel);
        for (row, signature, old) in new {
            match &old {
                Some(old) => {
                    KEY_SIGNATURES.require_equals(&mut batch, &row, old);
                    USER_SIGNATURE_CHANGES
                        .delete(&mut batch, &(signer, old.0.position, signature.target));
                }
                None => KEY_SIGNATURES.require_absent(&mut batch, &row),
            }
            let value = KeySignature { signature: signature.signature.clone(), position };
            KEY_SIGNATURES.put(&mut batch, &row, &Json(value));
            if signature.target != signer {
                let change = (signer, position, signature.target);
                USER_SIGNATURE_CHANGES.put(&mut batch, &change, &());
            }
        }
        db.commit(batch).await
    }

    /// The new signatures of one key, each of them right.
    async fn check_signatures(
        &self,
        session: &Session,
        user_id: &OwnedUserId,
        key_id: &str,
        key: &RawValue,
    ) -> Result<Vec<Checked>, E2eeError> {
        let own = *user_id == session.user_id;
        let target = if own {
            session.user
        } else {
            let unknown = E2eeError::NotFound { what: "there is no such user" };
            self.db().users().find(self.db(), &**user_id).await?.ok_or(unknown)?
        };
        let key = signed::object(key)?;
        let (stored, is_master) = self.signable(target, own, key_id).await?;
        if !signed::same_but_signatures(&stored, &key) {
            return Err(E2eeError::Invalid { what: "this is not the key that was uploaded" });
        }
        let mut checked = Vec::new();
        for (by, signature) in signed::signatures_by(&key, &session.user_id) {
            // Clients send along what they have got with the key.
            if signed::signatures_by(&stored, &session.user_id)
                .any(|known| known == (by, signature))
            {
                continue;
            }
            let signing_key = by.strip_prefix("ed25519:").unwrap_or_default();
            let public_key = self.signing_key(session.user, signing_key, own, is_master).await?;
            if !public_key.is_some_and(|public_key| signed::verifies(&key, &public_key, signature))
            {
                return Err(E2eeError::InvalidSignature { what: "key" });
            }
            checked.push(Checked {
                target,
                key_id: key_id.to_owned(),
                by: by.to_owned(),
                signature: signature.to_owned(),
                is_master,
            });
        }
        if checked.is_empty() && signed::signatures_by(&key, &session.user_id).next().is_none() {
            return Err(E2eeError::InvalidSignature { what: "key" });
        }
        Ok(checked)
    }

    /// The key that is to be signed, and whether it is a master key. Of other users only that may be
    /// signed.
    async fn signable(
        &self,
        target: UserNumber,
        own: bool,
        key_id: &str,
    ) -> Result<(CanonicalJsonObject, bool), E2eeError> {
        if let Some((public_key, key)) = self.cross_signing_key(target, Usage::Master).await?
            && public_key == key_id
        {
            return Ok((key, true));
        }
        if own {
            let device = DEVICE_KEYS.get(self.db(), &(target, <&DeviceId>::from(key_id))).await?;
            if let Some(keys) = device {
                let keys = serde_json::from_slice(&keys)
                    .map_err(|_| StorageError::Corrupt { table: DEVICE_KEYS.id.name() })?;
                return Ok((keys, false));
            }
        }
        Err(E2eeError::NotFound { what: "there is no such key" })
    }

    /// The public key of that ID with which a user may sign such a key: devices are signed by the
    /// self-signing key, one's own master key by devices, and those of others by the user-signing
    /// key.
    async fn signing_key(
        &self,
        signer: UserNumber,
        key_id: &str,
        own: bool,
        is_master: bool,
    ) -> Result<Option<String>, E2eeError> {
        let usage = match (own, is_master) {
            (true, true) => {
                let device = <&DeviceId>::from(key_id);
                let Some(keys) = DEVICE_KEYS.get(self.db(), &(signer, device)).await? else {
                    return Ok(None);
                };
                let keys: CanonicalJsonObject = serde_json::from_slice(&keys)
                    .map_err(|_| StorageError::Corrupt { table: DEVICE_KEYS.id.name() })?;
                return Ok(identity_key(&keys, device).map(str::to_owned));
            }
            (true, false) => Usage::SelfSigning,
            (false, _) => Usage::UserSigning,
        };
        let key = self.cross_signing_key(signer, usage).await?;
        Ok(key.map(|(public_key, _)| public_key).filter(|public_key| public_key == key_id))
    }
}
