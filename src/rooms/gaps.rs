//! Where a room's timeline lacks events that others in it refer to.

use std::collections::HashSet;

use ruma::{OwnedEventId, api::Direction};

use super::{
    Rooms,
    error::RoomError,
    room::Room,
    timeline_key::{Boundary, TimelineKey},
};
use crate::storage::{
    Json, Range, Read,
    schema::{BACKWARD_EXTREMITIES, GAPS, TIMELINE},
};

/// How many events behind gaps are looked at for one that is open still.
const MAX_LOOKED_AT: usize = 20;
/// Of how many gaps of a room it is known where they are.
pub(super) const MAX_GAPS: usize = 5_000;

impl Rooms {
    /// What is missing where a reader comes by who goes over a stretch of the timeline: the parents
    /// of the first event with such. Empty if nothing is.
    pub(super) async fn missing_within(
        &self,
        at: &impl Read,
        room: &Room,
        (after, upto): (Boundary, Boundary),
        direction: Direction,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        // A gap lies before its event: who begins there going back comes by, and who does so going
        // on does not.
        let (first, last) = match direction {
            Direction::Forward => (after.0.next(), upto.0),
            Direction::Backward => (after.0, upto.0.next()),
        };
        let range =
            Range::prefix(&(room.number,)).after(&(room.number, first)).upto(&(room.number, last));
        let rows = match direction {
            Direction::Forward => GAPS.scan(at, &range, MAX_LOOKED_AT).await?,
            Direction::Backward => GAPS.scan_back(at, &range, MAX_LOOKED_AT).await?,
        };
        for (_, Json(parents)) in rows {
            let missing = self.still_missing(at, room, parents).await?;
            if !missing.is_empty() {
                return Ok(missing);
            }
        }
        Ok(Vec::new())
    }

    /// What is missing before everything that is here. Empty if nothing is.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn missing_before_all(
        &self,
        room: &Room,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let range = Range::prefix(&(room.number,));
        if let Some((key, _)) = TIMELINE.scan(self.db(), &range, 1).await?.pop()
            && let Some(Json(parents)) = GAPS.get(self.db(), &key).await?
        {
            let missing = self.still_missing(self.db(), room, parents).await?;
            if !missing.is_empty() {
                return Ok(missing);
            }
        }
        // Of the others it is known where they belong, or else they belong here.
        let known: HashSet<OwnedEventId> =
            self.gaps(room).await?.into_iter().flat_map(|(_, missing)| missing).collect();
        let mut missing = self.backward_extremities(room).await?;
        missing.retain(|id| !known.contains(id));
        Ok(missing)
    }

    /// The room's gaps: the places of the events behind them, and the parents that those lack or
    /// lacked.
    pub(super) async fn gaps(
        &self,
        room: &Room,
    ) -> Result<Vec<(TimelineKey, Vec<OwnedEventId>)>, RoomError> {
        let rows = GAPS.scan(self.db(), &Range::prefix(&(room.number,)), MAX_GAPS).await?;
        Ok(rows.into_iter().map(|((_, key), Json(parents))| (key, parents)).collect())
    }

    /// Those of these events that are to be fetched when somebody reads there.
    async fn still_missing(
        &self,
        at: &impl Read,
        room: &Room,
        parents: Vec<OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let keys = parents.iter().map(|id| (room.number, &**id));
        let wanted = BACKWARD_EXTREMITIES.multi_get(at, keys).await?;
        let wanted = parents.iter().zip(wanted).filter(|(_, row)| row.is_some());
        let wanted: Vec<OwnedEventId> = wanted.map(|(id, _)| id.clone()).collect();
        self.unplaced_events(room, &wanted).await
    }
}
