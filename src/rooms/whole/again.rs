//! The events since the join of a room that becomes whole are judged again, one by one.

use std::collections::{BTreeMap, BTreeSet};

use ruma::OwnedEventId;
use state_resolution::{EventIx, StateMap};

use super::{Again, Past};
use crate::{
    rooms::{
        auth_record::EventState,
        error::RoomError,
        indexes,
        ingest::{Judged, Verdict, check_state},
        pdu::Pdu,
        record::{EventNumber, EventRecord},
        state::State,
        writer::{Added, CORRUPT, RoomWriter, Shown},
    },
    storage::schema::{
        AUTH_EVENTS, EVENT_STATES, EVENTS, GAPS, REFUSED_EVENTS, SUCCEEDED, TIMELINE,
    },
};

impl RoomWriter {
    /// The state before an event by its parents, or as another server told it if these are not here.
    pub(super) async fn state_before_again(
        &mut self,
        one: &Past,
        again: &BTreeMap<OwnedEventId, Again>,
    ) -> Result<State, RoomError> {
        let mut states = Vec::with_capacity(one.pdu.prev_events.len());
        for id in &one.pdu.prev_events {
            if let Some(parent) = again.get(id) {
                states.push(parent.after.clone());
                continue;
            }
            match self.known(id).await? {
                Some(parent) if parent.verdict != Verdict::Outlier => {
                    states.push(self.state_after_known(&parent).await?);
                }
                _ => {
                    let (db, room) = (self.rooms.db(), self.room.number);
                    let id = self.rooms.event_state(db, room, one.number).await?.before;
                    return Ok(State { id, map: self.rooms.state_map(db, &self.room, id).await? });
                }
            }
        }
        self.resolve(states).await
    }

    /// The verdict on an event in the state before it and, as the room was, in `current`.
    pub(super) async fn judge_again(
        &mut self,
        one: &Past,
        before: &State,
        current: Option<&StateMap>,
    ) -> Result<(Verdict, Option<String>), RoomError> {
        let judged: Judged = if one.record.is_state() {
            let table = self.table.read();
            match table.room().event(one.pdu.event_id.as_str()) {
                Some(at) => check_state(&table, at, &one.pdu, &before.map, current),
                None => Err((Verdict::Rejected, "it has no place in the state".to_owned())),
            }
        } else {
            self.judge_message(&one.pdu, before, current)
        };
        let unsigned = || Some("the room's policy server has not signed it".to_owned());
        Ok(match (one.record.verdict(), judged) {
            (_, Err((verdict, why))) => (verdict, Some(why)),
            // What else was soft-failed while not all was known lacked that signature.
            (Verdict::SoftFailed, Ok(())) => (Verdict::SoftFailed, unsigned()),
            (Verdict::Rejected, Ok(())) if self.is_unapproved(&one.pdu).await? => {
                (Verdict::SoftFailed, unsigned())
            }
            (_, Ok(())) => (Verdict::Accepted, None),
        })
    }

    /// Notes what an event that was judged again is now. The state after it.
    pub(super) async fn note_again(
        &mut self,
        one: &Past,
        verdict: Verdict,
        before: &State,
    ) -> Result<State, RoomError> {
        let room = self.room.number;
        let at = {
            let mut table = self.table.write();
            let at = table.room().event(one.pdu.event_id.as_str());
            let at = at.filter(|_| one.record.is_state());
            if let Some(at) = at {
                table.set_rejected(at, verdict == Verdict::Rejected);
            }
            at
        };
        let mut after = before.clone();
        let mut record = EventRecord {
            rejected: verdict == Verdict::Rejected,
            soft_failed: verdict == Verdict::SoftFailed,
            visibility: self.table.read().history_visibility(&before.map),
            ..one.record.clone()
        };
        if let Some(at) = at {
            let replaced = self.replaced(at, before);
            record.replaces = replaced.filter(|replaced| *replaced != one.number);
            if verdict != Verdict::Rejected {
                after = self.state_with(at, before).await?;
            }
            if record.rejected != one.record.rejected {
                self.graph.resolved = None;
                let key = (room, at.get());
                let mut auth = AUTH_EVENTS.get(self.rooms.db(), &key).await?.ok_or(CORRUPT)?;
                auth.rejected = record.rejected;
                AUTH_EVENTS.put(&mut self.batch, &key, &auth);
            }
        }
        self.rewrite_states(one.number, before, &after);
        let was = one.record.verdict();
        if was != verdict {
            tracing::info!(
                room = %self.room.id, event = %record.event_id, ?was, now = ?verdict,
                "the verdict on an event is another one now that all members are known"
            );
        }
        match (was, verdict) {
            (Verdict::Accepted, Verdict::Rejected | Verdict::SoftFailed) => {
                let key = (room, record.timeline_key());
                TIMELINE.delete(&mut self.batch, &key);
                GAPS.delete(&mut self.batch, &key);
                indexes::removed(&mut self.batch, room, one.number, &record);
                let now = self.rooms.clock().now_ms();
                REFUSED_EVENTS.put(&mut self.batch, &(room, now, one.number), &());
                EVENTS.put(&mut self.batch, &(room, one.number), &record);
            }
            (Verdict::Rejected | Verdict::SoftFailed, Verdict::Accepted) => {
                if let Some(at) = one.refused_at {
                    REFUSED_EVENTS.delete(&mut self.batch, &(room, at, one.number));
                }
                self.redact_target(&one.pdu, one.number, before).await?;
                // It is news now.
                self.added.push(Added {
                    number: one.number,
                    record,
                    shown: Shown::Live,
                    missing: Vec::new(),
                    current: None,
                    members: Vec::new(),
                    outbox: false,
                });
            }
            _ if record != one.record => EVENTS.put(&mut self.batch, &(room, one.number), &record),
            _ => {}
        }
        Ok(after)
    }

    /// Outliers that rest on events with another verdict are judged again too.
    pub(super) async fn judge_outliers_again(
        &mut self,
        past: &[Past],
        again: &BTreeMap<OwnedEventId, Again>,
    ) -> Result<(), RoomError> {
        let (db, room) = (self.rooms.db().clone(), self.room.number);
        let mut other: BTreeSet<EventIx> = {
            let table = self.table.read();
            let is_other = |one: &&Past| {
                let is = again.get(&one.pdu.event_id).map(|one| one.verdict == Verdict::Rejected);
                is.is_some_and(|is| is != one.record.rejected)
            };
            let other = past.iter().filter(is_other);
            other.filter_map(|one| table.room().event(one.pdu.event_id.as_str())).collect()
        };
        let judged: BTreeSet<EventNumber> = again.values().map(|one| one.number).collect();
        // What cites an event comes after it.
        let Some(first) = other.first().copied() else { return Ok(()) };
        let later: Vec<EventIx> =
            self.table.read().room().events().filter(|at| *at > first).collect();
        for at in later {
            let number = {
                let table = self.table.read();
                let rests = table.room().auth_events(at).iter().any(|cited| other.contains(cited));
                Some(table.number(at)).filter(|number| rests && !judged.contains(number))
            };
            let Some(number) = number else { continue };
            let mut record = EVENTS.get(&db, &(room, number)).await?.ok_or(CORRUPT)?;
            if !record.outlier {
                continue;
            }
            let pdu = self.stored_pdu(&record)?;
            let key = (room, at.get());
            let mut auth = AUTH_EVENTS.get(&db, &key).await?.ok_or(CORRUPT)?;
            record.rejected = {
                let mut table = self.table.write();
                let is_sound =
                    auth.auth.len() == pdu.auth_events.len() && table.check_alone(at).is_ok();
                table.set_rejected(at, !is_sound);
                !is_sound
            };
            if auth.rejected != record.rejected {
                auth.rejected = record.rejected;
                other.insert(at);
                AUTH_EVENTS.put(&mut self.batch, &key, &auth);
                EVENTS.put(&mut self.batch, &(room, number), &record);
            }
        }
        Ok(())
    }

    /// An event as it came.
    pub(super) fn stored_pdu(&self, record: &EventRecord) -> Result<Pdu, RoomError> {
        let object = serde_json::from_str(&record.json).map_err(|_| CORRUPT)?;
        let mut pdu = Pdu::parse(object, &self.room.rules).map_err(|_| CORRUPT)?;
        // One that was redacted since no longer hashes to it where it is not in the event.
        pdu.event_id = record.event_id.clone();
        Ok(pdu)
    }

    /// Events without a row of their own among the states have that of the one before them, which may
    /// have got another: they keep what they had.
    pub(super) async fn keep_implied_states(
        &mut self,
        past: &[Past],
        again: &BTreeMap<OwnedEventId, Again>,
    ) -> Result<(), RoomError> {
        let judged: BTreeSet<EventNumber> = again.values().map(|one| one.number).collect();
        let (db, room) = (self.rooms.db().clone(), self.room.number);
        for one in past {
            let next = EventNumber(one.number.0 + 1);
            if next >= self.graph.next
                || judged.contains(&next)
                || EVENT_STATES.contains(&db, &(room, next)).await?
            {
                continue;
            }
            let old = self.rooms.event_state(&db, room, one.number).await?.after;
            let states = EventState { before: old, after: old };
            EVENT_STATES.put(&mut self.batch, &(room, next), &states);
        }
        Ok(())
    }

    /// Notes after which missing events accepted ones come now that some have another verdict.
    pub(super) async fn keep_succession(
        &mut self,
        past: &[Past],
        again: &BTreeMap<OwnedEventId, Again>,
    ) -> Result<(), RoomError> {
        let (mut cited, mut new, mut old) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for one in past {
            let was = one.record.verdict() == Verdict::Accepted;
            let is = again.get(&one.pdu.event_id).map(|one| one.verdict == Verdict::Accepted);
            match (was, is.unwrap_or_default()) {
                (true, true) => cited.extend(&one.pdu.prev_events),
                (false, true) => new.extend(&one.pdu.prev_events),
                (true, false) => old.extend(&one.pdu.prev_events),
                (false, false) => {}
            }
        }
        for id in &old {
            if !cited.contains(id) && !new.contains(id) {
                SUCCEEDED.delete(&mut self.batch, &(self.room.number, &***id));
            }
        }
        let new: Vec<OwnedEventId> = new.into_iter().cloned().collect();
        for id in self.rooms.unplaced_events(&self.room, &new).await? {
            SUCCEEDED.put(&mut self.batch, &(self.room.number, &id), &());
        }
        Ok(())
    }
}

/// The accepted events that one with these parents comes after: those, and where one of them was not
/// accepted, what is behind it.
pub(super) fn behind(
    parents: &[OwnedEventId],
    again: &BTreeMap<OwnedEventId, Again>,
) -> BTreeSet<EventNumber> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut next: Vec<&OwnedEventId> = parents.iter().collect();
    while let Some(id) = next.pop() {
        let Some(event) = again.get(id).filter(|event| seen.insert(event.number)) else { continue };
        if event.verdict == Verdict::Accepted {
            found.insert(event.number);
        } else {
            next.extend(&event.prev_events);
        }
    }
    found
}
