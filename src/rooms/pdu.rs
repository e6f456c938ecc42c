//! Events as other servers send them.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#pdus>

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId, OwnedUserId,
    RoomId, UserId,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
    signatures::reference_hash,
};

use super::event::{MAX_EVENT_BYTES, MAX_FIELD_BYTES, json_with_content};

/// The most parents of an event.
const MAX_PREV_EVENTS: usize = 20;
/// The most events that authorize one.
const MAX_AUTH_EVENTS: usize = 10;
/// The most bytes that type and state key take as a key of the storage, zeros escaped.
const MAX_KEY_BYTES: usize = 900;

/// Why something is no event of its room version.
#[derive(Debug, Clone, Eq, PartialEq, thiserror::Error)]
pub(crate) enum PduError {
    /// It is larger than an event may be.
    #[error("the event is larger than {MAX_EVENT_BYTES} bytes")]
    TooLarge,
    /// A field is missing, of another type, too long, or out of range.
    #[error("the event's {0} is not as it should be")]
    Field(&'static str),
}

/// An event as another server sent it: read, bounded, and with its ID.
#[derive(Clone, Debug)]
pub(crate) struct Pdu {
    pub(super) event_id: OwnedEventId,
    pub(super) room_id: OwnedRoomId,
    pub(super) sender: OwnedUserId,
    pub(super) event_type: String,
    pub(super) state_key: Option<String>,
    pub(super) prev_events: Vec<OwnedEventId>,
    pub(super) auth_events: Vec<OwnedEventId>,
    pub(super) depth: u64,
    pub(super) origin_server_ts: u64,
    pub(super) redacts: Option<OwnedEventId>,
    pub(super) content_at: (u32, u32),
    pub(super) json: Box<str>,
}

impl Pdu {
    /// Reads an event. Its signatures are the caller's to check, and so is its content hash: where
    /// that fails, `object` is to be the redacted event. `unsigned` is left out.
    ///
    /// # Errors
    /// [`PduError`] if it does not follow the room version's format.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#event-format-1>,
    /// <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
    pub(crate) fn parse(
        mut object: CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<Self, PduError> {
        object.remove("unsigned");
        let (json, content_at) = json_with_content(&object);
        if json.len() > MAX_EVENT_BYTES {
            return Err(PduError::TooLarge);
        }
        let event_type = text(&object, "type")?.ok_or(PduError::Field("type"))?;
        let state_key = text(&object, "state_key")?;
        let key_bytes = |text: &str| text.len() + text.matches('\0').count();
        if key_bytes(&event_type) + state_key.as_deref().map_or(0, key_bytes) > MAX_KEY_BYTES {
            return Err(PduError::Field("state_key"));
        }
        let sender = text(&object, "sender")?.ok_or(PduError::Field("sender"))?;
        let sender = UserId::parse(sender).map_err(|_| PduError::Field("sender"))?;
        if !matches!(object.get("content"), Some(CanonicalJsonValue::Object(_))) {
            return Err(PduError::Field("content"));
        }
        let event_id = if rules.event_id_format == EventIdFormatVersion::V1 {
            EventId::parse(text(&object, "event_id")?.ok_or(PduError::Field("event_id"))?)
        } else {
            let hash = reference_hash(&object, rules).map_err(|_| PduError::Field("content"))?;
            EventId::parse(format!("${hash}"))
        };
        let event_id = event_id.map_err(|_| PduError::Field("event_id"))?;
        let named_after_it =
            event_type == "m.room.create" && rules.authorization.room_create_event_id_as_room_id;
        let room_id = match (text(&object, "room_id")?, named_after_it) {
            (None, true) => RoomId::parse(event_id.as_str().replacen('$', "!", 1)),
            (Some(room_id), false) => RoomId::parse(room_id),
            _ => return Err(PduError::Field("room_id")),
        };
        let room_id = room_id.map_err(|_| PduError::Field("room_id"))?;
        let redacts = if event_type == "m.room.redaction" {
            let place = if rules.redaction.content_field_redacts {
                object.get("content").and_then(|content| content.as_object()?.get("redacts"))
            } else {
                object.get("redacts")
            };
            place.and_then(|id| EventId::parse(id.as_str()?).ok())
        } else {
            None
        };
        Ok(Self {
            room_id,
            sender,
            prev_events: references(&object, "prev_events", MAX_PREV_EVENTS, rules)?,
            auth_events: references(&object, "auth_events", MAX_AUTH_EVENTS, rules)?,
            depth: number(&object, "depth")?,
            origin_server_ts: number(&object, "origin_server_ts")?,
            event_id,
            event_type,
            state_key,
            redacts,
            content_at,
            json: json.into(),
        })
    }

    /// Its ID.
    pub(crate) fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// Its room; that of a create event that names its room by that.
    pub(crate) fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// `sender`
    pub(crate) fn sender(&self) -> &UserId {
        &self.sender
    }

    /// `type`
    pub(crate) fn event_type(&self) -> &str {
        &self.event_type
    }

    /// `state_key`
    pub(crate) fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    /// The IDs of its parents.
    pub(crate) fn prev_events(&self) -> &[OwnedEventId] {
        &self.prev_events
    }

    /// `depth`
    pub(crate) fn depth(&self) -> u64 {
        self.depth
    }

    /// `origin_server_ts`, ms since the Unix epoch.
    pub(crate) fn origin_server_ts(&self) -> u64 {
        self.origin_server_ts
    }

    /// The canonical JSON without `unsigned`.
    pub(crate) fn json(&self) -> &str {
        &self.json
    }

    /// `auth_events`
    pub(crate) fn auth_events(&self) -> &[OwnedEventId] {
        &self.auth_events
    }

    /// The JSON of `content`.
    pub(crate) fn content(&self) -> &str {
        let (start, len) = (self.content_at.0 as usize, self.content_at.1 as usize);
        self.json.get(start..start.saturating_add(len)).unwrap_or("{}")
    }
}

fn text(object: &CanonicalJsonObject, field: &'static str) -> Result<Option<String>, PduError> {
    match object.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::String(text)) if text.len() <= MAX_FIELD_BYTES => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(PduError::Field(field)),
    }
}

fn number(object: &CanonicalJsonObject, field: &'static str) -> Result<u64, PduError> {
    match object.get(field) {
        Some(CanonicalJsonValue::Integer(number)) => {
            u64::try_from(i64::from(*number)).map_err(|_| PduError::Field(field))
        }
        _ => Err(PduError::Field(field)),
    }
}

fn references(
    object: &CanonicalJsonObject,
    field: &'static str,
    limit: usize,
    rules: &RoomVersionRules,
) -> Result<Vec<OwnedEventId>, PduError> {
    let Some(CanonicalJsonValue::Array(list)) = object.get(field) else {
        return Err(PduError::Field(field));
    };
    if list.len() > limit {
        return Err(PduError::Field(field));
    }
    let with_hashes = rules.events_reference_format == EventsReferenceFormatVersion::V1;
    let id = |entry: &CanonicalJsonValue| {
        let id = if with_hashes { entry.as_array()?.first()?.as_str()? } else { entry.as_str()? };
        EventId::parse(id).ok().filter(|id| id.as_str().len() <= MAX_FIELD_BYTES)
    };
    list.iter().map(|entry| id(entry).ok_or(PduError::Field(field))).collect()
}

/// The IDs in the `prev_events` of a stored event.
pub(super) fn stored_prev_events(json: &str) -> Vec<OwnedEventId> {
    stored_references(json).0
}

/// The IDs in the `prev_events` and the `auth_events` of a stored event.
pub(super) fn stored_references(json: &str) -> (Vec<OwnedEventId>, Vec<OwnedEventId>) {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Id(OwnedEventId),
        Hashed(OwnedEventId, serde::de::IgnoredAny),
    }
    #[derive(serde::Deserialize)]
    struct Event {
        prev_events: Vec<Entry>,
        auth_events: Vec<Entry>,
    }
    let ids = |entries: Vec<Entry>| {
        let id = |entry| match entry {
            Entry::Id(id) | Entry::Hashed(id, _) => id,
        };
        entries.into_iter().map(id).collect()
    };
    match serde_json::from_str::<Event>(json) {
        Ok(event) => (ids(event.prev_events), ids(event.auth_events)),
        Err(_) => (Vec::new(), Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::{Value as JsonValue, json};

    use super::*;

    fn parse(version: &RoomVersionId, json: JsonValue) -> Result<Pdu, PduError> {
        let object = serde_json::from_value(json).unwrap();
        Pdu::parse(object, &version.rules().unwrap())
    }

    fn topic() -> JsonValue {
        json!({
            "auth_events": ["$a"], "content": {"topic": "t"}, "depth": 3,
            "hashes": {"sha256": "aGFzaA"}, "origin_server_ts": 5, "prev_events": ["$p"],
            "room_id": "!r:a.example", "sender": "@a:a.example", "signatures": {},
            "state_key": "", "type": "m.room.topic", "unsigned": {"age": 1},
        })
    }

    #[test]
    fn an_event_is_read_and_named_by_its_version() {
        for version in crate::rooms::SUPPORTED_VERSIONS {
            let mut json = topic();
            if version.rules().unwrap().event_id_format == EventIdFormatVersion::V1 {
                json["event_id"] = "$chosen:a.example".into();
                json["prev_events"] = json!([["$p", {"sha256": "h"}]]);
                json["auth_events"] = json!([["$a", {"sha256": "h"}]]);
            }
            let pdu = parse(&version, json).unwrap();
            assert_eq!(pdu.content(), r#"{"topic":"t"}"#);
            assert_eq!((pdu.prev_events()[0].as_str(), pdu.depth()), ("$p", 3));
            assert!(!pdu.json().contains("unsigned"));
            assert!(pdu.event_id().as_str().starts_with('$'));
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let changed = |field: &'static str, value: JsonValue| {
            let mut json = topic();
            json[field] = value;
            parse(&RoomVersionId::V11, json).unwrap_err()
        };
        for (field, value) in [
            ("type", json!(1)),
            ("state_key", json!("k".repeat(256))),
            ("sender", json!("alice")),
            ("depth", json!(-1)),
            ("prev_events", json!(vec!["$p"; 21])),
            ("auth_events", json!(vec!["$p"; 11])),
            ("prev_events", json!([["$p", {}]])),
            ("content", json!([])),
            ("room_id", json!(null)),
        ] {
            assert_eq!(changed(field, value), PduError::Field(field));
        }
        let large = changed("content", json!({"topic": "t".repeat(65_536)}));
        assert_eq!(large, PduError::TooLarge);
    }
}
