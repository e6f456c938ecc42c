//! Events as they come in.

use serde_json::{Map, Value};

use crate::{
    grammar::MAX_ID_BYTES,
    ids::EventIx,
    power_levels::MAX_CANONICAL,
    rules::{EventIdFormat, RoomVersionRules},
};

/// The most parents an event may have.
/// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#event-format-1>
pub const MAX_PREV_EVENTS: usize = 20;

/// The most auth events an event may have.
/// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#event-format-1>
pub const MAX_AUTH_EVENTS: usize = 10;

/// The fields of an event that authorisation and resolution look at.
///
/// Made from a whole PDU by [`EventInput::from_pdu`], or put together from fields that the caller
/// has decoded already.
#[derive(Debug, Clone)]
pub struct EventInput<'a> {
    /// The event's ID.
    pub event_id: &'a str,
    /// The room it names; `None` for the create event of a version 12 room.
    pub room_id: Option<&'a str>,
    /// The event's `type`.
    pub event_type: &'a str,
    /// The state key; `None` for message events.
    pub state_key: Option<&'a str>,
    /// Who sent it.
    pub sender: &'a str,
    /// When, by the sender's clock, in milliseconds since the Unix epoch.
    pub origin_server_ts: i64,
    /// The sender's claim of how deep in the graph it is.
    pub depth: i64,
    /// The IDs of its parents.
    pub prev_events: Vec<&'a str>,
    /// The IDs of the events that authorise it.
    pub auth_events: Vec<&'a str>,
    /// The top-level `redacts`, which the rules of versions 1 and 2 look at.
    pub redacts: Option<&'a str>,
    /// The content.
    pub content: &'a Map<String, Value>,
    /// Whether it is already known to be rejected.
    pub rejected: bool,
}

/// What in a PDU does not follow the event format of the room version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` {problem}")]
pub struct FormatError {
    /// The name of the field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: FormatProblem,
}

/// The ways in which a field can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatProblem {
    /// A required field is absent.
    #[error("is missing")]
    Missing,
    /// The value is of another JSON type.
    #[error("has the wrong type")]
    WrongType,
    /// A string has too many bytes, or a list too many entries.
    #[error("is too long")]
    TooLong,
    /// A number is outside what the room version allows.
    #[error("is out of range")]
    OutOfRange,
    /// A number in the content is not one of canonical JSON.
    #[error("is not canonical JSON")]
    NotCanonical,
}

/// Why an event was not inserted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// Events it cites are not in the room's table yet: fetch and insert them first.
    #[error("missing auth events: {0:?}")]
    MissingAuth(Vec<String>),
    /// It names another room.
    #[error("the event belongs to another room")]
    WrongRoom,
    /// Its `sender` is no user ID.
    #[error("the sender is not a user ID")]
    MalformedSender,
    /// It has more references than the table can hold.
    #[error("too many auth events")]
    TooManyAuthEvents,
    /// The table is full: there are nearly 2³² events, keys or edges.
    #[error("the room's table is full")]
    Full,
}

/// Only the event that was inserted last can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the last event inserted")]
pub struct NotLast(pub EventIx);

impl<'a> EventInput<'a> {
    /// Reads the fields of `pdu`, whose event ID has been calculated (version 3 and later) or is
    /// the one it claims (1 and 2).
    ///
    /// Checks the types, the lengths of identifiers and lists, and in versions that ask for it
    /// that the content's numbers are canonical. The size of the whole PDU, its hashes and its
    /// signatures are the caller's to check.
    ///
    /// # Errors
    /// [`FormatError`] names the first field that does not follow the room version's format.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
    pub fn from_pdu(
        rules: &RoomVersionRules,
        event_id: &'a str,
        pdu: &'a Map<String, Value>,
    ) -> Result<Self, FormatError> {
        let event_type = required(pdu, "type")?;
        let is_create = event_type == "m.room.create";
        let room_id = optional(pdu, "room_id")?;
        if room_id.is_none() && !(is_create && rules.auth.room_id_is_create_hash) {
            return Err(FormatError { field: "room_id", problem: FormatProblem::Missing });
        }
        let content = match pdu.get("content") {
            Some(Value::Object(content)) => content,
            other => return Err(wrong("content", other)),
        };
        if rules.strict_canonical_json && !content.values().all(is_canonical) {
            return Err(FormatError { field: "content", problem: FormatProblem::NotCanonical });
        }
        Ok(Self {
            event_id,
            room_id,
            event_type,
            state_key: optional(pdu, "state_key")?,
            sender: required(pdu, "sender")?,
            origin_server_ts: integer(pdu, "origin_server_ts", rules)?,
            depth: integer(pdu, "depth", rules)?,
            prev_events: references(pdu, "prev_events", MAX_PREV_EVENTS, rules)?,
            auth_events: references(pdu, "auth_events", MAX_AUTH_EVENTS, rules)?,
            redacts: pdu.get("redacts").and_then(Value::as_str),
            content,
            rejected: false,
        })
    }
}

fn wrong(field: &'static str, value: Option<&Value>) -> FormatError {
    let problem = if value.is_none() { FormatProblem::Missing } else { FormatProblem::WrongType };
    FormatError { field, problem }
}

fn optional<'a>(
    pdu: &'a Map<String, Value>,
    field: &'static str,
) -> Result<Option<&'a str>, FormatError> {
    match pdu.get(field) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() > MAX_ID_BYTES => {
            Err(FormatError { field, problem: FormatProblem::TooLong })
        }
        Some(Value::String(text)) => Ok(Some(text)),
        other => Err(wrong(field, other)),
    }
}

fn required<'a>(pdu: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, FormatError> {
    optional(pdu, field)?.ok_or(FormatError { field, problem: FormatProblem::Missing })
}

/// A number that is not negative: up to 2⁵³ − 1 under strict canonical JSON, else 2⁶³ − 1.
fn integer(
    pdu: &Map<String, Value>,
    field: &'static str,
    rules: &RoomVersionRules,
) -> Result<i64, FormatError> {
    let value = pdu.get(field);
    let Some(Value::Number(number)) = value else { return Err(wrong(field, value)) };
    let max = if rules.strict_canonical_json { MAX_CANONICAL } else { i64::MAX };
    number
        .as_i64()
        .filter(|number| (0..=max).contains(number))
        .ok_or(FormatError { field, problem: FormatProblem::OutOfRange })
}

fn references<'a>(
    pdu: &'a Map<String, Value>,
    field: &'static str,
    max: usize,
    rules: &RoomVersionRules,
) -> Result<Vec<&'a str>, FormatError> {
    let value = pdu.get(field);
    let Some(Value::Array(list)) = value else { return Err(wrong(field, value)) };
    if list.len() > max {
        return Err(FormatError { field, problem: FormatProblem::TooLong });
    }
    list.iter()
        .map(|entry| match rules.event_id_format {
            EventIdFormat::Chosen => entry.get(0).and_then(Value::as_str),
            EventIdFormat::Hash | EventIdFormat::UrlSafeHash => entry.as_str(),
        })
        .collect::<Option<_>>()
        .ok_or(FormatError { field, problem: FormatProblem::WrongType })
}

/// Whether all numbers are those of canonical JSON. The parser bounds the nesting.
fn is_canonical(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.as_i64().is_some_and(|n| (-MAX_CANONICAL..=MAX_CANONICAL).contains(&n))
        }
        Value::Array(list) => list.iter().all(is_canonical),
        Value::Object(map) => map.values().all(is_canonical),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pdu() -> Value {
        json!({
            "type": "m.room.topic", "state_key": "", "sender": "@a:a", "room_id": "!r:a",
            "origin_server_ts": 1, "depth": 2, "prev_events": ["$p"], "auth_events": ["$x", "$y"],
            "content": {"topic": "t"},
        })
    }

    fn problem(rules: &RoomVersionRules, field: &'static str, value: Value) -> FormatProblem {
        let mut pdu = pdu();
        pdu[field] = value;
        let error = EventInput::from_pdu(rules, "$e", pdu.as_object().unwrap()).unwrap_err();
        assert_eq!(error.field, field);
        error.problem
    }

    #[test]
    fn references_are_plain_ids_since_version_3() {
        let pdu = pdu();
        let pdu = pdu.as_object().unwrap();
        let input = EventInput::from_pdu(&RoomVersionRules::V3, "$e", pdu).unwrap();
        assert_eq!(input.auth_events, ["$x", "$y"]);
        let error = EventInput::from_pdu(&RoomVersionRules::V2, "$e", pdu).unwrap_err();
        assert_eq!(error.problem, FormatProblem::WrongType);

        let mut pdu = pdu.clone();
        pdu["prev_events"] = json!([["$p", {"sha256": "h"}]]);
        pdu["auth_events"] = json!([]);
        let input = EventInput::from_pdu(&RoomVersionRules::V2, "$e", &pdu).unwrap();
        assert_eq!(input.prev_events, ["$p"]);
    }

    #[test]
    fn only_the_create_event_of_version_12_has_no_room_id() {
        for (event_type, rules, accepted) in [
            ("m.room.create", RoomVersionRules::V12, true),
            ("m.room.create", RoomVersionRules::V11, false),
            ("m.room.topic", RoomVersionRules::V12, false),
        ] {
            let mut pdu = pdu();
            pdu["type"] = event_type.into();
            let pdu = pdu.as_object_mut().unwrap();
            pdu.remove("room_id");
            assert_eq!(EventInput::from_pdu(&rules, "$e", pdu).is_ok(), accepted);
        }
    }

    #[test]
    fn fields_of_another_shape_are_named() {
        let v11 = &RoomVersionRules::V11;
        assert_eq!(problem(v11, "type", json!(1)), FormatProblem::WrongType);
        assert_eq!(problem(v11, "state_key", json!("k".repeat(256))), FormatProblem::TooLong);
        assert_eq!(problem(v11, "depth", json!(-1)), FormatProblem::OutOfRange);
        assert_eq!(problem(v11, "depth", json!(1.5)), FormatProblem::OutOfRange);
        assert_eq!(problem(v11, "content", json!([])), FormatProblem::WrongType);
        assert_eq!(problem(v11, "auth_events", json!(vec!["$e"; 11])), FormatProblem::TooLong);
        assert_eq!(problem(v11, "prev_events", json!(vec!["$e"; 21])), FormatProblem::TooLong);
    }

    #[test]
    fn numbers_are_canonical_since_version_6() {
        let mut pdu = pdu();
        pdu["content"] = json!({"a": [{"b": 1.5}]});
        let pdu = pdu.as_object_mut().unwrap();
        assert!(EventInput::from_pdu(&RoomVersionRules::V5, "$e", pdu).is_ok());
        let error = EventInput::from_pdu(&RoomVersionRules::V6, "$e", pdu).unwrap_err();
        assert_eq!(error.problem, FormatProblem::NotCanonical);
        pdu["content"] = json!({});
        pdu["depth"] = json!(1_i64 << 53);
        assert!(EventInput::from_pdu(&RoomVersionRules::V5, "$e", pdu).is_ok());
        assert!(EventInput::from_pdu(&RoomVersionRules::V6, "$e", pdu).is_err());
    }
}
