//! How large and how slow a request may be.

use std::time::Duration;

/// Bounds on what a peer may cost. [`Limits::new`] has those of a real server; tests shorten them.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// From the connection to its first request; a TLS handshake must fit in as well.
    pub(crate) first_request: Duration,
    /// Between two requests on a connection, the time to send the head of the second included.
    ///
    /// Longer than proxies keep idle connections (a minute is usual): else one would now and then
    /// send a request just when this side closes.
    pub(crate) idle: Duration,
    /// Between two pieces of a body that is sent, or of an answer that is fetched.
    pub(crate) stall: Duration,
    /// From the head of a request to the head of its answer. Longer than any long-poll.
    pub(crate) request: Duration,
    /// The same for an upload, whose body may come over a slow line.
    pub(crate) upload: Duration,
    /// From the wish to stop until connections are cut.
    pub(crate) grace: Duration,
    /// Body of a media upload.
    pub(crate) upload_bytes: u64,
    /// Connections at once, over all listeners; more wait in the kernel's queue.
    pub(crate) connections: usize,
}

/// A transaction: 50 PDUs and 100 EDUs of up to 64 KiB.
const FEDERATION_BYTES: u64 = 10 * 1024 * 1024;

/// An event has 64 KiB; batches of keys and to-device messages, and key backups, are larger.
const CLIENT_BYTES: u64 = 4 * 1024 * 1024;

impl Limits {
    /// `upload_bytes`: `media.max_upload_bytes`.
    pub(crate) fn new(upload_bytes: u64, connections: usize) -> Self {
        Self {
            first_request: Duration::from_secs(20),
            idle: Duration::from_secs(150),
            stall: Duration::from_secs(30),
            request: Duration::from_mins(5),
            upload: Duration::from_hours(1),
            grace: Duration::from_secs(7),
            upload_bytes,
            connections,
        }
    }

    /// The largest body for a path.
    pub(super) fn body_bytes(&self, path: &str) -> u64 {
        if is_media(path) {
            self.upload_bytes
        } else if path.starts_with("/_matrix/federation/") {
            FEDERATION_BYTES
        } else {
            CLIENT_BYTES
        }
    }

    /// How long an endpoint may take to answer.
    pub(super) fn answer_within(&self, path: &str) -> Duration {
        if is_media(path) { self.upload } else { self.request }
    }
}

fn is_media(path: &str) -> bool {
    path.starts_with("/_matrix/media/") || path.starts_with("/_matrix/client/v1/media/")
}
