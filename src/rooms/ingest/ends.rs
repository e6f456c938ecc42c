//! The ends of a room's graph: what an event takes the place of, and what is missing before it.

use std::collections::BTreeSet;

use ruma::OwnedEventId;

use super::{Known, Verdict};
use crate::{
    rooms::{error::RoomError, pdu::Pdu, record::EventNumber, writer::RoomWriter},
    storage::schema::{BACKWARD_EXTREMITIES, SUCCEEDED},
};

/// How many rejected and soft-failed events are looked behind for the accepted ones before them.
const MAX_BEHIND: usize = 1_000;

impl RoomWriter {
    /// Notes what is missing before an event, and that it is no longer missing itself. Whether an
    /// accepted event comes after it already: it is no end of the graph then. What only refused
    /// events refer to is one, or else anybody who has such an event refused takes the ends away.
    pub(super) async fn note_missing(
        &mut self,
        pdu: &Pdu,
        verdict: Verdict,
        missing: &[OwnedEventId],
    ) -> Result<bool, RoomError> {
        let room = self.room.number;
        let place = (room, &*pdu.event_id);
        let mut is_succeeded = false;
        if BACKWARD_EXTREMITIES.contains(self.rooms.db(), &place).await? {
            BACKWARD_EXTREMITIES.delete(&mut self.batch, &place);
            is_succeeded = SUCCEEDED.contains(self.rooms.db(), &place).await?;
            SUCCEEDED.delete(&mut self.batch, &place);
        }
        for id in missing {
            BACKWARD_EXTREMITIES.put(&mut self.batch, &(room, id), &());
            if is_succeeded || verdict == Verdict::Accepted {
                SUCCEEDED.put(&mut self.batch, &(room, id), &());
            }
        }
        Ok(is_succeeded)
    }

    /// The extremities that an accepted event takes the place of: its parents, and where those are
    /// rejected or soft-failed, what is behind them. Also what is missing behind those.
    pub(super) async fn behind(
        &self,
        parents: &[Known],
    ) -> Result<(Vec<EventNumber>, Vec<OwnedEventId>), RoomError> {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        let mut next: Vec<Known> = parents.to_vec();
        while let Some(parent) = next.pop() {
            if !seen.insert(parent.number) || seen.len() > MAX_BEHIND {
                continue;
            }
            if parent.verdict == Verdict::Accepted {
                found.push(parent.number);
                continue;
            }
            for id in parent.prev_events.into_iter().flatten() {
                let known = self.known(&id).await?;
                let is_placed = known.as_ref().is_some_and(|one| one.verdict != Verdict::Outlier);
                next.extend(known);
                if !is_placed && missing.len() < MAX_BEHIND {
                    missing.push(id);
                }
            }
        }
        Ok((found, missing))
    }
}
