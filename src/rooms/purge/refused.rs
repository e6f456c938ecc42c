//! Removing events that were never shown: rejected and soft-failed ones. What they say is gone with
//! the history of their time.

use std::sync::Arc;

use super::{PAUSE, STEP};
use crate::{
    rooms::{
        Rooms,
        error::RoomError,
        ingest::Verdict,
        record::{EventNumber, EventRecord},
        room::Room,
        timeline_key::TimelineKey,
    },
    storage::{
        Batch, Range,
        schema::{EVENT_IDS, EVENTS, REFUSED_EVENTS, STATES_TO_COLLECT, TIMELINE},
    },
};

impl Rooms {
    /// Removes those that came before a time, in ms since the Unix epoch, and that `wanted` names.
    /// State events stay, as they do elsewhere. How many were removed.
    pub(super) async fn remove_refused(
        &self,
        room: &Arc<Room>,
        before_ms: u64,
        wanted: impl Fn(&EventRecord) -> bool,
    ) -> Result<usize, RoomError> {
        let number = room.number;
        let mut removed = 0;
        let mut range = Range::prefix(&(number,)).before(&(number, before_ms, EventNumber(0)));
        loop {
            let rows = REFUSED_EVENTS.scan(self.db(), &range, STEP).await?;
            let Some((last, ())) = rows.last() else { return Ok(removed) };
            range = range.after(last);
            // One may be judged again at this moment.
            let writer = self.writer(room).await?;
            let keys = rows.iter().map(|((_, _, event), ())| (number, *event));
            let records = EVENTS.multi_get(self.db(), keys).await?;
            let mut batch = Batch::new();
            for ((key, ()), record) in rows.iter().zip(records) {
                let record = record.filter(|record| {
                    matches!(record.verdict(), Verdict::Rejected | Verdict::SoftFailed)
                });
                if record.as_ref().is_some_and(|record| !record.is_state() && !wanted(record)) {
                    continue;
                }
                REFUSED_EVENTS.delete(&mut batch, key);
                if let Some(record) = record.filter(|record| !record.is_state()) {
                    EVENTS.delete(&mut batch, &(number, key.2));
                    EVENT_IDS.delete(&mut batch, &*record.event_id);
                    removed += 1;
                }
            }
            STATES_TO_COLLECT.put(
                &mut batch,
                &number,
                &u64::from_be_bytes(self.shared.random.bytes()),
            );
            let queued = self.db().enqueue(batch);
            drop(writer);
            queued.await?;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// When the first event of a room's timeline from this key on was sent, in ms since the Unix
    /// epoch; now if there is none.
    pub(super) async fn time_of_key(
        &self,
        room: &Room,
        key: TimelineKey,
    ) -> Result<u64, RoomError> {
        let range = Range::prefix(&(room.number,)).from(&(room.number, key));
        let first = TIMELINE.scan(self.db(), &range, 1).await?.pop();
        let Some((_, number)) = first else { return Ok(self.clock().now_ms()) };
        let record = EVENTS.get(self.db(), &(room.number, number)).await?;
        Ok(record.map_or(0, |record| record.origin_server_ts))
    }
}
