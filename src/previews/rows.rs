//! What the tables of this area hold.

use serde::{Deserialize, Serialize};

/// What was found out about a page.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct PreviewRecord {
    /// The answer to clients, as JSON.
    pub(crate) body: String,
    /// When, in ms since the Unix epoch.
    pub(crate) fetched_ms: u64,
}
