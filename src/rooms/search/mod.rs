//! Finding events by the words in them.
//!
//! Each word of a message, a room's name or a topic has a row, written in the event's batch and
//! deleted with its redaction. An edit has rows of its own; what is found is the message as it now
//! is, which is seen when it is read.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-search>

#[cfg(feature = "bench")]
pub mod bench;
mod place;
mod postings;
mod rank;
mod run;
mod upkeep;
mod words;

use std::collections::BTreeSet;

use serde_json::Value;

pub(crate) use place::{Group, Order, Place};
pub(crate) use run::{Around, Found, Hit, SearchRequest, Surroundings};

use super::{
    record::{EventNumber, EventRecord},
    relations::RelatesTo,
    timeline_key::TimelineKey,
};
use crate::storage::{Batch, intern::RoomNumber, schema::SEARCH_WORDS};

/// Where words are looked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Field {
    /// `content.body` of messages.
    Body,
    /// `content.name` of a room's name.
    Name,
    /// `content.topic` of a room's topic.
    Topic,
}

impl Field {
    /// Where to look in an event; none if nothing in it is looked at.
    fn of(record: &EventRecord) -> Option<Self> {
        match (record.event_type.as_str(), record.is_state()) {
            ("m.room.message", false) => Some(Self::Body),
            ("m.room.name", true) => Some(Self::Name),
            ("m.room.topic", true) => Some(Self::Topic),
            _ => None,
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Name => "name",
            Self::Topic => "topic",
        }
    }
}

/// The text that an event is found by; of an edit that of its new content.
fn text_of(record: &EventRecord) -> Option<String> {
    let field = Field::of(record)?;
    let mut content: Value = serde_json::from_str(record.content()).ok()?;
    if edited(record).is_some() {
        content = content.get_mut("m.new_content")?.take();
    }
    match content.get_mut(field.key())?.take() {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// What an edit is an edit of.
fn edited(record: &EventRecord) -> Option<ruma::OwnedEventId> {
    let to = RelatesTo::in_content(record.content()).filter(|_| !record.is_state())?;
    (to.rel_type == "m.replace").then_some(to.parent)
}

fn words_of(record: &EventRecord) -> BTreeSet<String> {
    text_of(record).map(|text| words::words(&text)).unwrap_or_default()
}

/// Queues the rows of an event that came into the timeline at `key`.
pub(super) fn index(
    batch: &mut Batch,
    room: RoomNumber,
    key: TimelineKey,
    number: EventNumber,
    record: &EventRecord,
) {
    for word in words_of(record) {
        SEARCH_WORDS.put(batch, &(room, word, key), &number);
    }
}

/// Queues the deletion of an event's rows; `record` is what it was before it was redacted or
/// removed.
pub(super) fn forget(batch: &mut Batch, room: RoomNumber, record: &EventRecord) {
    for word in words_of(record) {
        SEARCH_WORDS.delete(batch, &(room, word, record.timeline_key()));
    }
}
