//! The form in which MSC4186 was accepted: what clients send, and what they are answered.
//!
//! Extensions that are not accepted have keys that say whose they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::{OwnedRoomId, presence::PresenceState};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    Form, Request, SlidingError,
    request::{self, Filters, RoomSwitch, Switch},
    response::{self, ByRoom, Common, Field, Response},
    state::{Key, Part, Pattern, Required},
};
use crate::{rooms::record::Membership, users::presence::Level};

/// The longest name of a connection or a list.
const MAX_NAME_BYTES: usize = 255;

/// The body of a request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Body {
    conn_id: Option<String>,
    pos: Option<String>,
    /// In ms.
    timeout: u64,
    set_presence: Option<PresenceState>,
    lists: BTreeMap<String, List>,
    room_subscriptions: BTreeMap<OwnedRoomId, Subscription>,
    extensions: Extensions,
}

#[derive(Clone, Debug, Deserialize)]
struct List {
    timeline_limit: u64,
    required_state: RequiredState,
    /// First and last index, both inside; none: all.
    range: Option<(u64, u64)>,
    filters: Option<Filters>,
}

#[derive(Clone, Debug, Deserialize)]
struct Subscription {
    timeline_limit: u64,
    required_state: RequiredState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RequiredState {
    include: BTreeSet<Element>,
    exclude: BTreeSet<Element>,
    lazy_members: bool,
}

/// What is missing matches all.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
struct Element {
    #[serde(rename = "type")]
    event_type: Option<String>,
    state_key: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Extensions {
    #[serde(rename = "org.matrix.msc4538.to_device")]
    to_device: request::ToDevice,
    #[serde(rename = "org.matrix.msc4543.e2ee")]
    e2ee: Switch,
    #[serde(rename = "org.matrix.msc3959.account_data")]
    account_data: RoomSwitch,
    #[serde(rename = "org.matrix.msc3960.receipts")]
    receipts: RoomSwitch,
    typing: RoomSwitch,
    #[serde(rename = "io.element.msc4308.thread_subscriptions")]
    thread_subscriptions: request::Limited,
    #[serde(rename = "org.matrix.msc4262.profiles")]
    profiles: request::Profiles,
}

impl Body {
    /// The request.
    ///
    /// # Errors
    /// [`SlidingError::Invalid`] for names that are none, an unknown presence, and a limit of 0.
    pub(crate) fn request(self) -> Result<Request, SlidingError> {
        let invalid = |what| Err(SlidingError::Invalid { what });
        if self.conn_id.as_ref().is_some_and(|name| name.len() > MAX_NAME_BYTES) {
            return invalid("conn_id may have at most 255 bytes");
        }
        if !self.lists.keys().all(|name| is_opaque(name)) {
            return invalid(
                "the name of a list has 1 to 255 of the characters of opaque identifiers",
            );
        }
        if self.extensions.to_device.limit == Some(0) {
            return invalid("limit is above 0");
        }
        let presence = match &self.set_presence {
            Some(state) => Level::named(state)
                .ok_or(SlidingError::Invalid { what: "there is no such presence" })?,
            None => Level::default(),
        };
        let lists = self.lists.into_iter().map(|(name, list)| {
            let List { timeline_limit, required_state, range, filters } = list;
            let details =
                request::Details { timeline_limit, required_state: required_state.into() };
            (name, request::List { ranges: vec![range.unwrap_or((0, u64::MAX))], details, filters })
        });
        let subscriptions = self.room_subscriptions.into_iter().map(|(room, of)| {
            let Subscription { timeline_limit, required_state } = of;
            (room, request::Details { timeline_limit, required_state: required_state.into() })
        });
        let Extensions {
            to_device,
            e2ee,
            account_data,
            receipts,
            typing,
            thread_subscriptions,
            profiles,
        } = self.extensions;
        let body = request::Body {
            conn_id: self.conn_id,
            txn_id: None,
            lists: lists.collect(),
            room_subscriptions: subscriptions.collect(),
            extensions: request::Extensions {
                to_device,
                e2ee,
                account_data,
                receipts,
                typing,
                thread_subscriptions,
                profiles,
            },
        };
        let timeout = Duration::from_millis(self.timeout);
        Ok(Request { form: Form::Merged, pos: self.pos, presence, timeout, body })
    }
}

/// Spec: <https://spec.matrix.org/v1.19/appendices/#opaque-identifiers>
fn is_opaque(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

impl From<RequiredState> for Required {
    fn from(state: RequiredState) -> Self {
        let RequiredState { include, exclude, lazy_members } = state;
        let patterns = |elements: BTreeSet<Element>| {
            let pattern = |Element { event_type, state_key }| Pattern {
                event_type,
                state_key: state_key.map_or(Key::Any, Key::Is),
            };
            elements.into_iter().map(pattern).collect()
        };
        let part = Part { include: patterns(include), exclude: patterns(exclude) };
        Self::new([part], lazy_members)
    }
}

/// An answer as it is written.
#[derive(Serialize)]
struct Answer<'a> {
    pos: &'a str,
    lists: &'a BTreeMap<String, response::List>,
    rooms: BTreeMap<&'a OwnedRoomId, Room<'a>>,
    extensions: ExtensionAnswers<'a>,
}

#[derive(Serialize)]
struct Room<'a> {
    #[serde(flatten)]
    common: &'a Common,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    lists: &'a [String],
    #[serde(skip_serializing_if = "Field::is_same")]
    name: &'a Field,
    #[serde(skip_serializing_if = "Field::is_same")]
    avatar: &'a Field,
    #[serde(skip_serializing_if = "Option::is_none")]
    stripped_state: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "<[Box<RawValue>]>::is_empty")]
    timeline_events: &'a [Box<RawValue>],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expanded_timeline: bool,
}

#[derive(Serialize)]
struct ExtensionAnswers<'a> {
    #[serde(rename = "org.matrix.msc4538.to_device", skip_serializing_if = "Option::is_none")]
    to_device: Option<&'a response::ToDevice>,
    #[serde(rename = "org.matrix.msc4543.e2ee", skip_serializing_if = "Option::is_none")]
    e2ee: Option<&'a response::E2ee>,
    #[serde(rename = "org.matrix.msc3959.account_data", skip_serializing_if = "Option::is_none")]
    account_data: Option<&'a response::AccountData>,
    #[serde(rename = "org.matrix.msc3960.receipts", skip_serializing_if = "Option::is_none")]
    receipts: Option<&'a ByRoom>,
    #[serde(skip_serializing_if = "Option::is_none")]
    typing: Option<&'a ByRoom>,
    #[serde(
        rename = "io.element.msc4308.thread_subscriptions",
        skip_serializing_if = "Option::is_none"
    )]
    thread_subscriptions: Option<&'a response::ThreadSubscriptions>,
    #[serde(rename = "org.matrix.msc4262.profiles", skip_serializing_if = "Option::is_none")]
    profiles: Option<&'a response::Profiles>,
}

impl<'a> Answer<'a> {
    fn new(response: &'a Response) -> Self {
        let extensions = &response.extensions;
        Self {
            pos: &response.pos,
            lists: &response.lists,
            rooms: response.rooms.iter().map(|(id, room)| (id, Room::new(room))).collect(),
            extensions: ExtensionAnswers {
                to_device: extensions.to_device.as_ref(),
                e2ee: extensions.e2ee.as_ref(),
                account_data: extensions.account_data.as_ref(),
                receipts: extensions.receipts.as_ref(),
                typing: extensions.typing.as_ref(),
                thread_subscriptions: extensions.thread_subscriptions.as_ref(),
                profiles: extensions.profiles.as_ref(),
            },
        }
    }
}

impl<'a> Room<'a> {
    fn new(room: &'a response::Room) -> Self {
        Self {
            common: &room.common,
            membership: room.membership.map(Membership::as_str),
            lists: &room.lists,
            name: &room.name,
            avatar: &room.avatar,
            stripped_state: room.stripped_state.as_deref(),
            timeline_events: &room.timeline,
            expanded_timeline: room.expanded_timeline,
        }
    }
}

/// Writes an answer.
pub(super) fn write<S: Serializer>(response: &Response, to: S) -> Result<S::Ok, S::Error> {
    Answer::new(response).serialize(to)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn required(value: Value) -> Required {
        serde_json::from_value::<RequiredState>(value).unwrap().into()
    }

    #[test]
    fn what_is_missing_matches_all_and_what_is_excluded_nothing() {
        let create = json!({ "type": "m.room.create", "state_key": "" });
        let all_but = required(json!({ "include": [{}], "exclude": [create] }));
        assert!(all_but.requires("m.room.name", "", "@me:x"));
        assert!(!all_but.requires("m.room.create", "", "@me:x"));
        let of_key = required(json!({ "include": [{ "state_key": "@you:x" }] }));
        assert!(of_key.requires("m.room.member", "@you:x", "@me:x"));
        assert!(!of_key.requires("m.room.member", "@me:x", "@me:x"));
        // No special strings.
        let stars = required(json!({ "include": [{ "type": "*", "state_key": "$ME" }] }));
        assert!(!stars.requires("m.room.member", "@me:x", "@me:x"));
        assert!(required(json!({ "lazy_members": true })).lazy_members());
    }

    /// "take the union of the required state fields"
    #[test]
    fn what_one_part_excludes_another_may_include() {
        let mut both = required(json!({ "include": [{}], "exclude": [{ "type": "m.room.name" }] }));
        both.add(&required(json!({ "include": [{ "type": "m.room.name" }] })));
        assert!(both.requires("m.room.name", "", "@me:x"));
        assert!(both.requires("m.room.topic", "", "@me:x"));
    }
}
