//! What becomes of users in rooms that are on other servers: knocks, invitations, and going.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::{borrow::Cow, sync::Arc, time::Duration};

use federation::Limits;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, RoomId, RoomVersionId, UserId,
    api::{
        error::ErrorKind,
        federation::membership::{
            RawStrippedState, create_invite, create_knock_event, create_leave_event,
            prepare_knock_event, prepare_leave_event,
        },
    },
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::{super::PeerError, Exchange};
use crate::{
    identity::IdentityError,
    rooms::{
        Room, RoomError, SUPPORTED_VERSIONS,
        ingest::{Ingested, Verdict},
        pdu::Pdu,
        record::Membership,
    },
    storage::StorageError,
    users::limits::Act,
};

/// What a small answer may take.
pub(super) const SMALL: Limits = Limits { timeout: Duration::from_secs(30), max_bytes: 1 << 20 };
/// How many servers are tried.
const MAX_SERVERS: usize = 8;

/// Why somebody did not come in, or go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The room's rules, or this server's own database.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The last server that was asked.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// An identity server, or what was asked of one.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No server is known that might be in the room. (`M_NOT_FOUND`, 404)
    #[error("no server is known that is in this room")]
    NoServer,
    /// A server sends more at once than is taken in. (`M_LIMIT_EXCEEDED`, 429)
    #[error("too many transactions at once")]
    TooMany,
}

impl From<StorageError> for ExchangeError {
    fn from(error: StorageError) -> Self {
        Self::Room(error.into())
    }
}

impl Exchange {
    /// Asks to be let into a room, through one of these servers.
    ///
    /// # Errors
    /// What the last of them said.
    pub(crate) async fn knock(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        reason: Option<&str>,
    ) -> Result<(), ExchangeError> {
        self.rooms.require_unblocked(room_id).await?;
        self.rooms.allow_user(user, Act::Join).await?;
        let knock = |server| self.knock_through(user, room_id, server, reason);
        self.through_candidates(room_id, via, knock).await
    }

    async fn knock_through(
        &self,
        user: &UserId,
        room_id: &RoomId,
        server: OwnedServerName,
        reason: Option<&str>,
    ) -> Result<(), ExchangeError> {
        let mut request =
            prepare_knock_event::v1::Request::new(room_id.to_owned(), user.to_owned());
        request.ver = SUPPORTED_VERSIONS.to_vec();
        let made = self.federation.ask(&server, request, SMALL).await?;
        let (rules, template) = template(&made.room_version, &made.event)?;
        let number = self.rooms.user_number(user).await?;
        let content = self.rooms.content_of_member(Membership::Knock, number, reason).await?;
        let (knock, object) = self.rooms.sign_member(template, &rules, room_id, user, content)?;
        let request = create_knock_event::v1::Request::new(
            room_id.to_owned(),
            knock.event_id().to_owned(),
            raw(&object)?,
        );
        let answer = self.federation.ask(&server, request, SMALL).await?;
        let stripped = stripped(&answer.knock_room_state);
        self.rooms.record_outside(&made.room_version, &knock, &stripped).await?;
        Ok(())
    }

    /// Refuses an invitation, or takes a knock back, in a room that this server is not in. If no
    /// server takes it, it is noted here alone.
    ///
    /// # Errors
    /// [`ExchangeError::NoServer`] if the user has nothing to do with the room.
    pub(crate) async fn leave(
        &self,
        user: &UserId,
        room_id: &RoomId,
        reason: Option<&str>,
    ) -> Result<(), ExchangeError> {
        let number = self.rooms.user_number(user).await?;
        let Some((version, sender)) = self.rooms.outside(number, room_id).await? else {
            return Err(ExchangeError::NoServer);
        };
        let via = [sender.server_name().to_owned()];
        let content = self.rooms.content_of_member(Membership::Leave, number, reason).await?;
        let refuse = |server| self.leave_through(user, room_id, server, &version, content.clone());
        match self.through_candidates(room_id, &via, refuse).await {
            Ok(leave) => return Ok(self.rooms.record_outside(&version, &leave, &[]).await?),
            Err(error) => {
                tracing::info!(room = %room_id, %error, "a refusal was not taken");
            }
        }
        let rules = rules_of(&version)?;
        let nowhere = CanonicalJsonObject::from([
            ("auth_events".to_owned(), CanonicalJsonValue::Array(Vec::new())),
            ("prev_events".to_owned(), CanonicalJsonValue::Array(Vec::new())),
            ("depth".to_owned(), CanonicalJsonValue::Integer(ruma::int!(1))),
        ]);
        let (leave, _) = self.rooms.sign_member(nowhere, &rules, room_id, user, content)?;
        Ok(self.rooms.record_outside(&version, &leave, &[]).await?)
    }

    async fn leave_through(
        &self,
        user: &UserId,
        room_id: &RoomId,
        server: OwnedServerName,
        version: &RoomVersionId,
        content: CanonicalJsonObject,
    ) -> Result<Pdu, ExchangeError> {
        let request = prepare_leave_event::v1::Request::new(room_id.to_owned(), user.to_owned());
        let made = self.federation.ask(&server, request, SMALL).await?;
        let (rules, template) = template(version, &made.event)?;
        let (leave, object) = self.rooms.sign_member(template, &rules, room_id, user, content)?;
        let request = create_leave_event::v2::Request::new(
            room_id.to_owned(),
            leave.event_id().to_owned(),
            raw(&object)?,
        );
        self.federation.ask(&server, request, SMALL).await?;
        Ok(leave)
    }

    /// Invites a user of another server: their server is asked before anybody is told.
    ///
    /// # Errors
    /// [`ExchangeError::Room`] if the room's rules do not allow it, [`ExchangeError::Peer`] if
    /// their server does not take it.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>
    pub(crate) async fn invite(
        &self,
        sender: &UserId,
        target: &UserId,
        room_id: &RoomId,
        reason: Option<&str>,
        is_direct: bool,
    ) -> Result<(), ExchangeError> {
        self.rooms.allow_user(sender, Act::Invite).await?;
        self.invite_counted(sender, target, room_id, reason, is_direct).await
    }

    /// The same where it was counted beforehand how often the sender invites.
    ///
    /// # Errors
    /// [`ExchangeError`] as above.
    pub(crate) async fn invite_counted(
        &self,
        sender: &UserId,
        target: &UserId,
        room_id: &RoomId,
        reason: Option<&str>,
        is_direct: bool,
    ) -> Result<(), ExchangeError> {
        let room = self.rooms.room(room_id).await?;
        let extra = is_direct.then(|| ("is_direct".to_owned(), true.into()));
        self.invite_with(sender, target, &room, reason, extra).await
    }

    /// Invites a user of this server or another, with something more in the event's content.
    pub(super) async fn invite_with(
        &self,
        sender: &UserId,
        target: &UserId,
        room: &Arc<Room>,
        reason: Option<&str>,
        extra: impl IntoIterator<Item = (String, CanonicalJsonValue)>,
    ) -> Result<(), ExchangeError> {
        self.rooms.check_invite(sender, target).await?;
        self.rooms.wait_for_member(room, target).await?;
        let number = self.rooms.user_number(target).await?;
        let mut content = self.rooms.content_of_member(Membership::Invite, number, reason).await?;
        content.extend(extra);
        let invite = self.rooms.signed_invite(room, sender, target, content).await?;
        let invite = match self.rooms.lacks_policy_signature(room, &invite).await? {
            Some(policy) => {
                let signed = self.rooms.with_policy_signature(room, &policy, invite.json()).await;
                signed.map_err(RoomError::from)?
            }
            None => invite,
        };
        let server = target.server_name();
        if server == self.rooms.server_name() {
            return Ok(self.admit(room, &invite).await?);
        }
        let known = self.rooms.first_look(room).await?;
        let request = create_invite::v2::Request::new(
            room.id.clone(),
            invite.event_id().to_owned(),
            room.version.clone(),
            RawValue::from_string(invite.json().to_owned()).map_err(|why| bad(&why.to_string()))?,
            known.into_iter().map(RawStrippedState::Pdu).collect(),
        );
        let answer = match self.federation.ask(server, request, SMALL).await {
            // Their server does not know such rooms.
            Err(PeerError::Refused { kind, .. })
                if matches!(*kind, ErrorKind::IncompatibleRoomVersion(_)) =>
            {
                let version = room.version.to_string();
                return Err(RoomError::UnsupportedRoomVersion { version }.into());
            }
            answer => answer?,
        };
        let signed = self.federation.verify(answer.event.get(), &room.rules, Some(server)).await;
        let signed = match signed {
            Ok(signed) if signed.event_id() == invite.event_id() => signed,
            _ => return Err(bad("the invitation came back as something else").into()),
        };
        Ok(self.admit(room, &signed).await?)
    }

    /// Takes an event in that others are to get from this server.
    pub(crate) async fn admit(&self, room: &Arc<Room>, pdu: &Pdu) -> Result<(), RoomError> {
        let pdu = self.approved(room, pdu).await?;
        match self.rooms.ingest_and_forward(room, &pdu).await? {
            Ingested::New { verdict: Verdict::Accepted, .. }
            | Ingested::Known(Verdict::Accepted) => Ok(()),
            Ingested::New { why, .. } => {
                let why = why.unwrap_or_else(|| "the event was not accepted".to_owned());
                Err(RoomError::Forbidden { why })
            }
            Ingested::Known(_) => {
                Err(RoomError::Forbidden { why: "the event was not accepted".to_owned() })
            }
            Ingested::Missing { .. } => Err(bad("the event refers to events that are not here")),
        }
    }

    /// An event with the signature of its room's policy server, where it needs that and lacks it, if
    /// it can be had.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#validating-policy-server-signatures>
    pub(super) async fn approved<'a>(
        &self,
        room: &Room,
        pdu: &'a Pdu,
    ) -> Result<Cow<'a, Pdu>, RoomError> {
        let Some(policy) = self.rooms.lacks_policy_signature(room, pdu).await? else {
            return Ok(Cow::Borrowed(pdu));
        };
        match self.rooms.with_policy_signature(room, &policy, pdu.json()).await {
            Ok(signed) => Ok(Cow::Owned(signed)),
            Err(error) => {
                let event = pdu.event_id();
                tracing::debug!(room = %room.id, %event, %error, "an event stays unsigned");
                Ok(Cow::Borrowed(pdu))
            }
        }
    }

    /// What comes of going `through` a server that may be in a room: of the first one with which it
    /// works.
    ///
    /// # Errors
    /// What the last of them said.
    pub(super) async fn through_candidates<T, F>(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        through: impl Fn(OwnedServerName) -> F,
    ) -> Result<T, ExchangeError>
    where
        F: Future<Output = Result<T, ExchangeError>>,
    {
        let mut last = ExchangeError::NoServer;
        for server in self.candidates(room_id, via) {
            match through(server.clone()).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => {
                    let why = &error as &dyn std::error::Error;
                    tracing::debug!(%server, room = %room_id, why, "not through this server");
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Servers that may be in a room: those that are said to be, and the one that made its ID.
    fn candidates(&self, room_id: &RoomId, via: &[OwnedServerName]) -> Vec<OwnedServerName> {
        let mut servers: Vec<OwnedServerName> = Vec::new();
        let named = room_id.server_name().map(ToOwned::to_owned);
        for server in via.iter().cloned().chain(named) {
            if server != self.rooms.server_name() && !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers.truncate(MAX_SERVERS);
        servers
    }
}

pub(super) fn bad(why: &str) -> RoomError {
    RoomError::BadEvent { why: why.to_owned() }
}

fn rules_of(version: &RoomVersionId) -> Result<RoomVersionRules, RoomError> {
    let rules = version.rules().filter(|_| SUPPORTED_VERSIONS.contains(version));
    rules.ok_or_else(|| RoomError::UnsupportedRoomVersion { version: version.to_string() })
}

pub(super) fn template(
    version: &RoomVersionId,
    event: &RawValue,
) -> Result<(RoomVersionRules, CanonicalJsonObject), RoomError> {
    let rules = rules_of(version)?;
    let template = serde_json::from_str(event.get());
    Ok((rules, template.map_err(|_| bad("the other server's event is no event"))?))
}

pub(super) fn raw(object: &CanonicalJsonObject) -> Result<Box<RawValue>, RoomError> {
    serde_json::value::to_raw_value(object).map_err(|error| bad(&error.to_string()))
}

fn stripped(events: &[RawStrippedState]) -> Vec<Box<RawValue>> {
    events.iter().filter_map(|event| serde_json::value::to_raw_value(event).ok()).collect()
}
