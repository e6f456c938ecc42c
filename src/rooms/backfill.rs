//! Older events, fetched because somebody scrolls back.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::{
    Rooms,
    error::RoomError,
    ingest::{Ingested, in_order},
    pdu::Pdu,
    record::EventNumber,
    room::Room,
    writer::Shown,
};
use crate::storage::{
    Range,
    schema::{EVENT_IDS, EVENTS, TIMELINE},
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

    /// Puts older events before everything in the timeline, in one change. They are no news:
    /// nobody's sync tells of them, and the room's current state stays as it is. `states` has, by
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
        let range = Range::prefix(&(room.number,));
        let first = TIMELINE.scan(self.db(), &range, 1).await?.pop();
        let lowest = first.map_or(0, |((_, key), _)| key.min(0));
        let lowest = lowest - i64::try_from(sorted.len()).unwrap_or(i64::MAX);
        let mut new = 0;
        for (key, pdu) in (lowest..).zip(sorted) {
            let given = states.get(&pdu.event_id).map(Vec::as_slice);
            let ingested = writer.ingest(pdu, given, Shown::Backfilled(key)).await?;
            new += usize::from(matches!(ingested, Ingested::New { .. }));
        }
        if !writer.added.is_empty() {
            writer.commit().await?;
        }
        Ok(new)
    }

    /// Those of these events that have no place in the graph: not here at all, or as outliers.
    pub(super) async fn unplaced_events(
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
