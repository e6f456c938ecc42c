//! What conditions ask of a room.

use std::collections::HashMap;

use ruma::{OwnedUserId, UInt, UserId};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    rooms::{Room, RoomError, Rooms},
    storage::Read,
};

/// A room at some time.
#[derive(Debug, Default)]
pub(crate) struct RoomContext {
    /// The stream position of the last change of the room's state.
    pub(super) as_of: u64,
    /// How many are joined.
    pub(super) members: UInt,
    creators: Vec<OwnedUserId>,
    creators_above_all: bool,
    levels: Option<Levels>,
}

/// What the power levels event says about notifications.
#[derive(Debug, Default, Deserialize)]
struct Levels {
    #[serde(default)]
    users: HashMap<String, Value>,
    #[serde(default)]
    users_default: Value,
    #[serde(default)]
    notifications: HashMap<String, Value>,
}

/// Old rooms have levels as text.
fn level(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

impl RoomContext {
    /// Reads a room as it is now.
    pub(super) async fn load(
        rooms: &Rooms,
        at: &impl Read,
        room: &Room,
        as_of: u64,
    ) -> Result<Self, RoomError> {
        let members = rooms.joined_count(at, room.number).await?;
        let state =
            async |event_type: &str| rooms.current_state_event(at, room, event_type, "").await;
        let levels = state("m.room.power_levels").await?;
        let mut creators = Vec::new();
        if let Some(create) = state("m.room.create").await? {
            #[derive(Deserialize)]
            struct Content {
                #[serde(default)]
                additional_creators: Vec<OwnedUserId>,
            }
            let content: Option<Content> = serde_json::from_str(create.content()).ok();
            creators.push(create.sender_id.clone());
            creators.extend(content.into_iter().flat_map(|content| content.additional_creators));
        }
        Ok(Self {
            as_of,
            members: UInt::try_from(members).unwrap_or(UInt::MAX),
            creators,
            creators_above_all: room.rules.authorization.explicitly_privilege_room_creators,
            levels: levels.and_then(|levels| serde_json::from_str(levels.content()).ok()),
        })
    }

    /// A room of a test, whose levels are the content of its power levels event.
    #[cfg(test)]
    pub(super) fn of(members: u32, levels: serde_json::Value) -> Self {
        let levels = serde_json::from_value(levels).ok();
        Self { members: members.into(), levels, ..Self::default() }
    }

    /// Whether `sender` may notify everybody by `key`.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
    pub(super) fn may_notify(&self, sender: &UserId, key: &str) -> bool {
        const DEFAULT: i64 = 50;
        let is_creator = self.creators.iter().any(|creator| creator == sender);
        if is_creator && self.creators_above_all {
            return true;
        }
        let Some(levels) = &self.levels else { return is_creator };
        let of_sender = levels.users.get(sender.as_str()).and_then(level);
        let has = of_sender.or_else(|| level(&levels.users_default)).unwrap_or(0);
        let needed = levels.notifications.get(key).and_then(level).unwrap_or(DEFAULT);
        has >= needed
    }
}
