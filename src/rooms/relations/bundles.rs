//! Aggregations: an event shown with what relates to it.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#aggregations-of-child-events>

use std::collections::HashMap;

use ruma::OwnedEventId;
use serde_json::value::RawValue;

use super::{RelatesTo, Relation, RelationKind};
use crate::{
    rooms::{
        Room, Rooms, Viewer, Visibility,
        error::RoomError,
        event::push_text,
        record::{EventNumber, EventRecord, SharedEvent},
        show::{Unsigned, splice},
    },
    storage::{
        Range, Read,
        schema::{BUNDLED, RELATIONS, THREAD_PARTICIPANTS},
        shared_events,
    },
};

/// Of how many replacements of an event the most recent is sought: those that arrived last.
const MAX_REPLACEMENTS: usize = 50;
/// How many references are listed: those that arrived last.
const MAX_REFERENCES: usize = 100;
/// How many of a thread's latest events are looked at for one that the viewer may see.
const MAX_LATEST: usize = 20;
/// How many rows one step of counting a thread takes.
const STEP: usize = 5_000;

/// The values of `m.relations` by the event they belong to.
pub(in crate::rooms) type Bundles = HashMap<OwnedEventId, String>;

/// For whom bundles are made, and of which room.
#[derive(Clone, Copy)]
pub(in crate::rooms) struct Frame<'a> {
    pub(in crate::rooms) viewer: &'a Viewer,
    pub(in crate::rooms) room: &'a Room,
    pub(in crate::rooms) visibility: &'a Visibility,
    pub(in crate::rooms) now_ms: u64,
}

/// What is shown of a thread.
struct Thread {
    latest: SharedEvent,
    count: usize,
    participated: bool,
}

impl Rooms {
    /// What relates to these events, as `viewer` may see it. State events have no bundles.
    ///
    /// One round trip finds the few that have anything; those are then read one by one.
    pub(in crate::rooms) async fn bundles(
        &self,
        at: &impl Read,
        frame: Frame<'_>,
        events: &[SharedEvent],
    ) -> Result<Bundles, RoomError> {
        let mut bundles = Bundles::new();
        for event in self.with_children(at, frame.room, events.iter()).await? {
            let mut parts = Vec::new();
            if let Some(edit) = self.replacement(at, frame, event).await? {
                parts.push(("m.replace", frame.show(&edit, None)));
            }
            if let Some(references) = self.references(at, frame, event).await? {
                parts.push(("m.reference", references));
            }
            if let Some(thread) = self.thread(at, frame, event).await? {
                // The latest event with its own edits; it has no thread.
                let edit = match self.with_children(at, frame.room, [&thread.latest]).await?.pop() {
                    Some(latest) => self.replacement(at, frame, latest).await?,
                    None => None,
                };
                let edits = edit.map(|edit| object(&[("m.replace", frame.show(&edit, None))]));
                let latest = frame.show(&thread.latest, edits.as_deref());
                let count = thread.count.to_string();
                let participated = thread.participated.to_string();
                let thread = object(&[
                    ("latest_event", latest),
                    ("count", count),
                    ("current_user_participated", participated),
                ]);
                parts.push(("m.thread", thread));
            }
            if !parts.is_empty() {
                bundles.insert(event.event_id.clone(), object(&parts));
            }
        }
        Ok(bundles)
    }

    /// Those of the events that something may be bundled with.
    async fn with_children<'e>(
        &self,
        at: &impl Read,
        room: &Room,
        events: impl IntoIterator<Item = &'e SharedEvent>,
    ) -> Result<Vec<&'e SharedEvent>, RoomError> {
        let events: Vec<&SharedEvent> =
            events.into_iter().filter(|event| !event.is_state()).collect();
        if events.is_empty() {
            return Ok(events);
        }
        let keys = events.iter().map(|event| (room.number, &*event.event_id));
        let marked = BUNDLED.multi_get(at, keys).await?;
        Ok(events
            .into_iter()
            .zip(marked)
            .filter_map(|(event, marked)| marked.map(|()| event))
            .collect())
    }

    /// The children of an event of one kind that arrived last, latest first.
    async fn latest_children(
        &self,
        at: &impl Read,
        room: &Room,
        event: &EventRecord,
        kind: RelationKind,
        limit: usize,
    ) -> Result<Vec<SharedEvent>, RoomError> {
        let range = Range::prefix(&(room.number, &*event.event_id, kind));
        let rows = RELATIONS.scan_back(at, &range, limit).await?;
        let numbers: Vec<EventNumber> = rows.iter().map(|(_, row)| row.event).collect();
        Ok(shared_events(at, room.number, &numbers).await?.into_iter().flatten().collect())
    }

    /// The most recent valid replacement of an event; none if the event was redacted.
    pub(in crate::rooms) async fn replacement(
        &self,
        at: &impl Read,
        frame: Frame<'_>,
        event: &EventRecord,
    ) -> Result<Option<SharedEvent>, RoomError> {
        if event.redacted_by.is_some() {
            return Ok(None);
        }
        let edits =
            self.latest_children(at, frame.room, event, RelationKind::Replace, MAX_REPLACEMENTS);
        Ok(edits
            .await?
            .into_iter()
            .filter(|edit| is_valid_replacement(event, edit) && frame.visibility.allows(edit))
            .max_by(|a, b| {
                (a.origin_server_ts, &a.event_id).cmp(&(b.origin_server_ts, &b.event_id))
            }))
    }

    /// `{"chunk":[{"event_id":…},…]}`, oldest first.
    async fn references(
        &self,
        at: &impl Read,
        frame: Frame<'_>,
        event: &EventRecord,
    ) -> Result<Option<String>, RoomError> {
        let found = self
            .latest_children(at, frame.room, event, RelationKind::Reference, MAX_REFERENCES)
            .await?;
        let mut out = String::from("{\"chunk\":[");
        let mut first = true;
        for child in found.iter().rev().filter(|child| frame.visibility.allows(child)) {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            out.push_str("{\"event_id\":");
            push_text(&mut out, child.event_id.as_str());
            out.push('}');
        }
        out.push_str("]}");
        Ok((!first).then_some(out))
    }

    /// The thread below an event, without the events of users whom the viewer ignores.
    async fn thread(
        &self,
        at: &impl Read,
        frame: Frame<'_>,
        first: &EventRecord,
    ) -> Result<Option<Thread>, RoomError> {
        let room = frame.room;
        let latest = self
            .latest_children(at, room, first, RelationKind::Thread, MAX_LATEST)
            .await?
            .into_iter()
            .find(|event| frame.visibility.allows(event));
        let Some(latest) = latest else { return Ok(None) };
        let ignored = frame.visibility.ignored().numbers(self.db()).await?;
        let mut count = 0;
        let mut range = Range::prefix(&(room.number, &*first.event_id, RelationKind::Thread));
        loop {
            let rows: Vec<(_, Relation)> = RELATIONS.scan(at, &range, STEP).await?;
            count += rows.iter().filter(|(_, row)| !ignored.contains(&row.sender)).count();
            let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) else { break };
            range = range.after(last);
        }
        let participated = first.sender == frame.viewer.user || {
            let own = (room.number, &*first.event_id, frame.viewer.user);
            !THREAD_PARTICIPANTS.scan(at, &Range::prefix(&own), 1).await?.is_empty()
        };
        Ok(Some(Thread { latest, count, participated }))
    }
}

impl Frame<'_> {
    /// The client form of an event inside another.
    fn show(&self, event: &EventRecord, relations: Option<&str>) -> String {
        let mut unsigned = Unsigned::of(event, self.viewer, self.visibility, self.now_ms);
        unsigned.relations = relations;
        let redacts_in_content = self.room.rules.redaction.content_field_redacts;
        splice(event, Some(&self.room.id), redacts_in_content, unsigned)
    }
}

/// A JSON object of values that are JSON already.
fn object(parts: &[(&str, String)]) -> String {
    let mut out = String::from("{");
    for (index, (key, value)) in parts.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_text(&mut out, key);
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    out
}

/// Whether `edit`, which names `event` as what it replaces, may.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events>
fn is_valid_replacement(event: &EventRecord, edit: &EventRecord) -> bool {
    #[derive(serde::Deserialize)]
    struct Content<'a> {
        #[serde(rename = "m.new_content", borrow)]
        _new_content: &'a RawValue,
    }
    // The original event and replacement event must have the same `sender` …
    event.sender == edit.sender
        // … the same `type` …
        && event.event_type == edit.event_type
        // … and no `state_key`.
        && !event.is_state()
        && !edit.is_state()
        // The original event must not, itself, have a `rel_type` of `m.replace`.
        && RelatesTo::in_content(event.content())
            .is_none_or(|to| to.kind() != RelationKind::Replace)
        // The replacement event (once decrypted) must have an `m.new_content` property.
        && (edit.event_type == "m.room.encrypted"
            || serde_json::from_str::<Content<'_>>(edit.content()).is_ok())
}
