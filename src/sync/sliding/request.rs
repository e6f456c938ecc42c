//! What a client asks of a sliding sync, in whichever form, and within which bounds.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{SlidingError, state::Required};

/// How many lists a request may have.
const MAX_LISTS: usize = 100;
/// How many rooms a request may name.
const MAX_SUBSCRIPTIONS: usize = 1_000;
/// How many kinds of state a list or room may require.
const MAX_REQUIRED_STATE: usize = 200;
/// How many windows a list may have.
const MAX_RANGES: usize = 100;
/// How many subscriptions of threads are told of at a time, if the client does not say.
const DEFAULT_THREADS: usize = 100;
/// How many at most.
const MAX_THREADS: usize = 500;
/// How many fields of profiles may be named.
const MAX_FIELDS: usize = 1_000;
/// More events than this are not sent of one room at a time.
pub(super) const MAX_TIMELINE: u64 = 100;

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    pub(super) conn_id: Option<String>,
    pub(super) txn_id: Option<String>,
    pub(super) lists: BTreeMap<String, List>,
    pub(super) room_subscriptions: BTreeMap<OwnedRoomId, Details>,
    pub(super) extensions: Extensions,
}

/// A list of rooms, of which the client sees some windows.
#[derive(Clone, Debug, Hash)]
pub(super) struct List {
    /// First and last index, both inside.
    pub(super) ranges: Vec<(u64, u64)>,
    pub(super) details: Details,
    pub(super) filters: Option<Filters>,
}

/// What the client wants of a room.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Details {
    pub(super) required_state: Required,
    /// How many of the latest events.
    pub(super) timeline_limit: u64,
}

/// Which rooms belong to a list.
#[derive(Clone, Debug, Default, Deserialize, Hash)]
#[serde(default)]
pub(super) struct Filters {
    pub(super) is_dm: Option<bool>,
    pub(super) is_encrypted: Option<bool>,
    #[serde(alias = "is_invited")]
    pub(super) is_invite: Option<bool>,
    /// Types from the create event; null for rooms without.
    pub(super) room_types: Option<Vec<Option<String>>>,
    pub(super) not_room_types: Option<Vec<Option<String>>>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) not_tags: Option<Vec<String>>,
    pub(super) spaces: Option<Vec<OwnedRoomId>>,
}

/// What is asked for besides rooms.
#[derive(Clone, Debug, Default)]
pub(super) struct Extensions {
    pub(super) to_device: ToDevice,
    pub(super) e2ee: Switch,
    pub(super) account_data: RoomSwitch,
    pub(super) receipts: RoomSwitch,
    pub(super) typing: RoomSwitch,
    pub(super) thread_subscriptions: Limited,
    pub(super) profiles: Profiles,
}

/// Messages to the device.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ToDevice {
    pub(super) enabled: Option<bool>,
    pub(super) limit: Option<u64>,
    pub(super) since: Option<String>,
}

/// Something that is wanted or not.
#[derive(Clone, Debug, Default, Deserialize, Hash)]
#[serde(default)]
pub(super) struct Switch {
    enabled: Option<bool>,
}

/// Something of which so many are wanted at a time.
#[derive(Clone, Debug, Default, Deserialize, Hash)]
#[serde(default)]
pub(super) struct Limited {
    enabled: Option<bool>,
    limit: Option<usize>,
}

/// Something that is wanted of rooms.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq)]
#[serde(default)]
pub(super) struct RoomSwitch {
    enabled: Option<bool>,
    /// Of the rooms in which lists; absent: in all.
    lists: Option<Vec<String>>,
    /// Of which subscribed rooms; absent or `*`: of all.
    rooms: Option<Vec<String>>,
}

/// Profiles of those in rooms, and what changes of them.
///
/// Proposal: <https://github.com/matrix-org/matrix-spec-proposals/pull/4262>
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq)]
#[serde(default)]
pub(super) struct Profiles {
    /// Whose: of those in which rooms.
    #[serde(flatten)]
    pub(super) rooms: RoomSwitch,
    /// Which fields; absent: all.
    pub(super) fields: Option<BTreeSet<String>>,
}

impl Profiles {
    /// Whether this field is wanted.
    pub(super) fn wants(&self, field: &str) -> bool {
        self.fields.as_ref().is_none_or(|fields| fields.contains(field))
    }
}

impl ToDevice {
    pub(super) fn is_on(&self) -> bool {
        self.enabled == Some(true)
    }

    /// The position that its token stands for.
    ///
    /// # Errors
    /// [`SlidingError::Invalid`] if it is none.
    pub(super) fn position(&self) -> Result<Option<u64>, SlidingError> {
        let invalid = SlidingError::Invalid { what: "this is no token of messages to this device" };
        let since = self.since.as_deref().filter(|since| !since.is_empty());
        since.map_or(Ok(None), |since| since.parse().map(Some).map_err(|_| invalid))
    }
}

impl Switch {
    pub(super) fn is_on(&self) -> bool {
        self.enabled == Some(true)
    }
}

impl Limited {
    /// How many are wanted: 0 if it is off.
    pub(super) fn limit(&self) -> usize {
        match self.enabled {
            Some(true) => self.limit.unwrap_or(DEFAULT_THREADS).clamp(1, MAX_THREADS),
            _ => 0,
        }
    }
}

impl RoomSwitch {
    pub(super) fn is_on(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Whether it is wanted of some rooms only.
    pub(super) fn is_restricted(&self) -> bool {
        self.lists.is_some() || self.rooms.is_some()
    }

    /// Whether it is wanted of a room that is subscribed to or stands in these lists.
    pub(super) fn wants(&self, room: &str, subscribed: bool, lists: &BTreeSet<&str>) -> bool {
        let by_list = match &self.lists {
            None => !lists.is_empty(),
            Some(wanted) => wanted.iter().any(|list| list == "*" || lists.contains(list.as_str())),
        };
        let by_name = subscribed
            && self
                .rooms
                .as_ref()
                .is_none_or(|rooms| rooms.iter().any(|wanted| wanted == "*" || wanted == room));
        by_list || by_name
    }
}

impl Body {
    /// Stands for what is asked for: whether it is the same as in another request of the same
    /// client, who alone suffers if two happen to have the same.
    pub(super) fn asked(&self) -> u64 {
        let Self { lists, room_subscriptions, extensions, conn_id: _, txn_id: _ } = self;
        let Extensions {
            to_device,
            e2ee,
            account_data,
            receipts,
            typing,
            thread_subscriptions,
            profiles,
        } = extensions;
        let mut hasher = DefaultHasher::new();
        (lists, room_subscriptions, to_device.enabled, to_device.limit).hash(&mut hasher);
        (e2ee, account_data, receipts, typing, thread_subscriptions, profiles).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether it is to be told what keys its device has left.
    pub(super) fn wants_keys(&self) -> bool {
        self.extensions.e2ee.is_on()
    }

    /// Whether the request keeps within the bounds.
    pub(super) fn check(&self) -> Result<(), SlidingError> {
        let invalid = |what| Err(SlidingError::Invalid { what });
        if self.lists.len() > MAX_LISTS || self.room_subscriptions.len() > MAX_SUBSCRIPTIONS {
            return invalid("there may be at most 100 lists and 1000 subscriptions");
        }
        for list in self.lists.values() {
            if list.ranges.len() > MAX_RANGES {
                return invalid("a list may have at most 100 ranges");
            }
            if list.ranges.iter().any(|(first, last)| first > last) {
                return invalid("a range ends before it begins");
            }
        }
        let fields = self.extensions.profiles.fields.as_ref();
        if fields.is_some_and(|fields| fields.len() > MAX_FIELDS) {
            return invalid("at most 1000 fields of profiles may be named");
        }
        let details =
            self.lists.values().map(|list| &list.details).chain(self.room_subscriptions.values());
        for details in details {
            if details.required_state.len() > MAX_REQUIRED_STATE {
                return invalid("at most 200 kinds of state may be required");
            }
        }
        Ok(())
    }
}

impl Details {
    /// Both together: what either wants.
    pub(super) fn add(&mut self, other: &Self) {
        self.timeline_limit = self.timeline_limit.max(other.timeline_limit.min(MAX_TIMELINE));
        self.required_state.add(&other.required_state);
    }
}
