//! What a change does to the room's state: states written down, ends resolved, memberships.

use std::sync::Arc;

use ruma::{OwnedServerName, UserId};
use state_resolution::EventIx;

use super::{
    auth_record::{EventState, SnapshotNumber},
    error::RoomError,
    event,
    neighbours::FIRST_LOOK,
    record::{EventNumber, Membership},
    room::{Extremity, StateEvent},
    state::{State, differences},
    writer::{CORRUPT, MemberChange, RoomWriter},
};
use crate::storage::schema::{
    CURRENT_STATE, EVENT_STATES, FORWARD_EXTREMITIES, ROOM_SERVERS, STATE_HASHES,
};

/// The most forward extremities that are kept.
const MAX_EXTREMITIES: usize = 100;

impl RoomWriter {
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

    /// Whether there are members on other servers.
    pub(super) fn has_others(&self) -> bool {
        let servers = self.room.servers.read();
        servers.keys().any(|server| server != self.rooms.server_name())
    }

    /// The state that several events lead to together.
    pub(super) async fn state_after(&mut self, parents: &[Extremity]) -> Result<State, RoomError> {
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
        let known = self.rooms.known_snapshot(&self.room, hash, &map).await?;
        if let Some(id) = known.filter(|id| *id > self.graph.not_reused) {
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
    pub(super) fn cap_extremities(&mut self) {
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
    pub(super) async fn change_current(
        &mut self,
        new: State,
    ) -> Result<Vec<MemberChange>, RoomError> {
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
            self.overtake_delayed(&event_type, &state_key, new.map(|(number, _)| number)).await?;
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
        // Of a server with nobody known, somebody may be there as long as not all are known.
        if count == 0 && !self.room.is_partial() {
            ROOM_SERVERS.delete(&mut self.batch, &key);
            servers.remove(&server);
        } else {
            ROOM_SERVERS.put(&mut self.batch, &key, &count);
            servers.insert(server, count);
        }
    }

    /// What somebody who is not in the room may know of it: an array of stripped state events.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
    pub(super) async fn stripped_state(
        &mut self,
        member: EventNumber,
    ) -> Result<Box<str>, RoomError> {
        let member = self.state_event(member).await?;
        let mut out = "[".to_owned();
        for event_type in FIRST_LOOK {
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
