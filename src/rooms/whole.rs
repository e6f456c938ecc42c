//! A room that was joined without most of its members becomes whole: everything that happened since
//! the join is judged again, with the whole state, as if that had been known from the start. One batch
//! holds all that follows from it.

mod again;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ruma::{OwnedEventId, OwnedServerName, api::Direction};

use self::again::behind;
use super::{
    Rooms,
    auth_record::SnapshotNumber,
    error::RoomError,
    ingest::{Known, Verdict, in_order},
    partial::PartialRoom,
    pdu::Pdu,
    record::{EventNumber, EventRecord},
    room::{Extremity, Room},
    state::State,
    timeline_key::live_events,
    writer::{CORRUPT, MemberChange, RoomWriter},
};
use crate::storage::{
    Range, StorageError,
    intern::UserNumber,
    schema::{
        DEVICE_LIST_OUTBOX, EVENT_IDS, EVENTS, FORWARD_EXTREMITIES, FORWARDED, OUTBOX,
        REFUSED_EVENTS, ROOM_HEADS, ROOM_SERVERS,
    },
};

/// How many rows are read at a time.
const STEP: usize = 1_000;
/// How often it is looked whether what is queued is on disk.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What came of a state that another server told.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Told {
    /// The room is whole.
    Taken,
    /// It can't be the state before the join, for this reason.
    Refused(String),
}

/// The part of a change by which a room becomes whole.
pub(super) struct Whole {
    pub(super) partial: PartialRoom,
    pub(super) current: SnapshotNumber,
    pub(super) members: Vec<MemberChange>,
    /// The events that were judged again.
    pub(super) events: Vec<(OwnedEventId, Verdict)>,
    /// Users of this server whose devices are told to servers that turn out to be in the room.
    pub(super) devices: Vec<UserNumber>,
}

/// An event that came after the join, or with it.
struct Past {
    number: EventNumber,
    record: EventRecord,
    pdu: Pdu,
    /// When it came, in ms since the Unix epoch, if it was not accepted.
    refused_at: Option<u64>,
}

/// The same judged again.
struct Again {
    number: EventNumber,
    verdict: Verdict,
    after: State,
    prev_events: Vec<OwnedEventId>,
}

impl Rooms {
    /// Makes a room whole by the state before the join as another server tells it; the events of
    /// `state`, and what authorizes them, are here as outliers.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn make_whole(
        &self,
        room: &Arc<Room>,
        state: &[OwnedEventId],
    ) -> Result<Told, RoomError> {
        let told = self.retried(|| self.try_make_whole(room, state)).await?;
        self.shared.became_whole.notify_waiters();
        Ok(told)
    }

    async fn try_make_whole(
        &self,
        room: &Arc<Room>,
        state: &[OwnedEventId],
    ) -> Result<Told, RoomError> {
        let mut writer = self.writer(room).await?;
        // What happened since is read from disk.
        while writer.room.in_flight.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if writer.room.has_failed() {
            return Err(StorageError::Precondition { table: ROOM_HEADS.id.name() }.into());
        }
        let Some(partial) = writer.room.partial() else { return Ok(Told::Taken) };
        if let Err(why) = writer.become_whole(partial, state).await? {
            return Ok(Told::Refused(why));
        }
        writer.commit().await?;
        Ok(Told::Taken)
    }
}

impl RoomWriter {
    /// Judges everything since the join again. Why `state` can't be the one before it, if so: the
    /// change is to be given up then.
    async fn become_whole(
        &mut self,
        partial: PartialRoom,
        state: &[OwnedEventId],
    ) -> Result<Result<(), String>, RoomError> {
        let map = match self.state_of(state) {
            Ok(map) => map,
            Err(missing) => return Ok(Err(format!("{} events of it are missing", missing.len()))),
        };
        let told = self.state_given(map).await?;
        self.dirty = true;
        self.graph.resolved = None;
        let past = self.since(&partial).await?;
        let mut again: BTreeMap<OwnedEventId, Again> = BTreeMap::new();
        let mut by_id: HashMap<OwnedEventId, &Past> = HashMap::with_capacity(past.len());
        by_id.extend(past.iter().map(|one| (one.pdu.event_id.clone(), one)));
        let pdus: Vec<&Pdu> = past.iter().map(|one| &one.pdu).collect();
        let mut tips: Vec<Extremity> = Vec::new();
        let mut current: Option<State> = None;
        for pdu in in_order(&pdus, |pdu| &pdu.prev_events) {
            let one = *by_id.get(&pdu.event_id).ok_or(CORRUPT)?;
            let is_join = pdu.event_id == partial.join;
            let comes_in = is_join || partial.rejoined.contains(&pdu.event_id);
            let before =
                if is_join { told.clone() } else { self.state_before_again(one, &again).await? };
            let soft = current.as_ref().filter(|_| !comes_in).map(|state| &state.map);
            let (verdict, why) = self.judge_again(one, &before, soft).await?;
            if is_join && verdict != Verdict::Accepted {
                return Ok(Err(why.unwrap_or_default()));
            }
            let after = self.note_again(one, verdict, &before).await?;
            if verdict == Verdict::Accepted {
                let behind = behind(&pdu.prev_events, &again);
                tips.retain(|tip| !comes_in && !behind.contains(&tip.number));
                let (number, event_id) = (one.number, pdu.event_id.clone());
                tips.push(Extremity { number, event_id, depth: pdu.depth, after: after.clone() });
                let states = tips.iter().map(|tip| tip.after.clone()).collect();
                current = Some(self.resolve(states).await?);
            }
            let prev_events = pdu.prev_events.clone();
            let judged = Again { number: one.number, verdict, after, prev_events };
            again.insert(pdu.event_id.clone(), judged);
        }
        self.judge_outliers_again(&past, &again).await?;
        self.keep_implied_states(&past, &again).await?;
        self.keep_succession(&past, &again).await?;
        self.put_tips(tips);
        let states = self.graph.extremities.iter().map(|tip| tip.after.clone()).collect();
        let current = self.resolve(states).await?;
        let snapshot = current.id;
        let servers_before: BTreeSet<OwnedServerName> = self.room.servers().into_iter().collect();
        let members = self.change_current(current).await?;
        let new_servers = self.count_servers(&servers_before);
        let mut devices = Vec::new();
        if !new_servers.is_empty() {
            // They were not told of anything so far.
            for one in past.iter().filter(|one| one.record.position > 0) {
                let key = (self.room.number, one.record.position);
                if self.rooms.is_local(&one.record.sender_id)
                    || FORWARDED.contains(self.rooms.db(), &key).await?
                {
                    let event = (self.room.number, one.number);
                    OUTBOX.put(&mut self.batch, &one.record.position, &event);
                }
            }
            devices = self.room.local_members().to_vec();
        }
        let mut events = Vec::with_capacity(again.len());
        for (id, one) in again {
            let Again { number, verdict, after, prev_events } = one;
            events.push((id.clone(), verdict));
            let (after, prev_events) = (Some(after), Some(prev_events));
            self.ledger.note_recent(id, Known { number, verdict, after, prev_events });
        }
        // What was noted for the next event is of the partial state.
        self.graph.pointer = SnapshotNumber(0);
        // One number is left out: what builds on this change must not fit what was before it.
        self.graph.next = EventNumber(self.graph.next.0 + 1);
        self.whole = Some(Whole { partial, current: snapshot, members, events, devices });
        Ok(Ok(()))
    }

    /// The join and everything that came after it, but for what was fetched of the time before it.
    async fn since(&self, partial: &PartialRoom) -> Result<Vec<Past>, RoomError> {
        let (db, room) = (self.rooms.db(), self.room.number);
        let (_, join) = EVENT_IDS.get(db, &partial.join).await?.ok_or(CORRUPT)?;
        let join = EVENTS.get(db, &(room, join)).await?.ok_or(CORRUPT)?;
        let mut after = join.position.saturating_sub(1);
        let mut numbers: Vec<(EventNumber, Option<u64>)> = Vec::new();
        loop {
            let window = (after, u64::MAX);
            let rows = live_events(db, room, window, STEP, Direction::Forward).await?;
            numbers.extend(rows.iter().map(|(_, number)| (*number, None)));
            let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) else { break };
            after = *last;
        }
        let mut range = Range::prefix(&(room,));
        loop {
            let rows = REFUSED_EVENTS.scan(db, &range, STEP).await?;
            numbers.extend(rows.iter().map(|((_, at, number), ())| (*number, Some(*at))));
            let Some((last, ())) = rows.last().filter(|_| rows.len() == STEP) else { break };
            range = range.after(last);
        }
        numbers.sort_unstable();
        numbers.dedup_by_key(|(number, _)| *number);
        let mut past = Vec::with_capacity(numbers.len());
        for numbers in numbers.chunks(STEP) {
            let keys = numbers.iter().map(|(number, _)| (room, *number));
            let records = EVENTS.multi_get(db, keys).await?;
            for ((number, refused_at), record) in numbers.iter().zip(records) {
                let Some(record) = record.filter(|record| !record.outlier) else { continue };
                let pdu = self.stored_pdu(&record)?;
                past.push(Past { number: *number, record, pdu, refused_at: *refused_at });
            }
        }
        Ok(past)
    }

    /// Makes these the ends of the graph.
    fn put_tips(&mut self, tips: Vec<Extremity>) {
        let room = self.room.number;
        for old in std::mem::take(&mut self.graph.extremities) {
            FORWARD_EXTREMITIES.delete(&mut self.batch, &(room, old.number));
        }
        for tip in &tips {
            FORWARD_EXTREMITIES.put(&mut self.batch, &(room, tip.number), &());
        }
        self.graph.extremities = tips;
        self.cap_extremities();
    }

    /// Forgets the servers that were only said to be in the room. Those that nobody said were.
    fn count_servers(&mut self, before: &BTreeSet<OwnedServerName>) -> Vec<OwnedServerName> {
        let mut servers = self.room.servers.write();
        let mut new = Vec::new();
        servers.retain(|server, count| {
            if *count == 0 {
                ROOM_SERVERS.delete(&mut self.batch, &(self.room.number, &**server));
            } else if !before.contains(server) {
                new.push(server.clone());
            }
            *count > 0
        });
        new
    }
}

impl Whole {
    /// What the device lists' queue gets at this position.
    pub(super) fn queue_devices(&self, batch: &mut crate::storage::Batch, position: u64) {
        for user in &self.devices {
            DEVICE_LIST_OUTBOX.put(batch, user, &position);
        }
    }
}
