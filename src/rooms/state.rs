//! States of rooms: in memory persistent maps, on disk changes of one another.
//!
//! A snapshot is written once and never changes. What is queued and not yet on disk is with the
//! loaded room; what was read or has been written is in a cache that all rooms share.

use std::{collections::HashMap, sync::Arc};

use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};
use ruma::{EventId, OwnedEventId};
use state_resolution::{
    EventIx, KeyIx, StateMap,
    snapshot::{self, Change, Fingerprint, FingerprintKey, Record, SnapshotId, Source},
};

use super::{
    Rooms,
    auth::{Powers, Table},
    auth_record::{EventState, SnapshotNumber},
    error::RoomError,
    ingest::{Known, Verdict},
    record::EventNumber,
    room::Room,
};
use crate::storage::{
    Batch, Db, Range, Read, StorageError,
    chunks::Chunks,
    intern::RoomNumber,
    schema::{CURRENT_STATES, EVENT_STATES, META, STATE_HASHES, STATE_SNAPSHOTS},
};

/// The secret with which states are hashed.
const FINGERPRINT_KEY: &str = "state.fingerprint_key";

/// The pieces of a record.
pub(super) const RECORDS: Chunks<(RoomNumber, SnapshotNumber)> = Chunks(&STATE_SNAPSHOTS);

/// A state and the snapshot it is.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) id: SnapshotNumber,
    pub(super) map: StateMap,
}

impl State {
    /// What every room begins with.
    pub(super) fn empty() -> Self {
        Self { id: SnapshotNumber(1), map: StateMap::new() }
    }
}

/// What is known about a room's states and events besides what changes next.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) table: Arc<RwLock<Table>>,
    /// Snapshots that are queued and not yet on disk.
    pending: Mutex<HashMap<SnapshotNumber, Pending>>,
    /// Events that are queued and not yet on disk.
    recent: Mutex<HashMap<OwnedEventId, Known>>,
}

#[derive(Debug)]
struct Pending {
    record: Arc<[u8]>,
    map: StateMap,
}

impl Ledger {
    pub(super) fn new(table: Table) -> Self {
        Self {
            table: Arc::new(RwLock::new(table)),
            pending: Mutex::default(),
            recent: Mutex::default(),
        }
    }

    /// An event that is not yet on disk.
    pub(super) fn recent(&self, id: &EventId) -> Option<Known> {
        self.recent.lock().get(id).cloned()
    }

    /// Notes an event until it is on disk.
    pub(super) fn note_recent(&self, id: OwnedEventId, known: Known) {
        self.recent.lock().insert(id, known);
    }
}

/// States and records that many rooms share the memory for.
pub(super) struct States {
    maps: Cache<(RoomNumber, SnapshotNumber), StateMap>,
    records: Cache<(RoomNumber, SnapshotNumber), Arc<[u8]>>,
    hashing: tokio::sync::OnceCell<FingerprintKey>,
}

impl States {
    /// What is kept takes `memory_bytes`; what states share counts for each of them.
    pub(super) fn new(memory_bytes: u64) -> Self {
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            maps: Cache::builder()
                .weigher(move |_, map: &StateMap| size(256 + 4 * map.len()))
                .max_capacity(memory_bytes / 3 * 2)
                .build(),
            records: Cache::builder()
                .weigher(move |_, record: &Arc<[u8]>| size(128 + record.len()))
                .max_capacity(memory_bytes / 3)
                .build(),
            hashing: tokio::sync::OnceCell::new(),
        }
    }
}

/// Records that were read beforehand: the crate's reading waits for nothing.
struct Chain {
    records: HashMap<SnapshotId, Arc<[u8]>>,
    state: Option<(SnapshotId, StateMap)>,
}

impl Source for Chain {
    fn record(&self, id: SnapshotId) -> Option<Vec<u8>> {
        self.records.get(&id).map(|record| record.to_vec())
    }

    fn state(&self, id: SnapshotId) -> Option<StateMap> {
        self.state.as_ref().filter(|(known, _)| *known == id).map(|(_, map)| map.clone())
    }
}

pub(super) const CORRUPT: RoomError = RoomError::Corrupt { what: "a snapshot of a room's state" };

fn corrupt<E>(_: E) -> RoomError {
    CORRUPT
}

impl Room {
    /// The room's table, read now if it is not in memory.
    pub(super) async fn ledger(&self, db: &Db) -> Result<&Arc<Ledger>, RoomError> {
        let load = async {
            let table = Table::load(db, self.number, &self.id, &self.version).await?;
            Ok(Arc::new(Ledger::new(table)))
        };
        self.ledger.get_or_try_init(|| load).await
    }
}

impl Rooms {
    async fn record(
        &self,
        at: &impl Read,
        room: &Room,
        id: SnapshotNumber,
    ) -> Result<Arc<[u8]>, RoomError> {
        if let Some(ledger) = room.ledger.get()
            && let Some(pending) = ledger.pending.lock().get(&id)
        {
            return Ok(Arc::clone(&pending.record));
        }
        let key = (room.number, id);
        if let Some(record) = self.shared.states.records.get(&key) {
            return Ok(record);
        }
        let record: Arc<[u8]> = RECORDS.get(at, &key).await?.ok_or(CORRUPT)?.into();
        self.shared.states.records.insert(key, Arc::clone(&record));
        Ok(record)
    }

    fn known_map(&self, room: &Room, id: SnapshotNumber) -> Option<StateMap> {
        if let Some(ledger) = room.ledger.get()
            && let Some(pending) = ledger.pending.lock().get(&id)
        {
            return Some(pending.map.clone());
        }
        self.shared.states.maps.get(&(room.number, id))
    }

    /// The state that a snapshot holds.
    ///
    /// # Errors
    /// [`RoomError::Corrupt`] if there is no such snapshot.
    pub(super) async fn state_map(
        &self,
        at: &impl Read,
        room: &Room,
        id: SnapshotNumber,
    ) -> Result<StateMap, RoomError> {
        if let Some(map) = self.known_map(room, id) {
            return Ok(map);
        }
        let mut chain = Chain { records: HashMap::new(), state: None };
        let mut next = id;
        loop {
            if let Some(map) = self.known_map(room, next) {
                chain.state = Some((SnapshotId(next.0), map));
                break;
            }
            let bytes = self.record(at, room, next).await?;
            let record = Record::from_bytes(&bytes).map_err(corrupt)?;
            chain.records.insert(SnapshotId(next.0), bytes);
            match record.parent {
                Some(parent) if !record.whole => next = SnapshotNumber(parent.0),
                _ => break,
            }
        }
        let map = snapshot::read_state(SnapshotId(id.0), &chain).map_err(corrupt)?;
        self.shared.states.maps.insert((room.number, id), map.clone());
        Ok(map)
    }

    /// Writes a state down that comes after `before` by `changes`, as the snapshot `id`.
    pub(super) async fn write_snapshot(
        &self,
        room: &Room,
        batch: &mut Batch,
        before: Option<SnapshotNumber>,
        changes: &[Change],
        state: &State,
    ) -> Result<(), RoomError> {
        let record = match before {
            None => Record::root(&state.map),
            Some(before) => {
                let mut chain = Chain { records: HashMap::new(), state: None };
                let mut next = before;
                let mut wanted = None;
                loop {
                    let bytes = self.record(self.db(), room, next).await?;
                    let record = Record::from_bytes(&bytes).map_err(corrupt)?;
                    let depth = record.depth + 1;
                    // The parent of the new record; no record behind it is looked at.
                    let wanted = *wanted.get_or_insert(depth & (depth - 1));
                    chain.records.insert(SnapshotId(next.0), bytes);
                    match record.parent {
                        Some(parent) if record.depth > wanted => next = SnapshotNumber(parent.0),
                        _ => break,
                    }
                }
                Record::after(SnapshotId(before.0), changes, &state.map, &chain).map_err(corrupt)?
            }
        };
        let bytes = record.to_bytes();
        RECORDS.put_new(batch, &(room.number, state.id), &bytes);
        let pending = Pending { record: bytes.into(), map: state.map.clone() };
        let ledger = room.ledger(self.db()).await?;
        ledger.pending.lock().insert(state.id, pending);
        Ok(())
    }

    /// Says that these snapshots and events are on disk.
    pub(super) fn written(
        &self,
        room: &Room,
        snapshots: &[SnapshotNumber],
        events: &[(OwnedEventId, Verdict)],
    ) {
        let Some(ledger) = room.ledger.get() else { return };
        let mut recent = ledger.recent.lock();
        for (id, verdict) in events {
            // What was an outlier may have become more in the meantime.
            if recent.get(id).is_some_and(|known| known.verdict == *verdict) {
                recent.remove(id);
            }
        }
        drop(recent);
        let mut pending = ledger.pending.lock();
        for id in snapshots {
            let Some(done) = pending.remove(id) else { continue };
            self.shared.states.records.insert((room.number, *id), done.record);
            self.shared.states.maps.insert((room.number, *id), done.map);
        }
    }

    /// The hash under which a resolved state is found again.
    pub(super) async fn fingerprint(&self, map: &StateMap) -> Result<u64, RoomError> {
        let load = async {
            if let Some(bytes) = META.get(self.db(), FINGERPRINT_KEY).await? {
                let bytes: [u8; 16] = bytes
                    .try_into()
                    .map_err(|_| StorageError::Corrupt { table: META.id.name() })?;
                return Ok::<_, RoomError>(key_of(bytes));
            }
            let bytes = self.shared.random.bytes::<16>();
            let mut batch = Batch::new();
            META.put(&mut batch, FINGERPRINT_KEY, &bytes.to_vec());
            self.db().commit(batch).await?;
            Ok(key_of(bytes))
        };
        let key = self.shared.states.hashing.get_or_try_init(|| load).await?;
        Ok(Fingerprint::of(*key, map).0)
    }

    /// A snapshot of just this state that was written before, found by its hash.
    pub(super) async fn known_snapshot(
        &self,
        room: &Room,
        hash: u64,
        map: &StateMap,
    ) -> Result<Option<SnapshotNumber>, RoomError> {
        let Some(id) = STATE_HASHES.get(self.db(), &(room.number, hash)).await? else {
            return Ok(None);
        };
        // Equal hashes are likely, not certain, to mean equal states.
        Ok((self.state_map(self.db(), room, id).await? == *map).then_some(id))
    }

    /// A room's state once everything up to a stream position had happened.
    pub(super) async fn map_at(
        &self,
        at: &impl Read,
        room: &Room,
        position: u64,
    ) -> Result<StateMap, RoomError> {
        match self.snapshot_at(at, room, position).await? {
            Some(id) => self.state_map(at, room, id).await,
            None => Ok(StateMap::new()),
        }
    }

    /// The snapshot that was current at a stream position up to which `at` has everything, or at the
    /// end of `at`, with [`u64::MAX`]; none before the room began.
    pub(super) async fn snapshot_at(
        &self,
        at: &impl Read,
        room: &Room,
        position: u64,
    ) -> Result<Option<SnapshotNumber>, RoomError> {
        // The latest may not be in `at` yet.
        if position < u64::MAX && !room.has_failed() {
            let mut known = *room.current_since.lock();
            if known.is_none() {
                let last = last_snapshot(self.db(), room.number).await?;
                // What a writer noted in the meantime is newer.
                let mut noted = room.current_since.lock();
                *noted = (*noted).or(last);
                known = *noted;
            }
            if let Some((_, id)) = known.filter(|(since, _)| *since <= position) {
                return Ok(Some(id));
            }
        }
        stored_snapshot(at, room.number, position).await
    }

    /// The states before and after an event. For rejected ones and messages they are the same; an
    /// outlier has none.
    pub(super) async fn event_state(
        &self,
        at: &impl Read,
        room: RoomNumber,
        event: EventNumber,
    ) -> Result<EventState, RoomError> {
        let range = Range::prefix(&(room,)).before(&(room, EventNumber(event.0 + 1)));
        let row = EVENT_STATES.scan_back(at, &range, 1).await?.pop();
        let ((_, found), state) = row.ok_or(CORRUPT)?;
        Ok(if found == event {
            state
        } else {
            EventState { before: state.after, after: state.after }
        })
    }

    /// Who may do what in a room, now.
    pub(crate) async fn powers(&self, room: &Room) -> Result<Powers, RoomError> {
        let ledger = Arc::clone(room.ledger(self.db()).await?);
        let map = self.map_at(self.db(), room, u64::MAX).await?;
        Ok(Powers::new(Arc::clone(&ledger.table), map))
    }
}

fn key_of(bytes: [u8; 16]) -> FingerprintKey {
    let whole = u128::from_be_bytes(bytes);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    FingerprintKey([(whole >> 64) as u64, whole as u64])
}

/// The snapshot that was current at a stream position; none before the room began.
pub(super) async fn stored_snapshot(
    at: &impl Read,
    room: RoomNumber,
    position: u64,
) -> Result<Option<SnapshotNumber>, RoomError> {
    let mut range = Range::prefix(&(room,));
    if let Some(past) = position.checked_add(1) {
        range = range.before(&(room, past));
    }
    Ok(CURRENT_STATES.scan_back(at, &range, 1).await?.pop().map(|(_, id)| id))
}

/// The last snapshot, and from which stream position on it is the room's state.
async fn last_snapshot(
    at: &impl Read,
    room: RoomNumber,
) -> Result<Option<(u64, SnapshotNumber)>, RoomError> {
    let last = CURRENT_STATES.scan_back(at, &Range::prefix(&(room,)), 1).await?.pop();
    Ok(last.map(|((_, since), id)| (since, id)))
}

/// The keys at which two states differ, with the event before and after.
pub(super) fn differences(
    before: &StateMap,
    after: &StateMap,
) -> Vec<(KeyIx, Option<EventIx>, Option<EventIx>)> {
    let mut found = Vec::new();
    before.for_each_difference(after, |key, old, new| found.push((key, old, new)));
    found
}
