//! Media of other servers: fetched when first wanted, kept like our own.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use media::blob::{self, BlobStream, Incoming};
use parking_lot::Mutex;
use ruma::ServerName;
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
};

use super::{
    Content, ContentError, Declared,
    find::Wish,
    quarantine::Target,
    rows::{MediaKey, MediaRecord},
    upload::{believed, describe},
};
use crate::{
    http::BodyError,
    storage::{Json, StorageError, schema::MEDIA},
};

/// A file as another server gives it.
pub(crate) struct RemoteFile {
    /// Its content.
    pub(crate) body: BoxStream<'static, Result<Bytes, BodyError>>,
    /// What it is said to be.
    pub(crate) content_type: Option<String>,
    /// Its name.
    pub(crate) name: Option<String>,
}

/// Why another server gives no file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// It has none, or is not asked.
    #[error("the other server has no such media")]
    NotFound,
    /// It was announced there but has not arrived.
    #[error("the media has not been uploaded to the other server yet")]
    NotYetUploaded,
    /// It is larger than allowed.
    #[error("the media of the other server is too large")]
    TooLarge,
    /// It can't be reached or its answer makes no sense.
    #[error("the other server could not be asked for the media")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A way to fetch media from other servers.
pub(crate) trait RemoteMedia: Send + Sync {
    /// Fetches a file of at most `max_bytes`; the other server may wait so long for one that was
    /// only announced there.
    fn fetch<'a>(
        &'a self,
        server: &'a ServerName,
        media_id: &'a str,
        wait: Duration,
        max_bytes: u64,
    ) -> BoxFuture<'a, Result<RemoteFile, RemoteError>>;
}

/// A file of another server that is still on its way here.
#[derive(Clone, Debug)]
pub(crate) struct Arriving {
    /// Media type.
    pub(crate) content_type: String,
    /// Its name.
    pub(crate) name: Option<String>,
    file: blob::Arriving,
}

impl Arriving {
    /// Its content, as it comes.
    pub(crate) fn read(self) -> BlobStream {
        self.file.read()
    }
}

/// How far a fetch is.
#[derive(Debug, Default)]
pub(super) enum Fetch {
    /// The other server was asked.
    #[default]
    Asked,
    /// The file has begun to come, and may be read.
    Arriving(Arriving),
}

/// What is being fetched. Whoever holds the other end of a channel fetches; it is closed when that is
/// over, well or badly.
pub(super) type Fetching = Mutex<HashMap<MediaKey, watch::Receiver<Fetch>>>;

/// A media of another server: here, or coming.
pub(super) enum Remote {
    /// It is in the store.
    Kept(MediaRecord),
    /// It can be read while it comes.
    Arriving(Arriving),
}

type Fetcher = JoinHandle<Result<MediaRecord, ContentError>>;

impl Content {
    /// Another server's media, which is fetched now if it was not before. All who want it at the same
    /// time share one fetch, which goes on if they give up. `early`: it may be given before it is
    /// complete.
    pub(super) async fn remote(
        &self,
        server: &ServerName,
        media_id: &str,
        wish: Wish,
        early: bool,
    ) -> Result<Remote, ContentError> {
        let key = (server.to_owned(), media_id.to_owned());
        let early = early && self.may_be_early().await?;
        loop {
            if let Some(record) = self.kept(server, media_id).await? {
                return Ok(Remote::Kept(record));
            }
            if self.shared.remote.is_none() || !wish.allow_remote {
                return Err(ContentError::NotFound);
            }
            let (mut fetch, own) = self.join_fetch(&key, wish);
            if let Some(arriving) = come(&mut fetch, early).await {
                return Ok(Remote::Arriving(arriving));
            }
            // Over. Somebody else's failure is no reason not to try.
            if let Some(own) = own {
                let stopped = |stopping: JoinError| RemoteError::Failed(stopping.into());
                return Ok(Remote::Kept(own.await.map_err(stopped)??));
            }
        }
    }

    /// Whether files may be given before they are complete: not if they have to be scanned, and not
    /// while there are contents that must not be given, for those are known by the whole.
    async fn may_be_early(&self) -> Result<bool, StorageError> {
        Ok(self.shared.scanner.is_none() && !self.is_any_hash_quarantined().await?)
    }

    /// Watches the fetch of a media, which begins now unless somebody has begun it.
    fn join_fetch(&self, key: &MediaKey, wish: Wish) -> (watch::Receiver<Fetch>, Option<Fetcher>) {
        let mut fetching = self.shared.fetching.lock();
        if let Some(fetch) = fetching.get(key) {
            return (fetch.clone(), None);
        }
        let (sender, receiver) = watch::channel(Fetch::default());
        fetching.insert(key.clone(), receiver.clone());
        let (content, key) = (self.clone(), key.clone());
        let fetcher = tokio::spawn(async move {
            // Also if the fetch panics; before the channel closes, so that who saw that begins anew.
            let _entry = FetchEntry { content: content.clone(), key: key.clone() };
            content.fetch(&key, wish, &sender).await
        });
        (receiver, Some(fetcher))
    }

    async fn kept(
        &self,
        server: &ServerName,
        media_id: &str,
    ) -> Result<Option<MediaRecord>, ContentError> {
        let record = MEDIA.get(&self.shared.db, &(server, media_id)).await?;
        Ok(record.map(|Json(record)| record))
    }

    async fn fetch(
        &self,
        (server, media_id): &MediaKey,
        wish: Wish,
        progress: &watch::Sender<Fetch>,
    ) -> Result<MediaRecord, ContentError> {
        let shared = &*self.shared;
        let Some(remote) = &shared.remote else { return Err(ContentError::NotFound) };
        // Whoever was faster may have finished after this one looked.
        if let Some(record) = self.kept(server, media_id).await? {
            return Ok(record);
        }
        if self.is_quarantined_target(&Target::Server(server.clone())).await?
            || self.is_quarantined_target(&Target::Media(server.clone(), media_id.clone())).await?
        {
            return Err(ContentError::NotFound);
        }
        let max_bytes = shared.settings.max_remote_bytes;
        let file = remote.fetch(server, media_id, wish.wait, max_bytes).await?;
        let declared =
            Declared { content_type: file.content_type, name: file.name, ..Declared::default() };
        let announce = |incoming: &Incoming| {
            if matches!(*progress.borrow(), Fetch::Asked)
                && let Some(file) = incoming.read_along()
            {
                let (content_type, name) = believed(&declared, incoming.head());
                progress.send_replace(Fetch::Arriving(Arriving { content_type, name, file }));
            }
        };
        let staged = match self.receive_watched(file.body, max_bytes, announce).await {
            Err(ContentError::TooLarge { .. }) => return Err(RemoteError::TooLarge.into()),
            Err(ContentError::Body(error)) => return Err(RemoteError::Failed(error.into()).into()),
            staged => staged?,
        };
        let record = MediaRecord {
            file: Some(describe(&staged, &declared)),
            user: None,
            created_ms: shared.clock.now_ms(),
            expires_ms: None,
            open: !shared.settings.freeze_unauthenticated,
        };
        self.keep(server, media_id, None, record.clone(), staged).await?;
        Ok(record)
    }
}

/// The file as soon as it may be read; `None` when the fetch is over.
async fn come(fetch: &mut watch::Receiver<Fetch>, early: bool) -> Option<Arriving> {
    let came = fetch.wait_for(|fetch| early && matches!(fetch, Fetch::Arriving(_))).await;
    match came.as_deref() {
        Ok(Fetch::Arriving(arriving)) => Some(arriving.clone()),
        Ok(Fetch::Asked) | Err(_) => None,
    }
}

/// A row of [`Fetching`] that goes when its fetch is over.
struct FetchEntry {
    content: Content,
    key: MediaKey,
}

impl Drop for FetchEntry {
    fn drop(&mut self) {
        self.content.shared.fetching.lock().remove(&self.key);
    }
}
