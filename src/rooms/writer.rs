//! Changing a room's graph: one at a time, each change in one batch.
//!
//! A writer holds the room's lock while it decides, and gives it up when its batch is queued; the
//! next one builds on what was queued. Each batch requires the head that it was built on, so that
//! a change built on one that failed fails too; the room is then loaded again.

use std::sync::{Arc, atomic::Ordering};

use parking_lot::RwLock;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedDeviceId, OwnedEventId, OwnedServerName,
    OwnedTransactionId, UserId, room_version_rules::EventIdFormatVersion,
    signatures::reference_hash,
};
use serde_json::value::RawValue;
use state_resolution::EventIx;
use tokio::sync::{OwnedMappedMutexGuard, OwnedMutexGuard};

use super::{
    Rooms,
    auth::{Message, Powers, Table, forbidden},
    auth_record::{AuthRecord, EventState, SnapshotNumber, relevant_content},
    create::object,
    error::RoomError,
    event::{self, Draft, Place, Reference},
    ingest::{Known, Verdict},
    record::{EventNumber, EventRecord, Membership},
    room::{Extremity, Graph, Room, StateEvent},
    state::{Ledger, State, differences},
};
use crate::storage::{
    Batch,
    intern::UserNumber,
    schema::{
        AUTH_EVENTS, CURRENT_STATE, EVENT_STATES, EVENTS, FORWARD_EXTREMITIES, ROOM_SERVERS,
        STATE_HASHES,
    },
};

/// The most `prev_events` of an event.
const MAX_PREV_EVENTS: usize = 20;
/// The most forward extremities that are kept.
const MAX_EXTREMITIES: usize = 100;
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

/// Where an event of a change goes in the timeline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shown {
    /// At the end, at a stream position of its own.
    Live,
    /// Before everything that is there, at this key.
    Backfilled(i64),
    /// Nowhere: rejected, soft-failed, or an outlier.
    Nowhere,
}

/// An event that is part of the change.
pub(super) struct Added {
    pub(super) number: EventNumber,
    /// All of it but the position.
    pub(super) record: EventRecord,
    pub(super) shown: Shown,
    /// The current state, if it is another one from here on.
    pub(super) current: Option<SnapshotNumber>,
    pub(super) members: Vec<MemberChange>,
    /// Other servers are to get it.
    pub(super) outbox: bool,
}

/// A change of somebody's membership in the current state.
pub(super) struct MemberChange {
    pub(super) user: UserNumber,
    pub(super) is_local: bool,
    pub(super) old: Option<Membership>,
    /// None: no member event speaks of the user any more.
    pub(super) new: Option<Membership>,
    /// The member event.
    pub(super) event: EventNumber,
    pub(super) stripped_state: Box<str>,
}

/// The one who may change a room.
pub(super) struct RoomWriter {
    pub(super) rooms: Rooms,
    pub(super) room: Arc<Room>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) table: Arc<RwLock<Table>>,
    pub(super) graph: OwnedMappedMutexGuard<Option<Graph>, Graph>,
    /// The head this change builds on.
    pub(super) head: EventNumber,
    /// What else the change writes.
    pub(super) batch: Batch,
    pub(super) added: Vec<Added>,
    /// Snapshots that the change writes.
    pub(super) snapshots: Vec<SnapshotNumber>,
    pub(super) transaction: Option<Transaction>,
    /// The change begins the room here: it is there once this is committed.
    pub(super) founding: bool,
    /// This server comes into the room by the change: what it knew of it before is outdated.
    pub(super) joining: bool,
    /// Whether `graph` holds something that was not queued.
    pub(super) dirty: bool,
}

impl Drop for RoomWriter {
    fn drop(&mut self) {
        // Given up half-way, by an error or because the request was cancelled.
        if self.dirty {
            self.room.failed.store(true, Ordering::Release);
        }
    }
}

const CORRUPT: RoomError = RoomError::Corrupt { what: "the graph of a room" };

impl RoomWriter {
    /// Waits for the room's turn. The room may have failed meanwhile: see [`Rooms::writer`].
    pub(super) async fn new(rooms: &Rooms, room: Arc<Room>) -> Result<Self, RoomError> {
        let mut guard = Arc::clone(&room.graph).lock_owned().await;
        if guard.is_none() {
            *guard = Some(Graph::load(rooms, &room).await?);
        }
        let mut graph = OwnedMutexGuard::map(guard, |graph| graph.get_or_insert_with(Graph::empty));
        if room.in_flight.load(Ordering::Acquire) == 0 {
            graph.trim();
        }
        let ledger = Arc::clone(room.ledger(rooms.db()).await?);
        Ok(Self {
            rooms: rooms.clone(),
            head: graph.next,
            room,
            table: Arc::clone(&ledger.table),
            ledger,
            graph,
            batch: Batch::new(),
            added: Vec::new(),
            snapshots: Vec::new(),
            transaction: None,
            founding: false,
            joining: false,
            dirty: false,
        })
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
    ) -> Result<Option<Arc<StateEvent>>, RoomError> {
        let number = {
            let table = self.table.read();
            let found = table.find(&self.graph.current.map, event_type, state_key);
            found.map(|event| table.number(event))
        };
        match number {
            Some(number) => Ok(Some(self.state_event(number).await?)),
            None => Ok(None),
        }
    }

    async fn state_event(&mut self, number: EventNumber) -> Result<Arc<StateEvent>, RoomError> {
        if let Some(known) = self.graph.events.get(&number) {
            return Ok(Arc::clone(known));
        }
        let record =
            EVENTS.get(self.rooms.db(), &(self.room.number, number)).await?.ok_or(CORRUPT)?;
        let event = Arc::new(StateEvent::stored(&record)?);
        self.graph.events.insert(number, Arc::clone(&event));
        Ok(event)
    }

    /// The membership of `user`; none if no member event speaks of them.
    pub(super) fn membership(&self, user: &UserId) -> Option<Membership> {
        let table = self.table.read();
        let event = table.find(&self.graph.current.map, "m.room.member", user.as_str())?;
        table.membership(event)
    }

    /// Who may do what.
    pub(super) fn powers(&self) -> Powers {
        Powers::new(Arc::clone(&self.table), self.graph.current.map.clone())
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
    #[expect(clippy::too_many_lines, reason = "one event's way, step by step")]
    pub(super) async fn append_at(
        &mut self,
        sender: Sender<'_>,
        draft: Draft,
        origin_server_ts: u64,
    ) -> Result<(EventNumber, OwnedEventId), RoomError> {
        let room = Arc::clone(&self.room);
        let content = RawValue::from_string(event::json(&draft.content))
            .map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
        let state_key = draft.state_key.as_deref();
        let is_create = draft.event_type == "m.room.create";
        if self.graph.next.0 == 1 {
            self.write_root().await?;
        }
        let parents = newest(&self.graph.extremities);
        let before = self.state_after(&parents).await?;
        let relevant = relevant_content(&draft.event_type, content.get());
        let chosen_id =
            event::chosen_id(&room.rules, &self.rooms.shared.random, self.rooms.server_name());
        let (auth, visibility) = {
            let table = self.table.read();
            let auth = table.auth_events_for(
                &draft.event_type,
                state_key,
                sender.id,
                &relevant,
                &before.map,
            );
            if state_key.is_none() {
                let message = Message {
                    event_id: chosen_id.as_ref().map_or("", |id| id.as_str()),
                    room_id: &room.id,
                    event_type: &draft.event_type,
                    sender: sender.id,
                    redacts: draft.redacts.as_ref().map(|id| id.as_str()),
                };
                table.check_message(message, &before.map).map_err(|why| forbidden(&why))?;
            }
            let auth: Vec<(EventIx, OwnedEventId)> = auth
                .into_iter()
                .map(|at| Ok((at, table.room().event_id(at).try_into().map_err(|_| CORRUPT)?)))
                .collect::<Result<_, RoomError>>()?;
            (auth, table.history_visibility(&before.map))
        };
        let prev_events: Vec<OwnedEventId> =
            parents.iter().map(|parent| parent.event_id.clone()).collect();
        let auth_ids = auth.iter().map(|(_, id)| id.clone()).collect();
        let (prev_events, auth_events) =
            (self.references(prev_events).await?, self.references(auth_ids).await?);
        let deepest = parents.iter().map(|parent| parent.depth).max().unwrap_or(0);
        let depth = (deepest + 1).min(MAX_DEPTH);
        let named_after_it = is_create && room.rules.authorization.room_create_event_id_as_room_id;
        let place = Place {
            event_id: chosen_id.as_deref(),
            room_id: (!named_after_it).then_some(&*room.id),
            sender: sender.id,
            origin_server_ts,
            depth,
            prev_events: &prev_events,
            auth_events: &auth_events,
        };
        let built = event::build(&draft, &content, place, self.rooms.key(), &room.rules)?;
        let number = self.graph.next;
        let mut record = EventRecord {
            event_id: built.event_id,
            sender: sender.number,
            sender_id: sender.id.to_owned(),
            redacts: redacted_by(&draft, &room),
            event_type: draft.event_type,
            state_key: draft.state_key,
            depth,
            origin_server_ts,
            position: 0,
            backfill_key: 0,
            visibility,
            rejected: false,
            soft_failed: false,
            outlier: false,
            redacted_by: None,
            replaces: None,
            transaction: None,
            content_at: built.content_at,
            json: built.json,
        };
        let mut after = before.clone();
        if let Some(state_key) = record.state_key.clone() {
            let auth_record = AuthRecord {
                number,
                event_id: record.event_id.clone(),
                event_type: record.event_type.clone(),
                state_key: Some(state_key),
                sender: sender.id.to_string(),
                origin_server_ts,
                depth,
                auth: auth.iter().map(|(at, _)| at.get()).collect(),
                rejected: false,
                follows_create: matches!(&parents[..], [parent] if self.is_create(parent.number)),
                has_parents: !parents.is_empty(),
                content: relevant,
            };
            let at = self.admit_state(&auth_record, &before)?;
            AUTH_EVENTS.put(&mut self.batch, &(room.number, at.get()), &auth_record);
            record.replaces = self.replaced(at, &before);
            after = self.state_with(at, &before).await?;
            let event = Arc::new(StateEvent::stored(&record)?);
            self.graph.events.insert(number, event);
        }
        self.dirty = true;
        self.graph.next = EventNumber(number.0 + 1);
        self.note_states(number, &before, &after);
        let event_id = record.event_id.clone();
        let had_others = self.has_others();
        let tip = Extremity { number, event_id: event_id.clone(), depth, after };
        let removed: Vec<EventNumber> = parents.iter().map(|parent| parent.number).collect();
        let known = Known {
            number,
            verdict: Verdict::Accepted,
            after: Some(tip.after.clone()),
            prev_events: None,
        };
        self.ledger.note_recent(event_id.clone(), known);
        let (current, members) = self.extend(Some(tip), &removed).await?;
        let outbox = had_others || self.has_others() || members.iter().any(|one| !one.is_local);
        let shown = Shown::Live;
        self.added.push(Added { number, record, shown, current, members, outbox });
        Ok((number, event_id))
    }

    /// Adds a state event to the table if the rules let it be sent in `before`.
    fn admit_state(&mut self, record: &AuthRecord, before: &State) -> Result<EventIx, RoomError> {
        let mut table = self.table.write();
        // There is no place for a second create event.
        let at =
            table.insert(record).map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
        let verdict =
            table.room().check_state_independent(at).and_then(|()| table.check(at, &before.map));
        if let Err(why) = verdict {
            table.retract(at);
            return Err(forbidden(&why));
        }
        drop(table);
        // From here on it must be written.
        self.dirty = true;
        Ok(at)
    }

    /// The event that holds the key of the event `at` in `state`.
    pub(super) fn replaced(&self, at: EventIx, state: &State) -> Option<EventNumber> {
        let table = self.table.read();
        let replaced = state.map.get(table.room().key_of(at)?)?;
        Some(table.number(replaced))
    }

    /// The state after the state event `at` that is sent in `before`, written down.
    pub(super) async fn state_with(
        &mut self,
        at: EventIx,
        before: &State,
    ) -> Result<State, RoomError> {
        let key = self.table.read().room().key_of(at).ok_or(CORRUPT)?;
        let mut map = before.map.clone();
        map.insert(key, at);
        self.new_state(before, map, &[(key, Some(at))]).await
    }

    /// Writes down a state that comes after another by some changes.
    pub(super) async fn new_state(
        &mut self,
        before: &State,
        map: state_resolution::StateMap,
        changes: &[state_resolution::snapshot::Change],
    ) -> Result<State, RoomError> {
        let id = self.graph.next_snapshot;
        self.dirty = true;
        self.graph.next_snapshot = SnapshotNumber(id.0 + 1);
        self.snapshots.push(id);
        let state = State { id, map };
        let (rooms, room) = (self.rooms.clone(), Arc::clone(&self.room));
        rooms.write_snapshot(&room, &mut self.batch, Some(before.id), changes, &state).await?;
        Ok(state)
    }

    /// Writes down the state that every room begins with.
    pub(super) async fn write_root(&mut self) -> Result<(), RoomError> {
        let first = State::empty();
        self.dirty = true;
        self.snapshots.push(first.id);
        let (rooms, room) = (self.rooms.clone(), Arc::clone(&self.room));
        rooms.write_snapshot(&room, &mut self.batch, None, &[], &first).await
    }

    /// Notes the states around an event, unless they follow from those of the one before it.
    pub(super) fn note_states(&mut self, number: EventNumber, before: &State, after: &State) {
        if before.id == self.graph.pointer && after.id == self.graph.pointer {
            return;
        }
        let states = EventState { before: before.id, after: after.id };
        EVENT_STATES.put(&mut self.batch, &(self.room.number, number), &states);
        self.graph.pointer = after.id;
    }

    /// The same for an event that was an outlier, whose number is older than the last.
    pub(super) fn rewrite_states(&mut self, number: EventNumber, before: &State, after: &State) {
        let states = EventState { before: before.id, after: after.id };
        EVENT_STATES.put(&mut self.batch, &(self.room.number, number), &states);
    }

    fn is_create(&self, number: EventNumber) -> bool {
        let table = self.table.read();
        table.room().create_event().is_some_and(|create| table.number(create) == number)
    }

    /// Whether there are members on other servers.
    fn has_others(&self) -> bool {
        let servers = self.room.servers.read();
        servers.keys().any(|server| server != self.rooms.server_name())
    }

    /// The state that several events lead to together.
    async fn state_after(&mut self, parents: &[Extremity]) -> Result<State, RoomError> {
        if parents.len() == self.graph.extremities.len() {
            return Ok(self.graph.current.clone());
        }
        let states: Vec<State> = parents.iter().map(|parent| parent.after.clone()).collect();
        self.resolve(states).await
    }

    /// One state out of several.
    pub(super) async fn resolve(&mut self, mut states: Vec<State>) -> Result<State, RoomError> {
        states.sort_by_key(|state| state.id);
        states.dedup_by_key(|state| state.id);
        if states.len() <= 1 {
            return Ok(states.pop().unwrap_or_else(State::empty));
        }
        let ids: Vec<SnapshotNumber> = states.iter().map(|state| state.id).collect();
        if let Some((_, known)) = self.graph.resolved.as_ref().filter(|(known, _)| *known == ids) {
            return Ok(known.clone());
        }
        let resolved = {
            let maps: Vec<_> = states.iter().map(|state| &state.map).collect();
            let table = self.table.read();
            let graph = &mut *self.graph;
            let room = table.room();
            room.resolve_cached(&maps, &mut graph.scratch, &mut graph.conflicts)
                .map_err(|_| CORRUPT)?
        };
        let state = if let Some(same) = states.iter().find(|one| one.map == resolved.state) {
            same.clone()
        } else {
            let closest = states.get(resolved.closest).ok_or(CORRUPT)?;
            self.resolved_state(closest, resolved.state).await?
        };
        self.graph.resolved = Some((ids, state.clone()));
        Ok(state)
    }

    /// A state that resolution led to, as it was written down before or now.
    async fn resolved_state(
        &mut self,
        closest: &State,
        map: state_resolution::StateMap,
    ) -> Result<State, RoomError> {
        let hash = self.rooms.fingerprint(&map).await?;
        if let Some(id) = self.rooms.known_snapshot(&self.room, hash, &map).await? {
            return Ok(State { id, map });
        }
        let changes: Vec<_> =
            differences(&closest.map, &map).into_iter().map(|(key, _, new)| (key, new)).collect();
        let state = self.new_state(closest, map, &changes).await?;
        STATE_HASHES.put(&mut self.batch, &(self.room.number, hash), &state.id);
        Ok(state)
    }

    /// Puts an accepted event at the end of the graph in place of others, or just takes those away. The current state, if it
    /// is another one now, and whose memberships changed by it.
    pub(super) async fn extend(
        &mut self,
        tip: Option<Extremity>,
        removed: &[EventNumber],
    ) -> Result<(Option<SnapshotNumber>, Vec<MemberChange>), RoomError> {
        let room = self.room.number;
        self.dirty = true;
        self.graph.extremities.retain(|old| {
            let keep = !removed.contains(&old.number);
            if !keep {
                FORWARD_EXTREMITIES.delete(&mut self.batch, &(room, old.number));
            }
            keep
        });
        if let Some(tip) = tip {
            FORWARD_EXTREMITIES.put(&mut self.batch, &(room, tip.number), &());
            self.graph.extremities.push(tip);
        }
        self.cap_extremities();
        let states: Vec<State> =
            self.graph.extremities.iter().map(|tip| tip.after.clone()).collect();
        let current = self.resolve(states).await?;
        if current.id == self.graph.current.id {
            return Ok((None, Vec::new()));
        }
        let id = current.id;
        Ok((Some(id), self.change_current(current).await?))
    }

    /// Keeps the number of ends bounded: those go first that have a state in common with another,
    /// then the oldest.
    fn cap_extremities(&mut self) {
        while self.graph.extremities.len() > MAX_EXTREMITIES {
            let tips = &self.graph.extremities;
            let has_twin = |at: &usize| {
                let id = tips.get(*at).map(|tip| tip.after.id);
                tips.iter().filter(|tip| Some(tip.after.id) == id).count() > 1
            };
            let at = (0..tips.len() - 1).find(has_twin).unwrap_or(0);
            let gone = self.graph.extremities.remove(at);
            FORWARD_EXTREMITIES.delete(&mut self.batch, &(self.room.number, gone.number));
        }
    }

    /// Makes another state the current one, with all that is indexed by it.
    async fn change_current(&mut self, new: State) -> Result<Vec<MemberChange>, RoomError> {
        struct Changed {
            event_type: String,
            state_key: String,
            old: Option<Membership>,
            new: Option<(EventNumber, Option<Membership>)>,
        }
        let room = self.room.number;
        let changed: Vec<Changed> = {
            let table = self.table.read();
            differences(&self.graph.current.map, &new.map)
                .into_iter()
                .map(|(key, old, new)| {
                    let (event_type, state_key) = table.room().key_name(key);
                    Changed {
                        event_type: event_type.to_owned(),
                        state_key: state_key.to_owned(),
                        old: old.and_then(|old| table.membership(old)),
                        new: new.map(|new| (table.number(new), table.membership(new))),
                    }
                })
                .collect()
        };
        self.graph.current = new;
        let mut members = Vec::new();
        for Changed { event_type, state_key, old, new } in changed {
            let key = (room, event_type.as_str(), state_key.as_str());
            match new {
                Some((number, _)) => CURRENT_STATE.put(&mut self.batch, &key, &number),
                None => CURRENT_STATE.delete(&mut self.batch, &key),
            }
            if event_type == "m.room.member"
                && let Ok(user) = UserId::parse(&state_key)
            {
                members.extend(self.member_change(&user, old, new).await?);
            }
        }
        Ok(members)
    }

    async fn member_change(
        &mut self,
        user_id: &UserId,
        old: Option<Membership>,
        new: Option<(EventNumber, Option<Membership>)>,
    ) -> Result<Option<MemberChange>, RoomError> {
        let (event, new) = new.unwrap_or((EventNumber(0), None));
        if old.is_none() && new.is_none() {
            return Ok(None);
        }
        let is_local = self.rooms.is_local(user_id);
        let user = self.rooms.db().users().intern(self.rooms.db(), user_id).await?;
        let outside = matches!(new, Some(Membership::Invite | Membership::Knock));
        let stripped_state = if outside { self.stripped_state(event).await? } else { "".into() };
        let joined = |membership| u64::from(membership == Some(Membership::Join));
        if joined(old) != joined(new) {
            self.count_member(user_id.server_name().to_owned(), new == Some(Membership::Join));
        }
        Ok(Some(MemberChange { user, is_local, old, new, event, stripped_state }))
    }

    fn count_member(&mut self, server: OwnedServerName, joined: bool) {
        let mut servers = self.room.servers.write();
        let count = servers.get(&server).copied().unwrap_or(0);
        let count = if joined { count + 1 } else { count.saturating_sub(1) };
        let key = (self.room.number, &*server);
        if count == 0 {
            ROOM_SERVERS.delete(&mut self.batch, &key);
            servers.remove(&server);
        } else {
            ROOM_SERVERS.put(&mut self.batch, &key, &count);
            servers.insert(server, count);
        }
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
            let event = StateEvent::stored(&redacted)?;
            self.graph.events.insert(target, Arc::new(event));
        }
        EVENTS.put(&mut self.batch, &(self.room.number, target), &redacted);
        Ok(())
    }

    /// What somebody who is not in the room may know of it: an array of stripped state events.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
    async fn stripped_state(&mut self, member: EventNumber) -> Result<Box<str>, RoomError> {
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
        let member = self.state_event(member).await?;
        let mut out = "[".to_owned();
        for event_type in SHOWN {
            if let Some(event) = self.state(event_type, "").await? {
                push_stripped(&mut out, &event);
            }
        }
        if member.state_key != member.sender.as_str()
            && let Some(inviter) = self.state("m.room.member", member.sender.as_str()).await?
        {
            push_stripped(&mut out, &inviter);
        }
        push_stripped(&mut out, &member);
        out.push(']');
        Ok(out.into())
    }

    /// A member event of `user` about `target` that is neither hashed nor signed, if the rules
    /// allow it. Nothing is added.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] with the authorization rule that it fails.
    pub(super) async fn template(
        &mut self,
        user: &UserId,
        target: &UserId,
        content: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let room = Arc::clone(&self.room);
        let parents = newest(&self.graph.extremities);
        let before = self.state_after(&parents).await?;
        let relevant = relevant_content("m.room.member", &event::json(&content));
        let depth =
            (parents.iter().map(|parent| parent.depth).max().unwrap_or(0) + 1).min(MAX_DEPTH);
        let now = self.rooms.clock().now_ms();
        let auth: Vec<OwnedEventId> = {
            let mut table = self.table.write();
            let key = target.as_str();
            let auth =
                table.auth_events_for("m.room.member", Some(key), user, &relevant, &before.map);
            let follows_create = matches!(&parents[..], [parent] if table
                .room()
                .create_event()
                .is_some_and(|create| table.number(create) == parent.number));
            let draft = AuthRecord {
                number: EventNumber(0),
                event_id: EventId::parse("$draft").map_err(|_| CORRUPT)?,
                event_type: "m.room.member".to_owned(),
                state_key: Some(key.to_owned()),
                sender: user.to_string(),
                origin_server_ts: now,
                depth,
                auth: auth.iter().map(|at| at.get()).collect(),
                rejected: false,
                follows_create,
                has_parents: true,
                content: relevant,
            };
            let at = table.insert(&draft).map_err(|_| CORRUPT)?;
            let verdict = table
                .room()
                .check_state_independent(at)
                .and_then(|()| table.check(at, &before.map));
            table.retract(at);
            verdict.map_err(|why| forbidden(&why))?;
            auth.into_iter()
                .map(|at| table.room().event_id(at).try_into().map_err(|_| CORRUPT))
                .collect::<Result<_, RoomError>>()?
        };
        let parents = parents.into_iter().map(|parent| parent.event_id).collect();
        let prev_events = event::references_json(&self.references(parents).await?);
        let auth_events = event::references_json(&self.references(auth).await?);
        let integer = |number: u64| {
            let number = i64::try_from(number).ok().and_then(|number| number.try_into().ok());
            number.map(CanonicalJsonValue::Integer).ok_or(CORRUPT)
        };
        Ok(object([
            ("type", "m.room.member".into()),
            ("room_id", room.id.as_str().into()),
            ("sender", user.as_str().into()),
            ("state_key", target.as_str().into()),
            ("content", content.into()),
            ("origin_server_ts", integer(now)?),
            ("depth", integer(depth)?),
            ("prev_events", prev_events),
            ("auth_events", auth_events),
        ]))
    }

    /// What a new event writes of those that it refers to.
    pub(super) async fn references(
        &self,
        ids: Vec<OwnedEventId>,
    ) -> Result<Vec<Reference>, RoomError> {
        if self.room.rules.event_id_format != EventIdFormatVersion::V1 {
            return Ok(ids.into_iter().map(Reference::from).collect());
        }
        let mut references = Vec::with_capacity(ids.len());
        for id in ids {
            let queued = self.added.iter().find(|added| added.record.event_id == id);
            let json = match queued {
                Some(added) => added.record.json.clone(),
                None => self.rooms.stored(&self.room, &id).await?.1.json,
            };
            let object = serde_json::from_str(&json).map_err(|_| CORRUPT)?;
            let hash = reference_hash(&object, &self.room.rules).map_err(|_| CORRUPT)?;
            references.push(Reference { id, hash: Some(hash) });
        }
        Ok(references)
    }
}

/// The newest extremities, as many as an event may refer to.
fn newest(extremities: &[Extremity]) -> Vec<Extremity> {
    let mut newest_first = extremities.to_vec();
    newest_first.sort_by_key(|tip| std::cmp::Reverse(tip.number));
    newest_first.truncate(MAX_PREV_EVENTS);
    newest_first
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

fn push_stripped(out: &mut String, event: &StateEvent) {
    if out.len() > 1 {
        out.push(',');
    }
    out.push_str("{\"content\":");
    out.push_str(event.content.get());
    out.push_str(",\"sender\":");
    event::push_text(out, event.sender.as_str());
    out.push_str(",\"state_key\":");
    event::push_text(out, &event.state_key);
    out.push_str(",\"type\":");
    event::push_text(out, &event.event_type);
    out.push('}');
}
