//! Events that are known only because others refer to them.

use std::{collections::BTreeSet, sync::Arc};

use ruma::OwnedEventId;

use super::{Known, Verdict, in_order};
use crate::{
    rooms::{
        Rooms,
        auth_record::SnapshotNumber,
        error::RoomError,
        pdu::Pdu,
        record::EventNumber,
        room::{Room, StateEvent},
        writer::{Added, RoomWriter, Shown},
    },
    storage::schema::AUTH_EVENTS,
};

/// A batch of outliers is committed when it has this many bytes of JSON.
const OUTLIERS_BYTES: usize = 1 << 20;

impl Rooms {
    /// Stores events that others refer to: the state and the auth chain at some event, in any
    /// order. Each is judged by the events that authorize it. Those that are here already stay as
    /// they are. The IDs of auth events that are neither here nor among them; what cites those is
    /// not stored.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn ingest_outliers(
        &self,
        room: &Arc<Room>,
        pdus: &[&Pdu],
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let sorted = in_order(pdus, |pdu| &pdu.auth_events);
        let mut missing = BTreeSet::new();
        let mut next = 0;
        while next < sorted.len() {
            let attempt = || async {
                // One that is about to be joined is not here yet. One that failed was loaded again.
                let here = self.loaded(room.number).await?;
                let room = here.unwrap_or_else(|| Arc::clone(room));
                let mut writer = RoomWriter::new(self, room).await?;
                let mut missing = Vec::new();
                let (mut bytes, mut at) = (0, next);
                while let Some(pdu) = sorted.get(at).filter(|_| bytes < OUTLIERS_BYTES) {
                    missing.extend(writer.ingest_outlier(pdu).await?);
                    bytes += pdu.json.len();
                    at += 1;
                }
                if !writer.added.is_empty() {
                    writer.commit().await?;
                }
                Ok((at, missing))
            };
            let (at, found) = self.retried(attempt).await?;
            next = at;
            missing.extend(found);
        }
        Ok(missing.into_iter().collect())
    }
}

impl RoomWriter {
    /// Stores an event that others refer to. The auth events that it lacks; it is not stored then.
    async fn ingest_outlier(&mut self, pdu: &Pdu) -> Result<Vec<OwnedEventId>, RoomError> {
        if pdu.room_id != self.room.id || self.known(&pdu.event_id).await?.is_some() {
            return Ok(Vec::new());
        }
        let missing = self.missing_auth(pdu).await?;
        if !missing.is_empty() {
            return Ok(missing);
        }
        if self.graph.next.0 == 1 {
            self.write_root().await?;
        }
        let number = self.graph.next;
        let mut record = self.record_of(pdu, Verdict::Outlier).await?;
        if pdu.state_key.is_some() {
            let follows_create = {
                let table = self.table.read();
                let create = table.room().create_event();
                let create = create.map(|create| table.room().event_id(create));
                matches!(&pdu.prev_events[..], [one] if Some(one.as_str()) == create)
            };
            let mut auth = self.auth_record(pdu, number, follows_create);
            let mut table = self.table.write();
            let inserted = table.insert(&auth);
            let Ok(at) = inserted else { return Ok(Vec::new()) };
            let is_whole = auth.auth.len() == pdu.auth_events.len();
            auth.rejected = !is_whole || table.check_alone(at).is_err();
            table.set_rejected(at, auth.rejected);
            drop(table);
            record.rejected = auth.rejected;
            AUTH_EVENTS.put(&mut self.batch, &(self.room.number, at.get()), &auth);
            let event = Arc::new(StateEvent::stored(&record)?);
            self.graph.events.insert(number, event);
        }
        self.dirty = true;
        self.graph.next = EventNumber(number.0 + 1);
        // It has no states, and may get some: what comes after it is not to depend on them.
        self.graph.pointer = SnapshotNumber(0);
        let known = Known {
            number,
            verdict: Verdict::Outlier,
            after: None,
            prev_events: Some(pdu.prev_events.clone()),
        };
        self.ledger.note_recent(pdu.event_id.clone(), known);
        self.added.push(Added {
            number,
            record,
            shown: Shown::Nowhere,
            missing: Vec::new(),
            current: None,
            members: Vec::new(),
            outbox: false,
        });
        Ok(Vec::new())
    }
}
