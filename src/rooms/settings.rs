//! What the operator decides about rooms.

use crate::config::{self, Config};

/// How rooms are kept.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What is kept in memory takes this, about half of it for rooms and half for states.
    pub(crate) memory_bytes: u64,
    /// Whether words are found.
    pub(crate) search: config::Search,
    /// How often users may do things.
    pub(crate) rate_limits: config::RateLimits,
    /// How many may be in a room; none: any number.
    pub(crate) max_members: Option<u64>,
    /// How long messages live.
    pub(crate) retention: config::Retention,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            memory_bytes: config.memory.for_rooms(),
            search: config.search.clone(),
            rate_limits: config.rate_limits.clone(),
            max_members: config.rooms.max_members,
            retention: config.retention.clone(),
        }
    }
}

/// What tests begin with: the usual settings, without limits on how often things are done, and with
/// retention as rooms want it.
#[cfg(test)]
impl Default for Settings {
    fn default() -> Self {
        let rate_limits = config::RateLimits { enabled: false, ..config::RateLimits::default() };
        let retention = config::Retention { enabled: true, ..config::Retention::default() };
        Self { rate_limits, retention, ..Self::from(&Config::default()) }
    }
}
