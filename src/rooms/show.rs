//! Events as clients see them, cut out of what is stored.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-event-format>

use std::collections::HashMap;

use ruma::{OwnedDeviceId, RoomId, room_version_rules::EventIdFormatVersion};
use serde_json::value::RawValue;

use super::{
    Rooms,
    error::RoomError,
    event::push_text,
    event_fields::EventFields,
    record::{EventNumber, EventRecord, Membership, SharedEvent},
    relations::Frame,
    room::Room,
    visibility::Visibility,
};
use crate::{
    storage::{Read, intern::UserNumber, shared_events},
    users::session::Session,
};

/// Who looks at events.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    /// The user.
    pub(crate) user: UserNumber,
    /// The device: transaction IDs are shown to the one that chose them.
    pub(crate) device: OwnedDeviceId,
}

impl From<&Session> for Viewer {
    fn from(session: &Session) -> Self {
        Self { user: session.user, device: session.device_id.clone() }
    }
}

/// How events are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventForm {
    /// With `room_id`: inside sync the room is known from where the event stands.
    pub(crate) with_room_id: bool,
    /// As they go to other servers, instead of what clients need of that. `unsigned` is added, and
    /// their ID where the room version has it follow from the rest: they are not part of what was
    /// hashed and signed.
    pub(crate) federation: bool,
    /// Nothing but this, if anything is named.
    pub(crate) fields: Option<EventFields>,
}

/// What belongs to an event and is not in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unsigned<'a> {
    pub(super) age_ms: u64,
    /// `m.relations`
    pub(super) relations: Option<&'a str>,
    pub(super) membership: Option<Membership>,
    pub(super) prev_content: Option<&'a str>,
    pub(super) redacted_because: Option<&'a str>,
    pub(super) transaction_id: Option<&'a str>,
    pub(super) delay_id: Option<&'a str>,
}

impl<'a> Unsigned<'a> {
    /// What there is to say of an event to nobody in particular.
    pub(super) fn plain(event: &EventRecord, now_ms: u64) -> Self {
        Self { age_ms: age(event, now_ms), ..Self::default() }
    }

    /// What there is to say of an event without looking at others.
    pub(super) fn of(
        event: &'a EventRecord,
        viewer: &Viewer,
        visibility: &Visibility,
        now_ms: u64,
    ) -> Self {
        let transaction_id = event
            .transaction
            .as_ref()
            .filter(|(device, _)| event.sender == viewer.user && *device == viewer.device)
            .map(|(_, id)| id.as_str());
        Self {
            age_ms: age(event, now_ms),
            membership: Some(visibility.membership_at(event.as_of()).unwrap_or(Membership::Leave)),
            transaction_id,
            delay_id: event.delay_id.as_deref().filter(|_| event.sender == viewer.user),
            ..Self::default()
        }
    }

    /// Writes it as a property that follows others.
    fn push(&self, out: &mut String) {
        out.push_str(",\"unsigned\":{\"age\":");
        out.push_str(&self.age_ms.to_string());
        if let Some(relations) = self.relations {
            out.push_str(",\"m.relations\":");
            out.push_str(relations);
        }
        if let Some(membership) = self.membership {
            out.push_str(",\"membership\":");
            push_text(out, membership.as_str());
        }
        if let Some(content) = self.prev_content {
            out.push_str(",\"prev_content\":");
            out.push_str(content);
        }
        if let Some(redaction) = self.redacted_because {
            out.push_str(",\"redacted_because\":");
            out.push_str(redaction);
        }
        if let Some(id) = self.transaction_id {
            out.push_str(",\"transaction_id\":");
            push_text(out, id);
        }
        if let Some(id) = self.delay_id {
            out.push_str(",\"org.matrix.msc4140.delay_id\":");
            push_text(out, id);
        }
        out.push('}');
    }
}

impl Rooms {
    /// Events of one room as `viewer` sees them, in their order, whether or not they may.
    ///
    /// Inside sync the room is known from where the event stands: `with_room_id` is false there.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn client_events(
        &self,
        at: &impl Read,
        viewer: &Viewer,
        room: &Room,
        visibility: &Visibility,
        events: &[SharedEvent],
        with_room_id: bool,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let form = EventForm { with_room_id, ..EventForm::default() };
        self.formed_events(at, viewer, room, visibility, events, &form).await
    }

    /// As [`Self::client_events`], in a form that the client chose.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn formed_events(
        &self,
        at: &impl Read,
        viewer: &Viewer,
        room: &Room,
        visibility: &Visibility,
        events: &[SharedEvent],
        form: &EventForm,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let mut related: Vec<EventNumber> = Vec::new();
        for event in events {
            related.extend(event.replaces);
            related.extend(event.redacted_by);
        }
        related.sort_unstable();
        related.dedup();
        let records = shared_events(at, room.number, &related).await?;
        let related: HashMap<EventNumber, SharedEvent> = related
            .into_iter()
            .zip(records)
            .filter_map(|(number, record)| Some((number, record?)))
            .collect();
        let now_ms = self.clock().now_ms();
        let frame = Frame { viewer, room, visibility, now_ms };
        let bundles = self.bundles(at, frame, events).await?;
        let room_id = form.with_room_id.then_some(&*room.id);
        let redacts_in_content = room.rules.redaction.content_field_redacts;
        let names_itself = room.rules.event_id_format == EventIdFormatVersion::V1;
        events
            .iter()
            .map(|event| {
                let redaction = event.redacted_by.and_then(|by| related.get(&by)).map(|by| {
                    let unsigned = Unsigned { age_ms: age(by, now_ms), ..Unsigned::default() };
                    if form.federation {
                        splice_pdu(by, names_itself, unsigned)
                    } else {
                        splice(by, Some(&room.id), redacts_in_content, unsigned)
                    }
                });
                let unsigned = Unsigned {
                    relations: bundles.get(&event.event_id).map(String::as_str),
                    prev_content: event
                        .replaces
                        .and_then(|replaced| related.get(&replaced))
                        .map(|replaced| replaced.content()),
                    redacted_because: redaction.as_deref(),
                    ..Unsigned::of(event, viewer, visibility, now_ms)
                };
                let json = if form.federation {
                    splice_pdu(event, names_itself, unsigned)
                } else {
                    splice(event, room_id, redacts_in_content, unsigned)
                };
                match &form.fields {
                    Some(fields) => raw(fields.of(&json).map_err(|_| CORRUPT)?),
                    None => raw(json),
                }
            })
            .collect()
    }
}

fn age(event: &EventRecord, now_ms: u64) -> u64 {
    now_ms.saturating_sub(event.origin_server_ts)
}

const CORRUPT: RoomError = RoomError::Corrupt { what: "the JSON of an event" };

/// JSON that was put together here.
pub(super) fn raw(json: String) -> Result<Box<RawValue>, RoomError> {
    RawValue::from_string(json).map_err(|_| CORRUPT)
}

/// The event as it goes to other servers, with its ID, unless `names_itself`, and `unsigned`.
fn splice_pdu(event: &EventRecord, names_itself: bool, unsigned: Unsigned<'_>) -> String {
    let mut out = String::with_capacity(event.json.len() + 512);
    out.push('{');
    if !names_itself {
        out.push_str("\"event_id\":");
        push_text(&mut out, event.event_id.as_str());
        out.push(',');
    }
    // No event is empty, so there is something between the braces.
    out.push_str(
        event.json.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(""),
    );
    unsigned.push(&mut out);
    out.push('}');
    out
}

/// The client form: `content` as it is stored, the rest from the header.
pub(super) fn splice(
    event: &EventRecord,
    room_id: Option<&RoomId>,
    redacts_in_content: bool,
    unsigned: Unsigned<'_>,
) -> String {
    let content = event.content();
    let mut out = String::with_capacity(content.len() + 512);
    out.push_str("{\"content\":");
    match &event.redacts {
        // Clients find `redacts` in both places, whatever the room version says.
        Some(redacts) if !redacts_in_content => {
            out.push_str("{\"redacts\":");
            push_text(&mut out, redacts.as_str());
            let rest = content.strip_prefix('{').unwrap_or("}");
            if rest != "}" {
                out.push(',');
            }
            out.push_str(rest);
        }
        _ => out.push_str(content),
    }
    out.push_str(",\"event_id\":");
    push_text(&mut out, event.event_id.as_str());
    out.push_str(",\"origin_server_ts\":");
    out.push_str(&event.origin_server_ts.to_string());
    if let Some(redacts) = &event.redacts {
        out.push_str(",\"redacts\":");
        push_text(&mut out, redacts.as_str());
    }
    if let Some(room_id) = room_id {
        out.push_str(",\"room_id\":");
        push_text(&mut out, room_id.as_str());
    }
    out.push_str(",\"sender\":");
    push_text(&mut out, event.sender_id.as_str());
    if let Some(state_key) = &event.state_key {
        out.push_str(",\"state_key\":");
        push_text(&mut out, state_key);
    }
    out.push_str(",\"type\":");
    push_text(&mut out, &event.event_type);
    unsigned.push(&mut out);
    out.push('}');
    out
}
