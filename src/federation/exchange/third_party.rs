//! Invitations of people of whom only an address was known: what an identity server signed turns
//! into an invitation of the user whose address it is.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>

use std::time::Duration;

use federation::Limits;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, ServerName,
    api::federation::thirdparty::exchange_invite, serde::Raw,
};
use serde::Deserialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::{Exchange, ExchangeError};
use crate::{
    rooms::{RoomError, is_signed_with},
    users::limits::Act,
};

/// What the question may take: the other server may have to ask others in turn.
const QUESTION: Limits = Limits { timeout: Duration::from_mins(1), max_bytes: 64 * 1024 };

/// The most keys of an invitation that are looked at.
const MAX_KEYS: usize = 8;

/// The invitation of somebody whose address turned out to be a user's.
#[derive(Clone, Debug)]
pub(crate) struct ThirdPartyInvite {
    /// Into which room.
    pub(crate) room_id: OwnedRoomId,
    /// Who invited the address.
    pub(crate) sender: OwnedUserId,
    /// Whose address it is.
    pub(crate) target: OwnedUserId,
    /// What the identity server signed: `mxid`, `token` and `signatures`.
    pub(crate) signed: Box<RawValue>,
}

impl ThirdPartyInvite {
    /// The invitation that a member event's content describes.
    ///
    /// # Errors
    /// [`RoomError::BadEvent`] if it describes none.
    pub(crate) fn of_content(
        room_id: OwnedRoomId,
        sender: OwnedUserId,
        target: OwnedUserId,
        content: &RawValue,
    ) -> Result<Self, RoomError> {
        #[derive(Deserialize)]
        struct Invite {
            signed: Box<RawValue>,
        }
        #[derive(Deserialize)]
        struct Content {
            third_party_invite: Invite,
        }
        let content: Content = serde_json::from_str(content.get())
            .map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
        Ok(Self { room_id, sender, target, signed: content.third_party_invite.signed })
    }

    /// The token by which the room's `m.room.third_party_invite` is found.
    fn token(&self) -> Result<String, RoomError> {
        #[derive(Deserialize)]
        struct Signed {
            token: String,
        }
        let signed: Result<Signed, _> = serde_json::from_str(self.signed.get());
        let signed = signed.map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
        Ok(signed.token)
    }
}

impl Exchange {
    /// Has a user of this server be invited: by this server if it is the inviting user's, or else
    /// by theirs.
    ///
    /// # Errors
    /// [`ExchangeError`] if the room's rules or the other server refuse.
    pub(crate) async fn redeem(&self, invite: ThirdPartyInvite) -> Result<(), ExchangeError> {
        let server = invite.sender.server_name();
        if server == self.rooms.server_name() {
            return self.invite_by_third_party(&invite).await;
        }
        let content = json!({
            "membership": "invite",
            "third_party_invite": { "display_name": "", "signed": invite.signed },
        });
        let content = to_raw_value(&content)
            .map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
        let request = exchange_invite::v1::Request::new(
            invite.room_id,
            invite.sender.clone(),
            invite.target,
            Raw::from_json(content),
        );
        self.federation.ask(server, request, QUESTION).await?;
        Ok(())
    }

    /// Invites a user of another server, as that server asks.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`], [`RoomError::Forbidden`] if the room's list of servers or its
    /// rules do not allow it.
    pub(crate) async fn exchange_invite(
        &self,
        origin: &ServerName,
        invite: &ThirdPartyInvite,
    ) -> Result<(), ExchangeError> {
        self.rooms.room_for(&invite.room_id, origin).await?;
        self.invite_by_third_party(invite).await
    }

    async fn invite_by_third_party(&self, invite: &ThirdPartyInvite) -> Result<(), ExchangeError> {
        let ThirdPartyInvite { room_id, sender, target, signed } = invite;
        let forbidden = |why: &str| RoomError::Forbidden { why: why.to_owned() };
        if sender.server_name() != self.rooms.server_name() {
            return Err(forbidden("the inviting user is on another server").into());
        }
        let room = self.rooms.room(room_id).await?;
        if room.local_members().is_empty() {
            return Err(RoomError::UnknownRoom { room: room_id.clone().into() }.into());
        }
        // As the room knows it, not as it is told now.
        let token = invite.token()?;
        let kind = "m.room.third_party_invite";
        let waiting = self.rooms.current_state_event(&self.db, &room, kind, &token).await?;
        let waiting = waiting.ok_or_else(|| forbidden("nobody was invited with this token"))?;
        let waiting: serde_json::Value =
            serde_json::from_str(waiting.content()).unwrap_or_default();
        self.require_valid_key(&waiting, signed).await?;
        let display_name = waiting.get("display_name").and_then(serde_json::Value::as_str);
        let signed: CanonicalJsonValue = serde_json::from_str(signed.get())
            .map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
        let third_party = CanonicalJsonObject::from([
            ("display_name".to_owned(), display_name.unwrap_or_default().into()),
            ("signed".to_owned(), signed),
        ]);
        self.rooms.allow_user(sender, Act::Invite).await?;
        let extra = [("third_party_invite".to_owned(), CanonicalJsonValue::Object(third_party))];
        self.invite_with(sender, target, &room, None, extra).await
    }

    /// That a key with which this was signed is one of those the invitation was made with, and that
    /// its identity server has not taken it back since. Only the inviting user's server asks for
    /// the latter: all others must come to the same verdict at any time.
    async fn require_valid_key(
        &self,
        waiting: &serde_json::Value,
        signed: &RawValue,
    ) -> Result<(), ExchangeError> {
        let forbidden = |why: &str| RoomError::Forbidden { why: why.to_owned() };
        let listed = waiting.get("public_keys").and_then(serde_json::Value::as_array);
        // The content itself has one of them, for those who know of no list.
        let all = listed.into_iter().flatten().take(MAX_KEYS).chain([waiting]);
        let text = |key: &serde_json::Value, name: &str| {
            key.get(name).and_then(serde_json::Value::as_str).map(str::to_owned)
        };
        let mut refusal = forbidden("the identity server of the invitation has not signed this");
        let mut failure = None;
        for key in all {
            let Some(public_key) = text(key, "public_key") else { continue };
            if !is_signed_with(signed, &public_key) {
                continue;
            }
            let Some(url) = text(key, "key_validity_url") else { return Ok(()) };
            match self.identity.is_key_valid(&url, &public_key).await {
                Ok(true) => return Ok(()),
                Ok(false) => refusal = forbidden("the identity server has taken the key back"),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or_else(|| refusal.into(), ExchangeError::from))
    }
}
