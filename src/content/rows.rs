//! What the tables of this area hold.

use media::blob::Hash;
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};

use crate::storage::intern::UserNumber;

/// Where a media's row is: the server in its `mxc://` URI and its ID.
pub(crate) type MediaKey = (OwnedServerName, String);

/// One media.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct MediaRecord {
    /// `None` until an announced one has arrived.
    pub(crate) file: Option<FileRecord>,
    /// Number of the local user who uploaded or announced it.
    pub(crate) user: Option<u64>,
    /// When it was uploaded, announced or fetched, in ms since the Unix epoch.
    pub(crate) created_ms: u64,
    /// When an announced one is forgotten that has not arrived, in ms since the Unix epoch.
    #[serde(default)]
    pub(crate) expires_ms: Option<u64>,
    /// Whether it may be had without a token: it came before such access was frozen.
    #[serde(default)]
    pub(crate) open: bool,
}

impl MediaRecord {
    /// Who uploaded or announced it.
    pub(crate) fn user(&self) -> Option<UserNumber> {
        self.user.map(UserNumber)
    }
}

/// The file of a media.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// SHA-256 of the content.
    #[serde(with = "hash")]
    pub(crate) hash: Hash,
    /// Its size.
    pub(crate) bytes: u64,
    /// The type to serve it as.
    pub(crate) content_type: String,
    /// The name it was uploaded with, made safe.
    pub(crate) name: Option<String>,
}

/// A thumbnail of a file, or that there is none.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum ThumbnailRecord {
    /// A smaller picture.
    Made(FileRecord),
    /// The picture is no larger than that: itself, as this type.
    Original {
        /// What it really is.
        content_type: String,
    },
    /// No thumbnail can be made of the file.
    Refused {
        /// Whether because it has too many pixels.
        too_large: bool,
    },
}

/// What a user has uploaded.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Size of all files together. The same file uploaded twice counts twice.
    pub(crate) bytes: u64,
    /// How many.
    pub(crate) files: u64,
}

/// What the scanner said about a file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct VerdictRecord {
    /// What was found; `None`: nothing.
    pub(crate) found: Option<String>,
    /// When, in ms since the Unix epoch.
    pub(crate) at_ms: u64,
}

/// Who quarantined something.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct QuarantineRecord {
    /// Who did it.
    pub(crate) by: String,
    /// When, in ms since the Unix epoch.
    pub(crate) at_ms: u64,
}

/// The name under which a media refers to its file.
pub(crate) fn media_reference(server: &ServerName, media_id: &str) -> String {
    format!("media {server}/{media_id}")
}

/// The name under which a thumbnail refers to its file.
pub(crate) fn thumbnail_reference(source: Hash, size: &str) -> String {
    format!("thumbnail {source} {size}")
}

mod hash {
    use media::blob::Hash;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hash, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
