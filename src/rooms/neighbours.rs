//! Rooms as the servers in them see them.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, EventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, ServerName,
    UserId, api::Direction,
};
use serde_json::value::RawValue;

use super::{
    Rooms, acl,
    error::RoomError,
    event,
    pdu::Pdu,
    record::{EventNumber, EventRecord, Membership},
    room::Room,
    timeline_key::live_events,
};
use crate::storage::{
    intern::{RoomNumber, UserNumber},
    schema::{CURRENT_STATE, EVENT_IDS, EVENTS, FORWARDED},
};

/// What somebody outside is told of a room.
pub(super) const FIRST_LOOK: [&str; 8] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.history_visibility",
];
/// How many events of a timeline are looked at for those to send.
const LOOKED_AT: usize = 500;

impl Rooms {
    /// The room with this ID, if its list of servers lets `server` take part.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`], [`RoomError::Forbidden`].
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls>
    pub(crate) async fn room_for(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<Arc<Room>, RoomError> {
        let room = self.room(room_id).await?;
        let list = room.stored_state(self.db(), "m.room.server_acl", "").await?;
        if acl::allows(list.as_ref().map(|event| event.content.get()), server) {
            return Ok(room);
        }
        Err(RoomError::Forbidden { why: "the room does not let your server in".to_owned() })
    }

    /// The same, if somebody of `server` is in it.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`], [`RoomError::Forbidden`].
    pub(crate) async fn room_with(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<Arc<Room>, RoomError> {
        let room = self.room_for(room_id, server).await?;
        if room.servers().iter().any(|other| other == server) {
            return Ok(room);
        }
        Err(RoomError::Forbidden { why: "your server is not in the room".to_owned() })
    }

    /// Whether other servers can be told what depends on all of a room's members.
    ///
    /// # Errors
    /// [`RoomError::NotWhole`] if not all are known.
    pub(crate) fn require_whole(&self, room: &Room) -> Result<(), RoomError> {
        if room.whole_since() <= self.db().visible_position() {
            return Ok(());
        }
        Err(RoomError::NotWhole { room: room.id.clone() })
    }

    /// The content of a member event of a user of this server, with their name and picture.
    pub(crate) async fn content_of_member(
        &self,
        membership: Membership,
        user: UserNumber,
        reason: Option<&str>,
    ) -> Result<CanonicalJsonObject, RoomError> {
        self.member_content(membership, user, reason).await
    }

    /// The number of a user, known here or not.
    pub(crate) async fn user_number(&self, user: &UserId) -> Result<UserNumber, RoomError> {
        Ok(self.db().users().intern(self.db(), user).await?)
    }

    /// The version of a room that this server is not in, and who sent what `user` last heard of it.
    pub(crate) async fn outside(
        &self,
        user: UserNumber,
        room_id: &RoomId,
    ) -> Result<Option<(RoomVersionId, OwnedUserId)>, RoomError> {
        #[derive(serde::Deserialize)]
        struct Sent {
            sender: OwnedUserId,
        }
        let Some(room) = self.db().rooms().find(self.db(), room_id).await? else {
            return Ok(None);
        };
        let Some(event) = self.outside_event(user, room).await? else { return Ok(None) };
        let sent: Sent = serde_json::from_str(event.pdu.get())
            .map_err(|_| RoomError::Corrupt { what: "an event" })?;
        Ok(Some((event.version, sent.sender)))
    }

    /// An invitation that is signed and not yet part of the room: the server of `target` is to see
    /// it first.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if the room's rules do not allow it.
    pub(crate) async fn signed_invite(
        &self,
        room: &Arc<Room>,
        sender: &UserId,
        target: &UserId,
        content: CanonicalJsonObject,
    ) -> Result<Pdu, RoomError> {
        let mut object = {
            let mut writer = self.writer(room).await?;
            writer.template(sender, target, content).await?
        };
        if let Some(id) = event::chosen_id(&room.rules, &self.shared.random, self.server_name()) {
            object.insert("event_id".to_owned(), id.as_str().into());
        }
        event::hash_and_sign(&mut object, self.key(), &room.rules)?;
        Pdu::parse(object, &room.rules)
            .map_err(|error| RoomError::BadEvent { why: error.to_string() })
    }

    /// Whether a user is in a room.
    pub(crate) async fn is_joined(&self, room: &Room, user: UserNumber) -> Result<bool, RoomError> {
        let row = self.user_room(user, room.number).await?;
        Ok(row.is_some_and(|row| row.membership == Membership::Join))
    }

    /// The room that an event is in.
    pub(crate) async fn room_of(&self, event: &EventId) -> Result<Option<OwnedRoomId>, RoomError> {
        match EVENT_IDS.get(self.db(), event).await? {
            Some((room, _)) => Ok(Some(self.room_id(room).await?)),
            None => Ok(None),
        }
    }

    /// The events that tell somebody outside what a room is, as they go to other servers.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
    pub(crate) async fn first_look(&self, room: &Room) -> Result<Vec<Box<RawValue>>, RoomError> {
        let keys = FIRST_LOOK.map(|event_type| (room.number, event_type, ""));
        let numbers = CURRENT_STATE.multi_get(self.db(), keys).await?;
        let keys = numbers.into_iter().flatten().map(|number| (room.number, number));
        let records = EVENTS.multi_get(self.db(), keys).await?;
        let json = |record: EventRecord| RawValue::from_string(record.json.into());
        let corrupt = |_| RoomError::Corrupt { what: "an event" };
        records.into_iter().flatten().map(|record| json(record).map_err(corrupt)).collect()
    }

    /// The newest event of a room, between these stream positions, that this server is to send to
    /// others.
    pub(crate) async fn newest_to_send(
        &self,
        room: RoomNumber,
        from: u64,
        until: u64,
    ) -> Result<Option<(EventNumber, EventRecord)>, RoomError> {
        let (after, mut upto) = (from.saturating_sub(1), until);
        loop {
            let (window, backward) = ((after, upto), Direction::Backward);
            let rows = live_events(self.db(), room, window, LOOKED_AT, backward).await?;
            let complete = rows.len() < LOOKED_AT;
            let keys = rows.iter().map(|(_, number)| (room, *number));
            let records = EVENTS.multi_get(self.db(), keys).await?;
            for ((position, number), record) in rows.into_iter().zip(records) {
                upto = position.saturating_sub(1);
                let Some(record) = record else { continue };
                let to_send = self.is_local(&record.sender_id)
                    || FORWARDED.contains(self.db(), &(room, position)).await?;
                if to_send {
                    return Ok(Some((number, record)));
                }
            }
            if complete {
                return Ok(None);
            }
        }
    }

    /// The first events of a room, between these stream positions, that this server is to send to
    /// others: those of its own users and those it forwards. With the position after the last one
    /// that was looked at.
    pub(crate) async fn events_to_send(
        &self,
        room: RoomNumber,
        from: u64,
        until: u64,
        limit: usize,
    ) -> Result<(Vec<(EventNumber, EventRecord)>, u64), RoomError> {
        let window = (from.saturating_sub(1), until);
        let rows = live_events(self.db(), room, window, LOOKED_AT, Direction::Forward).await?;
        let complete = rows.len() < LOOKED_AT;
        let keys = rows.iter().map(|(_, number)| (room, *number));
        let records = EVENTS.multi_get(self.db(), keys).await?;
        let mut found = Vec::new();
        let mut next = from;
        for ((position, number), record) in rows.into_iter().zip(records) {
            if found.len() == limit {
                return Ok((found, next));
            }
            next = position.saturating_add(1);
            let Some(record) = record else { continue };
            let to_send = self.is_local(&record.sender_id)
                || FORWARDED.contains(self.db(), &(room, position)).await?;
            if to_send {
                found.push((number, record));
            }
        }
        Ok((found, if complete { until.saturating_add(1) } else { next }))
    }
}
