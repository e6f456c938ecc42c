//! Events that refer to another: replacements, references, threads, annotations.
//!
//! Each event that relates to another has a row beside that one, written in the event's batch and
//! deleted with its redaction. Rows are only added and deleted, never read and changed: a batch may
//! be queued on others that are not readable yet.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events>

mod bundles;
mod check;
mod list;
mod row;
mod thread_of;
mod threads;

use ruma::{EventId, OwnedEventId};
use serde::Deserialize;
use sha2::{Digest, Sha256};

pub(super) use bundles::Frame;
pub(super) use check::require_new_annotation;
pub(crate) use list::{MAX_DEPTH, RelatedPage, RelatedRequest};
pub(crate) use row::{Relation, RelationKind};
pub(crate) use thread_of::{event_of, thread_of};

use super::{
    record::{EventNumber, EventRecord},
    timeline_key::TimelineKey,
};
use crate::storage::{
    Batch,
    intern::{RoomNumber, UserNumber},
    schema::{ANNOTATIONS, BUNDLED, RELATIONS, THREAD_EVENTS, THREAD_PARTICIPANTS},
};

/// What the `m.relates_to` of an event says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RelatesTo {
    /// `rel_type`
    pub(crate) rel_type: String,
    /// The event it relates to: its parent.
    pub(crate) parent: OwnedEventId,
    /// The `key` of an annotation.
    key: Option<String>,
}

impl RelatesTo {
    /// The relation in an event's content; none if it has none, or one that makes no sense. A reply
    /// without a `rel_type` is no relation.
    pub(crate) fn in_content(content: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: Fields,
        }
        #[derive(Deserialize)]
        struct Fields {
            rel_type: String,
            event_id: String,
            #[serde(default)]
            key: Option<serde_json::Value>,
        }
        // Most events have none, and reading their JSON would be for nothing.
        if !content.contains("m.relates_to") {
            return None;
        }
        let Content { relates_to: Fields { rel_type, event_id, key } } =
            serde_json::from_str(content).ok()?;
        // Keys of the storage hold both.
        let fits = |text: &str| !text.is_empty() && text.len() <= 255 && !text.contains('\0');
        if !fits(&rel_type) || !fits(&event_id) {
            return None;
        }
        let parent = EventId::parse(event_id).ok()?;
        let key = key.and_then(|key| key.as_str().map(str::to_owned));
        Some(Self { rel_type, parent, key })
    }

    fn kind(&self) -> RelationKind {
        RelationKind::named(&self.rel_type)
    }

    /// Tells annotations of one user apart; none for other relations.
    fn annotation(&self, event_type: &str) -> Option<[u8; 32]> {
        let key = self.key.as_ref().filter(|_| self.kind() == RelationKind::Annotation)?;
        let mut hash = Sha256::new();
        hash.update(event_type.as_bytes());
        hash.update([0]);
        hash.update(key.as_bytes());
        Some(hash.finalize().into())
    }
}

/// The key of the row that one user's annotation of this type and key has.
type AnnotationKey = (RoomNumber, OwnedEventId, UserNumber, [u8; 32]);

fn annotation_key(room: RoomNumber, record: &EventRecord, to: &RelatesTo) -> Option<AnnotationKey> {
    let hash = to.annotation(&record.event_type)?;
    Some((room, to.parent.clone(), record.sender, hash))
}

/// The relation of an event that counts as one: state events are no children.
fn relation_of(record: &EventRecord) -> Option<RelatesTo> {
    RelatesTo::in_content(record.content()).filter(|_| !record.is_state())
}

/// Queues the rows of an event that came into the timeline at `key`.
pub(super) fn index(
    batch: &mut Batch,
    room: RoomNumber,
    key: TimelineKey,
    number: EventNumber,
    record: &EventRecord,
) {
    let Some(to) = relation_of(record) else { return };
    let kind = to.kind();
    if let Some(annotation) = annotation_key(room, record, &to) {
        ANNOTATIONS.put(batch, &annotation, &number);
    }
    if kind.is_bundled() {
        BUNDLED.put(batch, &(room, &*to.parent), &());
    }
    if kind == RelationKind::Thread {
        THREAD_EVENTS.put(batch, &(room, key), &to.parent);
        THREAD_PARTICIPANTS.put(batch, &(room, &*to.parent, record.sender, key), &());
    }
    let row = Relation {
        event: number,
        sender: record.sender,
        event_type: record.event_type.clone(),
        rel_type: to.rel_type,
    };
    RELATIONS.put(batch, &(room, to.parent, kind, key), &row);
}

/// Queues the deletion of an event's rows; `record` is what it was before its redaction.
///
/// The marker of its parent stays: it says where to look, not that there is something.
pub(super) fn forget(batch: &mut Batch, room: RoomNumber, key: TimelineKey, record: &EventRecord) {
    let Some(to) = relation_of(record) else { return };
    let kind = to.kind();
    if let Some(annotation) = annotation_key(room, record, &to) {
        ANNOTATIONS.delete(batch, &annotation);
    }
    if kind == RelationKind::Thread {
        THREAD_EVENTS.delete(batch, &(room, key));
        THREAD_PARTICIPANTS.delete(batch, &(room, &*to.parent, record.sender, key));
    }
    RELATIONS.delete(batch, &(room, to.parent, kind, key));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relation_names_its_type_and_its_parent() {
        let content = r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$root","x":1}}"#;
        let relation = RelatesTo::in_content(content).unwrap();
        assert_eq!(relation.kind(), RelationKind::Thread);
        assert_eq!(relation.parent.as_str(), "$root");
    }

    #[test]
    fn what_makes_no_sense_is_no_relation() {
        for content in [
            r#"{"body":"m.relates_to"}"#,
            r#"{"m.relates_to":{"m.in_reply_to":{"event_id":"$a"}}}"#,
            r#"{"m.relates_to":{"rel_type":"m.thread"}}"#,
            r#"{"m.relates_to":{"rel_type":7,"event_id":"$a"}}"#,
            r#"{"m.relates_to":{"rel_type":"","event_id":"$a"}}"#,
            r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"no event"}}"#,
            r#"{"m.relates_to":{"rel_type":"a\u0000b","event_id":"$a"}}"#,
            r#"{"m.relates_to":[]}"#,
        ] {
            assert_eq!(RelatesTo::in_content(content), None, "{content}");
        }
    }
}
