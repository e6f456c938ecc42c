//! Inviting somebody of whom only an address is known.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#third-party-invites>

use ruma::RoomId;
use serde_json::{Map, Value};

use super::{Exchange, ExchangeError};
use crate::{
    identity::{Access, Address, ToStore},
    rooms::{Room, RoomError, auth::Action},
    users::{limits::Act, session::Session},
};

/// What identity servers tell the invited of a room: the name there, the state event, the key of its
/// content.
const TOLD: [(&str, &str, &str); 5] = [
    ("room_alias", "m.room.canonical_alias", "alias"),
    ("room_avatar_url", "m.room.avatar", "url"),
    ("room_join_rules", "m.room.join_rules", "join_rule"),
    ("room_name", "m.room.name", "name"),
    ("room_type", "m.room.create", "type"),
];

impl Exchange {
    /// Invites whoever has an address: the user whose it is, or else the one who will prove that it
    /// is theirs.
    ///
    /// # Errors
    /// [`ExchangeError::Room`] if the user may not invite, [`ExchangeError::Identity`].
    pub(crate) async fn invite_address(
        &self,
        session: &Session,
        room_id: &RoomId,
        (access, address): (&Access, &Address),
        is_direct: bool,
    ) -> Result<(), ExchangeError> {
        if session.guest {
            return Err(RoomError::GuestAccess.into());
        }
        let sender = &session.user_id;
        self.rooms.require_unblocked(room_id).await?;
        let room = self.rooms.room(room_id).await?;
        // The identity server writes a mail at once: nobody has that done who may not invite.
        if !self.rooms.is_joined(&room, session.user).await? {
            return Err(RoomError::NotInRoom { room: room.id.clone() }.into());
        }
        let powers = self.rooms.powers(&room).await?;
        if powers.of(sender) < powers.needed(Action::Invite) {
            let why = "the user's power level is too low to invite".to_owned();
            return Err(RoomError::Forbidden { why }.into());
        }
        self.rooms.allow(session, Act::Invite).await?;
        if let Some(target) = self.identity.lookup(access, address).await? {
            return self.invite_counted(sender, &target, room_id, None, is_direct).await;
        }
        let known = self.known_of(&room, session).await?;
        let invite = ToStore::new(address, room_id, sender, known);
        let stored = self.identity.store_invite(access, &invite).await?;
        let kind = "m.room.third_party_invite";
        self.rooms.send_state(session, room_id, kind, &stored.token, stored.content()).await?;
        Ok(())
    }

    /// What is known of a room and a member that makes an invitation easier to understand.
    async fn known_of(
        &self,
        room: &Room,
        session: &Session,
    ) -> Result<Map<String, Value>, RoomError> {
        let mut known = Map::new();
        let me = session.user_id.as_str();
        let mine = [
            ("sender_display_name", "m.room.member", "displayname"),
            ("sender_avatar_url", "m.room.member", "avatar_url"),
        ];
        let of_room = TOLD.into_iter().map(|told| (told, ""));
        for ((name, kind, key), state_key) in of_room.chain(mine.map(|told| (told, me))) {
            let found = self.rooms.current_state_event(&self.db, room, kind, state_key).await?;
            let content = found.and_then(|event| serde_json::from_str(event.content()).ok());
            if let Some(Value::String(text)) =
                content.and_then(|mut content: Value| Some(content.get_mut(key)?.take()))
            {
                known.insert(name.to_owned(), text.into());
            }
        }
        Ok(known)
    }
}
