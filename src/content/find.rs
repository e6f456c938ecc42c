//! Finding media, and reading it.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use media::blob::{BlobError, BlobStream, Hash, Label};
use ruma::ServerName;
use tokio::time::{Instant, timeout_at};

use super::{Arriving, Content, ContentError, is_media_id, remote::Remote, rows::MediaRecord};
use crate::storage::{
    Batch, Json, StorageError,
    schema::{MEDIA, MEDIA_ACCESS},
};

/// The longest a request waits for a media that has not arrived.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// Looking at a media is noted at most once in this time.
const NOTE_EVERY_MS: u64 = 12 * 60 * 60 * 1000;
/// How long an address is valid that a client is redirected to.
const REDIRECT_VALID: Duration = Duration::from_mins(10);

/// A file that is to be served, and as what.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// SHA-256 of its content.
    pub(crate) hash: Hash,
    /// Its size.
    pub(crate) bytes: u64,
    /// Media type.
    pub(crate) content_type: String,
    /// Its name.
    pub(crate) name: Option<String>,
    /// The content, if it is not in the store.
    pub(super) inline: Option<Bytes>,
}

/// A media: here, or on its way.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// It can be read from the store.
    Stored(Served),
    /// It can be read as it comes.
    Arriving(Arriving),
}

/// How a media may be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// By somebody with a token.
    Authenticated,
    /// By anybody.
    Anybody,
}

/// How a request wants a media.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// How long to wait for one that was only announced.
    pub(crate) wait: Duration,
    /// Who asks.
    pub(crate) access: Access,
    /// Whether another server may be asked for its own.
    pub(crate) allow_remote: bool,
}

impl Content {
    /// The file of a media, waiting for it if it was only announced.
    ///
    /// # Errors
    /// [`ContentError`] if there is none, or it may not be had.
    pub(crate) async fn find(
        &self,
        server: &ServerName,
        media_id: &str,
        wish: Wish,
    ) -> Result<Served, ContentError> {
        match self.look(server, media_id, wish, false).await? {
            Found::Stored(file) => Ok(file),
            // Was not asked for.
            Found::Arriving(_) => Err(ContentError::NotYetUploaded),
        }
    }

    /// Like [`Self::find`]; what comes from another server just now is found before it is complete.
    ///
    /// # Errors
    /// [`ContentError`] if there is none, or it may not be had.
    pub(crate) async fn find_early(
        &self,
        server: &ServerName,
        media_id: &str,
        wish: Wish,
    ) -> Result<Found, ContentError> {
        self.look(server, media_id, wish, true).await
    }

    async fn look(
        &self,
        server: &ServerName,
        media_id: &str,
        wish: Wish,
        early: bool,
    ) -> Result<Found, ContentError> {
        if !is_media_id(media_id) {
            return Err(ContentError::NotFound);
        }
        let frozen = wish.access == Access::Anybody && self.shared.settings.freeze_unauthenticated;
        let wish = Wish { wait: wish.wait.min(MAX_WAIT), ..wish };
        let record = if server == self.shared.server_name {
            self.arrived(server, media_id, wish.wait).await?
        } else {
            // What would be fetched now is not for everybody.
            let allow_remote = wish.allow_remote && !frozen;
            let wish = Wish { allow_remote, ..wish };
            match self.remote(server, media_id, wish, early).await? {
                Remote::Kept(record) => record,
                Remote::Arriving(arriving) => return Ok(Found::Arriving(arriving)),
            }
        };
        if frozen && !record.open {
            return Err(ContentError::NotFound);
        }
        let Some(file) = &record.file else { return Err(ContentError::NotYetUploaded) };
        if self.is_quarantined(server, media_id, &record, file.hash).await? {
            return Err(ContentError::NotFound);
        }
        self.check_scanned(file).await?;
        self.note_access(server, media_id).await?;
        Ok(Found::Stored(Served {
            hash: file.hash,
            bytes: file.bytes,
            content_type: file.content_type.clone(),
            name: file.name.clone(),
            inline: None,
        }))
    }

    /// The row of a media, once its file has arrived or `wait` is over.
    async fn arrived(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
    ) -> Result<MediaRecord, ContentError> {
        let shared = &*self.shared;
        let until = Instant::now() + wait;
        loop {
            // Before the row is read, so that nothing that arrives in between is missed.
            let arrival = shared.arrived.notified();
            let mut arrival = std::pin::pin!(arrival);
            arrival.as_mut().enable();
            let record = MEDIA.get(&shared.db, &(server, media_id)).await?;
            let Some(Json(record)) = record else { return Err(ContentError::NotFound) };
            if record.file.is_some() {
                return Ok(record);
            }
            if record.expires_ms.is_some_and(|expires_ms| expires_ms <= shared.clock.now_ms()) {
                return Err(ContentError::NotFound);
            }
            if timeout_at(until, arrival).await.is_err() {
                return Err(ContentError::NotYetUploaded);
            }
        }
    }

    /// Notes that somebody wanted a media, for those that are removed when nobody does.
    async fn note_access(&self, server: &ServerName, media_id: &str) -> Result<(), StorageError> {
        let shared = &*self.shared;
        let now_ms = shared.clock.now_ms();
        let key = (server, media_id);
        let noted_ms = MEDIA_ACCESS.get(&shared.db, &key).await?;
        if noted_ms.is_some_and(|noted_ms| noted_ms.saturating_add(NOTE_EVERY_MS) > now_ms) {
            return Ok(());
        }
        let mut batch = Batch::unsynced();
        MEDIA_ACCESS.put(&mut batch, &key, &now_ms);
        shared.db.commit(batch).await
    }

    /// Part of a file.
    ///
    /// # Errors
    /// [`BlobError`] if the store fails.
    pub(crate) async fn read(
        &self,
        served: &Served,
        range: Range<u64>,
    ) -> Result<BlobStream, BlobError> {
        if let Some(bytes) = &served.inline {
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            let (start, end) = (place(range.start), place(range.end));
            let part = bytes.slice(start..end.max(start));
            return Ok(stream::once(std::future::ready(Ok(part))).boxed());
        }
        self.shared.store.read(served.hash, range).await
    }

    /// An address of the object store from which a client may have the file, if there is one and
    /// clients are to go there.
    ///
    /// # Errors
    /// [`BlobError`] if the store fails.
    pub(crate) async fn redirect(
        &self,
        served: &Served,
        content_disposition: String,
    ) -> Result<Option<String>, BlobError> {
        let wanted = self.shared.settings.s3.as_ref().is_some_and(|s3| s3.redirect);
        if !wanted || served.inline.is_some() {
            return Ok(None);
        }
        let label = Label { content_type: served.content_type.clone(), content_disposition };
        self.shared.store.signed_url(served.hash, REDIRECT_VALID, label).await
    }
}
