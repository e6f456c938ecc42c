//! A room in memory: what the next event builds on. All of it is rebuilt from storage when needed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;
use ruma::{
    OwnedEventId, OwnedRoomId, RoomVersionId, ServerName, room_version_rules::RoomVersionRules,
};

use super::{
    auth::AuthEvent,
    error::RoomError,
    record::{EventNumber, Membership},
};
use crate::storage::{
    Db, Range,
    intern::{RoomNumber, UserNumber},
    schema::{
        CURRENT_STATE, EVENTS, FORWARD_EXTREMITIES, ROOM_HEADS, ROOM_MEMBERS, ROOMS, TIMELINE,
    },
};

/// How many state events of a room are kept once nothing is on its way to disk.
const MAX_CACHED_STATE: usize = 2_048;
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
    /// What only one at a time may change.
    pub(super) graph: Arc<tokio::sync::Mutex<Graph>>,
    /// Joined users of this server, in ascending order; changed when a batch is queued.
    pub(super) local_members: RwLock<Arc<[UserNumber]>>,
    /// A batch failed, or a change was given up half-way: what is here may never come true.
    pub(super) failed: AtomicBool,
    /// Batches that are queued and not done.
    pub(super) in_flight: AtomicUsize,
}

/// What the next event builds on, queued changes included.
#[derive(Debug)]
pub(super) struct Graph {
    /// The number the next event gets.
    pub(super) next: EventNumber,
    /// The deepest of the forward extremities.
    pub(super) depth: u64,
    /// The forward extremities.
    pub(super) extremities: Vec<(EventNumber, OwnedEventId)>,
    /// State events by type and state key that were looked up or changed. A pair that is missing
    /// here was not changed since the room was loaded; none: the room has no such state.
    state: HashMap<(String, String), Option<Arc<AuthEvent>>>,
}

impl Graph {
    /// Before the first event.
    pub(super) fn empty() -> Self {
        Self { next: EventNumber(1), depth: 0, extremities: Vec::new(), state: HashMap::new() }
    }

    /// State that is in memory already.
    pub(super) fn known_state(&self, event_type: &str, state_key: &str) -> Option<Arc<AuthEvent>> {
        self.state.get(&(event_type.to_owned(), state_key.to_owned())).cloned().flatten()
    }

    /// The current state event with this type and state key.
    pub(super) async fn state(
        &mut self,
        db: &Db,
        room: &Room,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<AuthEvent>>, RoomError> {
        let key = (event_type.to_owned(), state_key.to_owned());
        if let Some(known) = self.state.get(&key) {
            return Ok(known.clone());
        }
        // Before the create event is stored nothing is.
        let event = if self.next.0 == 1 {
            None
        } else {
            room.stored_state(db, event_type, state_key).await?
        };
        self.state.insert(key, event.clone());
        Ok(event)
    }

    /// Notes that `event` is current state from now on.
    pub(super) fn set_state(&mut self, event: Arc<AuthEvent>) {
        let Some(state_key) = event.state_key.clone() else { return };
        self.state.insert((event.event_type.to_string(), state_key), Some(event));
    }

    /// Notes that `event`, if it is current state, now looks like this: it was redacted.
    pub(super) fn replace_content(&mut self, event: AuthEvent) {
        let Some(state_key) = event.state_key.clone() else { return };
        if let Some(Some(known)) = self.state.get_mut(&(event.event_type.to_string(), state_key))
            && known.event_id == event.event_id
        {
            *known = Arc::new(event);
        }
    }

    /// Gives memory back if it is much. Only while nothing is on its way to disk: what is stored
    /// then is what was here.
    pub(super) fn trim(&mut self) {
        if self.state.len() > MAX_CACHED_STATE {
            self.state.clear();
        }
    }
}

impl Room {
    /// Room that does not exist yet.
    pub(super) fn new(
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
            graph: Arc::new(tokio::sync::Mutex::new(Graph::empty())),
            local_members: RwLock::new(Arc::new([])),
            failed: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
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
        let next = ROOM_HEADS
            .get(&at, &number)
            .await?
            .ok_or(RoomError::Corrupt { what: "a room without events" })?;
        let id = db.rooms().name(db, number).await?;
        let tips = FORWARD_EXTREMITIES.scan(&at, &Range::prefix(&(number,)), usize::MAX).await?;
        let tips: Vec<EventNumber> = tips.into_iter().map(|((_, event), ())| event).collect();
        let records = EVENTS.multi_get(&at, tips.iter().map(|event| (number, *event))).await?;
        let mut extremities = Vec::with_capacity(tips.len());
        let mut depth = 0;
        for (tip, record) in tips.into_iter().zip(records) {
            let record = record.ok_or(RoomError::Corrupt { what: "an extremity" })?;
            depth = depth.max(record.depth);
            extremities.push((tip, record.event_id));
        }
        let joined = members(&at, number, Membership::Join).await?;
        let names = db.users().names(db, &joined).await?;
        let local: Arc<[UserNumber]> = joined
            .into_iter()
            .zip(names)
            .filter_map(|(user, id)| (id.server_name() == server_name).then_some(user))
            .collect();
        let graph = Graph { next, depth, extremities, ..Graph::empty() };
        Ok(Some(Self {
            graph: Arc::new(tokio::sync::Mutex::new(graph)),
            local_members: RwLock::new(local),
            ..Self::new(number, id, version, rules)
        }))
    }

    /// Joined users of this server, in ascending order.
    pub(crate) fn local_members(&self) -> Arc<[UserNumber]> {
        Arc::clone(&self.local_members.read())
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

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// A current state event, as it is stored.
    pub(super) async fn stored_state(
        &self,
        db: &Db,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<AuthEvent>>, RoomError> {
        let Some(event) = CURRENT_STATE.get(db, &(self.number, event_type, state_key)).await?
        else {
            return Ok(None);
        };
        let record = EVENTS
            .get(db, &(self.number, event))
            .await?
            .ok_or(RoomError::Corrupt { what: "current state names an unknown event" })?;
        Ok(Some(Arc::new(AuthEvent::stored(event, &self.id, &record, &self.rules)?)))
    }
}

/// Everybody with `membership` in a room, in ascending order.
pub(super) async fn members(
    at: &impl crate::storage::Read,
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

/// The position of the last event of a room's timeline; 0 if there is none.
pub(super) async fn stored_last_position(db: &Db, room: RoomNumber) -> Result<u64, RoomError> {
    let last = TIMELINE.scan_back(db, &Range::prefix(&(room,)), 1).await?.pop();
    Ok(last.and_then(|((_, key), _)| u64::try_from(key).ok()).unwrap_or(0))
}
