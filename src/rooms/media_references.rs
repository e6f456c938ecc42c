//! Which events show which media, so that a file can go when the last event that showed it has gone.
//!
//! What is encrypted names nothing; its media go by age.

use ruma::{MxcUri, OwnedServerName};
use serde_json::Value;

use super::{
    Rooms,
    record::{EventNumber, EventRecord},
    reindex::{Index, Progress},
};
use crate::storage::{
    Batch, Read, StorageError,
    intern::RoomNumber,
    schema::{MEDIA_REFERENCES, MEDIA_TO_REMOVE},
};

/// How many media of one event are noted.
const MAX_MEDIA: usize = 50;
/// How deep an event's content is looked into.
const MAX_DEPTH: usize = 8;

/// The server and the ID of a media.
type Media = (OwnedServerName, String);

fn parsed(text: &str) -> Option<Media> {
    let (server, id) = <&MxcUri>::from(text).parts().ok()?;
    (id.len() <= 255 && !id.contains('\0')).then(|| (server.to_owned(), id.to_owned()))
}

/// Every media that the content names, wherever it does.
pub(super) fn named(record: &EventRecord) -> Vec<Media> {
    let mut found = Vec::new();
    // Most events name none, and reading their JSON would be for nothing.
    if !record.content().contains("mxc:") {
        return found;
    }
    if let Ok(content) = serde_json::from_str(record.content()) {
        collect(&content, MAX_DEPTH, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn collect(value: &Value, depth: usize, found: &mut Vec<Media>) {
    if depth == 0 || found.len() >= MAX_MEDIA {
        return;
    }
    match value {
        Value::String(text) => found.extend(parsed(text)),
        Value::Array(values) => values.iter().for_each(|value| collect(value, depth - 1, found)),
        Value::Object(map) => map.values().for_each(|value| collect(value, depth - 1, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The media that a message is about: its file and the thumbnail of that. Stickers and the small
/// pictures in a text belong to whole packs.
fn own(record: &EventRecord) -> Vec<Media> {
    if record.event_type != "m.room.message" || record.is_state() {
        return Vec::new();
    }
    let Ok(content) = serde_json::from_str::<Value>(record.content()) else { return Vec::new() };
    ["/url", "/file/url", "/info/thumbnail_url", "/info/thumbnail_file/url"]
        .iter()
        .filter_map(|pointer| parsed(content.pointer(pointer)?.as_str()?))
        .collect()
}

/// Queues the rows of an event's media.
pub(super) fn index(
    batch: &mut Batch,
    room: RoomNumber,
    number: EventNumber,
    record: &EventRecord,
) {
    for (server, id) in named(record) {
        MEDIA_REFERENCES.put(batch, &(server, id, room, number), &());
    }
}

/// Queues the deletion of the rows of an event that is redacted or removed, and has its own media
/// looked at: a file goes if nothing else shows it and the sender of the event uploaded it.
pub(super) fn forget(
    batch: &mut Batch,
    room: RoomNumber,
    number: EventNumber,
    record: &EventRecord,
) {
    for (server, id) in named(record) {
        MEDIA_REFERENCES.delete(batch, &(server, id, room, number));
    }
    for (server, id) in own(record) {
        MEDIA_TO_REMOVE.put(batch, &(server, id), &record.sender);
    }
}

/// The row that says how far the index goes.
const PROGRESS: &str = "media_references.progress";
/// How long the worker rests after a failure.
const REST: std::time::Duration = std::time::Duration::from_secs(5);

impl Rooms {
    /// Notes the media of events that came before these were noted.
    pub(in crate::rooms) async fn run_media_references(self) {
        let index: Index = |batch, room, _, number, record| index(batch, room, number, record);
        while let Err(error) = self.index_all(PROGRESS, index).await {
            tracing::error!(%error, "the media of old events could not be noted");
            tokio::time::sleep(REST).await;
        }
        self.shared.media_freed.notify_one();
    }
}

/// Whether every event's media are noted: before, nothing can be said to be shown by no event.
pub(crate) async fn are_known(at: &impl Read) -> Result<bool, StorageError> {
    Ok(Progress::read(at, PROGRESS).await? == Some(Progress::Done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_media_uris_are_media() {
        assert_eq!(parsed("mxc://a.example/id").unwrap().1, "id");
        for text in ["see mxc://a.example/id", "mxc://a.example", "mxc:///id", "https://a/b", ""] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
