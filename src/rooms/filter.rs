//! Which events a client's filter lets through.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use ruma::{
    RoomId, UserId,
    api::client::filter::{Filter, RoomEventFilter, UrlFilter},
};

use super::record::EventRecord;

/// Whether anything of `room` can pass.
pub(crate) fn room_passes(filter: &RoomEventFilter, room: &RoomId) -> bool {
    !filter.not_rooms.iter().any(|excluded| excluded == room)
        && filter.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|included| included == room))
}

/// Whether an event of a room that passes is let through.
pub(crate) fn event_passes(filter: &RoomEventFilter, event: &EventRecord) -> bool {
    type_passes(filter.types.as_deref(), &filter.not_types, &event.event_type)
        && sender_passes(filter.senders.as_deref(), &filter.not_senders, &event.sender_id)
        && match filter.url_filter {
            None => true,
            Some(UrlFilter::EventsWithUrl) => contains_url(event),
            Some(UrlFilter::EventsWithoutUrl) => !contains_url(event),
        }
}

/// Whether an event of this type, which no user in particular sent, is let through.
pub(crate) fn room_type_passes(filter: &RoomEventFilter, event_type: &str) -> bool {
    type_passes(filter.types.as_deref(), &filter.not_types, event_type)
}

/// Whether account data or presence of this type is let through.
pub(crate) fn global_type_passes(filter: &Filter, event_type: &str) -> bool {
    type_passes(filter.types.as_deref(), &filter.not_types, event_type)
}

fn type_passes(types: Option<&[String]>, not_types: &[String], event_type: &str) -> bool {
    !not_types.iter().any(|pattern| matches(pattern, event_type))
        && types.is_none_or(|types| types.iter().any(|pattern| matches(pattern, event_type)))
}

fn sender_passes(
    senders: Option<&[ruma::OwnedUserId]>,
    not_senders: &[ruma::OwnedUserId],
    sender: &UserId,
) -> bool {
    !not_senders.iter().any(|excluded| excluded == sender)
        && senders.is_none_or(|senders| senders.iter().any(|included| included == sender))
}

fn contains_url(event: &EventRecord) -> bool {
    #[derive(serde::Deserialize)]
    struct Content<'a> {
        #[serde(borrow, default)]
        url: Option<&'a serde_json::value::RawValue>,
    }
    serde_json::from_str::<Content<'_>>(event.content()).is_ok_and(|content| content.url.is_some())
}

/// Whether `text` is what `pattern` says, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    // `split` gives one part at least.
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // The first place is as good as any: what follows has most left to match.
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("m.room.*", "m.room.message", true),
            ("*", "", true),
            ("*.message", "m.room.message", true),
            ("m.*.message", "m.room.message", true),
            ("m.*.x.*", "m.a.b", false),
            ("ab*ba", "aba", false),
            ("", "m.room.message", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_excluded_stays_out_even_if_it_is_included() {
        assert!(!type_passes(Some(&["m.*".to_owned()]), &["m.room.*".to_owned()], "m.room.topic"));
        assert!(type_passes(Some(&["m.*".to_owned()]), &["m.room.*".to_owned()], "m.tag"));
        assert!(!type_passes(Some(&[]), &[], "m.tag"));
    }
}
