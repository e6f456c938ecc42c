//! What the tables of this area hold.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A one-time key that nobody has claimed yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OneTimeKey {
    /// `algorithm:id`
    pub(crate) id: String,
    /// As it was uploaded.
    pub(crate) key: Box<RawValue>,
}

/// A key that is handed out when there are no one-time keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FallbackKey {
    /// `algorithm:id`
    pub(crate) id: String,
    /// As it was uploaded.
    pub(crate) key: Box<RawValue>,
    /// It was handed out.
    pub(crate) used: bool,
}

/// A signature that was added to a key after its upload.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeySignature {
    /// Unpadded base64.
    pub(crate) signature: String,
    /// The stream position at which it was added.
    pub(crate) position: u64,
}
