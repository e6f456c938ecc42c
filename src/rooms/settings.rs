//! What the operator decides about rooms.

use crate::config::{self, Config};

/// How rooms are kept.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What is kept in memory takes this, about half of it for rooms and half for states.
    pub(crate) memory_bytes: u64,
    /// Whether words are found.
    pub(crate) search: config::Search,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self { memory_bytes: config.memory.for_rooms(), search: config.search.clone() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::from(&Config::default())
    }
}
