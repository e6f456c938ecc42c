//! The same responses as those of `/v3/sync`, one after another, for a client that keeps a
//! connection open for them.
//!
//! What a client was sent is not yet what it has: nothing counts as delivered before the client
//! says so, by the token of a response ([`Sync::acknowledge`]). Each response is made when the one
//! before is written, so a client that reads slowly holds one in memory.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    SyncError,
    response::Response,
    v3::{Request, Sync},
};
use crate::{config, storage::intern::UserNumber, users::session::Session};

/// After this time without news the connection is used for something else, so that either side and
/// whatever is in between knows it to be alive.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The streams that are open.
#[derive(Clone)]
pub(crate) struct Streams {
    sync: Arc<Sync>,
    open: Arc<Mutex<HashMap<UserNumber, usize>>>,
    max_per_user: usize,
}

/// A sequence of responses to one device.
pub(crate) struct SyncStream {
    sync: Arc<Sync>,
    session: Session,
    request: Request,
    _place: Place,
}

/// One of the streams that a user may have; free again when dropped.
struct Place {
    user: UserNumber,
    open: Arc<Mutex<HashMap<UserNumber, usize>>>,
}

impl Streams {
    /// Streams of what `sync` tells.
    pub(crate) fn new(sync: Arc<Sync>, config: &config::Syncing) -> Self {
        Self { sync, open: Arc::default(), max_per_user: config.max_streams_per_user }
    }

    /// Begins a stream. The client has everything up to the token of `request`, whose time-out
    /// counts for nothing.
    ///
    /// # Errors
    /// [`SyncError::TooManyStreams`], and those of [`Sync::acknowledge`].
    pub(crate) async fn open(
        &self,
        session: &Session,
        request: Request,
    ) -> Result<SyncStream, SyncError> {
        let place = self.take_place(session.user)?;
        if let Some(since) = request.since {
            self.sync.acknowledge(session, since).await?;
        }
        let request = Request { timeout: KEEP_ALIVE, unconfirmed: true, ..request };
        Ok(SyncStream { sync: self.sync.clone(), session: session.clone(), request, _place: place })
    }

    fn take_place(&self, user: UserNumber) -> Result<Place, SyncError> {
        let mut open = self.open.lock();
        let count = open.entry(user).or_default();
        if *count >= self.max_per_user {
            return Err(SyncError::TooManyStreams);
        }
        *count += 1;
        Ok(Place { user, open: Arc::clone(&self.open) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

impl SyncStream {
    /// The next response; none if there was nothing to tell for [`KEEP_ALIVE`], or if the server
    /// stops.
    ///
    /// # Errors
    /// [`SyncError::LoggedOut`] if the device goes.
    pub(crate) async fn next(&mut self) -> Result<Option<Response>, SyncError> {
        let first = self.request.since.is_none() || self.request.full_state;
        let response = self.sync.v3(&self.session, &self.request).await?;
        self.request.since = Some(response.next());
        self.request.full_state = false;
        Ok((first || !response.is_empty()).then_some(response))
    }

    /// Whose it is.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Whether the server stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.sync.stopping().is_stopping()
    }
}
