//! Those by whose names a room without one is known.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>, `m.heroes`.

use crate::{
    rooms::{Room, RoomError, Rooms, record::Membership},
    storage::{
        Read,
        intern::{RoomNumber, UserNumber},
    },
};

/// At most this many.
pub(super) const HEROES: usize = 5;

/// "When no joined or invited members are available, this should consist of the banned and left
/// users."
pub(super) async fn former_heroes(
    rooms: &Rooms,
    at: &impl Read,
    room: RoomNumber,
    me: UserNumber,
) -> Result<Vec<UserNumber>, RoomError> {
    let mut others = rooms.members(at, room, Membership::Leave).await?;
    if others.len() <= HEROES {
        others.extend(rooms.members(at, room, Membership::Ban).await?);
    }
    others.retain(|member| *member != me);
    others.truncate(HEROES);
    Ok(others)
}

/// Whether the room has a name or an alias to be known by, at a position.
pub(super) async fn is_named(
    rooms: &Rooms,
    at: &impl Read,
    room: &Room,
    position: u64,
) -> Result<bool, RoomError> {
    for (kind, key) in [("m.room.name", "name"), ("m.room.canonical_alias", "alias")] {
        let event = rooms.state_event_at(at, room, kind, "", position).await?;
        let content =
            event.and_then(|event| serde_json::from_str::<serde_json::Value>(event.content()).ok());
        let name = content.as_ref().and_then(|content| content.get(key)?.as_str());
        if name.is_some_and(|name| !name.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}
