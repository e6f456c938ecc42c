//! What `/v3/sync` answers, as it is written to the wire: events are spliced in, not rebuilt.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::e2ee::DeviceLists;
use crate::push::Count;

/// The whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct Response {
    pub(crate) next_batch: String,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) account_data: Events,
    pub(crate) rooms: Rooms,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) presence: Events,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) to_device: Events,
    #[serde(skip_serializing_if = "DeviceLists::is_empty")]
    pub(crate) device_lists: DeviceLists,
    /// One-time keys that the device has left, by algorithm.
    pub(crate) device_one_time_keys_count: BTreeMap<String, u64>,
    /// Algorithms whose fallback key was not used yet.
    pub(crate) device_unused_fallback_key_types: Vec<String>,
}

/// Events without more about them.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Events {
    pub(crate) events: Vec<Box<RawValue>>,
}

/// Rooms by what the user is to them.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Rooms {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) join: BTreeMap<OwnedRoomId, Joined>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) invite: BTreeMap<OwnedRoomId, Invited>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) knock: BTreeMap<OwnedRoomId, Knocked>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) leave: BTreeMap<OwnedRoomId, Left>,
}

/// A room that the user is in.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Joined {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) summary: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unread_notifications: Option<Counts>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unread_thread_notifications: BTreeMap<String, Counts>,
    pub(crate) timeline: Timeline,
    #[serde(flatten)]
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) ephemeral: Events,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) account_data: Events,
}

/// What a client needs to name a room without a name.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    #[serde(rename = "m.heroes")]
    pub(crate) heroes: Vec<OwnedUserId>,
    #[serde(rename = "m.joined_member_count")]
    pub(crate) joined_member_count: usize,
    #[serde(rename = "m.invited_member_count")]
    pub(crate) invited_member_count: usize,
}

/// What the user has not read.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Counts {
    pub(crate) notification_count: u64,
    pub(crate) highlight_count: u64,
}

impl From<Count> for Counts {
    fn from(count: Count) -> Self {
        Self { notification_count: count.notifications, highlight_count: count.highlights }
    }
}

/// The latest events of a room.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Timeline {
    pub(crate) events: Vec<Box<RawValue>>,
    /// There are events between these and what the client has seen.
    pub(crate) limited: bool,
    /// Where `/messages` goes on backwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prev_batch: Option<String>,
}

/// State changes that the timeline does not show, up to its start or up to its end.
#[derive(Debug, Serialize)]
pub(crate) enum State {
    #[serde(rename = "state")]
    Before(Events),
    #[serde(rename = "state_after")]
    After(Events),
    /// The same under the name it had before it was in the spec.
    #[serde(rename = "org.matrix.msc4222.state_after")]
    UnstableAfter(Events),
}

/// Where the state stands to the timeline, and under which name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum StateForm {
    /// `state`: as it was before the timeline.
    #[default]
    Before,
    /// `state_after`: as it is after the timeline.
    After,
    /// The same under its unstable name, for clients that ask by that.
    UnstableAfter,
}

impl StateForm {
    /// State in this form.
    pub(super) fn of(self, events: Events) -> State {
        match self {
            Self::Before => State::Before(events),
            Self::After => State::After(events),
            Self::UnstableAfter => State::UnstableAfter(events),
        }
    }
}

/// A room that the user is invited to.
#[derive(Debug, Serialize)]
pub(crate) struct Invited {
    pub(crate) invite_state: Stripped,
}

/// A room that the user knocked on.
#[derive(Debug, Serialize)]
pub(crate) struct Knocked {
    pub(crate) knock_state: Stripped,
}

/// Stripped state events: a JSON array.
#[derive(Debug, Serialize)]
pub(crate) struct Stripped {
    pub(crate) events: Box<RawValue>,
}

/// A room that the user has left, or was made to leave.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Left {
    pub(crate) timeline: Timeline,
    #[serde(flatten)]
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) account_data: Events,
}

impl Events {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Before(Events::default())
    }
}

impl State {
    /// Its events, in whatever form.
    pub(super) fn into_events(self) -> Vec<Box<RawValue>> {
        match self {
            Self::Before(events) | Self::After(events) | Self::UnstableAfter(events) => {
                events.events
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Before(events) | Self::After(events) | Self::UnstableAfter(events) => {
                events.is_empty()
            }
        }
    }
}

impl Joined {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.summary.is_none()
            && self.timeline.events.is_empty()
            && !self.timeline.limited
            && self.state.is_empty()
            && self.ephemeral.is_empty()
            && self.account_data.is_empty()
    }
}

impl Response {
    /// Whether nothing happened since the token: then a long-poll goes on waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.account_data.is_empty()
            && self.rooms.join.is_empty()
            && self.rooms.invite.is_empty()
            && self.rooms.knock.is_empty()
            && self.rooms.leave.is_empty()
            && self.presence.is_empty()
            && self.to_device.is_empty()
            && self.device_lists.is_empty()
    }
}
