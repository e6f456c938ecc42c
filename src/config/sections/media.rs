//! Files, their previews, and where they are kept.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::Secret;

/// The content repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Media {
    pub(crate) max_upload_bytes: u64,
    /// Whether what is uploaded from now on can be had only with a token.
    pub(crate) freeze_unauthenticated: bool,
    /// The largest media fetched from another server.
    pub(crate) max_remote_bytes: u64,
    /// Media types such as `image/png` or `image/*`; empty: all.
    pub(crate) allowed_types: Vec<String>,
    /// How long an announced media is waited for.
    pub(crate) unused_expires_seconds: u64,
    /// Announced media of one user that have not arrived.
    pub(crate) max_pending_uploads: u32,
    /// Size of all uploads of one user; `None`: unlimited.
    pub(crate) user_quota_bytes: Option<u64>,
    /// Number of uploads of one user; `None`: unlimited.
    pub(crate) user_quota_files: Option<u64>,
    /// Uploads nobody wanted for so long are removed; `None`: never.
    pub(crate) local_retention_days: Option<u64>,
    /// The same for media of other servers.
    pub(crate) remote_retention_days: Option<u64>,
    pub(crate) thumbnails: Thumbnails,
    pub(crate) scan: Scan,
    /// `None`: files are on the local disk.
    pub(crate) s3: Option<S3>,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            max_upload_bytes: 100 * 1024 * 1024,
            freeze_unauthenticated: true,
            max_remote_bytes: 100 * 1024 * 1024,
            allowed_types: Vec::new(),
            unused_expires_seconds: 86_400,
            max_pending_uploads: 20,
            user_quota_bytes: None,
            user_quota_files: None,
            local_retention_days: None,
            remote_retention_days: None,
            thumbnails: Thumbnails::default(),
            scan: Scan::default(),
            s3: None,
        }
    }
}

/// What thumbnails may cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Thumbnails {
    /// Pictures worked on at once.
    pub(crate) workers: usize,
    /// The largest picture, width times height.
    pub(crate) max_pixels: u64,
    /// For decoded pictures, all workers together.
    pub(crate) memory_bytes: u64,
    /// For one picture.
    pub(crate) timeout_seconds: u64,
    /// Takes pictures out of videos; `None`: videos have no thumbnails.
    pub(crate) ffmpeg: Option<PathBuf>,
}

impl Default for Thumbnails {
    fn default() -> Self {
        Self {
            workers: 2,
            max_pixels: 40_000_000,
            memory_bytes: 268_435_456,
            timeout_seconds: 20,
            ffmpeg: None,
        }
    }
}

impl Thumbnails {
    /// The longest one may take.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// As the library wants it.
    pub(crate) fn limits(&self) -> media::thumbnail::Limits {
        media::thumbnail::Limits {
            workers: self.workers,
            max_pixels: self.max_pixels,
            memory_bytes: self.memory_bytes,
            time: self.time(),
            ..media::thumbnail::Limits::default()
        }
    }
}

/// Who looks at files before anybody gets them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scan {
    /// `unix:` and a path, or host and port.
    pub(crate) clamd: Option<String>,
    /// A file is sent there by `POST`.
    pub(crate) http_url: Option<String>,
    /// For one file.
    pub(crate) timeout_seconds: u64,
}

impl Default for Scan {
    fn default() -> Self {
        Self { clamd: None, http_url: None, timeout_seconds: 60 }
    }
}

/// An S3-compatible object store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct S3 {
    pub(crate) bucket: String,
    /// `None`: Amazon's for the region.
    #[serde(default)]
    pub(crate) endpoint: Option<String>,
    #[serde(default = "S3::default_region")]
    pub(crate) region: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: Secret,
    /// What the names of all objects begin with.
    #[serde(default)]
    pub(crate) prefix: String,
    /// Whether the bucket is part of the host's name.
    #[serde(default)]
    pub(crate) virtual_hosted: bool,
    /// Whether clients that can are sent to the store.
    #[serde(default)]
    pub(crate) redirect: bool,
}

impl S3 {
    fn default_region() -> String {
        "us-east-1".to_owned()
    }
}

/// Previews of web pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Previews {
    pub(crate) enabled: bool,
    /// Hosts; empty: all.
    pub(crate) allow: Vec<String>,
    pub(crate) deny: Vec<String>,
    /// Of a longer page the rest is not read.
    pub(crate) max_page_bytes: usize,
    pub(crate) max_image_bytes: u64,
    pub(crate) cache_seconds: u64,
    /// `Accept-Language`.
    pub(crate) accept_language: String,
}

impl Default for Previews {
    fn default() -> Self {
        Self {
            enabled: true,
            allow: Vec::new(),
            deny: Vec::new(),
            max_page_bytes: 1024 * 1024,
            max_image_bytes: 10 * 1024 * 1024,
            cache_seconds: 3600,
            accept_language: "en".to_owned(),
        }
    }
}
