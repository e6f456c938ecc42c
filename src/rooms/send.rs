//! Sending messages, state and redactions.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#sending-events-to-a-room>

use std::sync::Arc;

use ruma::{CanonicalJsonObject, EventId, OwnedEventId, RoomAliasId, RoomId, TransactionId};

use super::{
    Rooms,
    auth::Action,
    create::object,
    delayed::Completing,
    error::RoomError,
    event::{Draft, MAX_FIELD_BYTES},
    record::{EventNumber, EventRecord, Membership},
    relations,
    room::Room,
    writer::{RoomWriter, Sender, Transaction},
};
use crate::{
    storage::{
        StorageError,
        schema::{ALIASES, ANNOTATIONS, EVENT_IDS, EVENTS, TRANSACTIONS},
    },
    users::{limits::Act, session::Session},
};

impl Rooms {
    /// Sends a message event. The same transaction of the same device is answered with the same
    /// event.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if the user may not, [`RoomError::TooLarge`].
    pub(crate) async fn send(
        &self,
        session: &Session,
        room_id: &RoomId,
        event_type: &str,
        transaction: &TransactionId,
        content: CanonicalJsonObject,
    ) -> Result<OwnedEventId, RoomError> {
        if event_type == "m.room.redaction" {
            let target = redacted_by(&content)?;
            return self.redact_with(session, room_id, &target, transaction, content, "send").await;
        }
        let room = self.room(room_id).await?;
        let transaction =
            transaction_of(session, &room, &format!("send/{event_type}"), transaction)?;
        if let Some(event_id) = TRANSACTIONS.get(self.db(), &transaction.key()).await? {
            return Ok(event_id);
        }
        self.allow(session, Act::Send).await?;
        let draft = Draft::message(event_type, content);
        let completing = Completing::Transaction(&transaction);
        let attempt = || self.try_send(session, &room, draft.clone(), completing);
        self.answer_once(&transaction, self.retried(attempt).await).await
    }

    /// Sends a state event.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if the user may not, [`RoomError::BadAlias`],
    /// [`RoomError::RemoteUser`] for an invitation to another server.
    pub(crate) async fn send_state(
        &self,
        session: &Session,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
        content: CanonicalJsonObject,
    ) -> Result<OwnedEventId, RoomError> {
        let room = self.room(room_id).await?;
        self.allow(session, Act::Send).await?;
        self.put_state(session, &room, event_type, state_key, content, Completing::Nothing).await
    }

    /// The same in a room that was found, with what it completes.
    pub(super) async fn put_state(
        &self,
        session: &Session,
        room: &Arc<Room>,
        event_type: &str,
        state_key: &str,
        content: CanonicalJsonObject,
        completing: Completing<'_>,
    ) -> Result<OwnedEventId, RoomError> {
        match event_type {
            "m.room.canonical_alias" => self.check_aliases(room, &content).await?,
            "m.room.member" => {
                self.check_member(session, state_key, &content)?;
                if let Ok(target) = ruma::UserId::parse(state_key) {
                    self.wait_for_member(room, &target).await?;
                }
                let invites = content.get("membership").and_then(|is| is.as_str());
                if let (Some("invite"), Ok(target)) = (invites, ruma::UserId::parse(state_key)) {
                    self.check_invite(&session.user_id, &target).await?;
                }
            }
            _ => {}
        }
        let draft = Draft::state(event_type, state_key, content);
        self.retried(|| self.try_send(session, room, draft.clone(), completing)).await
    }

    /// Redacts an event.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`]; [`RoomError::Forbidden`] if it is somebody else's and the user
    /// has not the power to redact.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#redactions>
    pub(crate) async fn redact(
        &self,
        session: &Session,
        room_id: &RoomId,
        target: &EventId,
        transaction: &TransactionId,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, RoomError> {
        let mut content = CanonicalJsonObject::new();
        if let Some(reason) = reason {
            content.insert("reason".to_owned(), reason.into());
        }
        self.redact_with(session, room_id, target, transaction, content, "redact").await
    }

    async fn redact_with(
        &self,
        session: &Session,
        room_id: &RoomId,
        target: &EventId,
        transaction: &TransactionId,
        content: CanonicalJsonObject,
        kind: &str,
    ) -> Result<OwnedEventId, RoomError> {
        let room = self.room(room_id).await?;
        let transaction = transaction_of(session, &room, &format!("{kind}/{target}"), transaction)?;
        if let Some(event_id) = TRANSACTIONS.get(self.db(), &transaction.key()).await? {
            return Ok(event_id);
        }
        self.allow(session, Act::Send).await?;
        let completing = Completing::Transaction(&transaction);
        let outcome = self.redact_in(session, &room, target, content, completing).await;
        self.answer_once(&transaction, outcome).await
    }

    /// Redacts an event of a room that was found.
    pub(super) async fn redact_in(
        &self,
        session: &Session,
        room: &Arc<Room>,
        target: &EventId,
        mut content: CanonicalJsonObject,
        completing: Completing<'_>,
    ) -> Result<OwnedEventId, RoomError> {
        let mut draft = if room.rules.redaction.content_field_redacts {
            content.extend(object([("redacts", target.as_str().into())]));
            Draft::message("m.room.redaction", content)
        } else {
            content.remove("redacts");
            Draft::message("m.room.redaction", content)
        };
        if !room.rules.redaction.content_field_redacts {
            draft.redacts = Some(target.to_owned());
        }
        self.retried(|| self.try_redact(session, room, target, draft.clone(), completing)).await
    }

    pub(super) async fn try_send(
        &self,
        session: &Session,
        room: &Arc<Room>,
        draft: Draft,
        completing: Completing<'_>,
    ) -> Result<OwnedEventId, RoomError> {
        self.check_relation(room, session.user, &draft).await?;
        let mut writer = self.writer(room).await?;
        relations::require_new_annotation(&mut writer.batch, room, session.user, &draft);
        let time = session.timestamp().unwrap_or_else(|| self.clock().now_ms());
        let (_, event_id) = writer.append_at(Sender::from(session), draft, time).await?;
        completing.note(&mut writer, &event_id);
        writer.commit().await?;
        Ok(event_id)
    }

    async fn try_redact(
        &self,
        session: &Session,
        room: &Arc<Room>,
        target: &EventId,
        draft: Draft,
        completing: Completing<'_>,
    ) -> Result<OwnedEventId, RoomError> {
        let (number, record) = self.stored(room, target).await?;
        let mut writer = self.writer(room).await?;
        if !may_redact(&writer, session, &record) {
            let why = "you may not redact this event".to_owned();
            return Err(RoomError::Forbidden { why });
        }
        let (by, event_id) = writer.append(Sender::from(session), draft).await?;
        completing.note(&mut writer, &event_id);
        writer.redact(number, record, by)?;
        writer.commit().await?;
        Ok(event_id)
    }

    /// An event of a room, whoever may see it.
    pub(super) async fn stored(
        &self,
        room: &Room,
        event: &EventId,
    ) -> Result<(EventNumber, EventRecord), RoomError> {
        let unknown = || RoomError::UnknownEvent { event: event.to_owned() };
        let (in_room, number) = EVENT_IDS.get(self.db(), event).await?.ok_or_else(unknown)?;
        if in_room != room.number {
            return Err(unknown());
        }
        let record = EVENTS.get(self.db(), &(room.number, number)).await?.ok_or_else(unknown)?;
        Ok((number, record))
    }

    /// The event that another request with the same transaction made meanwhile.
    async fn answer_once(
        &self,
        transaction: &Transaction,
        outcome: Result<OwnedEventId, RoomError>,
    ) -> Result<OwnedEventId, RoomError> {
        match outcome {
            Err(RoomError::Storage(StorageError::Precondition { table }))
                if table == TRANSACTIONS.id.name() =>
            {
                TRANSACTIONS
                    .get(self.db(), &transaction.key())
                    .await?
                    .ok_or(RoomError::Corrupt { what: "a transaction without an event" })
            }
            Err(RoomError::Storage(StorageError::Precondition { table }))
                if table == ANNOTATIONS.id.name() =>
            {
                Err(RoomError::DuplicateAnnotation)
            }
            // What was to be redacted has just been removed.
            Err(RoomError::Storage(StorageError::Precondition { table }))
                if table == EVENT_IDS.id.name() =>
            {
                Err(RoomError::EventGone)
            }
            outcome => outcome,
        }
    }

    /// A canonical alias event may newly name only aliases that lead to its room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomcanonical_alias>
    async fn check_aliases(
        &self,
        room: &Room,
        content: &CanonicalJsonObject,
    ) -> Result<(), RoomError> {
        let old = match room.stored_state(self.db(), "m.room.canonical_alias", "").await? {
            Some(event) => named_aliases(&super::event::content(event.content.get())?)?,
            None => Vec::new(),
        };
        for alias in named_aliases(content)? {
            if old.contains(&alias) {
                continue;
            }
            let id = RoomAliasId::parse(alias.as_str())
                .map_err(|_| RoomError::InvalidParam { why: format!("{alias:?} is no alias") })?;
            let leads_here = ALIASES
                .get(self.db(), &*id)
                .await?
                .is_some_and(|record| record.room == room.number);
            if !leads_here {
                return Err(RoomError::BadAlias { alias });
            }
        }
        Ok(())
    }

    /// Member events that clients write themselves keep to what the endpoints allow.
    fn check_member(
        &self,
        session: &Session,
        state_key: &str,
        content: &CanonicalJsonObject,
    ) -> Result<(), RoomError> {
        let membership = content.get("membership").and_then(|value| value.as_str());
        let Ok(target) = ruma::UserId::parse(state_key) else { return Ok(()) };
        if session.guest && (target != session.user_id || membership != Some("join")) {
            return Err(RoomError::GuestAccess);
        }
        if membership.and_then(Membership::named) == Some(Membership::Invite)
            && !self.is_local(&target)
        {
            return Err(RoomError::RemoteUser { user: target });
        }
        Ok(())
    }
}

/// The event that a redaction says it redacts.
pub(super) fn redacted_by(content: &CanonicalJsonObject) -> Result<OwnedEventId, RoomError> {
    let redacts = content.get("redacts").and_then(|redacts| redacts.as_str());
    redacts.and_then(|redacts| EventId::parse(redacts).ok()).ok_or_else(|| RoomError::BadEvent {
        why: "a redaction must say what it redacts".to_owned(),
    })
}

/// One's own events, and others' with the power to.
fn may_redact(writer: &RoomWriter, session: &Session, record: &EventRecord) -> bool {
    if record.sender == session.user {
        return true;
    }
    let powers = writer.powers();
    powers.of(&session.user_id) >= powers.needed(Action::Redact)
}

fn named_aliases(content: &CanonicalJsonObject) -> Result<Vec<String>, RoomError> {
    let bad = || RoomError::InvalidParam { why: "an alias is a string".to_owned() };
    let mut aliases = Vec::new();
    match content.get("alias") {
        None | Some(ruma::CanonicalJsonValue::Null) => {}
        // Some clients take an alias away with an empty one.
        Some(alias) if alias.as_str() == Some("") => {}
        Some(alias) => aliases.push(alias.as_str().ok_or_else(bad)?.to_owned()),
    }
    if let Some(alternatives) = content.get("alt_aliases") {
        for alias in alternatives.as_array().ok_or_else(bad)? {
            aliases.push(alias.as_str().ok_or_else(bad)?.to_owned());
        }
    }
    Ok(aliases)
}

/// What makes a retry of this request the same request.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers>
fn transaction_of(
    session: &Session,
    room: &Room,
    kind: &str,
    id: &TransactionId,
) -> Result<Transaction, RoomError> {
    if id.as_str().len() > MAX_FIELD_BYTES || id.as_str().contains('\0') {
        let why = format!("a transaction ID has at most {MAX_FIELD_BYTES} bytes");
        return Err(RoomError::InvalidParam { why });
    }
    if kind.len() > MAX_FIELD_BYTES + 16 || kind.contains('\0') {
        return Err(RoomError::TooLarge { what: "path", limit: MAX_FIELD_BYTES });
    }
    Ok(Transaction {
        device: (session.user, session.device_id.clone()),
        kind: format!("{}/{kind}", room.number.0),
        id: id.to_owned(),
    })
}
