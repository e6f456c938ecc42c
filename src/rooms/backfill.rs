//! Older events, fetched because somebody scrolls back.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::{
    Rooms,
    error::RoomError,
    ingest::{Ingested, in_order},
    pdu::Pdu,
    purge::Purged,
    record::EventNumber,
    room::Room,
    timeline_key::TimelineKey,
    writer::Shown,
};
use crate::storage::{
    Batch, Json, Range,
    schema::{EVENT_IDS, EVENTS, GAPS, ROOM_PURGES, TIMELINE},
};

/// What has to be here before older events can be taken in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Needed {
    /// Events with parents that are neither here nor among them: the state before each is needed.
    pub(crate) states: Vec<OwnedEventId>,
    /// Auth events that are neither here nor among them, for [`Rooms::ingest_outliers`].
    pub(crate) auth_events: Vec<OwnedEventId>,
}

impl Rooms {
    /// What is missing for [`Rooms::insert_backfilled`].
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn needed_for_backfill(
        &self,
        room: &Room,
        pdus: &[Pdu],
    ) -> Result<Needed, RoomError> {
        let among: HashSet<&EventId> = pdus.iter().map(|pdu| &*pdu.event_id).collect();
        let others = |of: fn(&Pdu) -> &[OwnedEventId]| -> Vec<OwnedEventId> {
            let ids: BTreeSet<&OwnedEventId> = pdus.iter().flat_map(of).collect();
            ids.into_iter().filter(|id| !among.contains(&***id)).cloned().collect()
        };
        let auth_events = self.unknown_events(room, &others(|pdu| &pdu.auth_events)).await?;
        let parents = self.unplaced_events(room, &others(|pdu| &pdu.prev_events)).await?;
        let parents: HashSet<OwnedEventId> = parents.into_iter().collect();
        let at_edge =
            pdus.iter().filter(|pdu| pdu.prev_events.iter().any(|id| parents.contains(id)));
        Ok(Needed { states: at_edge.map(|pdu| pdu.event_id.clone()).collect(), auth_events })
    }

    /// Puts events that were missing into the timeline, in one change: each before what refers to it,
    /// and what nothing there refers to before everything. They are no news: nobody's sync
    /// tells of them, and the room's current state stays as it is. `states` has, by
    /// event, the state before it as another server tells it; an event whose parents are all here
    /// or among these needs none. What lacks something is left out. How many are here now that
    /// were not, whatever the verdict.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn insert_backfilled(
        &self,
        room: &Arc<Room>,
        pdus: &[Pdu],
        states: &BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<usize, RoomError> {
        let mut sorted: Vec<&Pdu> = pdus.iter().collect();
        sorted.sort_by_key(|pdu| (pdu.depth, pdu.origin_server_ts));
        // The depth is what the sender claims.
        let sorted = in_order(&sorted, |pdu| &pdu.prev_events);
        self.retried(|| self.try_backfill(room, &sorted, states)).await
    }

    async fn try_backfill(
        &self,
        room: &Arc<Room>,
        sorted: &[&Pdu],
        states: &BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<usize, RoomError> {
        let mut writer = self.writer(room).await?;
        let gaps = self.gaps(room).await?;
        let places = self.places(room, sorted, &gaps).await?;
        let mut new = 0;
        let mut here: HashSet<&EventId> = HashSet::new();
        for pdu in sorted {
            let Some(key) = places.get(&*pdu.event_id) else { continue };
            let given = states.get(&pdu.event_id).map(Vec::as_slice);
            match writer.ingest(pdu, given, Shown::Backfilled(*key)).await? {
                Ingested::New { .. } => {
                    new += 1;
                    here.insert(&pdu.event_id);
                }
                Ingested::Known(_) => {
                    here.insert(&pdu.event_id);
                }
                Ingested::Missing { .. } => {}
            }
        }
        if writer.added.is_empty() {
            return Ok(0);
        }
        for (key, parents) in &gaps {
            if parents.iter().all(|parent| here.contains(&**parent)) {
                GAPS.delete(&mut writer.batch, &(room.number, *key));
            }
        }
        if places.values().any(|key| key.fills_gap()) {
            self.look_again(room, &mut writer.batch).await?;
        }
        writer.commit().await?;
        Ok(new)
    }

    /// Where these events, oldest first, are to stand: just before the first event of the timeline
    /// that needs them, directly or by way of others of them. One for which there is no room there
    /// has no place.
    async fn places<'p>(
        &self,
        room: &Room,
        sorted: &[&'p Pdu],
        gaps: &[(TimelineKey, Vec<OwnedEventId>)],
    ) -> Result<HashMap<&'p EventId, TimelineKey>, RoomError> {
        let mut before: HashMap<&EventId, TimelineKey> = HashMap::new();
        for (key, parents) in gaps {
            for parent in parents {
                let first = before.entry(&**parent).or_insert(*key);
                *first = (*first).min(*key);
            }
        }
        let mut groups: BTreeMap<TimelineKey, Vec<&'p EventId>> = BTreeMap::new();
        for pdu in sorted.iter().rev() {
            let needed_by = before.get(&*pdu.event_id).copied().unwrap_or(TimelineKey::MIN);
            for parent in &pdu.prev_events {
                let first = before.entry(&**parent).or_insert(needed_by);
                *first = (*first).min(needed_by);
            }
            groups.entry(needed_by).or_default().push(&pdu.event_id);
        }
        let mut places = HashMap::new();
        let mut before_all: Vec<&'p EventId> = Vec::new();
        for (needed_by, mut events) in groups {
            events.reverse();
            let range = Range::prefix(&(room.number,)).before(&(room.number, needed_by));
            let earlier = TIMELINE.scan_back(self.db(), &range, 1).await?.pop();
            let Some(((_, earlier), _)) = earlier else {
                before_all.extend(events);
                continue;
            };
            let keys = needed_by.filling(earlier, events.len());
            if keys.is_none() {
                tracing::warn!(room = %room.id, %needed_by, "a gap takes no more events");
            }
            places.extend(events.into_iter().zip(keys.into_iter().flatten()));
        }
        let first = TIMELINE.scan(self.db(), &Range::prefix(&(room.number,)), 1).await?.pop();
        let past = first.map_or(0, |((_, key), _)| key.number().min(0));
        let keys = (i64::MIN + 1..past).rev().map(TimelineKey::at);
        places.extend(before_all.into_iter().rev().zip(keys));
        Ok(places)
    }

    /// Has the removal of what expires look at what is here of the past once more.
    async fn look_again(&self, room: &Room, batch: &mut Batch) -> Result<(), RoomError> {
        if let Some(Json(purged)) = ROOM_PURGES.get(self.db(), &room.number).await? {
            let purged = Purged { first_key: TimelineKey::MAX, ..purged };
            ROOM_PURGES.put(batch, &room.number, &Json(purged));
        }
        Ok(())
    }

    /// Those of these events that have no place in the graph: not here at all, or as outliers.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn unplaced_events(
        &self,
        room: &Room,
        ids: &[OwnedEventId],
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let rows = EVENT_IDS.multi_get(self.db(), ids).await?;
        let numbers: Vec<Option<EventNumber>> = rows
            .into_iter()
            .map(|row| row.filter(|(in_room, _)| *in_room == room.number).map(|(_, at)| at))
            .collect();
        let keys = numbers.iter().flatten().map(|number| (room.number, *number));
        let mut records = EVENTS.multi_get(self.db(), keys).await?.into_iter();
        let mut unplaced = Vec::new();
        for (id, number) in ids.iter().zip(numbers) {
            let record = number.and_then(|_| records.next().flatten());
            if record.is_none_or(|record| record.outlier) {
                unplaced.push(id.clone());
            }
        }
        Ok(unplaced)
    }
}
