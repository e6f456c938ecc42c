//! Changing a room's graph: one at a time, each change in one batch.
//!
//! A writer holds the room's lock while it decides, and gives it up when its batch is queued; the
//! next one builds on what was queued. Each batch requires the head that it was built on, so that
//! a change built on one that failed fails too; the room is then loaded again.

use std::sync::{Arc, atomic::Ordering};

use ruma::{
    EventId, OwnedDeviceId, OwnedEventId, OwnedTransactionId, OwnedUserId, UserId,
    events::TimelineEventType,
};
use serde_json::value::RawValue;
use tokio::sync::OwnedMutexGuard;

use super::{
    Rooms,
    auth::{self, AuthEvent, Powers, milliseconds},
    error::RoomError,
    event::{self, Built, Draft, Place},
    record::{EventNumber, EventRecord, Membership, RoomRecord, StateChange, UserRoom},
    room::{Graph, Room},
};
use crate::storage::{
    Batch, Json, StorageError,
    intern::UserNumber,
    schema::{
        CURRENT_STATE, EVENT_IDS, EVENTS, FORWARD_EXTREMITIES, ROOM_HEADS, ROOM_MEMBERS, ROOMS,
        STATE_CHANGES, STATE_HISTORY, TIMELINE, TRANSACTIONS, USER_ROOMS,
    },
};

/// The most `prev_events` of an event.
const MAX_PREV_EVENTS: usize = 20;
/// The deepest an event can claim to be.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#event-format>
const MAX_DEPTH: u64 = (1 << 53) - 1;

/// The (device, kind of request, transaction ID) that an event answers.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// The user and the device.
    pub(crate) device: (UserNumber, OwnedDeviceId),
    /// The endpoint, with what its path names.
    pub(crate) kind: String,
    /// The client's choice.
    pub(crate) id: OwnedTransactionId,
}

impl Transaction {
    /// Its key in the table of transactions.
    pub(crate) fn key(&self) -> (UserNumber, OwnedDeviceId, String, OwnedTransactionId) {
        (self.device.0, self.device.1.clone(), self.kind.clone(), self.id.clone())
    }
}

/// Who sends an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// The user.
    pub(crate) id: &'a UserId,
    /// The same, as tables know it.
    pub(crate) number: UserNumber,
}

/// An event that is part of the change.
struct Added {
    number: EventNumber,
    built: Built,
    draft: Draft,
    sender: UserNumber,
    sender_id: OwnedUserId,
    depth: u64,
    origin_server_ts: u64,
    redacts: Option<OwnedEventId>,
    replaces: Option<EventNumber>,
    member: Option<MemberChange>,
}

/// A member event's effect.
struct MemberChange {
    user: UserNumber,
    is_local: bool,
    old: Option<Membership>,
    new: Membership,
    stripped_state: Box<str>,
}

/// The one who may change a room.
pub(super) struct RoomWriter {
    rooms: Rooms,
    pub(super) room: Arc<Room>,
    graph: OwnedMutexGuard<Graph>,
    /// The head this change builds on.
    head: EventNumber,
    /// What else the change writes.
    pub(super) batch: Batch,
    added: Vec<Added>,
    transaction: Option<Transaction>,
    /// Whether `graph` holds something that was not queued.
    dirty: bool,
}

impl Drop for RoomWriter {
    fn drop(&mut self) {
        // Given up half-way, by an error or because the request was cancelled.
        if self.dirty {
            self.room.failed.store(true, Ordering::Release);
        }
    }
}

impl RoomWriter {
    /// Waits for the room's turn. The room may have failed meanwhile: see [`Rooms::writer`].
    pub(super) async fn new(rooms: &Rooms, room: Arc<Room>) -> Self {
        let mut graph = Arc::clone(&room.graph).lock_owned().await;
        if room.in_flight.load(Ordering::Acquire) == 0 {
            graph.trim();
        }
        Self {
            rooms: rooms.clone(),
            head: graph.next,
            room,
            graph,
            batch: Batch::new(),
            added: Vec::new(),
            transaction: None,
            dirty: false,
        }
    }

    /// The change is made only if no other answered this transaction.
    pub(super) fn require_new(&mut self, transaction: Transaction) {
        self.transaction = Some(transaction);
    }

    /// The current state event with this type and state key, queued changes and those of this
    /// writer included.
    pub(super) async fn state(
        &mut self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<AuthEvent>>, RoomError> {
        let room = Arc::clone(&self.room);
        self.graph.state(self.rooms.db(), &room, event_type, state_key).await
    }

    /// The membership of `user`; none if no member event speaks of them.
    pub(super) async fn membership(
        &mut self,
        user: &UserId,
    ) -> Result<Option<Membership>, RoomError> {
        Ok(self.state("m.room.member", user.as_str()).await?.and_then(|event| event.membership()))
    }

    /// Who may do what.
    pub(super) async fn powers(&mut self) -> Result<Powers, RoomError> {
        let create = self
            .state("m.room.create", "")
            .await?
            .ok_or(RoomError::Corrupt { what: "a room without a create event" })?;
        let levels = self.state("m.room.power_levels", "").await?;
        Ok(Powers::new(create, levels, &self.room.rules))
    }

    /// Adds an event after the last one: builds, checks, signs it.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] with the authorization rule that it fails.
    pub(super) async fn append(
        &mut self,
        sender: Sender<'_>,
        draft: Draft,
    ) -> Result<(EventNumber, OwnedEventId), RoomError> {
        let now = self.rooms.clock().now_ms();
        self.append_at(sender, draft, now).await
    }

    /// The same, with the time that the event claims.
    pub(super) async fn append_at(
        &mut self,
        sender: Sender<'_>,
        draft: Draft,
        origin_server_ts: u64,
    ) -> Result<(EventNumber, OwnedEventId), RoomError> {
        let room = Arc::clone(&self.room);
        let content = RawValue::from_string(event::json(&draft.content))
            .map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
        let event_type = TimelineEventType::from(draft.event_type.as_str());
        let state_key = draft.state_key.as_deref();
        let is_create = draft.event_type == "m.room.create";

        let selection = auth::selection(&event_type, sender.id, state_key, &content, &room.rules)?;
        let mut auth_events = Vec::with_capacity(selection.len());
        for (auth_type, auth_key) in &selection {
            if let Some(found) = self.state(auth_type, auth_key).await? {
                auth_events.push(found.event_id.clone());
            }
        }
        if !is_create {
            // The rules look at it even where events do not refer to it.
            self.state("m.room.create", "").await?;
        }
        let (prev_events, kept) = prev_events(&self.graph.extremities);
        let depth = (self.graph.depth + 1).min(MAX_DEPTH);
        let named_after_it = is_create && room.rules.authorization.room_create_event_id_as_room_id;
        let place = Place {
            room_id: (!named_after_it).then_some(&*room.id),
            sender: sender.id,
            origin_server_ts,
            depth,
            prev_events: &prev_events,
            auth_events: &auth_events,
        };
        let built = event::build(&draft, &content, place, self.rooms.key(), &room.rules)?;
        let number = self.graph.next;
        let auth_event = AuthEvent {
            number,
            event_id: built.event_id.clone(),
            room_id: (!named_after_it).then(|| room.id.clone()),
            sender: sender.id.to_owned(),
            origin_server_ts: milliseconds(origin_server_ts),
            event_type,
            state_key: draft.state_key.clone(),
            content,
            prev_events,
            auth_events,
            rejected: false,
        };
        auth::check(&auth_event, &room.rules, |event_type, state_key| {
            self.graph.known_state(event_type, state_key)
        })?;

        let replaced = match &draft.state_key {
            Some(state_key) => self.state(&draft.event_type, state_key).await?,
            None => None,
        };
        let member = self.member_change(&auth_event, replaced.as_deref()).await?;
        let redacts = redacted_by(&draft, &room);

        self.dirty = true;
        self.graph.next = EventNumber(number.0 + 1);
        self.graph.depth = depth;
        let event_id = built.event_id.clone();
        for (tip, _) in &self.graph.extremities {
            if !kept.contains(tip) {
                FORWARD_EXTREMITIES.delete(&mut self.batch, &(room.number, *tip));
            }
        }
        self.graph.extremities.retain(|(tip, _)| kept.contains(tip));
        self.graph.extremities.push((number, event_id.clone()));
        FORWARD_EXTREMITIES.put(&mut self.batch, &(room.number, number), &());
        if draft.state_key.is_some() {
            self.graph.set_state(Arc::new(AuthEvent {
                prev_events: Vec::new(),
                auth_events: Vec::new(),
                ..auth_event
            }));
        }
        self.added.push(Added {
            number,
            built,
            draft,
            sender: sender.number,
            sender_id: sender.id.to_owned(),
            depth,
            origin_server_ts,
            redacts,
            replaces: replaced.map(|event| event.number),
            member,
        });
        Ok((number, event_id))
    }

    /// Replaces a stored event by its redacted form.
    ///
    /// # Errors
    /// [`RoomError::Corrupt`] if what is stored is no event.
    pub(super) fn redact(
        &mut self,
        target: EventNumber,
        record: EventRecord,
        by: EventNumber,
    ) -> Result<(), RoomError> {
        super::indexes::redacted(&mut self.batch, self.room.number, &record);
        let redacted = super::redaction::redacted(record, by, &self.room.rules)?;
        if redacted.is_state() {
            let event = AuthEvent::stored(target, &self.room.id, &redacted, &self.room.rules)?;
            self.graph.replace_content(event);
        }
        EVENTS.put(&mut self.batch, &(self.room.number, target), &redacted);
        Ok(())
    }

    async fn member_change(
        &mut self,
        event: &AuthEvent,
        replaced: Option<&AuthEvent>,
    ) -> Result<Option<MemberChange>, RoomError> {
        if event.event_type != TimelineEventType::RoomMember {
            return Ok(None);
        }
        let Some(new) = event.membership() else { return Ok(None) };
        let user_id = event.state_key.as_deref().and_then(|key| UserId::parse(key).ok());
        // The rules let no event pass whose state key is no user ID.
        let Some(user_id) = user_id else { return Ok(None) };
        let user = self.rooms.db().users().intern(self.rooms.db(), &*user_id).await?;
        let stripped_state = if matches!(new, Membership::Invite | Membership::Knock) {
            self.stripped_state(event).await?
        } else {
            "".into()
        };
        Ok(Some(MemberChange {
            user,
            is_local: user_id.server_name() == self.rooms.server_name(),
            old: replaced.and_then(AuthEvent::membership),
            new,
            stripped_state,
        }))
    }

    /// What somebody who is not in the room may know of it: an array of stripped state events.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
    async fn stripped_state(&mut self, member: &AuthEvent) -> Result<Box<str>, RoomError> {
        const SHOWN: [&str; 8] = [
            "m.room.create",
            "m.room.name",
            "m.room.avatar",
            "m.room.topic",
            "m.room.join_rules",
            "m.room.canonical_alias",
            "m.room.encryption",
            "m.room.history_visibility",
        ];
        let mut out = "[".to_owned();
        for event_type in SHOWN {
            if let Some(event) = self.state(event_type, "").await? {
                push_stripped(&mut out, &event);
            }
        }
        if member.state_key.as_deref() != Some(member.sender.as_str())
            && let Some(inviter) = self.state("m.room.member", member.sender.as_str()).await?
        {
            push_stripped(&mut out, &inviter);
        }
        push_stripped(&mut out, member);
        out.push(']');
        Ok(out.into())
    }

    /// Queues the change, gives the room to the next writer, and waits until it is on disk.
    ///
    /// # Errors
    /// [`RoomError::Storage`] with a failed precondition if the transaction is answered already, or
    /// if a change that this one builds on failed.
    pub(super) async fn commit(mut self) -> Result<(), RoomError> {
        let rooms = self.rooms.clone();
        let db = rooms.db();
        let room = Arc::clone(&self.room);
        let mut positions = Vec::with_capacity(self.added.len());
        for _ in &self.added {
            positions.push(db.position().await?);
        }
        // Nothing waits from here on until the batch is queued.
        let mut affected = Vec::new();
        let mut last_position = 0;
        let transaction = self.transaction.take();
        for (added, position) in std::mem::take(&mut self.added).into_iter().zip(positions) {
            last_position = position.value();
            affected.extend(added.member.as_ref().map(|member| member.user));
            self.write(added, position.value(), transaction.as_ref());
            self.batch.hold(position);
        }
        if self.head.0 == 1 {
            ROOM_HEADS.require_absent(&mut self.batch, &room.number);
            let record = RoomRecord { version: room.version.clone(), create: 1 };
            ROOMS.put(&mut self.batch, &room.number, &Json(record));
        } else {
            ROOM_HEADS.require_equals(&mut self.batch, &room.number, &self.head);
        }
        ROOM_HEADS.put(&mut self.batch, &room.number, &self.graph.next);
        self.batch.wake(room.local_members().iter().copied());
        self.batch.wake(affected);
        // Readers must not find the position visible and the room unchanged.
        rooms.note_last_position(room.number, last_position);
        room.in_flight.fetch_add(1, Ordering::AcqRel);
        let pending = db.enqueue(std::mem::take(&mut self.batch));
        self.dirty = false;
        drop(self);

        // In a task of its own: the outcome is noted even if nobody waits for the answer any more.
        let outcome = tokio::spawn(async move {
            let outcome = pending.await;
            if outcome.is_err() {
                room.failed.store(true, Ordering::Release);
            }
            room.in_flight.fetch_sub(1, Ordering::AcqRel);
            outcome
        });
        let outcome =
            outcome.await.map_err(|error| StorageError::Engine { source: Arc::new(error) });
        Ok(outcome??)
    }

    /// The rows of one event.
    fn write(&mut self, added: Added, position: u64, transaction: Option<&Transaction>) {
        let room = self.room.number;
        let batch = &mut self.batch;
        let number = added.number;
        EVENT_IDS.put(batch, &added.built.event_id, &(room, number));
        // A position is below 2⁶³: one is handed out at a time.
        TIMELINE.put(batch, &(room, i64::try_from(position).unwrap_or(i64::MAX)), &number);
        if let Some(transaction) = transaction {
            TRANSACTIONS.require_absent(batch, &transaction.key());
            TRANSACTIONS.put(batch, &transaction.key(), &added.built.event_id);
        }
        if let Some(state_key) = &added.draft.state_key {
            let event_type = added.draft.event_type.as_str();
            CURRENT_STATE.put(batch, &(room, event_type, state_key.as_str()), &number);
            STATE_HISTORY.put(batch, &(room, event_type, state_key.as_str(), position), &number);
            let change = StateChange { event: number, replaces: added.replaces };
            STATE_CHANGES.put(batch, &(room, position), &change);
        }
        if let Some(member) = added.member {
            if let Some(old) = member.old.filter(|old| *old != member.new) {
                ROOM_MEMBERS.delete(batch, &(room, old, member.user));
            }
            ROOM_MEMBERS.put(batch, &(room, member.new, member.user), &number);
            let user_room = UserRoom {
                membership: member.new,
                event: number,
                position,
                forgotten: false,
                was_joined: member.old == Some(Membership::Join),
                stripped_state: member.stripped_state,
            };
            USER_ROOMS.put(batch, &(member.user, room), &user_room);
            if member.is_local {
                self.room.set_local_member(member.user, member.new == Membership::Join);
            }
        }
        let record = EventRecord {
            event_id: added.built.event_id,
            sender: added.sender,
            sender_id: added.sender_id,
            event_type: added.draft.event_type,
            state_key: added.draft.state_key,
            depth: added.depth,
            origin_server_ts: added.origin_server_ts,
            position,
            rejected: false,
            soft_failed: false,
            outlier: false,
            redacted_by: None,
            redacts: added.redacts,
            replaces: added.replaces,
            transaction: transaction.map(|t| (t.device.1.clone(), t.id.clone())),
            content_at: added.built.content_at,
            json: added.built.json,
        };
        let key = i64::try_from(position).unwrap_or(i64::MAX);
        super::indexes::added(&mut self.batch, room, key, number, &record);
        EVENTS.put(&mut self.batch, &(room, number), &record);
    }
}

/// The newest extremities, as many as an event may refer to, and the event numbers of the others.
fn prev_events(
    extremities: &[(EventNumber, OwnedEventId)],
) -> (Vec<OwnedEventId>, Vec<EventNumber>) {
    let mut newest_first: Vec<_> = extremities.iter().collect();
    newest_first.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let (taken, kept) = newest_first.split_at(newest_first.len().min(MAX_PREV_EVENTS));
    (
        taken.iter().map(|(_, id)| id.clone()).collect(),
        kept.iter().map(|(number, _)| *number).collect(),
    )
}

/// The event that a redaction redacts, from where the room version keeps it.
fn redacted_by(draft: &Draft, room: &Room) -> Option<OwnedEventId> {
    if draft.event_type != "m.room.redaction" {
        return None;
    }
    if room.rules.redaction.content_field_redacts {
        let redacts = draft.content.get("redacts")?.as_str()?;
        EventId::parse(redacts).ok()
    } else {
        draft.redacts.clone()
    }
}

fn push_stripped(out: &mut String, event: &AuthEvent) {
    if out.len() > 1 {
        out.push(',');
    }
    out.push_str("{\"content\":");
    out.push_str(event.content.get());
    out.push_str(",\"sender\":");
    event::push_text(out, event.sender.as_str());
    out.push_str(",\"state_key\":");
    event::push_text(out, event.state_key.as_deref().unwrap_or_default());
    out.push_str(",\"type\":");
    event::push_text(out, &event.event_type.to_string());
    out.push('}');
}
