//! Events that came from elsewhere: judged, placed in the graph, and kept whatever the verdict.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>

mod ends;
mod order;
mod outliers;
mod verdict;

use std::sync::Arc;

use ruma::{EventId, OwnedEventId};
use state_resolution::StateMap;

pub(crate) use self::verdict::Verdict;
pub(super) use self::{
    order::in_order,
    verdict::{Judged, check_state},
};
use super::{
    Rooms,
    error::RoomError,
    pdu::Pdu,
    record::{EventNumber, EventRecord},
    room::{Extremity, Room, StateEvent},
    state::{State, differences},
    visibility::HistoryVisibility,
    writer::{Added, RoomWriter, Shown},
};
use crate::storage::{
    intern::UserNumber,
    schema::{EVENT_IDS, EVENTS, SUCCEEDED},
};

/// What came of taking an event in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ingested {
    /// It was judged and stored now.
    New {
        /// The verdict.
        verdict: Verdict,
        /// The rule that it failed, if it did.
        why: Option<String>,
    },
    /// It was there before, with this verdict.
    Known(Verdict),
    /// Nothing was stored: these are to be fetched first.
    Missing {
        /// For [`Rooms::ingest_outliers`].
        auth_events: Vec<OwnedEventId>,
        /// For [`Rooms::ingest`], oldest first, or else for [`Rooms::ingest_after_gap`].
        prev_events: Vec<OwnedEventId>,
    },
}

/// An event that is there.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) number: EventNumber,
    pub(super) verdict: Verdict,
    /// The state after it; none if it has to be read.
    pub(super) after: Option<State>,
    /// Its parents; none if they have to be read.
    pub(super) prev_events: Option<Vec<OwnedEventId>>,
}

impl Pdu {
    /// The record of an event; what is not in the event itself is still to be filled in.
    pub(super) fn record(&self, sender: UserNumber, verdict: Verdict) -> EventRecord {
        EventRecord {
            event_id: self.event_id.clone(),
            sender,
            sender_id: self.sender.clone(),
            event_type: self.event_type.clone(),
            state_key: self.state_key.clone(),
            depth: self.depth,
            origin_server_ts: self.origin_server_ts,
            position: 0,
            backfill_key: None,
            visibility: HistoryVisibility::Joined,
            rejected: verdict == Verdict::Rejected,
            soft_failed: verdict == Verdict::SoftFailed,
            outlier: verdict == Verdict::Outlier,
            redacted_by: None,
            redacts: self.redacts.clone(),
            replaces: None,
            transaction: None,
            delay_id: None,
            content_at: self.content_at,
            json: self.json.clone(),
        }
    }
}

impl Rooms {
    /// Takes in an event of a room that this server is in.
    ///
    /// # Errors
    /// [`RoomError::BadEvent`] if it belongs to another room; no verdict is an error.
    pub(crate) async fn ingest(&self, room: &Arc<Room>, pdu: &Pdu) -> Result<Ingested, RoomError> {
        self.retried(|| self.try_ingest(room, pdu, None, false)).await
    }

    /// The same for an event of another server's user that this server takes in for it: if it is
    /// accepted it is sent on to the other servers in the room, which one batch sees to.
    ///
    /// # Errors
    /// As [`Rooms::ingest`].
    pub(crate) async fn ingest_and_forward(
        &self,
        room: &Arc<Room>,
        pdu: &Pdu,
    ) -> Result<Ingested, RoomError> {
        self.retried(|| self.try_ingest(room, pdu, None, true)).await
    }

    /// The same for an event whose parents are not all to be had: `state` is the state before it
    /// as another server tells it. What is missing becomes a backward extremity.
    ///
    /// # Errors
    /// As [`Rooms::ingest`].
    pub(crate) async fn ingest_after_gap(
        &self,
        room: &Arc<Room>,
        pdu: &Pdu,
        state: &[OwnedEventId],
    ) -> Result<Ingested, RoomError> {
        self.retried(|| self.try_ingest(room, pdu, Some(state), false)).await
    }

    async fn try_ingest(
        &self,
        room: &Arc<Room>,
        pdu: &Pdu,
        given: Option<&[OwnedEventId]>,
        forwarding: bool,
    ) -> Result<Ingested, RoomError> {
        let mut writer = self.writer(room).await?;
        if writer.room.is_full() {
            return Err(RoomError::NotWhole { room: room.id.clone() });
        }
        writer.forwarding = forwarding;
        let outcome = writer.ingest(pdu, given, Shown::Live).await?;
        if matches!(outcome, Ingested::New { .. }) {
            writer.commit().await?;
        }
        Ok(outcome)
    }

    /// Those of these events that are not here at all.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn unknown_events(
        &self,
        room: &Room,
        ids: &[OwnedEventId],
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let rows = EVENT_IDS.multi_get(self.db(), ids).await?;
        let is_here = |row: &Option<(_, EventNumber)>| {
            row.as_ref().is_some_and(|(in_room, _)| *in_room == room.number)
        };
        let unknown = ids.iter().zip(rows).filter(|(_, row)| !is_here(row));
        Ok(unknown.map(|(id, _)| id.clone()).collect())
    }
}

const CORRUPT: RoomError = RoomError::Corrupt { what: "the graph of a room" };

impl RoomWriter {
    /// An event of this room, also one whose change is not yet on disk.
    pub(super) async fn known(&self, id: &EventId) -> Result<Option<Known>, RoomError> {
        if let Some(known) = self.ledger.recent(id) {
            return Ok(Some(known));
        }
        let db = self.rooms.db();
        let Some((room, number)) = EVENT_IDS.get(db, id).await? else { return Ok(None) };
        if room != self.room.number {
            return Ok(None);
        }
        let record = EVENTS.get(db, &(room, number)).await?.ok_or(CORRUPT)?;
        let verdict = record.verdict();
        let prev_events = prev_events_of(&record);
        Ok(Some(Known { number, verdict, after: None, prev_events }))
    }

    pub(super) async fn state_after_known(&self, known: &Known) -> Result<State, RoomError> {
        if let Some(after) = &known.after {
            return Ok(after.clone());
        }
        let db = self.rooms.db();
        let id = self.rooms.event_state(db, self.room.number, known.number).await?.after;
        Ok(State { id, map: self.rooms.state_map(db, &self.room, id).await? })
    }

    /// Judges an event and adds it to the change.
    pub(super) async fn ingest(
        &mut self,
        pdu: &Pdu,
        given: Option<&[OwnedEventId]>,
        shown: Shown,
    ) -> Result<Ingested, RoomError> {
        if pdu.room_id != self.room.id {
            return Err(RoomError::BadEvent { why: "it belongs to another room".to_owned() });
        }
        let known = self.known(&pdu.event_id).await?;
        if let Some(known) = known.as_ref().filter(|known| known.verdict != Verdict::Outlier) {
            return Ok(Ingested::Known(known.verdict));
        }
        let mut missing_auth = self.missing_auth(pdu).await?;
        let (mut parents, mut missing_prev) = (Vec::new(), Vec::new());
        for id in &pdu.prev_events {
            match self.known(id).await? {
                Some(parent) if parent.verdict != Verdict::Outlier => parents.push(parent),
                _ => missing_prev.push(id.clone()),
            }
        }
        let mut map = None;
        match given {
            Some(given) => match self.state_of(given) {
                Ok(state) => map = Some(state),
                Err(missing) => missing_auth.extend(missing),
            },
            None if missing_prev.is_empty() => {}
            None => {
                let (auth_events, prev_events) = (missing_auth, missing_prev);
                return Ok(Ingested::Missing { auth_events, prev_events });
            }
        }
        if !missing_auth.is_empty() {
            return Ok(Ingested::Missing { auth_events: missing_auth, prev_events: Vec::new() });
        }
        if self.graph.next.0 == 1 {
            self.write_root().await?;
        }
        let before = if let Some(map) = map {
            self.state_given(map).await?
        } else {
            let mut states = Vec::with_capacity(parents.len());
            for parent in &parents {
                states.push(self.state_after_known(parent).await?);
            }
            self.resolve(states).await?
        };
        let before = if self.room.is_partial() {
            self.with_cited_members(before, pdu).await?
        } else {
            before
        };
        self.judge(pdu, known, &before, &parents, missing_prev, shown).await
    }

    /// The auth events that are not here. One that is here and no state event is none of them.
    async fn missing_auth(&self, pdu: &Pdu) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut missing: Vec<OwnedEventId> = {
            let table = self.table.read();
            let mut cited: Vec<&OwnedEventId> = pdu.auth_events.iter().collect();
            cited.retain(|id| table.room().event(id.as_str()).is_none());
            cited.into_iter().cloned().collect()
        };
        for at in (0..missing.len()).rev() {
            if let Some(id) = missing.get(at)
                && self.known(id).await?.is_some()
            {
                missing.remove(at);
            }
        }
        Ok(missing)
    }

    /// The state that these events make up, without rejected ones.
    pub(super) fn state_of(&self, ids: &[OwnedEventId]) -> Result<StateMap, Vec<OwnedEventId>> {
        let table = self.table.read();
        let mut missing = Vec::new();
        let mut state = StateMap::new();
        for id in ids {
            let Some(event) = table.room().event(id.as_str()) else {
                missing.push(id.clone());
                continue;
            };
            if let Some(key) =
                table.room().key_of(event).filter(|_| !table.room().is_rejected(event))
            {
                state.insert(key, event);
            }
        }
        if missing.is_empty() { Ok(state) } else { Err(missing) }
    }

    /// A state that another server told, written down if it is new.
    pub(super) async fn state_given(&mut self, map: StateMap) -> Result<State, RoomError> {
        let current = self.graph.current.clone();
        if current.map == map {
            return Ok(current);
        }
        let hash = self.rooms.fingerprint(&map).await?;
        if let Some(id) = self.rooms.known_snapshot(&self.room, hash, &map).await? {
            return Ok(State { id, map });
        }
        let changes: Vec<_> =
            differences(&current.map, &map).into_iter().map(|(key, _, new)| (key, new)).collect();
        self.new_state(&current, map, &changes).await
    }

    async fn judge(
        &mut self,
        pdu: &Pdu,
        known: Option<Known>,
        before: &State,
        parents: &[Known],
        missing_prev: Vec<OwnedEventId>,
        shown: Shown,
    ) -> Result<Ingested, RoomError> {
        let number = known.as_ref().map_or(self.graph.next, |known| known.number);
        let is_live = shown == Shown::Live;
        // Whether the event would be soft-failed is judged when all members are known.
        let current = (is_live && !self.joining && !self.room.is_partial())
            .then(|| self.graph.current.map.clone());
        let current = current.as_ref();
        let (at, outcome) = if pdu.state_key.is_some() {
            let (at, outcome) = self.judge_state(pdu, number, before, parents, current)?;
            (Some(at), outcome)
        } else {
            (None, self.judge_message(pdu, before, current))
        };
        let is_refused =
            outcome.is_ok() && is_live && !self.joining && self.is_unapproved(pdu).await?;
        let outcome = outcome.and_then(|()| {
            let why = "the room's policy server has not signed it";
            if is_refused { Err((Verdict::SoftFailed, why.to_owned())) } else { Ok(()) }
        });
        let (verdict, why) = match outcome {
            Ok(()) => (Verdict::Accepted, None),
            Err((verdict, why)) => (verdict, Some(why)),
        };
        let mut record = self.record_of(pdu, verdict).await?;
        record.visibility = self.table.read().history_visibility(&before.map);
        self.dirty = true;
        record = self.redacted_before(record).await?;
        let mut after = before.clone();
        if let Some(at) = at {
            record.replaces = self.replaced(at, before).filter(|replaced| *replaced != number);
            if verdict != Verdict::Rejected {
                after = self.state_with(at, before).await?;
            }
            let event = Arc::new(StateEvent::stored(&record)?);
            self.graph.events.insert(number, event);
        }
        if known.is_some() {
            self.rewrite_states(number, before, &after);
        } else {
            self.graph.next = EventNumber(number.0 + 1);
            self.note_states(number, before, &after);
        }
        let is_succeeded = self.note_missing(pdu, verdict, &missing_prev).await?;
        let (mut current, mut members) = (None, Vec::new());
        if verdict == Verdict::Accepted && is_live {
            let removed = if self.joining {
                self.graph.extremities.iter().map(|tip| tip.number).collect()
            } else {
                let (behind, missing) = self.behind(parents).await?;
                for id in &missing {
                    SUCCEEDED.put(&mut self.batch, &(self.room.number, id), &());
                }
                behind
            };
            let (event_id, depth) = (pdu.event_id.clone(), pdu.depth);
            let tip = Extremity { number, event_id, depth, after: after.clone() };
            // Where IDs are chosen, events may come after each other in a circle: one end stays.
            let others_stay =
                self.graph.extremities.iter().any(|old| !removed.contains(&old.number));
            let tip = Some(tip).filter(|_| !(is_succeeded && others_stay));
            (current, members) = self.extend(tip, &removed).await?;
        }
        if verdict == Verdict::Accepted {
            self.redact_target(pdu, number, before).await?;
        }
        let recent = Known {
            number,
            verdict,
            after: Some(after),
            prev_events: Some(pdu.prev_events.clone()),
        };
        self.ledger.note_recent(pdu.event_id.clone(), recent);
        let shown = if verdict == Verdict::Accepted { shown } else { Shown::Nowhere };
        let outbox = self.forwarding && shown == Shown::Live;
        let missing = missing_prev;
        self.added.push(Added { number, record, shown, missing, current, members, outbox });
        Ok(Ingested::New { verdict, why })
    }

    /// The record of an event; what is not in the event itself is still to be filled in.
    async fn record_of(&self, pdu: &Pdu, verdict: Verdict) -> Result<EventRecord, RoomError> {
        let db = self.rooms.db();
        Ok(pdu.record(db.users().intern(db, &*pdu.sender).await?, verdict))
    }
}

/// The parents of a stored event that is not accepted; those of others are not asked for.
fn prev_events_of(record: &EventRecord) -> Option<Vec<OwnedEventId>> {
    if record.verdict() == Verdict::Accepted {
        return None;
    }
    Some(super::pdu::stored_prev_events(&record.json))
}
