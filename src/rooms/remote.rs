//! Rooms of other servers: coming into them, and what users of this server are to rooms that this
//! server is not in.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>,
//! <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, RoomId, RoomVersionId, UserId,
    room_version_rules::RoomVersionRules,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Rooms,
    auth::membership_in,
    create::object,
    error::RoomError,
    event,
    ingest::{Ingested, Verdict},
    membership::Admission,
    partial::Omitted,
    pdu::Pdu,
    record::{EventNumber, EventRecord, Membership, UserRoom},
    room::Room,
    writer::{RoomWriter, Shown},
};
use crate::storage::{
    Batch, Json, Read,
    intern::{RoomNumber, UserNumber},
    schema::{MEMBERSHIPS, OUTSIDE_EVENTS, USER_ROOMS},
};

/// The most bytes of stripped state that are kept with an invitation.
const MAX_STRIPPED_BYTES: usize = 90_000;

/// The last member event of a user in a room that this server is not in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OutsideEvent {
    /// The room's version.
    pub(crate) version: RoomVersionId,
    /// The event as it came.
    pub(crate) pdu: Box<RawValue>,
}

impl Rooms {
    /// Comes into a room by `join`, an event of a user of this server that another server took in:
    /// `state` is the state before it and `auth_chain` what authorizes that, all signatures
    /// checked; if most members were left out of the state, it says who left them `omitted`. A room
    /// that is here already goes on from that state, which must be whole then.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if the join fails the rules in that state, [`RoomError::BadEvent`]
    /// if what authorizes it is not all there.
    pub(crate) async fn join_remote(
        &self,
        version: &RoomVersionId,
        join: &Pdu,
        state: &[Pdu],
        auth_chain: &[Pdu],
        omitted: Option<&Omitted>,
    ) -> Result<Arc<Room>, RoomError> {
        let rules = version.rules().filter(|_| super::SUPPORTED_VERSIONS.contains(version));
        let rules = rules
            .ok_or_else(|| RoomError::UnsupportedRoomVersion { version: version.to_string() })?;
        let number = self.db().rooms().intern(self.db(), &*join.room_id).await?;
        // Two of this server's users who join at once come one after the other.
        let turn = Arc::clone(&self.shared.joining.get_with(number, Arc::default));
        let _turn = turn.lock().await;
        let here = self.loaded(number).await?;
        let founding = here.is_none();
        if omitted.is_some() && !founding {
            let why = "it came to be here meanwhile".to_owned();
            return Err(RoomError::BadEvent { why });
        }
        let room = match here {
            Some(room) => room,
            None => Arc::new(Room::staged(number, join.room_id.clone(), version.clone(), rules)),
        };
        let others: Vec<&Pdu> = auth_chain.iter().chain(state).collect();
        self.ingest_outliers(&room, &others).await?;
        let ids: Vec<OwnedEventId> = state.iter().map(|pdu| pdu.event_id.clone()).collect();
        // What could not be taken in is no part of the state: its absence may fail the join.
        let unknown = self.unknown_events(&room, &ids).await?;
        let ids: Vec<OwnedEventId> = ids.into_iter().filter(|id| !unknown.contains(id)).collect();
        let mut writer = RoomWriter::new(self, Arc::clone(&room)).await?;
        writer.founding = founding;
        writer.joining = true;
        match omitted {
            Some(omitted) => writer.begin_partial(join, omitted),
            None => writer.note_rejoin(join),
        }
        match writer.ingest(join, Some(&ids), Shown::Live).await? {
            Ingested::New { verdict: Verdict::Accepted, .. } => writer.commit().await?,
            // Another way brought it here meanwhile.
            Ingested::Known(Verdict::Accepted) => {}
            Ingested::New { why, .. } => {
                let why = why.unwrap_or_else(|| "the join was not accepted".to_owned());
                return Err(RoomError::Forbidden { why });
            }
            Ingested::Known(_) => {
                return Err(RoomError::Forbidden { why: "the join was not accepted".to_owned() });
            }
            Ingested::Missing { .. } => {
                let why = "what authorizes the join is not all there".to_owned();
                return Err(RoomError::BadEvent { why });
            }
        }
        if founding {
            let mut batch = Batch::new();
            let target = join.state_key.as_deref().and_then(|key| UserId::parse(key).ok());
            if let Some(user) = target {
                let user = self.db().users().intern(self.db(), &*user).await?;
                OUTSIDE_EVENTS.delete(&mut batch, &(user, number));
                self.db().commit(batch).await?;
            }
            self.shared.loaded.insert(&room).await;
        }
        Ok(room)
    }

    /// Notes an invitation, a knock, or the end of one, of a user of this server in a room that
    /// this server is not in. `stripped` is what is known of the room.
    ///
    /// # Errors
    /// [`RoomError::BadEvent`] if `pdu` is no member event of a user of this server.
    pub(crate) async fn record_outside(
        &self,
        version: &RoomVersionId,
        pdu: &Pdu,
        stripped: &[Box<RawValue>],
    ) -> Result<(), RoomError> {
        let bad = |why: &str| RoomError::BadEvent { why: why.to_owned() };
        let user_id = pdu
            .state_key
            .as_deref()
            .filter(|_| pdu.event_type == "m.room.member")
            .and_then(|key| UserId::parse(key).ok())
            .filter(|user| self.is_local(user))
            .ok_or_else(|| bad("this is no member event of a user of this server"))?;
        let membership =
            membership_in(pdu.content()).ok_or_else(|| bad("this is no membership"))?;
        let user = self.db().users().intern(self.db(), &*user_id).await?;
        let room = self.db().rooms().intern(self.db(), &*pdu.room_id).await?;
        let old = USER_ROOMS.get(self.db(), &(user, room)).await?;
        let outside = matches!(membership, Membership::Invite | Membership::Knock);
        // What ends an invitation does not throw out who has come in meanwhile.
        if !outside && old.as_ref().is_some_and(|old| old.membership == Membership::Join) {
            return Err(bad("the user is in the room"));
        }
        let position = self.db().position().await?;
        let mut batch = Batch::new();
        let row = UserRoom {
            membership,
            event: EventNumber(0),
            position: position.value(),
            forgotten: false,
            was_joined: old.as_ref().is_some_and(|old| old.membership == Membership::Join),
            stripped_state: if outside { stripped_array(stripped, pdu) } else { "".into() },
        };
        match &old {
            Some(old) => USER_ROOMS.require_equals(&mut batch, &(user, room), old),
            None => USER_ROOMS.require_absent(&mut batch, &(user, room)),
        }
        USER_ROOMS.put(&mut batch, &(user, room), &row);
        MEMBERSHIPS.put(&mut batch, &(room, user, position.value()), &membership);
        let event = OutsideEvent {
            version: version.clone(),
            pdu: super::show::raw(pdu.json.clone().into())?,
        };
        OUTSIDE_EVENTS.put(&mut batch, &(user, room), &Json(event));
        batch.wake([user, UserNumber::EVERYBODY]);
        self.shared.news.note_invited(user, room, position.value());
        self.tell_of_outside(&mut batch, (&pdu.room_id, position.value()), pdu, (user, &user_id))?;
        batch.hold(position);
        Ok(self.db().commit(batch).await?)
    }

    /// The last member event of a user in a room that this server is not in.
    pub(crate) async fn outside_event(
        &self,
        user: UserNumber,
        room: RoomNumber,
    ) -> Result<Option<OutsideEvent>, RoomError> {
        Ok(OUTSIDE_EVENTS.get(self.db(), &(user, room)).await?.map(|event| event.0))
    }

    /// The same as a record.
    pub(super) async fn outside_record(
        &self,
        at: &impl Read,
        user: UserNumber,
        room: RoomNumber,
        position: u64,
    ) -> Result<Option<EventRecord>, RoomError> {
        let Some(Json(event)) = OUTSIDE_EVENTS.get(at, &(user, room)).await? else {
            return Ok(None);
        };
        let corrupt = || RoomError::Corrupt { what: "an event of a room outside" };
        let rules = event.version.rules().ok_or_else(corrupt)?;
        let object = serde_json::from_str(event.pdu.get()).map_err(|_| corrupt())?;
        let pdu = Pdu::parse(object, &rules).map_err(|_| corrupt())?;
        let sender = self.db().users().intern(self.db(), &*pdu.sender).await?;
        Ok(Some(EventRecord { position, ..pdu.record(sender, Verdict::Accepted) }))
    }

    /// The room with this number; none if this server is not in it and never was.
    pub(crate) async fn room_if_here(
        &self,
        number: RoomNumber,
    ) -> Result<Option<Arc<Room>>, RoomError> {
        self.loaded(number).await
    }

    /// A member event for a user of another server to complete and sign: everything but hashes and
    /// signatures, for `/make_join`, `/make_leave` and `/make_knock`.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if the room's rules do not allow it.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid>
    pub(crate) async fn member_template(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        membership: Membership,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let number = self.db().users().intern(self.db(), user).await?;
        let mut writer = self.writer(room).await?;
        let mut content = object([("membership", membership.as_str().into())]);
        if membership == Membership::Join {
            self.require_place(room)?;
        }
        if membership == Membership::Join
            && !matches!(writer.membership(user), Some(Membership::Invite | Membership::Join))
        {
            match self.lets_in(&mut writer, number).await? {
                Admission::By(authorised_by) => {
                    let key = "join_authorised_via_users_server".to_owned();
                    content.insert(key, authorised_by.as_str().into());
                }
                Admission::ByTheRules => {}
                Admission::Unknown => return Err(RoomError::UnknownCondition),
                Admission::NobodyMayInvite => return Err(RoomError::NobodyMayInvite),
            }
        }
        writer.template(user, user, content).await
    }

    /// Completes and signs the event that another server made for a user of this server.
    ///
    /// # Errors
    /// [`RoomError::BadEvent`] if it is not what was asked for.
    pub(crate) fn sign_member(
        &self,
        mut template: CanonicalJsonObject,
        rules: &RoomVersionRules,
        room_id: &RoomId,
        user: &UserId,
        content: CanonicalJsonObject,
    ) -> Result<(Pdu, CanonicalJsonObject), RoomError> {
        let bad = |why: &str| RoomError::BadEvent { why: why.to_owned() };
        for key in ["hashes", "signatures", "unsigned", "event_id"] {
            template.remove(key);
        }
        // Only this of the other server's content is its to say.
        let authorised = match template.get("content") {
            Some(CanonicalJsonValue::Object(content)) => {
                content.get("join_authorised_via_users_server").cloned()
            }
            _ => None,
        };
        let mut content = content;
        if let Some(authorised) = authorised {
            content.insert("join_authorised_via_users_server".to_owned(), authorised);
        }
        let now = i64::try_from(self.clock().now_ms()).unwrap_or(i64::MAX);
        let now = now.try_into().map_err(|_| bad("the clock is wrong"))?;
        template.extend(object([
            ("type", "m.room.member".into()),
            ("room_id", room_id.as_str().into()),
            ("sender", user.as_str().into()),
            ("state_key", user.as_str().into()),
            ("content", content.into()),
            ("origin_server_ts", CanonicalJsonValue::Integer(now)),
        ]));
        if let Some(id) = event::chosen_id(rules, &self.shared.random, self.server_name()) {
            template.insert("event_id".to_owned(), id.as_str().into());
        }
        event::hash_and_sign(&mut template, self.key(), rules)?;
        let pdu = Pdu::parse(template.clone(), rules).map_err(|why| bad(&why.to_string()))?;
        Ok((pdu, template))
    }

    /// Adds this server's signature to another's event: it lets a user into a restricted room, or
    /// takes an invitation for a user of its own.
    ///
    /// # Errors
    /// [`RoomError::BadEvent`] if it is no event.
    pub(crate) fn countersign(
        &self,
        object: &mut CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<(), RoomError> {
        event::sign(object, self.key(), rules)
    }
}

/// Stripped state as it is kept: what is too much is left out, the member event itself never.
fn stripped_array(stripped: &[Box<RawValue>], pdu: &Pdu) -> Box<str> {
    let mut out = "[".to_owned();
    for event in stripped {
        if out.len() + event.get().len() > MAX_STRIPPED_BYTES {
            break;
        }
        out.push_str(event.get());
        out.push(',');
    }
    out.push_str("{\"content\":");
    out.push_str(pdu.content());
    out.push_str(",\"sender\":");
    event::push_text(&mut out, pdu.sender.as_str());
    out.push_str(",\"state_key\":");
    event::push_text(&mut out, pdu.state_key.as_deref().unwrap_or_default());
    out.push_str(",\"type\":");
    event::push_text(&mut out, &pdu.event_type);
    out.push_str("}]");
    out.into()
}
