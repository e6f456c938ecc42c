//! Events that others refer to: fetched, and kept without a place in the graph, within bounds.

use std::sync::Arc;

use futures::{StreamExt as _, future::BoxFuture, stream};
use ruma::{OwnedEventId, ServerName, api::federation::event::get_event};
use serde_json::value::RawValue;

use super::{
    Exchange,
    gaps::{EVENTS, MAX_SINGLE},
};
use crate::{
    rooms::{Room, RoomError, pdu::Pdu},
    storage::{Batch, schema::OUTLIERS},
};

/// How many are asked for at the same time.
const AT_ONCE: usize = 8;
/// How many of one server are kept of a room in a month, or twice as many as it has members. What it
/// sends beyond that is not taken: anybody can sign events without end that refer to each other.
const MAX_IN_A_MONTH: u64 = 20_000;
pub(super) const MONTH_MS: u64 = 30 * 24 * 3_600_000;

impl Exchange {
    /// Fetches events that others refer to, one by one, at most [`MAX_SINGLE`]. The auth events
    /// that they lack.
    pub(super) async fn fetch_outliers(
        &self,
        room: &Arc<Room>,
        mut events: Vec<OwnedEventId>,
        server: &ServerName,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        events.truncate(MAX_SINGLE);
        let questions: Vec<BoxFuture<'_, Option<Box<RawValue>>>> = events
            .into_iter()
            .map(|event| Box::pin(self.fetch_event(event, server)) as _)
            .collect();
        let fetched: Vec<_> = stream::iter(questions).buffered(AT_ONCE).collect().await;
        let fetched: Vec<Box<RawValue>> = fetched.into_iter().flatten().collect();
        self.keep_outliers(room, &fetched, server).await
    }

    async fn fetch_event(&self, event: OwnedEventId, server: &ServerName) -> Option<Box<RawValue>> {
        let request = get_event::v1::Request::new(event);
        Some(self.federation.ask(server, request, EVENTS).await.ok()?.pdu)
    }

    /// Keeps events that others refer to. The auth events that they lack.
    pub(super) async fn keep_outliers(
        &self,
        room: &Arc<Room>,
        events: &[Box<RawValue>],
        server: &ServerName,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let (kept, most) = self.kept_outliers(room, server).await?;
        if kept >= most {
            too_many(room, server, kept, events.len() as u64);
            return Ok(Vec::new());
        }
        let pdus = self.verified(room, events, server).await;
        self.keep_checked(room, &pdus, server).await
    }

    /// The same for events that were checked.
    pub(super) async fn keep_checked(
        &self,
        room: &Arc<Room>,
        pdus: &[Pdu],
        server: &ServerName,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let (kept, most) = self.kept_outliers(room, server).await?;
        let ids: Vec<OwnedEventId> = pdus.iter().map(|pdu| pdu.event_id().to_owned()).collect();
        let unknown = self.rooms.unknown_events(room, &ids).await?.len() as u64;
        let count = kept.saturating_add(unknown);
        if count > most {
            too_many(room, server, kept, unknown);
            return Ok(Vec::new());
        }
        let pdus: Vec<&Pdu> = pdus.iter().collect();
        let missing = self.rooms.ingest_outliers(room, &pdus).await?;
        if unknown > 0 {
            let mut batch = Batch::unsynced();
            let month = self.clock.now_ms() / MONTH_MS;
            OUTLIERS.put(&mut batch, &(room.number, server), &(month, count));
            self.db.commit(batch).await?;
        }
        Ok(missing)
    }

    /// How many of a server are kept of a room this month, and how many may be.
    async fn kept_outliers(
        &self,
        room: &Room,
        server: &ServerName,
    ) -> Result<(u64, u64), RoomError> {
        let month = self.clock.now_ms() / MONTH_MS;
        let kept = OUTLIERS.get(&self.db, &(room.number, server)).await?;
        let kept = kept.filter(|(in_month, _)| *in_month == month).map_or(0, |(_, count)| count);
        Ok((kept, MAX_IN_A_MONTH.max(room.member_count().saturating_mul(2))))
    }
}

fn too_many(room: &Room, server: &ServerName, kept: u64, more: u64) {
    tracing::warn!(room = %room.id, %server, kept, more, "too many events without a place");
}
