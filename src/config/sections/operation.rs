//! What the server tells of itself and what it takes of the machine.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The Prometheus endpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// `None`: nothing is measured or served.
    pub(crate) address: Option<SocketAddr>,
}

/// How much memory the server may take.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Memory {
    /// Caches and write buffers together.
    pub(crate) budget_bytes: u64,
}

impl Memory {
    /// What rooms and their states may take of it: half of what the database leaves.
    pub(crate) fn for_rooms(&self) -> u64 {
        self.budget_bytes / 4
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { budget_bytes: 256 * 1024 * 1024 }
    }
}

/// What is logged to stderr, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    /// A level, or directives such as `info,myelin::storage=debug`.
    pub(crate) level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
