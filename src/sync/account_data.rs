//! Account data as syncs tell of it.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::filter::SyncFilter;
use crate::{
    storage::{
        Range, Snapshot, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::{ACCOUNT_DATA, ACCOUNT_DATA_CHANGES},
    },
    users::GLOBAL,
};

/// A user's account data by room.
pub(super) type RoomAccountData = BTreeMap<RoomNumber, Vec<Box<RawValue>>>;

/// The account data that changed after `since`: of the account, and by room.
pub(super) async fn account_data(
    at: &Snapshot,
    user: UserNumber,
    since: Option<u64>,
    until: u64,
    filter: &SyncFilter,
) -> Result<(Vec<Box<RawValue>>, RoomAccountData), StorageError> {
    let range = Range::prefix(&(user,))
        .after(&(user, since.unwrap_or(0)))
        .before(&(user, until.saturating_add(1)));
    let changes = ACCOUNT_DATA_CHANGES.scan(at, &range, usize::MAX).await?;
    let keys = changes.iter().map(|(_, (room, kind))| (user, *room, kind.as_str()));
    let data = ACCOUNT_DATA.multi_get(at, keys).await?;
    let mut global = Vec::new();
    let mut by_room = RoomAccountData::new();
    for ((_, (room, kind)), datum) in changes.iter().zip(data) {
        let Some(datum) = datum else { continue };
        let event = account_data_event(kind, &datum.content)?;
        if *room == GLOBAL {
            if filter.account_data.wants(kind) {
                global.push(event);
            }
        } else if filter.room_account_data.wants(kind) {
            by_room.entry(*room).or_default().push(event);
        }
    }
    Ok((global, by_room))
}

/// `{"type": kind, "content": content}`
pub(super) fn account_data_event(
    kind: &str,
    content: &[u8],
) -> Result<Box<RawValue>, StorageError> {
    let corrupt = || StorageError::Corrupt { table: ACCOUNT_DATA.id.name() };
    let kind = serde_json::to_string(kind).map_err(|_| corrupt())?;
    let content = std::str::from_utf8(content).map_err(|_| corrupt())?;
    RawValue::from_string(format!(r#"{{"type":{kind},"content":{content}}}"#))
        .map_err(|_| corrupt())
}
