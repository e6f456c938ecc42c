//! What a sliding sync answers, as it is written to the wire.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    rooms::subscriptions::SubscriptionChanges,
    sync::{e2ee::DeviceLists, response::Counts},
};

type Events = Vec<Box<RawValue>>;

/// The whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct Response {
    pub(super) pos: String,
    #[serde(skip_serializing_if = "Option::is_none")]
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
#[derive(Debug, Default, Serialize)]
pub(super) struct Room {
    /// The client has not got it on this connection before.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) initial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) avatar: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heroes: Option<Vec<Hero>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is_dm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) invite_state: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) required_state: Events,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) timeline: Events,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prev_batch: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) limited: bool,
    /// The timeline goes further back than what the client had.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) unstable_expanded_timeline: bool,
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
#[derive(Debug, Default, Serialize)]
pub(super) struct Extensions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to_device: Option<ToDevice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) e2ee: Option<E2ee>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account_data: Option<AccountData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) receipts: Option<ByRoom>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) typing: Option<ByRoom>,
    #[serde(
        rename = "io.element.msc4308.thread_subscriptions",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) thread_subscriptions: Option<ThreadSubscriptions>,
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

/// One ephemeral event for each room.
#[derive(Debug, Default, Serialize)]
pub(super) struct ByRoom {
    pub(super) rooms: BTreeMap<OwnedRoomId, Box<RawValue>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
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
            && extensions.typing.as_ref().is_none_or(|typing| typing.rooms.is_empty())
    }
}
