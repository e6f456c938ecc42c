//! Collecting states that nothing refers to any more: where history forked and was removed later,
//! those that only the removed events were sent in or led to.
//!
//! A snapshot is needed while a row of the event states or of the current states names it, or one
//! that is needed is written as a change of it. So the rows of events that are gone go first. What
//! is then needed is found in a snapshot of the database, beside whoever writes to the room: from
//! the moment it is taken, no old state is used again but those that rows name. Everything begins
//! anew after a restart, and does no harm when it was done before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use state_resolution::snapshot::Record;

use super::{PAUSE, REST, STEP};
use crate::{
    rooms::{
        Rooms,
        auth_record::SnapshotNumber,
        error::RoomError,
        record::EventNumber,
        room::Room,
        state::{CORRUPT, RECORDS},
        writer::RoomWriter,
    },
    storage::{
        Batch, Range, Snapshot, StorageError, chunks,
        intern::RoomNumber,
        schema::{
            CURRENT_STATES, EVENT_STATES, EVENTS, STATE_HASHES, STATE_SNAPSHOTS, STATES_TO_COLLECT,
        },
    },
};

/// How often it is looked whether there is something to collect.
const EVERY: Duration = Duration::from_hours(1);
/// How long readers may go on with what they found in rows that go.
const GRACE: Duration = Duration::from_secs(10);

impl Rooms {
    /// Collects what is no longer needed, now and then, for as long as it is polled.
    pub(in crate::rooms) async fn run_collection(self) {
        loop {
            tokio::time::sleep(EVERY).await;
            while let Err(error) = self.collect_states(GRACE).await {
                tracing::error!(%error, "unused states could not be collected");
                tokio::time::sleep(REST).await;
            }
        }
    }

    /// Collects what is no longer needed in all rooms of which events were removed since the last
    /// time. How many states were collected.
    ///
    /// # Errors
    /// [`RoomError::Storage`]; [`RoomError::Corrupt`] if what is stored makes no sense.
    pub(in crate::rooms) async fn collect_states(
        &self,
        grace: Duration,
    ) -> Result<usize, RoomError> {
        let mut collected = 0;
        let mut range = Range::all();
        loop {
            let rows = STATES_TO_COLLECT.scan(self.db(), &range, STEP).await?;
            let Some((last, _)) = rows.last() else { return Ok(collected) };
            range = range.after(last);
            for (number, since) in rows {
                // It may be deleted at this moment.
                let Ok(room) = self.numbered(number).await else { continue };
                self.drop_event_states(&room).await?;
                tokio::time::sleep(grace).await;
                // Where a failure has the room read again meanwhile, another time will do.
                let Some(states) = self.collect_room(&room).await? else { continue };
                if states > 0 {
                    tracing::info!(room = %room.id, states, "unused states collected");
                }
                collected += states;
                let mut batch = Batch::unsynced();
                // Unless more was removed in the meantime.
                STATES_TO_COLLECT.require_equals(&mut batch, &number, &since);
                STATES_TO_COLLECT.delete(&mut batch, &number);
                match self.db().commit(batch).await {
                    Err(StorageError::Precondition { .. }) => {}
                    done => done?,
                }
            }
        }
    }

    /// The room's writer once nothing of the room is on its way to disk.
    async fn idle_writer(&self, room: &Arc<Room>) -> Result<RoomWriter, RoomError> {
        loop {
            let writer = self.writer(room).await?;
            while writer.room.in_flight.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if !writer.room.has_failed() {
                return Ok(writer);
            }
        }
    }

    /// Deletes the rows of event states up to whose next there is no event. The last one is for
    /// what comes.
    async fn drop_event_states(&self, room: &Arc<Room>) -> Result<(), RoomError> {
        let at = {
            // Later rows are left alone, so nobody has to be kept out any longer.
            let _writer = self.idle_writer(room).await?;
            self.db().snapshot()
        };
        let (at, room) = (&at, room.number);
        let mut range = Range::prefix(&(room,));
        let mut before: Option<EventNumber> = None;
        loop {
            let rows = EVENT_STATES.scan(at, &range, STEP).await?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            range = range.after(last);
            let mut batch = Batch::unsynced();
            for ((_, number), _) in &rows {
                if let Some(before) = before.replace(*number) {
                    let events =
                        Range::prefix(&(room,)).from(&(room, before)).before(&(room, *number));
                    if EVENTS.scan(at, &events, 1).await?.is_empty() {
                        EVENT_STATES.delete(&mut batch, &(room, before));
                    }
                }
            }
            self.db().commit(batch).await?;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Deletes the snapshots of a room that are not needed. How many; none if the room had to be
    /// read again meanwhile.
    async fn collect_room(&self, room: &Arc<Room>) -> Result<Option<usize>, RoomError> {
        let (at, newest) = {
            let mut writer = self.idle_writer(room).await?;
            let newest = SnapshotNumber(writer.graph.next_snapshot.0.saturating_sub(1));
            writer.graph.not_reused = newest;
            writer.graph.resolved = None;
            (self.db().snapshot(), newest)
        };
        let unused = self.unused_snapshots(&at, room.number).await?;
        let hashes = self.hashes_of(&at, room.number, &unused).await?;
        drop(at);
        // Those that are changes of others first: at no time something is half there.
        let unused: Vec<SnapshotNumber> = unused.into_iter().rev().collect();
        for some in unused.chunks(STEP) {
            let writer = self.writer(room).await?;
            if writer.graph.not_reused != newest {
                return Ok(None);
            }
            let mut batch = Batch::unsynced();
            for id in some {
                for hash in hashes.get(id).into_iter().flatten() {
                    let key = (room.number, *hash);
                    if STATE_HASHES.get(self.db(), &key).await? == Some(*id) {
                        STATE_HASHES.delete(&mut batch, &key);
                    }
                }
                RECORDS.delete(self.db(), &mut batch, &(room.number, *id)).await?;
            }
            let queued = self.db().enqueue(batch);
            drop(writer);
            queued.await?;
            tokio::time::sleep(PAUSE).await;
        }
        let mut writer = self.writer(room).await?;
        if writer.graph.not_reused == newest {
            writer.graph.not_reused = SnapshotNumber(0);
        }
        Ok(Some(unused.len()))
    }

    /// The snapshots of a room that no row needs.
    async fn unused_snapshots(
        &self,
        at: &Snapshot,
        room: RoomNumber,
    ) -> Result<BTreeSet<SnapshotNumber>, RoomError> {
        let mut needed = BTreeSet::new();
        let mut range = Range::prefix(&(room,));
        loop {
            let rows = EVENT_STATES.scan(at, &range, STEP).await?;
            let Some((last, _)) = rows.last() else { break };
            range = range.after(last);
            needed.extend(rows.into_iter().flat_map(|(_, state)| [state.before, state.after]));
            tokio::time::sleep(PAUSE).await;
        }
        let mut range = Range::prefix(&(room,));
        loop {
            let rows = CURRENT_STATES.scan(at, &range, STEP).await?;
            let Some((last, _)) = rows.last() else { break };
            range = range.after(last);
            needed.extend(rows.into_iter().map(|(_, id)| id));
            tokio::time::sleep(PAUSE).await;
        }
        // From the newest on: a snapshot is a change of an earlier one.
        let (mut unused, mut newest) = (BTreeSet::new(), None);
        let first = |room: RoomNumber| ((room, SnapshotNumber(0)), 0_u32);
        let begin = Range::all().from(&first(room));
        let mut end = first(RoomNumber(room.0 + 1));
        loop {
            let rows = STATE_SNAPSHOTS.scan_back(at, &begin.clone().before(&end), STEP).await?;
            let Some((last, _)) = rows.last() else { return Ok(unused) };
            end = *last;
            for (((_, id), piece), bytes) in rows {
                if piece > 0 {
                    continue;
                }
                // The newest stays in any case: the next one gets the number after it.
                if *newest.get_or_insert(id) != id && !needed.contains(&id) {
                    unused.insert(id);
                    continue;
                }
                let record = chunks::beginning(&bytes);
                let parent = record.and_then(|record| Record::parent_in(record).ok());
                needed.extend(parent.ok_or(CORRUPT)?.map(|parent| SnapshotNumber(parent.0)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// By which hashes these snapshots are found.
    async fn hashes_of(
        &self,
        at: &Snapshot,
        room: RoomNumber,
        snapshots: &BTreeSet<SnapshotNumber>,
    ) -> Result<BTreeMap<SnapshotNumber, Vec<u64>>, StorageError> {
        let mut found: BTreeMap<SnapshotNumber, Vec<u64>> = BTreeMap::new();
        let mut range = Range::prefix(&(room,));
        loop {
            let rows = STATE_HASHES.scan(at, &range, STEP).await?;
            let Some((last, _)) = rows.last() else { return Ok(found) };
            range = range.after(last);
            for ((_, hash), id) in rows {
                if snapshots.contains(&id) {
                    found.entry(id).or_default().push(hash);
                }
            }
        }
    }
}
