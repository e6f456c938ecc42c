//! A room in memory: what the next event builds on. All of it is rebuilt from storage when needed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, ServerName,
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;
use state_resolution::{ConflictCache, Scratch};
use tokio::sync::OnceCell;

use super::{
    Rooms,
    auth::{Table, membership_in},
    auth_record::SnapshotNumber,
    error::RoomError,
    partial::PartialRoom,
    record::{EventNumber, EventRecord, Membership, SharedEvent},
    state::{Ledger, State, stored_snapshot},
    tail::Tail,
};
use crate::{
    appservice::registry::RoomAudience,
    storage::{
        Db, Json, Range, Read,
        intern::{RoomNumber, UserNumber},
        schema::{
            CURRENT_STATE, CURRENT_STATES, EVENTS, FORWARD_EXTREMITIES, PARTIAL_ROOMS, ROOM_HEADS,
            ROOM_MEMBERS, ROOM_SERVERS, ROOMS, STATE_SNAPSHOTS, TIMELINE,
        },
        shared_events,
    },
};

/// How many state events of a room are kept once nothing is on its way to disk.
const MAX_CACHED_STATE: usize = 64;
/// What a room takes in memory besides what can be many, in bytes.
const ROOM_BYTES: usize = 10 << 10;
/// What an event in a room's table takes, in bytes.
const TABLE_EVENT_BYTES: usize = 600;
/// How many rows one step of reading all members takes.
const MEMBERS_STEP: usize = 10_000;

/// A room that is loaded.
#[derive(Debug)]
pub(crate) struct Room {
    /// Its number.
    pub(crate) number: RoomNumber,
    /// Its ID.
    pub(crate) id: OwnedRoomId,
    /// Its version.
    pub(crate) version: RoomVersionId,
    /// What the version means.
    pub(crate) rules: RoomVersionRules,
    /// What only one at a time may change; none until the first change.
    pub(super) graph: Arc<tokio::sync::Mutex<Option<Graph>>>,
    /// The room's table and its unwritten snapshots; read when first needed.
    pub(super) ledger: OnceCell<Arc<Ledger>>,
    /// Whether it was joined without most of its members; changed when a batch is queued.
    pub(super) partial: RwLock<Option<PartialRoom>>,
    /// How many members are on which server; changed when a batch is queued. In a room of which not
    /// all members are known, none may be known of a server.
    pub(super) servers: RwLock<BTreeMap<OwnedServerName, u64>>,
    /// Joined users of this server, in ascending order; changed when a batch is queued.
    pub(super) local_members: RwLock<Arc<[UserNumber]>>,
    /// From which stream position on which snapshot is its state, changes that are queued included;
    /// read when first needed.
    pub(super) current_since: Mutex<Option<(u64, SnapshotNumber)>>,
    /// The end of its timeline, what is queued included.
    pub(super) tail: Tail,
    /// A batch failed, or a change was given up half-way: what is here may never come true.
    pub(super) failed: AtomicBool,
    /// Batches that are queued and not done.
    pub(super) in_flight: AtomicUsize,
    /// Which application services it concerns.
    pub(crate) audience: RoomAudience,
    /// What it weighed last.
    weighed: AtomicU32,
}

/// A state event with what is shown of it where its room is not.
#[derive(Clone, Debug)]
pub(crate) struct StateEvent {
    /// `sender`
    pub(crate) sender: OwnedUserId,
    /// `type`
    pub(crate) event_type: String,
    /// `state_key`
    pub(crate) state_key: String,
    /// `content`
    pub(crate) content: Box<RawValue>,
}

impl StateEvent {
    /// A stored event.
    ///
    /// # Errors
    /// [`RoomError::Corrupt`] if its content is no JSON, or it is no state event.
    pub(crate) fn stored(record: &EventRecord) -> Result<Self, RoomError> {
        const CORRUPT: RoomError = RoomError::Corrupt { what: "a state event" };
        Ok(Self {
            sender: record.sender_id.clone(),
            event_type: record.event_type.clone(),
            state_key: record.state_key.clone().ok_or(CORRUPT)?,
            content: RawValue::from_string(record.content().to_owned()).map_err(|_| CORRUPT)?,
        })
    }

    /// One string of its content; none if there is no such string.
    pub(crate) fn content_text(&self, key: &str) -> Option<String> {
        let content: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(self.content.get()).ok()?;
        content.get(key)?.as_str().map(str::to_owned)
    }

    /// The membership that this member event gives.
    pub(crate) fn membership(&self) -> Option<Membership> {
        membership_in(self.content.get())
    }
}

/// An accepted event that no accepted event refers to.
#[derive(Clone, Debug)]
pub(super) struct Extremity {
    pub(super) number: EventNumber,
    pub(super) event_id: OwnedEventId,
    pub(super) depth: u64,
    pub(super) after: State,
}

/// What the next event builds on, queued changes included.
#[derive(Debug)]
pub(super) struct Graph {
    /// The number the next event gets.
    pub(super) next: EventNumber,
    /// The number the next snapshot gets.
    pub(super) next_snapshot: SnapshotNumber,
    /// The forward extremities.
    pub(super) extremities: Vec<Extremity>,
    /// The state that they resolve to.
    pub(super) current: State,
    /// What an event without a row of its own in the table of event states has; zero if the next
    /// one is to have one in any case.
    pub(super) pointer: SnapshotNumber,
    /// The content of state events that were looked up or are on their way to disk.
    pub(super) events: HashMap<EventNumber, Arc<StateEvent>>,
    /// Redactions that wait for their target and are on their way to disk: as `waiting_redactions`.
    pub(super) redactions: HashMap<(OwnedEventId, String), EventNumber>,
    pub(super) scratch: Scratch,
    pub(super) conflicts: ConflictCache,
    /// Snapshots up to this one are about to be looked through for those that nothing names: they
    /// are not used again but where something does. 0: they are not.
    pub(super) not_reused: SnapshotNumber,
    /// What was resolved last: the snapshots in ascending order, and the outcome.
    pub(super) resolved: Option<(Vec<SnapshotNumber>, State)>,
}

impl Graph {
    /// Before the first event.
    pub(super) fn empty() -> Self {
        Self {
            next: EventNumber(1),
            next_snapshot: SnapshotNumber(2),
            extremities: Vec::new(),
            current: State::empty(),
            pointer: SnapshotNumber(0),
            events: HashMap::new(),
            redactions: HashMap::new(),
            scratch: Scratch::new(),
            conflicts: ConflictCache::default(),
            not_reused: SnapshotNumber(0),
            resolved: None,
        }
    }

    /// Reads what the next event of a room builds on.
    pub(super) async fn load(rooms: &Rooms, room: &Room) -> Result<Self, RoomError> {
        const CORRUPT: RoomError =
            RoomError::Corrupt { what: "what a room's next event builds on" };
        let at = rooms.db().snapshot();
        room.ledger(rooms.db()).await?;
        let range = Range::prefix(&(room.number,));
        let Some(next) = ROOM_HEADS.get(&at, &room.number).await? else {
            return Ok(Self::empty());
        };
        let tips = FORWARD_EXTREMITIES.scan(&at, &range, usize::MAX).await?;
        let tips: Vec<EventNumber> = tips.into_iter().map(|((_, event), ())| event).collect();
        let records = EVENTS.multi_get(&at, tips.iter().map(|event| (room.number, *event))).await?;
        let mut extremities = Vec::with_capacity(tips.len());
        for (number, record) in tips.into_iter().zip(records) {
            let record = record.ok_or(CORRUPT)?;
            let id = rooms.event_state(&at, room.number, number).await?.after;
            let after = State { id, map: rooms.state_map(&at, room, id).await? };
            let (event_id, depth) = (record.event_id, record.depth);
            extremities.push(Extremity { number, event_id, depth, after });
        }
        // A room that is still being joined has none.
        let current = match stored_snapshot(&at, room.number, u64::MAX).await? {
            Some(id) => State { id, map: rooms.state_map(&at, room, id).await? },
            None => State::empty(),
        };
        let first = |room: RoomNumber| ((room, SnapshotNumber(0)), 0_u32);
        let range =
            Range::all().from(&first(room.number)).before(&first(RoomNumber(room.number.0 + 1)));
        let last = STATE_SNAPSHOTS.scan_back(&at, &range, 1).await?.pop();
        let (((_, last), _), _) = last.ok_or(CORRUPT)?;
        Ok(Self {
            next,
            next_snapshot: SnapshotNumber(last.0 + 1),
            extremities,
            current,
            ..Self::empty()
        })
    }

    /// Gives memory back if it is much. Only while nothing is on its way to disk: what is stored
    /// then is what was here.
    pub(super) fn trim(&mut self) {
        self.redactions.clear();
        if self.events.len() > MAX_CACHED_STATE {
            self.events.clear();
        }
    }
}

impl Room {
    /// A room that does not exist yet.
    ///
    /// # Errors
    /// [`RoomError::Corrupt`] for a version that has no rules.
    pub(super) fn begun(
        number: RoomNumber,
        id: OwnedRoomId,
        version: RoomVersionId,
        rules: RoomVersionRules,
    ) -> Result<Self, RoomError> {
        let table = Table::new(&id, &version)?;
        Ok(Self {
            graph: Arc::new(tokio::sync::Mutex::new(Some(Graph::empty()))),
            ledger: OnceCell::from(Arc::new(Ledger::new(table))),
            ..Self::new(number, id, version, rules)
        })
    }

    /// A room that is about to be joined: what was read of it before, if that was interrupted, is
    /// in the tables already.
    pub(super) fn staged(
        number: RoomNumber,
        id: OwnedRoomId,
        version: RoomVersionId,
        rules: RoomVersionRules,
    ) -> Self {
        Self::new(number, id, version, rules)
    }

    fn new(
        number: RoomNumber,
        id: OwnedRoomId,
        version: RoomVersionId,
        rules: RoomVersionRules,
    ) -> Self {
        Self {
            number,
            id,
            version,
            rules,
            graph: Arc::default(),
            ledger: OnceCell::new(),
            partial: RwLock::default(),
            servers: RwLock::default(),
            local_members: RwLock::new(Arc::new([])),
            current_since: Mutex::default(),
            tail: Tail::default(),
            failed: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            audience: RoomAudience::default(),
            weighed: AtomicU32::new(0),
        }
    }

    /// Reads a room; none if there is no such room.
    pub(super) async fn load(
        db: &Db,
        number: RoomNumber,
        server_name: &ServerName,
    ) -> Result<Option<Self>, RoomError> {
        let at = db.snapshot();
        let Some(record) = ROOMS.get(&at, &number).await? else { return Ok(None) };
        let version = record.0.version;
        let rules =
            version.rules().ok_or(RoomError::Corrupt { what: "a room version without rules" })?;
        let id = db.rooms().name(db, number).await?;
        let joined = members(&at, number, Membership::Join).await?;
        let names = db.users().names(db, &joined).await?;
        let local: Arc<[UserNumber]> = joined
            .into_iter()
            .zip(names)
            .filter_map(|(user, id)| (id.server_name() == server_name).then_some(user))
            .collect();
        let servers =
            ROOM_SERVERS.scan(&at, &Range::prefix(&(number,)), usize::MAX).await?.into_iter();
        let partial = PARTIAL_ROOMS.get(&at, &number).await?.map(|Json(partial)| partial);
        Ok(Some(Self {
            partial: RwLock::new(partial),
            servers: RwLock::new(servers.map(|((_, server), count)| (server, count)).collect()),
            local_members: RwLock::new(local),
            ..Self::new(number, id, version, rules)
        }))
    }

    /// Joined users of this server, in ascending order.
    pub(crate) fn local_members(&self) -> Arc<[UserNumber]> {
        Arc::clone(&self.local_members.read())
    }

    /// How many are in the room; at least one on each server as long as not all are known.
    pub(crate) fn member_count(&self) -> u64 {
        self.servers.read().values().map(|count| (*count).max(1)).sum()
    }

    /// Adds `user` to the local members, or takes them out.
    pub(super) fn set_local_member(&self, user: UserNumber, joined: bool) {
        let mut members = self.local_members.write();
        match (members.binary_search(&user), joined) {
            (Err(at), true) => {
                let (before, after) = members.split_at(at);
                *members = before.iter().chain(&[user]).chain(after).copied().collect();
            }
            (Ok(_), false) => {
                *members = members.iter().copied().filter(|member| *member != user).collect();
            }
            _ => {}
        }
    }

    /// The servers with members in the room.
    pub(crate) fn servers(&self) -> Vec<OwnedServerName> {
        self.servers.read().keys().cloned().collect()
    }

    /// About the memory that it takes, in bytes.
    fn weight(&self) -> u32 {
        let table = self.ledger.get().map_or(0, |ledger| ledger.table.read().len());
        let members = self.local_members.read().len();
        let bytes = ROOM_BYTES + table * TABLE_EVENT_BYTES + members * size_of::<UserNumber>();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// The same, remembered.
    pub(super) fn weigh(&self) -> u32 {
        let weight = self.weight();
        self.weighed.store(weight, Ordering::Relaxed);
        weight
    }

    /// Whether it takes much more than when it was weighed.
    pub(super) fn has_grown(&self) -> bool {
        self.weight() / 2 > self.weighed.load(Ordering::Relaxed)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// A current state event, as it is stored.
    pub(super) async fn stored_state(
        &self,
        db: &Db,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<StateEvent>, RoomError> {
        let found = stored_state(db, self.number, event_type, state_key).await?;
        found.map(|(_, record)| StateEvent::stored(&record)).transpose()
    }
}

/// A current state event, as it is stored.
pub(super) async fn stored_state(
    at: &impl Read,
    room: RoomNumber,
    event_type: &str,
    state_key: &str,
) -> Result<Option<(EventNumber, EventRecord)>, RoomError> {
    let Some(number) = CURRENT_STATE.get(at, &(room, event_type, state_key)).await? else {
        return Ok(None);
    };
    let record = EVENTS
        .get(at, &(room, number))
        .await?
        .ok_or(RoomError::Corrupt { what: "current state names an unknown event" })?;
    Ok(Some((number, record)))
}

/// The current state events of some types with an empty state key, as they are stored.
pub(super) async fn stored_states<const N: usize>(
    at: &impl Read,
    room: RoomNumber,
    types: [&str; N],
) -> Result<[Option<SharedEvent>; N], RoomError> {
    let mut found = [const { None }; N];
    let rows = CURRENT_STATE.multi_get(at, types.map(|kind| (room, kind, ""))).await?;
    let numbers: Vec<EventNumber> = rows.iter().copied().flatten().collect();
    let mut records = shared_events(at, room, &numbers).await?.into_iter();
    for (found, _) in found.iter_mut().zip(rows).filter(|(_, number)| number.is_some()) {
        let record = records.next().flatten();
        *found = Some(record.ok_or(RoomError::Corrupt { what: "an unknown current state" })?);
    }
    Ok(found)
}

/// Everybody with `membership` in a room, in ascending order.
pub(super) async fn members(
    at: &impl Read,
    room: RoomNumber,
    membership: Membership,
) -> Result<Vec<UserNumber>, RoomError> {
    let mut found = Vec::new();
    let mut range = Range::prefix(&(room, membership));
    loop {
        let rows = ROOM_MEMBERS.scan(at, &range, MEMBERS_STEP).await?;
        let more = rows.len() == MEMBERS_STEP;
        found.extend(rows.into_iter().map(|((_, _, user), _)| user));
        let Some(last) = found.last().filter(|_| more) else { return Ok(found) };
        range = range.after(&(room, membership, *last));
    }
}

/// The position of the last event of a room's timeline, or from which on its state is what it is if
/// that is later; 0 if there is neither.
pub(super) async fn stored_last_position(db: &Db, room: RoomNumber) -> Result<u64, RoomError> {
    let range = Range::prefix(&(room,));
    let event = TIMELINE.scan_back(db, &range, 1).await?.pop();
    let event = event.map_or(0, |((_, key), _)| key.position());
    let state = CURRENT_STATES.scan_back(db, &Range::prefix(&(room,)), 1).await?.pop();
    Ok(state.map_or(0, |((_, since), _)| since).max(event))
}
