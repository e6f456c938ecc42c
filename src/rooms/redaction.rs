//! Redacting: what remains of an event that was redacted.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v12/#redactions>

use ruma::{
    CanonicalJsonObject, canonical_json::redact_in_place, room_version_rules::RoomVersionRules,
};

use super::{
    error::RoomError,
    event,
    record::{EventNumber, EventRecord},
};

/// The stored form of an event after its redaction `by` another. A second redaction changes
/// nothing.
///
/// # Errors
/// [`RoomError::Corrupt`] if what is stored is no event.
pub(super) fn redacted(
    record: EventRecord,
    by: EventNumber,
    rules: &RoomVersionRules,
) -> Result<EventRecord, RoomError> {
    const CORRUPT: RoomError = RoomError::Corrupt { what: "the JSON of an event" };
    if record.redacted_by.is_some() {
        return Ok(record);
    }
    let mut object: CanonicalJsonObject =
        serde_json::from_str(&record.json).map_err(|_| CORRUPT)?;
    redact_in_place(&mut object, &rules.redaction, None).map_err(|_| CORRUPT)?;
    let (json, content_at) = event::json_with_content(&object);
    Ok(EventRecord {
        redacted_by: Some(by),
        redacts: record.redacts.filter(|_| rules.redaction.keep_room_redaction_redacts),
        content_at,
        json: json.into(),
        ..record
    })
}

/// An event of which only what a redaction leaves is shown, without being redacted.
///
/// # Errors
/// As [`redacted`].
pub(super) fn emptied(
    record: EventRecord,
    rules: &RoomVersionRules,
) -> Result<EventRecord, RoomError> {
    let by = record.redacted_by;
    Ok(EventRecord { redacted_by: by, ..redacted(record, EventNumber(0), rules)? })
}
