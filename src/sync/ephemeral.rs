//! Ephemeral events of a room, as they are written to the wire.

use std::collections::BTreeMap;

use ruma::OwnedUserId;
use serde_json::{json, value::RawValue};

use crate::{
    rooms::receipts::{Receipt, ReceiptSlot},
    storage::{Db, StorageError, intern::UserNumber},
    users::Ignored,
};

/// Receipts as one `m.receipt` event: by event, kind and user. None if all are of users who are
/// ignored.
pub(super) async fn receipt_event(
    db: &Db,
    receipts: Vec<(ReceiptSlot, Receipt)>,
    ignored: &Ignored,
) -> Result<Option<Box<RawValue>>, StorageError> {
    let mut content: BTreeMap<_, BTreeMap<_, BTreeMap<OwnedUserId, serde_json::Value>>> =
        BTreeMap::new();
    for (slot, receipt) in receipts {
        let user = db.users().name(db, UserNumber(slot.user)).await?;
        if ignored.contains(&user) {
            continue;
        }
        let mut data = json!({"ts": receipt.ts});
        if let (Some(thread), Some(data)) = (slot.thread_id(), data.as_object_mut()) {
            data.insert("thread_id".to_owned(), thread.into());
        }
        let by_kind = content.entry(receipt.event_id).or_default();
        by_kind.entry(slot.kind).or_default().insert(user, data);
    }
    let event = raw(&json!({"type": "m.receipt", "content": content}));
    Ok((!content.is_empty()).then_some(event))
}

/// Who types, as one `m.typing` event, without users who are ignored.
pub(super) async fn typing_event(
    db: &Db,
    users: &[UserNumber],
    ignored: &Ignored,
) -> Result<Box<RawValue>, StorageError> {
    let mut users = db.users().names(db, users).await?;
    users.retain(|user| !ignored.contains(user));
    Ok(raw(&json!({"type": "m.typing", "content": {"user_ids": users}})))
}

fn raw(value: &serde_json::Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("a JSON value has string keys only")
}
