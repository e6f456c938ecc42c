//! What other servers read of a room.
//!
//! Whether a server may ask at all is the caller's to know; which events it may see whole,
//! [`Rooms::server_may_see`] says.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName, UserId};
use serde_json::value::RawValue;
use state_resolution::{EventIx, Scratch, StateMap};

use super::{
    Rooms,
    auth::Table,
    auth_record::SnapshotNumber,
    error::RoomError,
    ingest::Verdict,
    pdu::stored_references,
    record::{EventNumber, EventRecord, Membership},
    room::Room,
    show::raw,
    visibility::HistoryVisibility,
};
use crate::storage::{
    Range,
    schema::{BACKWARD_EXTREMITIES, EVENT_IDS, EVENTS, FORWARD_EXTREMITIES},
};

/// The most events one answer holds.
const MAX_EVENTS: usize = 100;
/// By how many members a room without a name is known.
const MAX_HEROES: usize = 5;
/// How many events are looked at for one answer.
const MAX_LOOKED_AT: usize = 1_000;

/// The state before an event, and what authorizes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerState {
    /// The state events.
    pub(crate) state: Vec<OwnedEventId>,
    /// What they cite, what that cites, and so on; each after what it cites.
    pub(crate) auth_chain: Vec<OwnedEventId>,
}

type Numbered = Vec<(EventNumber, EventRecord)>;

impl Rooms {
    /// One event as it goes to other servers; none if it is not here, or was rejected.
    pub(crate) async fn pdu(
        &self,
        room: &Room,
        event: &EventId,
    ) -> Result<Option<(EventNumber, EventRecord)>, RoomError> {
        Ok(self.events_by_id(room, &[event.to_owned()]).await?.pop())
    }

    /// Events as they go to other servers, without those that are not here or were rejected.
    pub(crate) async fn pdus(
        &self,
        room: &Room,
        ids: &[OwnedEventId],
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let events = self.events_by_id(room, ids).await?;
        events.into_iter().map(|(_, event)| raw(event.json.into())).collect()
    }

    async fn events_by_id(&self, room: &Room, ids: &[OwnedEventId]) -> Result<Numbered, RoomError> {
        let rows = EVENT_IDS.multi_get(self.db(), ids).await?;
        let numbers: Vec<EventNumber> = rows
            .into_iter()
            .flatten()
            .filter_map(|(in_room, number)| (in_room == room.number).then_some(number))
            .collect();
        let keys = numbers.iter().map(|number| (room.number, *number));
        let records = EVENTS.multi_get(self.db(), keys).await?;
        let events = numbers.into_iter().zip(records);
        Ok(events
            .filter_map(|(number, record)| Some((number, record?)))
            .filter(|(_, record)| !record.rejected)
            .collect())
    }

    /// The state before an event, with its auth chain.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`] if it is not here, or here as an outlier.
    pub(crate) async fn state_ids_before(
        &self,
        room: &Room,
        event: &EventId,
    ) -> Result<PeerState, RoomError> {
        let unknown = || RoomError::UnknownEvent { event: event.to_owned() };
        let (number, record) = self.stored(room, event).await?;
        if matches!(record.verdict(), Verdict::Outlier | Verdict::Rejected) {
            return Err(unknown());
        }
        let states = self.event_state(self.db(), room.number, number).await?;
        let map = self.state_map(self.db(), room, states.before).await?;
        let table = room.ledger(self.db()).await?.table.read();
        let state: Vec<EventIx> = map.iter().map(|(_, event)| event).collect();
        Ok(peer_state(&table, &state, Vec::new()))
    }

    /// The same without most members, for a server that joins: those remain by whom a room without
    /// a name is known. The auth chain is without what is in the state, and has what authorizes the
    /// event itself.
    ///
    /// # Errors
    /// As [`Rooms::state_ids_before`].
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
    pub(crate) async fn state_ids_without_members(
        &self,
        room: &Room,
        event: &EventId,
    ) -> Result<PeerState, RoomError> {
        let (number, record) = self.stored(room, event).await?;
        let states = self.event_state(self.db(), room.number, number).await?;
        let map = self.state_map(self.db(), room, states.before).await?;
        let table = room.ledger(self.db()).await?.table.read();
        let is_named = ["m.room.name", "m.room.canonical_alias"]
            .iter()
            .any(|event_type| table.find(&map, event_type, "").is_some());
        let mut heroes = if is_named { 0 } else { MAX_HEROES };
        let mut state: Vec<EventIx> = map.iter().map(|(_, event)| event).collect();
        state.sort_unstable();
        state.retain(|at| {
            let key = table.room().key_of(*at);
            if key.is_none_or(|key| table.room().key_name(key).0 != "m.room.member") {
                return true;
            }
            let counts =
                matches!(table.membership(*at), Some(Membership::Join | Membership::Invite));
            let is_hero = counts && heroes > 0;
            heroes -= usize::from(is_hero);
            is_hero
        });
        let (_, cited) = stored_references(&record.json);
        let cited = cited.iter().filter_map(|id| table.room().event(id.as_str())).collect();
        let mut found = peer_state(&table, &state, cited);
        let in_state: HashSet<OwnedEventId> = found.state.iter().cloned().collect();
        found.auth_chain.retain(|id| !in_state.contains(id));
        Ok(found)
    }

    /// What authorizes an event, what authorizes that, and so on; each after what it cites.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`] if it is not here.
    pub(crate) async fn auth_chain_of(
        &self,
        room: &Room,
        event: &EventId,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let (_, record) = self.stored(room, event).await?;
        let (_, cited) = stored_references(&record.json);
        let table = room.ledger(self.db()).await?.table.read();
        let cited: Vec<EventIx> =
            cited.iter().filter_map(|id| table.room().event(id.as_str())).collect();
        let mut chain = table.room().auth_chain(&cited, &mut Scratch::new());
        chain.extend(cited);
        chain.sort_unstable();
        chain.dedup();
        Ok(chain.iter().filter_map(|at| table.room().event_id(*at).try_into().ok()).collect())
    }

    /// The events between two sets: those that lead to `latest`, as far as `earliest`, both left
    /// out. The oldest come first.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid>
    pub(crate) async fn missing_events(
        &self,
        room: &Room,
        latest: &[OwnedEventId],
        earliest: &[OwnedEventId],
        limit: usize,
        min_depth: u64,
    ) -> Result<Numbered, RoomError> {
        let limit = limit.min(MAX_EVENTS);
        let mut seen: HashSet<OwnedEventId> = earliest.iter().chain(latest).cloned().collect();
        let mut queue: VecDeque<OwnedEventId> = VecDeque::new();
        for (_, event) in self.events_by_id(room, latest).await? {
            queue.extend(stored_references(&event.json).0);
        }
        let mut found = Numbered::new();
        let mut looked_at = 0;
        while !queue.is_empty() && found.len() < limit && looked_at < MAX_LOOKED_AT {
            let layer: Vec<OwnedEventId> =
                queue.drain(..).filter(|id| seen.insert(id.clone())).collect();
            looked_at += layer.len();
            for (number, event) in self.events_by_id(room, &layer).await? {
                if event.outlier || event.depth < min_depth || found.len() >= limit {
                    continue;
                }
                queue.extend(stored_references(&event.json).0);
                found.push((number, event));
            }
        }
        found.sort_by_key(|(number, event)| (event.depth, *number));
        Ok(found)
    }

    /// Events and what came before them, the deepest first.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid>
    pub(crate) async fn backfill(
        &self,
        room: &Room,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Numbered, RoomError> {
        let limit = limit.min(MAX_EVENTS);
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        let mut waiting: BinaryHeap<(u64, EventNumber)> = BinaryHeap::new();
        let mut records: HashMap<EventNumber, EventRecord> = HashMap::new();
        let mut next: Vec<OwnedEventId> = from.to_vec();
        let mut found = Numbered::new();
        loop {
            next.retain(|id| seen.insert(id.clone()));
            for (number, event) in self.events_by_id(room, &next).await? {
                if !event.outlier {
                    waiting.push((event.depth, number));
                    records.insert(number, event);
                }
            }
            let Some((_, number)) = waiting.pop().filter(|_| found.len() < limit) else {
                return Ok(found);
            };
            let Some(event) = records.remove(&number) else { continue };
            next = stored_references(&event.json).0;
            found.push((number, event));
        }
    }

    /// The accepted events that no accepted event refers to.
    pub(crate) async fn forward_extremities(
        &self,
        room: &Room,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let range = Range::prefix(&(room.number,));
        let tips = FORWARD_EXTREMITIES.scan(self.db(), &range, usize::MAX).await?;
        let keys = tips.into_iter().map(|(key, ())| key);
        let records = EVENTS.multi_get(self.db(), keys).await?;
        Ok(records.into_iter().flatten().map(|event| event.event_id).collect())
    }

    /// The events that events of the room refer to and that are not here: where its history here
    /// begins, and what lies in its gaps.
    pub(crate) async fn backward_extremities(
        &self,
        room: &Room,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let range = Range::prefix(&(room.number,));
        let rows = BACKWARD_EXTREMITIES.scan(self.db(), &range, MAX_LOOKED_AT).await?;
        let ids: Vec<OwnedEventId> = rows.into_iter().map(|((_, id), ())| id).collect();
        // One that came while the row was on its way to disk still has it.
        self.unplaced_events(room, &ids).await
    }

    /// The other servers with members in the room.
    pub(crate) fn other_servers(&self, room: &Room) -> Vec<OwnedServerName> {
        let mut servers = room.servers();
        servers.retain(|server| server != self.server_name());
        servers
    }

    /// Which of these events a server may see: by the history visibility in the state before each,
    /// and who of the server was in the room. The others are to be sent redacted.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#room-history-visibility> (by analogy)
    pub(crate) async fn server_may_see(
        &self,
        room: &Room,
        server: &ServerName,
        events: &[(EventNumber, EventRecord)],
    ) -> Result<Vec<bool>, RoomError> {
        let mut by_state: HashMap<SnapshotNumber, (bool, bool)> = HashMap::new();
        let mut visible = Vec::with_capacity(events.len());
        for (number, event) in events {
            let open = matches!(
                event.visibility,
                HistoryVisibility::WorldReadable | HistoryVisibility::Shared
            );
            // A server sees what its own users sent, and who they are.
            let own = event.sender_id.server_name() == server
                || event
                    .state_key
                    .as_deref()
                    .and_then(|key| UserId::parse(key).ok())
                    .is_some_and(|user| user.server_name() == server);
            if open || own {
                visible.push(true);
                continue;
            }
            if event.outlier {
                visible.push(false);
                continue;
            }
            let id = self.event_state(self.db(), room.number, *number).await?.after;
            let (joined, invited) = if let Some(known) = by_state.get(&id) {
                *known
            } else {
                let map = self.state_map(self.db(), room, id).await?;
                let found = self.members_on(room, server, &map).await?;
                by_state.insert(id, found);
                found
            };
            visible.push(joined || invited && event.visibility == HistoryVisibility::Invited);
        }
        Ok(visible)
    }

    /// Whether somebody of a server is joined in a state, and whether somebody is invited.
    async fn members_on(
        &self,
        room: &Room,
        server: &ServerName,
        state: &StateMap,
    ) -> Result<(bool, bool), RoomError> {
        let table = room.ledger(self.db()).await?.table.read();
        // Its members may be among those that are not known yet.
        let mut joined = room.is_partial() && room.servers().iter().any(|other| other == server);
        let mut invited = false;
        for (key, event) in state {
            let (event_type, user) = table.room().key_name(key);
            let on_server = event_type == "m.room.member"
                && user.split_once(':').is_some_and(|(_, name)| name == server.as_str());
            if on_server {
                joined |= table.membership(event) == Some(Membership::Join);
                invited |= table.membership(event) == Some(Membership::Invite);
            }
        }
        Ok((joined, invited))
    }
}

/// These state events with their auth chain, and with `cited` and what authorizes those.
fn peer_state(table: &Table, state: &[EventIx], cited: Vec<EventIx>) -> PeerState {
    let mut from = state.to_vec();
    from.extend(&cited);
    let mut chain = table.room().auth_chain(&from, &mut Scratch::new());
    chain.extend(cited);
    chain.sort_unstable();
    chain.dedup();
    let id = |event: &EventIx| table.room().event_id(*event).try_into().ok();
    PeerState {
        state: state.iter().filter_map(id).collect(),
        auth_chain: chain.iter().filter_map(id).collect(),
    }
}
