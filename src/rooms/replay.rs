//! Checking rooms: what is stored about states is computed again from the events and compared.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedEventId, OwnedRoomId};
use state_resolution::{ConflictCache, Scratch, StateMap};

use super::{
    Rooms,
    auth_record::SnapshotNumber,
    error::RoomError,
    ingest::Verdict,
    pdu::stored_references,
    record::{EventNumber, EventRecord},
    room::Room,
    state::{differences, stored_snapshot},
};
use crate::storage::{
    Range, Snapshot,
    intern::RoomNumber,
    schema::{
        BACKWARD_EXTREMITIES, CURRENT_STATE, EVENT_IDS, EVENTS, FORWARD_EXTREMITIES, ROOM_MEMBERS,
        ROOM_PURGES, ROOMS, TIMELINE,
    },
};

/// How many rows are read at a time.
const STEP: usize = 1_000;
/// How many things wrong with one room are told.
const MAX_PROBLEMS: usize = 100;

/// What was found in one room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// How many events were looked at.
    pub(crate) events: usize,
    /// What is wrong; the first hundred things.
    pub(crate) problems: Vec<String>,
}

impl Findings {
    fn note(&mut self, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// One room being checked.
struct Replay<'a> {
    rooms: &'a Rooms,
    room: &'a Room,
    at: Snapshot,
    scratch: Scratch,
    cache: ConflictCache,
    /// The forward extremities.
    tips: HashSet<OwnedEventId>,
    found: Findings,
    /// Some of the history was removed.
    purged: bool,
    /// Members of whom it is not known yet are added where they are cited.
    partial: bool,
}

impl Rooms {
    /// Every room of this server, in the order of their numbers.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn all_rooms(&self) -> Result<Vec<OwnedRoomId>, RoomError> {
        let mut numbers: Vec<RoomNumber> = Vec::new();
        let mut range = Range::all();
        loop {
            let rows = ROOMS.scan(self.db(), &range, STEP).await?;
            numbers.extend(rows.iter().map(|(number, _)| *number));
            let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) else { break };
            range = range.after(last);
        }
        Ok(self.db().rooms().names(self.db(), &numbers).await?)
    }

    /// Computes the states of a room again from its events, from its creation or the state that a
    /// join or a gap began with, and compares them and what follows from them with what is stored.
    ///
    /// # Errors
    /// [`RoomError::Storage`], or [`RoomError::Corrupt`] if not even that can be read.
    pub(crate) async fn check_room(&self, room: &Arc<Room>) -> Result<Findings, RoomError> {
        let mut replay = Replay {
            rooms: self,
            room,
            at: self.db().snapshot(),
            scratch: Scratch::new(),
            cache: ConflictCache::default(),
            tips: HashSet::new(),
            found: Findings::default(),
            purged: false,
            partial: room.is_partial(),
        };
        replay.purged = ROOM_PURGES.contains(&replay.at, &room.number).await?;
        replay.tips().await?;
        replay.events().await?;
        replay.ends().await?;
        replay.timeline().await?;
        Ok(replay.found)
    }
}

impl Replay<'_> {
    async fn tips(&mut self) -> Result<(), RoomError> {
        self.tips = self.rooms.forward_extremities(self.room).await?.into_iter().collect();
        Ok(())
    }

    async fn events(&mut self) -> Result<(), RoomError> {
        let mut range = Range::prefix(&(self.room.number,));
        loop {
            let rows = EVENTS.scan(&self.at, &range, STEP).await?;
            for ((_, number), record) in &rows {
                self.found.events += 1;
                self.event(*number, record).await?;
            }
            let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) else {
                return Ok(());
            };
            range = range.after(last);
        }
    }

    async fn event(&mut self, number: EventNumber, record: &EventRecord) -> Result<(), RoomError> {
        let id = &record.event_id;
        if EVENT_IDS.get(&self.at, id).await? != Some((self.room.number, number)) {
            self.found.note(format!("{id} is not found by its ID"));
        }
        if record.outlier {
            return Ok(());
        }
        let states = self.rooms.event_state(&self.at, self.room.number, number).await?;
        let before = self.map(states.before).await?;
        let after = self.map(states.after).await?;
        if let Some(expected) = self.before(id, record).await?
            && expected != before
        {
            let count = differences(&expected, &before).len();
            self.found.note(format!("the state before {id} differs in {count} entries"));
        }
        let expected = {
            let table = self.room.ledger(self.rooms.db()).await?.table.read();
            let mut expected = before.clone();
            match table.room().event(id.as_str()) {
                Some(at) => {
                    if table.number(at) != number {
                        self.found.note(format!("the table has {id} under another number"));
                    }
                    if table.room().is_rejected(at) != record.rejected {
                        self.found.note(format!("the table has another verdict on {id}"));
                    }
                    if let Some(key) = table.room().key_of(at).filter(|_| !record.rejected) {
                        expected.insert(key, at);
                    }
                }
                None if record.is_state() => {
                    self.found.note(format!("{id} is not in the room's table"));
                }
                None => {}
            }
            expected
        };
        if expected != after {
            self.found.note(format!("the state after {id} is not the one before with it"));
        }
        Ok(())
    }

    /// The state before an event by its parents; none if they are not all here.
    async fn before(
        &mut self,
        id: &ruma::EventId,
        record: &EventRecord,
    ) -> Result<Option<StateMap>, RoomError> {
        let (parents, _) = stored_references(&record.json);
        if record.verdict() == Verdict::Accepted
            && let Some(tip) = parents.iter().find(|parent| self.tips.contains(*parent))
        {
            self.found.note(format!("{tip} is an end of the graph, and {id} comes after it"));
        }
        let rows = EVENT_IDS.multi_get(&self.at, &parents).await?;
        let mut maps = Vec::with_capacity(parents.len());
        let mut is_whole = true;
        for (parent, row) in parents.iter().zip(rows) {
            let number = row.filter(|(room, _)| *room == self.room.number).map(|(_, at)| at);
            let stored = match number {
                Some(number) => EVENTS.get(&self.at, &(self.room.number, number)).await?,
                None => None,
            };
            match (number, stored.map(|event| event.verdict())) {
                (Some(number), Some(verdict)) if verdict != Verdict::Outlier => {
                    let states = self.rooms.event_state(&self.at, self.room.number, number).await?;
                    maps.push(self.map(states.after).await?);
                }
                _ => {
                    is_whole = false;
                    let key = (self.room.number, &**parent);
                    let accounted =
                        self.purged || BACKWARD_EXTREMITIES.contains(&self.at, &key).await?;
                    if !accounted {
                        self.found
                            .note(format!("the parent {parent} of {id} is not accounted for"));
                    }
                }
            }
        }
        if !is_whole || self.partial {
            return Ok(None);
        }
        self.resolve(&maps).await.map(Some)
    }

    async fn resolve(&mut self, maps: &[StateMap]) -> Result<StateMap, RoomError> {
        let maps: Vec<&StateMap> = maps.iter().collect();
        let table = self.room.ledger(self.rooms.db()).await?.table.read();
        let resolved = table.room().resolve_cached(&maps, &mut self.scratch, &mut self.cache);
        let resolved = resolved.map_err(|_| RoomError::Corrupt { what: "a state" })?;
        Ok(resolved.state)
    }

    async fn map(&self, id: SnapshotNumber) -> Result<StateMap, RoomError> {
        self.rooms.state_map(&self.at, self.room, id).await
    }

    /// The forward extremities, the current state, and the indexes of it.
    async fn ends(&mut self) -> Result<(), RoomError> {
        let range = Range::prefix(&(self.room.number,));
        let tips = FORWARD_EXTREMITIES.scan(&self.at, &range, usize::MAX).await?;
        let mut maps = Vec::with_capacity(tips.len());
        for ((room, number), ()) in &tips {
            let record = EVENTS.get(&self.at, &(*room, *number)).await?;
            if record.map(|record| record.verdict()) != Some(Verdict::Accepted) {
                self.found.note(format!("the extremity {} is no accepted event", number.0));
            }
            let states = self.rooms.event_state(&self.at, *room, *number).await?;
            maps.push(self.map(states.after).await?);
        }
        if tips.is_empty() && self.found.events > 0 {
            self.found.note("the graph has no end".to_owned());
        }
        let expected = self.resolve(&maps).await?;
        let current = match stored_snapshot(&self.at, self.room.number, u64::MAX).await? {
            Some(id) => self.map(id).await?,
            None => StateMap::new(),
        };
        if expected != current {
            let count = differences(&expected, &current).len();
            self.found.note(format!("the current state differs in {count} entries"));
        }
        let mut wanted = BTreeMap::new();
        let mut members = 0;
        {
            let table = self.room.ledger(self.rooms.db()).await?.table.read();
            for (key, event) in &current {
                let (event_type, state_key) = table.room().key_name(key);
                members +=
                    usize::from(event_type == "m.room.member" && table.membership(event).is_some());
                let key = (event_type.to_owned(), state_key.to_owned());
                wanted.insert(key, table.number(event));
            }
        }
        let range = Range::prefix(&(self.room.number,));
        let index = CURRENT_STATE.scan(&self.at, &range, usize::MAX).await?;
        let index: BTreeMap<_, _> =
            index.into_iter().map(|((_, kind, key), number)| ((kind, key), number)).collect();
        if index != wanted {
            self.found.note("the index of the current state is not that of the state".to_owned());
        }
        let range = Range::prefix(&(self.room.number,));
        let indexed = ROOM_MEMBERS.scan(&self.at, &range, usize::MAX).await?.len();
        if indexed != members {
            self.found.note(format!("{indexed} members are indexed, the state has {members}"));
        }
        Ok(())
    }

    /// The timeline holds the accepted events, each once, in the order of their positions.
    async fn timeline(&mut self) -> Result<(), RoomError> {
        let mut range = Range::prefix(&(self.room.number,));
        loop {
            let rows = TIMELINE.scan(&self.at, &range, STEP).await?;
            let keys = rows.iter().map(|((room, _), number)| (*room, *number));
            let records = EVENTS.multi_get(&self.at, keys).await?;
            for (((_, key), number), record) in rows.iter().zip(records) {
                let fits = record.is_some_and(|record| {
                    record.verdict() == Verdict::Accepted && record.timeline_key() == *key
                });
                if !fits {
                    self.found.note(format!("event {} does not belong at {key}", number.0));
                }
            }
            let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) else {
                return Ok(());
            };
            range = range.after(last);
        }
    }
}
