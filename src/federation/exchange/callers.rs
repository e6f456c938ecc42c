//! Member events that other servers bring: their users coming in and going, and invitations.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, RoomId, RoomVersionId, ServerName, UserId,
};
use serde_json::value::{RawValue, to_raw_value};

use super::Exchange;
use crate::rooms::{Room, RoomError, pdu::Pdu, record::Membership};

/// The key of a join's content that names who let the user in.
const AUTHORISED: &str = "join_authorised_via_users_server";

impl Exchange {
    /// Takes in the join, leave or knock of a user of `origin`, and has it sent on. The event as it
    /// is now: where one of this server's users let them in it has another signature.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if the room's rules do not allow it, [`RoomError::BadEvent`] if it
    /// is not such an event.
    pub(crate) async fn take_member_event(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        json: &RawValue,
        membership: Membership,
    ) -> Result<(Arc<Room>, Box<RawValue>), RoomError> {
        let room = self.rooms.room_for(room_id, origin).await?;
        if room.local_members().is_empty() {
            return Err(RoomError::UnknownRoom { room: room_id.to_owned().into() });
        }
        let mut object: CanonicalJsonObject =
            serde_json::from_str(json.get()).map_err(|_| bad("this is no event"))?;
        if membership == Membership::Join {
            self.let_in(&room, &mut object).await?;
        }
        let json = to_raw_value(&object).map_err(|error| bad(&error.to_string()))?;
        let pdu = self.federation.verify(json.get(), &room.rules, Some(origin)).await;
        let pdu = pdu.map_err(|error| RoomError::Forbidden { why: error.to_string() })?;
        check_member(&pdu, room_id, event_id, membership)?;
        let user = pdu.sender();
        if pdu.state_key() != Some(user.as_str()) || user.server_name() != origin {
            let why = "the event is about somebody else".to_owned();
            return Err(RoomError::Forbidden { why });
        }
        let new_server = self.new_server(&room, &pdu);
        self.admit(&room, &pdu).await?;
        self.came_in(&room, &pdu, new_server).await;
        Ok((room, json))
    }

    /// Signs a join that says that a user of this server lets the sender in, if that is so.
    async fn let_in(
        &self,
        room: &Arc<Room>,
        object: &mut CanonicalJsonObject,
    ) -> Result<(), RoomError> {
        let user_at = |object: &CanonicalJsonObject, key: &str| {
            let user = object.get(key).and_then(CanonicalJsonValue::as_str);
            user.and_then(|user| UserId::parse(user).ok())
        };
        let content = object.get("content").and_then(CanonicalJsonValue::as_object);
        let Some(by) = content.and_then(|content| user_at(content, AUTHORISED)) else {
            return Ok(());
        };
        if by.server_name() != self.rooms.server_name() {
            return Ok(());
        }
        let sender = user_at(object, "sender").ok_or_else(|| bad("this is no event"))?;
        // The same as when it was made: whether the user is in a room that opens this one.
        let template = self.rooms.member_template(room, &sender, Membership::Join).await?;
        let content = template.get("content").and_then(CanonicalJsonValue::as_object);
        if content.is_some_and(|content| content.contains_key(AUTHORISED)) {
            self.rooms.countersign(object, &room.rules)?;
        }
        Ok(())
    }

    /// Takes an invitation of a user of this server: signs it, and notes it if this server is not
    /// in the room. The signed event.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if it is not signed as it must be, [`RoomError::BadEvent`] if it is
    /// no invitation.
    pub(crate) async fn take_invite(
        &self,
        origin: &ServerName,
        (room_id, version): (&RoomId, &RoomVersionId),
        event_id: &EventId,
        json: &RawValue,
        known: &[Box<RawValue>],
    ) -> Result<Box<RawValue>, RoomError> {
        let unsupported = || RoomError::UnsupportedRoomVersion { version: version.to_string() };
        let rules = version.rules().ok_or_else(unsupported)?;
        let pdu = self.federation.verify(json.get(), &rules, Some(origin)).await;
        let pdu = pdu.map_err(|error| RoomError::Forbidden { why: error.to_string() })?;
        check_member(&pdu, room_id, event_id, Membership::Invite)?;
        if pdu.sender().server_name() != origin {
            return Err(bad("the invitation is another server's"));
        }
        let target = pdu.state_key().and_then(|user| UserId::parse(user).ok());
        let target = target.ok_or_else(|| bad("the event invites nobody"))?;
        self.rooms.require_unblocked(pdu.room_id()).await?;
        self.rooms.check_invite(pdu.sender(), &target).await?;
        let mut object: CanonicalJsonObject =
            serde_json::from_str(json.get()).map_err(|_| bad("this is no event"))?;
        self.rooms.countersign(&mut object, &rules)?;
        let is_here = match self.rooms.room_for(room_id, origin).await {
            Ok(room) => !room.local_members().is_empty(),
            Err(RoomError::UnknownRoom { .. }) => false,
            Err(error) => return Err(error),
        };
        // Into a room that is here it comes as any other event.
        if !is_here {
            let signed = Pdu::parse(object.clone(), &rules);
            let signed = signed.map_err(|error| bad(&error.to_string()))?;
            self.rooms.record_outside(version, &signed, known).await?;
        }
        to_raw_value(&object).map_err(|error| bad(&error.to_string()))
    }
}

fn check_member(
    pdu: &Pdu,
    room_id: &RoomId,
    event_id: &EventId,
    membership: Membership,
) -> Result<(), RoomError> {
    #[derive(serde::Deserialize)]
    struct Content {
        membership: String,
    }
    let other = |why: &str| RoomError::InvalidParam { why: why.to_owned() };
    if pdu.room_id() != room_id || pdu.event_id() != event_id {
        return Err(other("the event is not the one that the path names"));
    }
    let content: Result<Content, _> = serde_json::from_str(pdu.content());
    let is_one = pdu.event_type() == "m.room.member"
        && content.is_ok_and(|content| content.membership == membership.as_str());
    if is_one { Ok(()) } else { Err(other("this is not such a member event")) }
}

fn bad(why: &str) -> RoomError {
    RoomError::BadEvent { why: why.to_owned() }
}
