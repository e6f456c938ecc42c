//! What rooms do and what of them is kept and told.

use serde::{Deserialize, Serialize};

/// Events that clients have sent later.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DelayedEvents {
    /// The longest delay; 0: there are none.
    pub(crate) max_delay_ms: u64,
    /// How many of one user may wait.
    pub(crate) max_scheduled: u64,
}

impl Default for DelayedEvents {
    fn default() -> Self {
        Self { max_delay_ms: 86_400_000, max_scheduled: 100 }
    }
}

/// `dev.myelin.delivered`: telling a sender that a message reached a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Receipts {
    pub(crate) delivered: bool,
    pub(crate) delivered_max_members: u32,
}

impl Default for Receipts {
    fn default() -> Self {
        Self { delivered: true, delivered_max_members: 50 }
    }
}

/// How clients hear of what happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Syncing {
    /// Over `WebSockets` and as server-sent events, besides long-polling.
    pub(crate) streams: bool,
    /// How many of them one user may have open at once.
    pub(crate) max_streams_per_user: usize,
}

impl Default for Syncing {
    fn default() -> Self {
        Self { streams: false, max_streams_per_user: 10 }
    }
}

/// What rooms may be like.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rooms {
    /// How many may be in one; `None`: any number.
    pub(crate) max_members: Option<u64>,
}

/// How long messages are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retention {
    pub(crate) enabled: bool,
    /// Of rooms that say nothing; `None`: for ever.
    pub(crate) default_max_lifetime_seconds: Option<u64>,
    /// Whatever a room says, not shorter.
    pub(crate) min_lifetime_seconds: Option<u64>,
    /// Whatever a room says, not longer.
    pub(crate) max_lifetime_seconds: Option<u64>,
    /// How often what has expired is removed.
    pub(crate) interval_seconds: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            enabled: false,
            default_max_lifetime_seconds: None,
            min_lifetime_seconds: None,
            max_lifetime_seconds: None,
            interval_seconds: 3_600,
        }
    }
}

/// Finding messages by their words.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Search {
    pub(crate) enabled: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Who is online.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Presence {
    pub(crate) enabled: bool,
    pub(crate) max_room_members: usize,
    pub(crate) interval_s: u64,
    pub(crate) federate: bool,
}

impl Default for Presence {
    fn default() -> Self {
        Self { enabled: true, max_room_members: 500, interval_s: 2, federate: true }
    }
}
