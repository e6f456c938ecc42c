//! Which events a client asked for.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId,
    api::client::filter::{LazyLoadOptions, RoomEventFilter, UrlFilter},
};
use serde_json::value::RawValue;

use super::record::EventRecord;

/// A filter for the events of rooms.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventFilter {
    types: Option<Vec<String>>,
    not_types: Vec<String>,
    senders: Option<Vec<OwnedUserId>>,
    not_senders: Vec<OwnedUserId>,
    rooms: Option<Vec<OwnedRoomId>>,
    not_rooms: Vec<OwnedRoomId>,
    /// Whether there must be a `url` in the content, or must not.
    url: Option<bool>,
    /// How many events at most.
    pub(crate) limit: Option<u64>,
    /// Whether only members who matter are sent with the events.
    pub(crate) lazy_load_members: bool,
    /// Whether those are sent too that the client has.
    pub(crate) redundant_members: bool,
}

impl From<RoomEventFilter> for EventFilter {
    fn from(filter: RoomEventFilter) -> Self {
        Self {
            types: filter.types,
            not_types: filter.not_types,
            senders: filter.senders,
            not_senders: filter.not_senders,
            rooms: filter.rooms,
            not_rooms: filter.not_rooms,
            url: filter.url_filter.map(|url| matches!(url, UrlFilter::EventsWithUrl)),
            limit: filter.limit.map(u64::from),
            lazy_load_members: !filter.lazy_load_options.is_disabled(),
            redundant_members: matches!(
                filter.lazy_load_options,
                LazyLoadOptions::Enabled { include_redundant_members: true }
            ),
        }
    }
}

impl EventFilter {
    /// Any events, at most so many.
    pub(crate) fn any(limit: u64) -> Self {
        Self { limit: Some(limit), ..Self::default() }
    }

    /// Whether events of this room are wanted at all.
    pub(crate) fn wants_room(&self, room: &RoomId) -> bool {
        !self.not_rooms.iter().any(|id| id == room)
            && self.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|id| id == room))
    }

    /// Whether this event is wanted, its room aside.
    pub(crate) fn wants(&self, event: &EventRecord) -> bool {
        let event_type = event.event_type.as_str();
        let sender = &event.sender_id;
        // What is excluded stays so even if it is listed as wanted.
        !self.not_types.iter().any(|pattern| matches_pattern(pattern, event_type))
            && !self.not_senders.contains(sender)
            && self.types.as_ref().is_none_or(|types| {
                types.iter().any(|pattern| matches_pattern(pattern, event_type))
            })
            && self.senders.as_ref().is_none_or(|senders| senders.contains(sender))
            && self.url.is_none_or(|wanted| has_url(event) == wanted)
    }
}

fn has_url(event: &EventRecord) -> bool {
    #[derive(serde::Deserialize)]
    struct Content<'a> {
        #[serde(borrow, default)]
        url: Option<&'a RawValue>,
    }
    let content: Result<Content<'_>, _> = serde_json::from_str(event.content());
    content.is_ok_and(|content| content.url.is_some_and(|url| url.get().starts_with('"')))
}

/// Whether `text` fits a pattern in which `*` stands for any sequence of characters.
///
/// In one pass with one step back, so the time is bounded by the product of the lengths.
pub(crate) fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(first) = pieces.next() else { return text.is_empty() };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last: Option<&str> = None;
    for piece in pieces {
        if let Some(middle) = last.replace(piece) {
            let Some(at) = rest.find(middle) else { return false };
            rest = rest.get(at + middle.len()..).unwrap_or_default();
        }
    }
    match last {
        Some(last) => rest.ends_with(last),
        None => rest.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::matches_pattern;

    #[test]
    fn an_asterisk_stands_for_any_sequence_of_characters() {
        for (pattern, text, matches) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("m.room.*", "m.room.member", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*.message", "m.room.message", true),
            ("m.*.message", "m.message", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches_pattern(pattern, text), matches, "{pattern} {text}");
        }
    }
}
