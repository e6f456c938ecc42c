//! Redacting: what remains of an event that was redacted.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v12/#redactions>

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, canonical_json::redact_in_place, room_version_rules::RoomVersionRules,
};

use super::{
    auth::{Action, Powers},
    error::RoomError,
    event,
    ingest::Verdict,
    pdu::Pdu,
    record::{EventNumber, EventRecord},
    room::StateEvent,
    state::State,
    writer::RoomWriter,
};
use crate::storage::{
    Batch, Range,
    schema::{EVENT_IDS, EVENTS, WAITING_REDACTIONS},
};

/// How many redactions in a room wait for their targets.
const MAX_WAITING: usize = 2_000;
/// How many of them there may be for one to wait that only concerns its own server's events.
const MAX_WAITING_OWN: usize = 1_000;

impl RoomWriter {
    /// Carries a redaction out that may be. One whose target is not here yet waits for it.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions>
    pub(super) async fn redact_target(
        &mut self,
        pdu: &Pdu,
        by: EventNumber,
        before: &State,
    ) -> Result<(), RoomError> {
        let Some(target) = &pdu.redacts else { return Ok(()) };
        let server = pdu.sender.server_name();
        let powers = Powers::new(Arc::clone(&self.table), before.map.clone());
        let may_any = powers.of(&pdu.sender) >= powers.needed(Action::Redact);
        let may = |record: &EventRecord| may_any || server == record.sender_id.server_name();
        let known = self.known(target).await?;
        // An outlier is written anew when it gets its place in the graph.
        if known.as_ref().is_none_or(|known| known.verdict == Verdict::Outlier) {
            let whose = if may_any { "" } else { server.as_str() };
            if self.may_wait(whose).await? {
                let key = (self.room.number, &**target, whose);
                WAITING_REDACTIONS.put(&mut self.batch, &key, &by);
                self.graph.redactions.insert((target.clone(), whose.to_owned()), by);
            }
        }
        let Some(known) = known else { return Ok(()) };
        let mut added = self.added.iter_mut();
        if let Some(added) = added.find(|added| added.record.event_id == *target) {
            if may(&added.record) {
                added.record = redacted(added.record.clone(), by, &self.room.rules)?;
                if added.record.is_state() {
                    let event = StateEvent::stored(&added.record)?;
                    self.graph.events.insert(added.number, Arc::new(event));
                }
            }
            return Ok(());
        }
        let db = self.rooms.db();
        if self.ledger.recent(target).is_some() {
            // It is on its way to disk, in a batch that was queued before.
            db.commit(Batch::new()).await?;
        }
        // Where that batch failed it is not here, and this change fails too.
        let record = EVENTS.get(db, &(self.room.number, known.number)).await?;
        match record.filter(may) {
            Some(record) => self.redact(known.number, record, by),
            None => Ok(()),
        }
    }

    /// Replaces a stored event by its redacted form.
    ///
    /// # Errors
    /// [`RoomError::Corrupt`] if what is stored is no event.
    pub(super) fn redact(
        &mut self,
        target: EventNumber,
        record: EventRecord,
        by: EventNumber,
    ) -> Result<(), RoomError> {
        super::indexes::redacted(&mut self.batch, self.room.number, target, &record);
        // It may be removed at this moment.
        let stored = (self.room.number, target);
        EVENT_IDS.require_equals(&mut self.batch, &*record.event_id, &stored);
        let redacted = redacted(record, by, &self.room.rules)?;
        if redacted.is_state() {
            let event = StateEvent::stored(&redacted)?;
            self.graph.events.insert(target, Arc::new(event));
        }
        EVENTS.put(&mut self.batch, &(self.room.number, target), &redacted);
        Ok(())
    }

    /// Whether one more redaction may wait for a target that may never come: everybody can send such
    /// redactions, so those of whom has no power over others have the fewer places.
    async fn may_wait(&self, whose: &str) -> Result<bool, RoomError> {
        let most = if whose.is_empty() { MAX_WAITING } else { MAX_WAITING_OWN };
        let range = Range::prefix(&(self.room.number,));
        let stored = WAITING_REDACTIONS.scan(self.rooms.db(), &range, most).await?;
        Ok(stored.len().max(self.graph.redactions.len()) < most)
    }

    /// An event that comes in as it is after a redaction that came before it, if there was one that
    /// may be: of a sender with the power to redact, or of the server of the event's own sender.
    pub(super) async fn redacted_before(
        &mut self,
        record: EventRecord,
    ) -> Result<EventRecord, RoomError> {
        let room = self.room.number;
        let waiting = ["", record.sender_id.server_name().as_str()];
        let keys = waiting.map(|whose| (room, &*record.event_id, whose));
        let stored = WAITING_REDACTIONS.multi_get(self.rooms.db(), keys).await?;
        let mut by = None;
        for (whose, stored) in waiting.into_iter().zip(stored) {
            let queued = self.graph.redactions.remove(&(record.event_id.clone(), whose.to_owned()));
            if let Some(redaction) = queued.or(stored) {
                WAITING_REDACTIONS.delete(&mut self.batch, &(room, &*record.event_id, whose));
                by = by.or(Some(redaction));
            }
        }
        match by {
            Some(by) => redacted(record, by, &self.room.rules),
            None => Ok(record),
        }
    }
}

/// The stored form of an event after its redaction `by` another. A second redaction changes
/// nothing.
///
/// # Errors
/// [`RoomError::Corrupt`] if what is stored is no event.
pub(super) fn redacted(
    record: EventRecord,
    by: EventNumber,
    rules: &RoomVersionRules,
) -> Result<EventRecord, RoomError> {
    const CORRUPT: RoomError = RoomError::Corrupt { what: "the JSON of an event" };
    if record.redacted_by.is_some() {
        return Ok(record);
    }
    let mut object: CanonicalJsonObject =
        serde_json::from_str(&record.json).map_err(|_| CORRUPT)?;
    redact_in_place(&mut object, &rules.redaction, None).map_err(|_| CORRUPT)?;
    let (json, content_at) = event::json_with_content(&object);
    Ok(EventRecord {
        redacted_by: Some(by),
        redacts: record.redacts.filter(|_| rules.redaction.keep_room_redaction_redacts),
        content_at,
        json: json.into(),
        ..record
    })
}

/// An event of which only what a redaction leaves is shown, without being redacted.
///
/// # Errors
/// As [`redacted`].
pub(super) fn emptied(
    record: EventRecord,
    rules: &RoomVersionRules,
) -> Result<EventRecord, RoomError> {
    let by = record.redacted_by;
    Ok(EventRecord { redacted_by: by, ..redacted(record, EventNumber(0), rules)? })
}
