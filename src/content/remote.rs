//! Media of other servers: fetched when first wanted, kept like our own.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use std::time::Duration;

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use ruma::{OwnedServerName, ServerName};

use super::{
    Content, ContentError, Declared, find::Wish, quarantine::Target, rows::MediaRecord,
    upload::describe,
};
use crate::{
    http::BodyError,
    storage::{Json, schema::MEDIA},
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

impl Content {
    /// The row of another server's media, which is fetched now if it was not before. All who want it
    /// at the same time share one fetch, which goes on if they give up.
    pub(super) async fn remote(
        &self,
        server: &ServerName,
        media_id: &str,
        wish: Wish,
    ) -> Result<MediaRecord, ContentError> {
        if let Some(record) = self.kept(server, media_id).await? {
            return Ok(record);
        }
        let (content, server) = (self.clone(), server.to_owned());
        let media_id = media_id.to_owned();
        let fetching = tokio::spawn(async move { content.fetch(server, &media_id, wish).await });
        fetching.await.unwrap_or_else(|stopping| Err(RemoteError::Failed(stopping.into()).into()))
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
        server: OwnedServerName,
        media_id: &str,
        wish: Wish,
    ) -> Result<MediaRecord, ContentError> {
        let shared = &*self.shared;
        let Some(remote) = shared.remote.as_ref().filter(|_| wish.allow_remote) else {
            return Err(ContentError::NotFound);
        };
        let key = (server, media_id.to_owned());
        let _fetching = shared.fetching.lock(&key).await;
        let server = &*key.0;
        if let Some(record) = self.kept(server, media_id).await? {
            return Ok(record);
        }
        if self.is_quarantined_target(&Target::Server(server.to_owned())).await? {
            return Err(ContentError::NotFound);
        }
        let max_bytes = shared.settings.max_remote_bytes;
        let file = remote.fetch(server, media_id, wish.wait, max_bytes).await?;
        let staged = match self.receive(file.body, max_bytes).await {
            Err(ContentError::TooLarge { .. }) => return Err(RemoteError::TooLarge.into()),
            Err(ContentError::Body(error)) => return Err(RemoteError::Failed(error.into()).into()),
            staged => staged?,
        };
        let declared =
            Declared { content_type: file.content_type, name: file.name, ..Declared::default() };
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
