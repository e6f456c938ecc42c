//! The form of MSC4186 that clients use by now: what they send, and what they are answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    Form, Request, SlidingError,
    request::{self, Filters, RoomSwitch, Switch},
    response::{self, ByRoom, Common, Response},
    state::{Key, Part, Pattern, Required},
};
use crate::users::presence::Level;

/// The longest name of a connection.
const MAX_CONNECTION_ID_CHARS: usize = 16;
/// The longest name of a list.
const MAX_LIST_NAME_BYTES: usize = 64;
/// Stands for all types or state keys.
const ANY: &str = "*";
/// Stands for the user.
const ME: &str = "$ME";
/// Stands for members who matter.
const LAZY: &str = "$LAZY";
const MEMBER: &str = "m.room.member";

/// The body of a request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Body {
    conn_id: Option<String>,
    txn_id: Option<String>,
    lists: BTreeMap<String, List>,
    room_subscriptions: BTreeMap<OwnedRoomId, Details>,
    extensions: Extensions,
}

#[derive(Clone, Debug, Deserialize)]
struct List {
    /// First and last index, both inside.
    #[serde(default)]
    ranges: Vec<(u64, u64)>,
    #[serde(flatten)]
    details: Details,
    #[serde(default)]
    filters: Option<Filters>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    /// Types and state keys.
    required_state: BTreeSet<(String, String)>,
    timeline_limit: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Extensions {
    to_device: request::ToDevice,
    e2ee: Switch,
    account_data: RoomSwitch,
    receipts: RoomSwitch,
    typing: RoomSwitch,
    #[serde(rename = "io.element.msc4308.thread_subscriptions")]
    thread_subscriptions: request::Limited,
    #[serde(rename = "org.matrix.msc4262.profiles")]
    profiles: request::Profiles,
}

impl Body {
    /// The request, with what stands in its query.
    ///
    /// # Errors
    /// [`SlidingError::Invalid`] if the name of the connection or a list is too long.
    pub(crate) fn request(
        self,
        pos: Option<String>,
        presence: Level,
        timeout: Duration,
    ) -> Result<Request, SlidingError> {
        let name_is_long = |name: &String| name.chars().count() > MAX_CONNECTION_ID_CHARS;
        if self.conn_id.as_ref().is_some_and(name_is_long) {
            return Err(SlidingError::Invalid { what: "conn_id may have at most 16 characters" });
        }
        if self.lists.keys().any(|name| name.len() > MAX_LIST_NAME_BYTES) {
            let what = "the name of a list may have at most 64 bytes";
            return Err(SlidingError::Invalid { what });
        }
        let lists = self.lists.into_iter().map(|(name, list)| {
            let List { ranges, details, filters } = list;
            (name, request::List { ranges, details: details.into(), filters })
        });
        let subscriptions = self.room_subscriptions.into_iter();
        let body = request::Body {
            conn_id: self.conn_id,
            txn_id: self.txn_id,
            lists: lists.collect(),
            room_subscriptions: subscriptions.map(|(room, of)| (room, of.into())).collect(),
            extensions: self.extensions.into(),
        };
        Ok(Request { form: Form::Deployed, pos, presence, timeout, body })
    }
}

impl From<Details> for request::Details {
    fn from(details: Details) -> Self {
        let Details { required_state, timeline_limit } = details;
        Self { required_state: required(required_state), timeline_limit }
    }
}

impl From<Extensions> for request::Extensions {
    fn from(extensions: Extensions) -> Self {
        let Extensions {
            to_device,
            e2ee,
            account_data,
            receipts,
            typing,
            thread_subscriptions,
            profiles,
        } = extensions;
        Self { to_device, e2ee, account_data, receipts, typing, thread_subscriptions, profiles }
    }
}

/// What is required of a type by its name goes before what is required of all types.
fn required(pairs: BTreeSet<(String, String)>) -> Required {
    let (mut of_all, mut of_named) = (Part::default(), Part::default());
    let mut lazy_members = false;
    for (event_type, key) in pairs {
        let is_lazy = event_type == MEMBER && key == LAZY;
        let state_key = match key.as_str() {
            ANY => Key::Any,
            ME => Key::Me,
            _ => Key::Is(key),
        };
        if event_type == ANY {
            of_all.include.insert(Pattern { event_type: None, state_key });
            continue;
        }
        let all = Pattern { event_type: Some(event_type.clone()), state_key: Key::Any };
        of_all.exclude.insert(all);
        lazy_members |= is_lazy;
        if !is_lazy {
            of_named.include.insert(Pattern { event_type: Some(event_type), state_key });
        }
    }
    Required::new([of_all, of_named], lazy_members)
}

/// An answer as it is written.
#[derive(Serialize)]
struct Answer<'a> {
    pos: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn_id: Option<&'a str>,
    lists: &'a BTreeMap<String, response::List>,
    rooms: BTreeMap<&'a OwnedRoomId, Room<'a>>,
    extensions: ExtensionAnswers<'a>,
}

#[derive(Serialize)]
struct Room<'a> {
    #[serde(flatten)]
    common: &'a Common,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invite_state: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "<[Box<RawValue>]>::is_empty")]
    timeline: &'a [Box<RawValue>],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unstable_expanded_timeline: bool,
}

#[derive(Serialize)]
struct ExtensionAnswers<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    to_device: Option<&'a response::ToDevice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e2ee: Option<&'a response::E2ee>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_data: Option<&'a response::AccountData>,
    #[serde(skip_serializing_if = "Option::is_none")]
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
            txn_id: response.txn_id.as_deref(),
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
            name: room.name.text(),
            avatar: room.avatar.text(),
            invite_state: room.stripped_state.as_deref(),
            timeline: &room.timeline,
            unstable_expanded_timeline: room.expanded_timeline,
        }
    }
}

/// Writes an answer.
pub(super) fn write<S: Serializer>(response: &Response, to: S) -> Result<S::Ok, S::Error> {
    Answer::new(response).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Required {
        required(pairs.iter().map(|(of, key)| ((*of).to_owned(), (*key).to_owned())).collect())
    }

    #[test]
    fn keys_match_by_name_by_star_and_by_being_the_user() {
        let wanted = of(&[("m.room.name", ""), ("m.room.member", "$ME"), ("m.call", "*")]);
        let requires = |of, key| wanted.requires(of, key, "@me:x");
        assert!(requires("m.room.name", ""));
        assert!(!requires("m.room.name", "other"));
        assert!(requires("m.room.member", "@me:x"));
        assert!(!requires("m.room.member", "@you:x"));
        assert!(requires("m.call", "anything"));
        assert!(!requires("m.room.topic", ""));
        assert!(!wanted.lazy_members());
    }

    #[test]
    fn a_type_by_its_name_goes_before_all_types() {
        let wanted = of(&[("*", "*"), ("m.room.member", "$LAZY")]);
        assert!(wanted.requires("m.room.topic", "", "@me:x"));
        assert!(!wanted.requires("m.room.member", "@you:x", "@me:x"));
        assert!(wanted.lazy_members());
    }
}
