//! Coming into rooms that are on other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use ruma::{
    OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{create_join_event, prepare_join_event},
};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{
    Exchange, ExchangeError,
    joined_state::JoinedState,
    membership::{SMALL, bad, raw, template},
};
use crate::{
    rooms::{RoomError, SUPPORTED_VERSIONS, partial::Omitted, record::Membership},
    users::limits::Act,
};

/// The lists of events that the answer to a join has.
const LISTS: &[&str] = &["state", "auth_chain"];
/// What else of it is looked at.
const MEMBERS: &[&str] = &["event", "members_omitted", "servers_in_room"];

impl Exchange {
    /// Joins a room through one of these servers.
    ///
    /// # Errors
    /// What the last of them said.
    pub(crate) async fn join(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        reason: Option<&str>,
    ) -> Result<(), ExchangeError> {
        self.rooms.require_unblocked(room_id).await?;
        self.rooms.allow_user(user, Act::Join).await?;
        let join = |server| self.join_through(user, room_id, server, reason);
        self.through_candidates(room_id, via, join).await
    }

    /// Joins through one server, at first without waiting for all members. If what it says of the room
    /// then does not do, it is asked for everything.
    async fn join_through(
        &self,
        user: &UserId,
        room_id: &RoomId,
        server: OwnedServerName,
        reason: Option<&str>,
    ) -> Result<(), ExchangeError> {
        // What is here of a room goes on from all of its state.
        let is_new = matches!(self.rooms.room(room_id).await, Err(RoomError::UnknownRoom { .. }));
        if self.federation.joins_faster() && is_new {
            match self.join_by(user, room_id, &server, reason, true).await {
                Err(ExchangeError::Room(
                    RoomError::BadEvent { why } | RoomError::Forbidden { why },
                )) => {
                    tracing::info!(%server, room = %room_id, why, "all members are asked for");
                }
                outcome => return outcome,
            }
        }
        self.join_by(user, room_id, &server, reason, false).await
    }

    async fn join_by(
        &self,
        user: &UserId,
        room_id: &RoomId,
        server: &ServerName,
        reason: Option<&str>,
        omit_members: bool,
    ) -> Result<(), ExchangeError> {
        let mut request = prepare_join_event::v1::Request::new(room_id.to_owned(), user.to_owned());
        request.ver = SUPPORTED_VERSIONS.to_vec();
        let made = self.federation.ask(server, request, SMALL).await?;
        let version = made.room_version.unwrap_or(RoomVersionId::V1);
        let (rules, template) = template(&version, &made.event)?;
        let number = self.rooms.user_number(user).await?;
        let content = self.rooms.content_of_member(Membership::Join, number, reason).await?;
        let (join, object) = self.rooms.sign_member(template, &rules, room_id, user, content)?;
        let mut request = create_join_event::v2::Request::new(
            room_id.to_owned(),
            join.event_id().to_owned(),
            raw(&object)?,
        );
        request.omit_members = omit_members;
        let mut joined = JoinedState::new(room_id, server);
        let take = |event| joined.take(event).map_err(ExchangeError::from);
        let wanted = (LISTS, MEMBERS);
        let answer = self.federation.ask_for_events(server, request, wanted, &rules, take).await?;
        let [event, members_omitted, servers_in_room] = &answer[..] else {
            return Err(bad("the answer to the join is none").into());
        };
        // Where another server's signature lets the user in, the event comes back with it.
        let join = match present(event.as_deref()) {
            Some(event) => {
                let signed = self.federation.verify(event.get(), &rules, Some(server)).await;
                match signed {
                    Ok(signed) if signed.event_id() == join.event_id() => signed,
                    _ => return Err(bad("the join came back as something else").into()),
                }
            }
            None => join,
        };
        let omitted = match (member(members_omitted.as_deref())?, omit_members) {
            (Some(true), false) => return Err(bad("members were left out unasked").into()),
            (Some(true), true) => {
                let servers = member(servers_in_room.as_deref())?.unwrap_or_default();
                Some(omitted(server, servers))
            }
            (_, _) => None,
        };
        let (state, auth_chain) = joined.finish();
        let omitted = omitted.as_ref();
        let room = self.rooms.join_remote(&version, &join, &state, &auth_chain, omitted).await?;
        self.went_in(&room, number).await;
        if room.is_partial() {
            self.resync(room.number);
        }
        Ok(())
    }
}

/// A member of an answer, unless it is null.
fn present(member: Option<&RawValue>) -> Option<&RawValue> {
    member.filter(|member| member.get() != "null")
}

/// The same read.
fn member<T: DeserializeOwned>(member: Option<&RawValue>) -> Result<Option<T>, RoomError> {
    let read = present(member).map(|member| serde_json::from_str(member.get())).transpose();
    read.map_err(|_| bad("the answer to the join is not what it should be"))
}

/// What a server says of the members that it left out; what is no server's name is nobody.
fn omitted(via: &ServerName, servers: Vec<String>) -> Omitted {
    let named = servers.into_iter().filter_map(|name| OwnedServerName::try_from(name).ok());
    Omitted { via: via.to_owned(), servers: named.collect() }
}
