//! How long rooms keep messages.
//!
//! A room says so in `m.room.retention` (MSC1763); the operator has a default for the others and
//! bounds for all.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use super::{REST, STEP};
use crate::{
    config,
    rooms::{
        Rooms,
        error::RoomError,
        record::{EventNumber, EventRecord},
        room::{Room, stored_states},
        timeline_key::TimelineKey,
    },
    storage::{
        Batch, Json, Range,
        schema::{BACKWARD_EXTREMITIES, ROOM_PURGES, ROOMS, SUCCEEDED, TIMESTAMPS},
    },
};

/// How many rooms are looked at at a time.
const ROOMS_AT_ONCE: usize = 500;

#[derive(Debug, Default, Deserialize)]
struct Policy {
    /// In ms.
    #[serde(default)]
    max_lifetime: Option<u64>,
}

/// How long a message lives in a room, in ms; none: for ever.
fn lifetime_ms(settings: &config::Retention, policy: Option<&str>) -> Option<u64> {
    let ms = |seconds: u64| seconds.saturating_mul(1_000);
    let wanted = policy.and_then(|content| {
        // What makes no sense is no wish.
        serde_json::from_str::<Policy>(content).ok()?.max_lifetime
    });
    let lifetime = wanted.or(settings.default_max_lifetime_seconds.map(ms))?;
    let least = settings.min_lifetime_seconds.map_or(0, ms);
    let most = settings.max_lifetime_seconds.map_or(u64::MAX, ms);
    Some(lifetime.min(most).max(least))
}

impl Rooms {
    /// What was sent before this time is no longer shown in a room with this `m.room.retention` (ms
    /// since the Unix epoch); 0 if it keeps everything.
    pub(in crate::rooms) fn shown_from_ms(&self, policy: Option<&EventRecord>) -> u64 {
        let settings = &self.settings().retention;
        if !settings.enabled {
            return 0;
        }
        let lifetime = lifetime_ms(settings, policy.map(EventRecord::content));
        lifetime.map_or(0, |lifetime| self.clock().now_ms().saturating_sub(lifetime))
    }

    /// Removes what has expired in all rooms, now and then, for as long as it is polled.
    pub(in crate::rooms) async fn run_retention(self) {
        let settings = self.settings().retention.clone();
        if !settings.enabled {
            return;
        }
        loop {
            tokio::time::sleep(Duration::from_secs(settings.interval_seconds)).await;
            while let Err(error) = self.remove_expired().await {
                tracing::error!(%error, "expired messages could not be removed");
                tokio::time::sleep(REST).await;
            }
        }
    }

    /// Removes what has expired in all rooms. How many events those were.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn remove_expired(&self) -> Result<usize, RoomError> {
        let mut removed = 0;
        let mut range = Range::all();
        loop {
            let rows = ROOMS.scan(self.db(), &range, ROOMS_AT_ONCE).await?;
            for (number, _) in &rows {
                let [policy] = stored_states(self.db(), *number, ["m.room.retention"]).await?;
                let before_ms = self.shown_from_ms(policy.as_deref());
                if before_ms > 0 {
                    // It may be deleted at this moment.
                    let Ok(room) = self.numbered(*number).await else { continue };
                    removed += self.remove_sent_before(&room, before_ms).await?;
                }
            }
            let Some((last, _)) = rows.last().filter(|_| rows.len() == ROOMS_AT_ONCE) else {
                return Ok(removed);
            };
            range = range.after(last);
        }
    }

    /// Removes the messages of a room that were sent before a time, in ms since the Unix epoch.
    async fn remove_sent_before(
        &self,
        room: &Arc<Room>,
        before_ms: u64,
    ) -> Result<usize, RoomError> {
        let number = room.number;
        let done = ROOM_PURGES.get(self.db(), &number).await?.map(|Json(done)| done);
        let first_key = self.first_key(number).await?;
        // Older events may have been fetched since.
        let from_ms =
            done.filter(|done| done.first_key <= first_key).map_or(0, |done| done.before_ms);
        let mut range = Range::prefix(&(number,))
            .from(&(number, from_ms, EventNumber(0)))
            .before(&(number, before_ms, EventNumber(0)));
        let mut removed = 0;
        if first_key == TimelineKey::MAX {
            return Ok(0);
        }
        self.note_purged(number, None).await?;
        loop {
            let rows = TIMESTAMPS.scan(self.db(), &range, STEP).await?;
            let numbers: Vec<EventNumber> = rows.iter().map(|((_, _, event), ())| *event).collect();
            removed += self
                .remove_events(room, &numbers, |event| event.origin_server_ts < before_ms)
                .await?;
            let Some((last, ())) = rows.last().filter(|_| rows.len() == STEP) else { break };
            range = range.after(last);
        }
        removed += self.remove_refused(room, before_ms, |_| true).await?;
        self.note_purged(number, Some(before_ms)).await?;
        let mut batch = Batch::unsynced();
        // What is before that is not fetched again.
        for (key, ()) in
            BACKWARD_EXTREMITIES.scan(self.db(), &Range::prefix(&(number,)), STEP).await?
        {
            BACKWARD_EXTREMITIES.delete(&mut batch, &key);
            SUCCEEDED.delete(&mut batch, &key);
        }
        self.db().commit(batch).await?;
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_decides_within_the_bounds_of_the_operator() {
        let free = config::Retention::default();
        let day = r#"{"max_lifetime":86400000}"#;
        assert_eq!(lifetime_ms(&free, None), None);
        assert_eq!(lifetime_ms(&free, Some(day)), Some(86_400_000));
        for nonsense in ["{}", r#"{"max_lifetime":"1d"}"#, r#"{"max_lifetime":-1}"#] {
            assert_eq!(lifetime_ms(&free, Some(nonsense)), None, "{nonsense}");
        }
        let bound = config::Retention {
            default_max_lifetime_seconds: Some(1_000),
            min_lifetime_seconds: Some(100),
            max_lifetime_seconds: Some(5_000),
            ..config::Retention::default()
        };
        assert_eq!(lifetime_ms(&bound, None), Some(1_000_000));
        assert_eq!(lifetime_ms(&bound, Some(day)), Some(5_000_000));
        assert_eq!(lifetime_ms(&bound, Some(r#"{"max_lifetime":1}"#)), Some(100_000));
    }
}
