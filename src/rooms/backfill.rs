//! Older events, fetched because somebody scrolls back.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

#![allow(dead_code, reason = "entry points of federation")]

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::{
    Rooms,
    error::RoomError,
    ingest::{Ingested, Verdict},
    pdu::Pdu,
    room::Room,
    writer::Shown,
};
use crate::storage::{Range, schema::TIMELINE};

/// What came of older events.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Backfilled {
    /// How many are in the timeline now.
    pub(crate) inserted: usize,
    /// The state before these is needed: their parents are not here, and no state came with them.
    pub(crate) needs_state: Vec<OwnedEventId>,
    /// To be stored as outliers first.
    pub(crate) needs_auth: Vec<OwnedEventId>,
}

impl Rooms {
    /// Puts older events before everything in the timeline, whole or not at all. They are no news:
    /// nobody's sync tells of them, and the room's current state stays as it is. `states` has, by
    /// event, the state before it as another server tells it; what a parent is here for needs none.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn insert_backfilled(
        &self,
        room: &Arc<Room>,
        pdus: &[Pdu],
        states: &BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<Backfilled, RoomError> {
        let mut sorted: Vec<&Pdu> = pdus.iter().collect();
        sorted.sort_by_key(|pdu| (pdu.depth, pdu.origin_server_ts));
        self.retried(|| self.try_backfill(room, &sorted, states)).await
    }

    async fn try_backfill(
        &self,
        room: &Arc<Room>,
        sorted: &[&Pdu],
        states: &BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<Backfilled, RoomError> {
        let among: HashSet<&EventId> = sorted.iter().map(|pdu| &*pdu.event_id).collect();
        let mut writer = self.writer(room).await?;
        let range = Range::prefix(&(room.number,));
        let first = TIMELINE.scan(self.db(), &range, 1).await?.pop();
        let lowest = first.map_or(0, |((_, key), _)| key.min(0));
        let lowest = lowest - i64::try_from(sorted.len()).unwrap_or(i64::MAX);
        let mut outcome = Backfilled::default();
        for (key, pdu) in (lowest..).zip(sorted) {
            let given = states.get(&pdu.event_id).map(Vec::as_slice);
            match writer.ingest(pdu, given, Shown::Backfilled(key)).await? {
                Ingested::New { verdict, .. } => {
                    outcome.inserted += usize::from(verdict == Verdict::Accepted);
                }
                Ingested::Known(_) => {}
                Ingested::Missing { auth_events, prev_events } => {
                    // What waits for another of these gets its turn when that has its state.
                    let waits = prev_events.iter().any(|id| among.contains(&**id));
                    if auth_events.is_empty() && !waits {
                        outcome.needs_state.push(pdu.event_id.clone());
                    }
                    outcome.needs_auth.extend(auth_events);
                }
            }
        }
        if !writer.added.is_empty() {
            writer.commit().await?;
        }
        Ok(outcome)
    }
}
