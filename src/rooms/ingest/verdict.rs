//! What became of an event: whether it passed the rules.

use state_resolution::{EventIx, Rejection, StateMap};

use super::Known;
use crate::{
    rooms::{
        auth::{Message, Table},
        auth_record::{AuthRecord, relevant_content},
        error::RoomError,
        pdu::Pdu,
        record::{EventNumber, EventRecord},
        state::State,
        writer::RoomWriter,
    },
    storage::schema::AUTH_EVENTS,
};

/// What became of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It is part of the room.
    Accepted,
    /// It passed the rules when it was sent, but does not pass them now: nobody is shown it, and
    /// no event is built on it here.
    SoftFailed,
    /// It failed the rules.
    Rejected,
    /// It is known only because others refer to it.
    Outlier,
}

/// Accepted, or which other verdict, and why.
pub(in crate::rooms) type Judged = Result<(), (Verdict, String)>;

impl EventRecord {
    /// What became of it.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self { outlier: true, .. } => Verdict::Outlier,
            Self { rejected: true, .. } => Verdict::Rejected,
            Self { soft_failed: true, .. } => Verdict::SoftFailed,
            _ => Verdict::Accepted,
        }
    }
}

impl RoomWriter {
    /// Puts a state event into the table and judges it.
    pub(super) fn judge_state(
        &mut self,
        pdu: &Pdu,
        number: EventNumber,
        before: &State,
        parents: &[Known],
        current: Option<&StateMap>,
    ) -> Result<(EventIx, Judged), RoomError> {
        let create = {
            let table = self.table.read();
            table.room().create_event().map(|create| table.number(create))
        };
        let follows_create = matches!(parents, [one] if Some(one.number) == create);
        let mut record = self.auth_record(pdu, number, follows_create);
        let (at, outcome) = {
            let mut table = self.table.write();
            let at = table
                .insert(&record)
                .map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
            let outcome = check_state(&table, at, pdu, &before.map, current);
            record.rejected = matches!(outcome, Err((Verdict::Rejected, _)));
            if table.room().is_rejected(at) != record.rejected {
                table.set_rejected(at, record.rejected);
                self.graph.resolved = None;
            }
            (at, outcome)
        };
        // From here on it must be written.
        self.dirty = true;
        AUTH_EVENTS.put(&mut self.batch, &(self.room.number, at.get()), &record);
        Ok((at, outcome))
    }

    pub(super) fn auth_record(
        &self,
        pdu: &Pdu,
        number: EventNumber,
        follows_create: bool,
    ) -> AuthRecord {
        let table = self.table.read();
        // Those that are no state events get the event rejected; they have no place here.
        let auth = pdu.auth_events.iter().filter_map(|id| table.room().event(id.as_str()));
        AuthRecord {
            number,
            event_id: pdu.event_id.clone(),
            event_type: pdu.event_type.clone(),
            state_key: pdu.state_key.clone(),
            sender: pdu.sender.to_string(),
            origin_server_ts: pdu.origin_server_ts,
            depth: pdu.depth,
            auth: auth.map(EventIx::get).collect(),
            rejected: false,
            follows_create,
            has_parents: !pdu.prev_events.is_empty(),
            content: relevant_content(&pdu.event_type, pdu.content()),
        }
    }

    /// Judges a message; `current` is the state in which it would be soft-failed.
    pub(in crate::rooms) fn judge_message(
        &self,
        pdu: &Pdu,
        before: &State,
        current: Option<&StateMap>,
    ) -> Judged {
        let rejected = |why: &dyn std::fmt::Display| (Verdict::Rejected, why.to_string());
        if pdu.prev_events.is_empty() {
            return Err(rejected(&"it has no parents"));
        }
        let message = Message {
            event_id: pdu.event_id.as_str(),
            room_id: &self.room.id,
            event_type: &pdu.event_type,
            sender: &pdu.sender,
            redacts: pdu.redacts.as_ref().map(|id| id.as_str()),
        };
        let auth: Vec<&str> = pdu.auth_events.iter().map(|id| id.as_str()).collect();
        let table = self.table.read();
        let verdict = table.check_message_auth_events(message, &auth);
        verdict.map_err(|why| rejected(&why))?.map_err(|why| rejected(&why))?;
        table.check_message(message, &before.map).map_err(|why| rejected(&why))?;
        let Some(current) = current else { return Ok(()) };
        let soft = |why: Rejection| (Verdict::SoftFailed, why.to_string());
        table.check_message(message, current).map_err(soft)
    }
}

/// Judges a state event that is in the table; `current` is the state in which it would be
/// soft-failed.
pub(in crate::rooms) fn check_state(
    table: &Table,
    at: EventIx,
    pdu: &Pdu,
    before: &StateMap,
    current: Option<&StateMap>,
) -> Judged {
    let rejected = |why: Rejection| (Verdict::Rejected, why.to_string());
    let is_first = table.room().create_event() == Some(at);
    if pdu.prev_events.is_empty() && !is_first {
        return Err((Verdict::Rejected, "it has no parents".to_owned()));
    }
    if table.places(pdu.auth_events.iter().map(|id| id.as_str())).is_none() {
        return Err((Verdict::Rejected, "it cites an event that is no state event".to_owned()));
    }
    table.check_alone(at).map_err(rejected)?;
    table.check(at, before).map_err(rejected)?;
    let Some(current) = current else { return Ok(()) };
    table.check(at, current).map_err(|why| (Verdict::SoftFailed, why.to_string()))
}
