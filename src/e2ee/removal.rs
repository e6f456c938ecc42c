//! What goes with a device, or with an account.

use ruma::DeviceId;

use super::changes::{Changed, queue_change};
use crate::storage::{
    Batch, Db, Range, StorageError,
    intern::UserNumber,
    schema::{
        CROSS_SIGNING_KEYS, DEHYDRATED_DEVICES, DEVICE_KEYS, FALLBACK_KEYS, KEY_SIGNATURES,
        ONE_TIME_KEYS, TO_DEVICE, USER_SIGNATURE_CHANGES,
    },
};

/// How many rows of one table a single batch removes.
const REMOVED_AT_ONCE: usize = 10_000;

/// Queues the removal of all that is kept for a device that goes away: its keys, the signatures of
/// them, and the messages it has not fetched. Those who share a room with its user hear of it.
///
/// # Errors
/// [`StorageError`] if the database fails.
pub(crate) async fn queue_device_removal(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    device_id: &DeviceId,
) -> Result<(), StorageError> {
    let key = (user, device_id);
    queue_one_time_removal(db, batch, user, device_id).await?;
    let inbox = Range::prefix(&key);
    loop {
        let rows = TO_DEVICE.scan(db, &inbox, REMOVED_AT_ONCE).await?;
        let last = rows.len() < REMOVED_AT_ONCE;
        // More than one batch takes: what goes first is only sooner gone.
        let mut first = Batch::unsynced();
        let into = if last { &mut *batch } else { &mut first };
        for (row, _) in rows {
            TO_DEVICE.delete(into, &row);
        }
        if last {
            break;
        }
        db.commit(first).await?;
    }
    if let Some(keys) = DEVICE_KEYS.get(db, &key).await? {
        DEVICE_KEYS.require_equals(batch, &key, &keys);
        DEVICE_KEYS.delete(batch, &key);
        queue_signature_removal(db, batch, user, device_id.as_str()).await?;
        queue_change(db, batch, user, &[Changed::Device(device_id)]).await?;
    }
    Ok(())
}

/// Queues the removal of a device's one-time and fallback keys.
pub(super) async fn queue_one_time_removal(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    device_id: &DeviceId,
) -> Result<(), StorageError> {
    let one_time = Range::prefix(&(user, device_id));
    for (row, _) in ONE_TIME_KEYS.scan(db, &one_time, usize::MAX).await? {
        ONE_TIME_KEYS.delete(batch, &row);
    }
    let fallback = Range::prefix(&(user, device_id));
    for (row, _) in FALLBACK_KEYS.scan(db, &fallback, usize::MAX).await? {
        FALLBACK_KEYS.delete(batch, &row);
    }
    Ok(())
}

/// Queues the removal of the signatures of one key.
pub(super) async fn queue_signature_removal(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
    key_id: &str,
) -> Result<(), StorageError> {
    let signatures = Range::prefix(&(user, key_id));
    for (row, _) in KEY_SIGNATURES.scan(db, &signatures, REMOVED_AT_ONCE).await? {
        KEY_SIGNATURES.delete(batch, &row);
    }
    Ok(())
}

/// Queues the removal of the keys of a user whose account is closed and whose devices are gone.
///
/// # Errors
/// [`StorageError`] if the database fails.
pub(crate) async fn clear_user(
    db: &Db,
    batch: &mut Batch,
    user: UserNumber,
) -> Result<(), StorageError> {
    let keys = CROSS_SIGNING_KEYS.scan(db, &Range::prefix(&(user,)), usize::MAX).await?;
    for (row, _) in &keys {
        CROSS_SIGNING_KEYS.delete(batch, row);
    }
    let signatures = KEY_SIGNATURES.scan(db, &Range::prefix(&(user,)), REMOVED_AT_ONCE).await?;
    for (row, _) in signatures {
        KEY_SIGNATURES.delete(batch, &row);
    }
    let changes = Range::prefix(&(user,));
    for (row, ()) in USER_SIGNATURE_CHANGES.scan(db, &changes, REMOVED_AT_ONCE).await? {
        USER_SIGNATURE_CHANGES.delete(batch, &row);
    }
    DEHYDRATED_DEVICES.delete(batch, &user);
    if !keys.is_empty() {
        queue_change(db, batch, user, &[Changed::CrossSigning]).await?;
    }
    Ok(())
}
