//! An event as push rules look at it: read once, for all members of its room.

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use serde_json::Value;

use super::pattern::words_of;
use crate::rooms::{Room, record::EventRecord};

/// What conditions ask of an event.
#[derive(Debug)]
pub(crate) struct PushEvent {
    pub(super) event_id: OwnedEventId,
    pub(super) event_type: String,
    pub(super) state_key: Option<String>,
    pub(crate) sender: OwnedUserId,
    pub(super) room_id: OwnedRoomId,
    pub(super) content: Value,
    /// `content.body` in lower case: what most patterns are looked for in.
    pub(super) body: Option<String>,
    /// The words in it.
    pub(super) words: Vec<String>,
    /// Its place in the order of arrival.
    pub(super) position: u64,
    /// When it was sent, as its sender says, in ms since the Unix epoch.
    pub(super) sent_ms: u64,
    /// The root of the thread it is in; none: in the main timeline.
    pub(super) thread: Option<OwnedEventId>,
    /// It was redacted: nobody is notified of it any more.
    pub(super) redacted: bool,
    /// It redacts another.
    pub(super) redacts: bool,
}

impl PushEvent {
    /// Reads an event; `thread` is the root of the thread it is in.
    pub(super) fn new(room: &Room, record: &EventRecord, thread: Option<OwnedEventId>) -> Self {
        Self::in_room(&room.id, record, thread)
    }

    /// The same for a room of which no more is known.
    pub(super) fn in_room(
        room_id: &RoomId,
        record: &EventRecord,
        thread: Option<OwnedEventId>,
    ) -> Self {
        // What is stored is JSON.
        let content: Value = serde_json::from_str(record.content()).unwrap_or_default();
        let body = content.get("body").and_then(Value::as_str).map(str::to_lowercase);
        Self {
            event_id: record.event_id.clone(),
            event_type: record.event_type.clone(),
            state_key: record.state_key.clone(),
            sender: record.sender_id.clone(),
            room_id: room_id.to_owned(),
            content,
            words: body.as_deref().map(words_of).unwrap_or_default(),
            body,
            position: record.position,
            sent_ms: record.origin_server_ts,
            thread,
            redacted: record.redacted_by.is_some(),
            redacts: record.redacts.is_some(),
        }
    }

    /// The text at a path.
    pub(super) fn text(&self, path: &[String]) -> Option<&str> {
        match path {
            [key] => match key.as_str() {
                "type" => Some(&self.event_type),
                "state_key" => self.state_key.as_deref(),
                "sender" => Some(self.sender.as_str()),
                "room_id" => Some(self.room_id.as_str()),
                "event_id" => Some(self.event_id.as_str()),
                _ => None,
            },
            _ => self.value(path)?.as_str(),
        }
    }

    /// The value at a path within the content.
    pub(super) fn value(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        if first != "content" {
            return None;
        }
        rest.iter().try_fold(&self.content, |value, key| value.as_object()?.get(key))
    }
}
