//! What a sliding sync answers; each form of the requests has its own names for it.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Form, deployed, merged};
use crate::{
    rooms::{record::Membership, subscriptions::SubscriptionChanges},
    sync::{e2ee::DeviceLists, response::Counts},
    users::ProfileUpdate,
};

pub(super) type Events = Vec<Box<RawValue>>;

/// The whole answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(super) form: Form,
    pub(super) pos: String,
    pub(super) txn_id: Option<String>,
    pub(super) lists: BTreeMap<String, List>,
    pub(super) rooms: BTreeMap<OwnedRoomId, Room>,
    pub(super) extensions: Extensions,
}

/// A list of rooms.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct List {
    /// How many rooms belong to it.
    pub(super) count: usize,
}

/// A room of which there is something to tell.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) common: Common,
    /// What the user is to it.
    pub(super) membership: Option<Membership>,
    /// The lists that it belongs to.
    pub(super) lists: Vec<String>,
    pub(super) name: Field,
    pub(super) avatar: Field,
    pub(super) stripped_state: Option<Box<RawValue>>,
    pub(super) timeline: Events,
    /// The timeline goes further back than what the client had.
    pub(super) expanded_timeline: bool,
}

/// A text that may have changed.
#[derive(Debug, Default)]
pub(super) enum Field {
    #[default]
    Same,
    /// There is none any more.
    Removed,
    Is(String),
}

impl Field {
    pub(super) fn is_same(&self) -> bool {
        matches!(self, Self::Same)
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Is(text) => Some(text),
            Self::Same | Self::Removed => None,
        }
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.text().serialize(to)
    }
}

/// What has the same name in either form.
#[derive(Debug, Default, Serialize)]
pub(super) struct Common {
    /// The client has not got it on this connection before.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) initial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heroes: Option<Vec<Hero>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is_dm: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) required_state: Events,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prev_batch: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) limited: bool,
    /// How many of the timeline's events, from its end, happened since the last response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) num_live: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) joined_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) invited_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bump_stamp: Option<u64>,
    /// `notification_count` and `highlight_count`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) unread: Option<Counts>,
}

/// Somebody whose name stands for a room without one.
#[derive(Debug, Serialize)]
pub(super) struct Hero {
    pub(super) user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) avatar_url: Option<String>,
}

/// What there is besides rooms.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) to_device: Option<ToDevice>,
    pub(super) e2ee: Option<E2ee>,
    pub(super) account_data: Option<AccountData>,
    pub(super) receipts: Option<ByRoom>,
    pub(super) typing: Option<ByRoom>,
    pub(super) thread_subscriptions: Option<ThreadSubscriptions>,
    pub(super) profiles: Option<Profiles>,
}

/// Messages to the device.
#[derive(Debug, Serialize)]
pub(super) struct ToDevice {
    pub(super) next_batch: String,
    pub(super) events: Events,
}

/// Whose keys changed, and how many the device has left.
#[derive(Debug, Serialize)]
pub(super) struct E2ee {
    #[serde(rename = "device_lists", skip_serializing_if = "DeviceLists::is_empty")]
    pub(super) lists: DeviceLists,
    #[serde(rename = "device_one_time_keys_count")]
    pub(super) one_time: BTreeMap<String, u64>,
    #[serde(rename = "device_unused_fallback_key_types")]
    pub(super) unused_fallback: Vec<String>,
    /// These are fewer than in the last response.
    #[serde(skip)]
    pub(super) fewer_keys: bool,
}

/// Account data that changed, or belongs to rooms that are new to the client.
#[derive(Debug, Default, Serialize)]
pub(super) struct AccountData {
    pub(super) global: Events,
    pub(super) rooms: BTreeMap<OwnedRoomId, Events>,
}

/// Threads that the user began or ceased to follow; there is none without any.
#[derive(Debug, Serialize)]
pub(super) struct ThreadSubscriptions {
    #[serde(flatten)]
    pub(super) changes: SubscriptionChanges,
    /// There are others, from here backwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prev_batch: Option<String>,
}

/// Profiles, and what changed of them; there is none without any.
#[derive(Debug, Default, Serialize)]
pub(super) struct Profiles {
    /// None for those who share no room any more.
    pub(super) users: BTreeMap<OwnedUserId, Option<ProfileUpdate>>,
}

/// One ephemeral event for each room.
#[derive(Debug, Default, Serialize)]
pub(super) struct ByRoom {
    pub(super) rooms: BTreeMap<OwnedRoomId, Box<RawValue>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Serialize for Response {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.form {
            Form::Deployed => deployed::write(self, to),
            Form::Merged => merged::write(self, to),
        }
    }
}

impl Response {
    /// Whether nothing happened: then a long-poll goes on waiting.
    pub(super) fn is_empty(&self) -> bool {
        let extensions = &self.extensions;
        self.rooms.is_empty()
            && extensions.to_device.as_ref().is_none_or(|inbox| inbox.events.is_empty())
            && extensions.e2ee.as_ref().is_none_or(|e2ee| e2ee.lists.is_empty() && !e2ee.fewer_keys)
            && extensions
                .account_data
                .as_ref()
                .is_none_or(|data| data.global.is_empty() && data.rooms.is_empty())
            && extensions.receipts.as_ref().is_none_or(|receipts| receipts.rooms.is_empty())
            && extensions.thread_subscriptions.is_none()
            && extensions.profiles.is_none()
            && extensions.typing.as_ref().is_none_or(|typing| typing.rooms.is_empty())
    }
}
