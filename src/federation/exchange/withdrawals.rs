//! Invitations that are withdrawn, and knocks that are answered with no, in rooms that this server is
//! not in: nobody here knows such a room's graph, so they are no events of it like others.

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Exchange;
use crate::rooms::{RoomError, auth::membership_in, pdu::Pdu, record::Membership};

impl Exchange {
    /// Ends an invitation or a knock of a user of this server, if that is what the event does; its ID
    /// then.
    ///
    /// Whether its sender may do so is in the state of the room, which is not known here. What is
    /// known is what it ends, which it must name as what authorizes it, and for an invitation whose
    /// it was: only the server of whoever invited takes it back.
    ///
    /// # Errors
    /// If the database fails.
    pub(super) async fn take_withdrawal(
        &self,
        origin: &ServerName,
        json: &RawValue,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        #[derive(Deserialize)]
        struct Leave {
            #[serde(rename = "type")]
            event_type: String,
            room_id: OwnedRoomId,
            state_key: OwnedUserId,
        }
        let Ok(leave) = serde_json::from_str::<Leave>(json.get()) else { return Ok(None) };
        let here = leave.state_key.server_name() == self.rooms.server_name();
        if leave.event_type != "m.room.member" || !here {
            return Ok(None);
        }
        let user = self.db.users().find(&self.db, &leave.state_key).await?;
        let room = self.db.rooms().find(&self.db, &leave.room_id).await?;
        let (Some(user), Some(room)) = (user, room) else { return Ok(None) };
        let Some(before) = self.rooms.outside_event(user, room).await? else { return Ok(None) };
        let Some(rules) = before.version.rules() else { return Ok(None) };
        let object = serde_json::from_str(before.pdu.get()).ok();
        let Some(ended) = object.and_then(|object| Pdu::parse(object, &rules).ok()) else {
            return Ok(None);
        };
        let pdu = match self.federation.verify(json.get(), &rules, Some(origin)).await {
            Ok(pdu) => pdu,
            Err(error) => {
                tracing::debug!(%origin, %error, "not taken");
                return Ok(None);
            }
        };
        let same_server = pdu.sender().server_name() == ended.sender().server_name();
        let may = match membership_in(ended.content()) {
            Some(Membership::Invite) => same_server,
            Some(Membership::Knock) => true,
            _ => false,
        };
        let ends =
            matches!(membership_in(pdu.content()), Some(Membership::Leave | Membership::Ban));
        if !may || !ends || !pdu.auth_events().iter().any(|id| id == ended.event_id()) {
            return Ok(None);
        }
        match self.rooms.record_outside(&before.version, &pdu, &[]).await {
            Ok(()) => Ok(Some(pdu.event_id().to_owned())),
            Err(error) if error.may_pass() => Err(error),
            Err(error) => {
                tracing::info!(%origin, room = %leave.room_id, %error, "an invitation stays");
                Ok(None)
            }
        }
    }
}
