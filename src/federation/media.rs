//! Media of other servers.

use std::{sync::Arc, time::Duration};

use federation::{Limits, TransportError};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use reqwest::Url;
use ruma::{
    ServerName,
    api::{
        error::ErrorKind,
        federation::authenticated_media::{FileOrLocation, get_content},
    },
};
use tokio::sync::Semaphore;

use super::{Federation, PeerError};
use crate::{
    content::{RemoteError, RemoteFile, RemoteMedia},
    http::BodyError,
    outgoing::{Outgoing, OutgoingError},
};

/// Files fetched at once. An answer is in memory as a whole, so this and `media.max_remote_bytes`
/// bound what they take together.
const AT_ONCE: usize = 3;
/// The longest a file may take, beside the time the other server waits for it.
const WITHIN: Duration = Duration::from_mins(2);
/// What an answer has beside the file.
const ENVELOPE_BYTES: u64 = 64 * 1024;

/// Fetches media by signed requests. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct FederatedMedia {
    federation: Federation,
    outgoing: Outgoing,
    client: reqwest::Client,
    places: Arc<Semaphore>,
}

impl FederatedMedia {
    /// Asks other servers through `federation`, and where they send one through `outgoing`.
    ///
    /// # Errors
    /// [`OutgoingError`] if no requests can be made.
    pub(crate) fn new(federation: Federation, outgoing: Outgoing) -> Result<Self, OutgoingError> {
        let client = outgoing.client().build().map_err(OutgoingError::Client)?;
        Ok(Self { federation, outgoing, client, places: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    async fn ask(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
        max_bytes: u64,
    ) -> Result<RemoteFile, RemoteError> {
        let _place = self.places.acquire().await.map_err(|closed| failed(closed.into()))?;
        let mut request = get_content::v1::Request::new(media_id.to_owned());
        request.timeout_ms = wait;
        let max_bytes = usize::try_from(max_bytes.saturating_add(ENVELOPE_BYTES));
        let max_bytes = max_bytes.unwrap_or(usize::MAX);
        let limits = Limits { timeout: WITHIN + wait, max_bytes };
        let answer = self.federation.ask(server, request, limits).await.map_err(refused)?;
        match answer.content {
            FileOrLocation::File(content) => {
                let name = content.content_disposition.and_then(|said| said.filename);
                let body = stream::once(std::future::ready(Ok(content.file.into()))).boxed();
                Ok(RemoteFile { body, content_type: content.content_type, name })
            }
            FileOrLocation::Location(address) => self.follow(&address).await,
            _ => Err(failed("the answer has neither a file nor a place for it".into())),
        }
    }

    /// Fetches a file from where a server sends one.
    async fn follow(&self, address: &str) -> Result<RemoteFile, RemoteError> {
        let url = Url::parse(address).map_err(|error| failed(error.into()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(failed("the server redirects to nowhere".into()));
        }
        self.outgoing.check(&url).map_err(|error| failed(error.into()))?;
        let answer = self.client.get(url).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status);
        let answer = answer.map_err(|error| failed(error.into()))?;
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let content_type = header(http::header::CONTENT_TYPE).map(str::to_owned);
        let said = answer.headers().get(http::header::CONTENT_DISPOSITION);
        let said = said.and_then(|said| {
            ruma::http_headers::ContentDisposition::try_from(said.as_bytes()).ok()
        });
        let name = said.and_then(|said| said.filename);
        let body = stream::unfold(Some(answer), |answer| async move {
            let mut answer = answer?;
            match answer.chunk().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(answer))),
                Ok(None) => None,
                Err(_) => Some((Err(BodyError::Broken), None)),
            }
        });
        Ok(RemoteFile { body: body.boxed(), content_type, name })
    }
}

impl RemoteMedia for FederatedMedia {
    fn fetch<'a>(
        &'a self,
        server: &'a ServerName,
        media_id: &'a str,
        wait: Duration,
        max_bytes: u64,
    ) -> BoxFuture<'a, Result<RemoteFile, RemoteError>> {
        self.ask(server, media_id, wait, max_bytes).boxed()
    }
}

fn failed(source: Box<dyn std::error::Error + Send + Sync>) -> RemoteError {
    RemoteError::Failed(source)
}

fn refused(error: PeerError) -> RemoteError {
    match &error {
        PeerError::Disabled => RemoteError::NotFound,
        PeerError::Refused { kind, .. } => match **kind {
            ErrorKind::NotFound => RemoteError::NotFound,
            ErrorKind::NotYetUploaded => RemoteError::NotYetUploaded,
            ErrorKind::TooLarge => RemoteError::TooLarge,
            _ => failed(error.into()),
        },
        PeerError::Failed { source, .. } => match source.downcast_ref() {
            Some(TransportError::TooLarge) => RemoteError::TooLarge,
            _ => failed(error.into()),
        },
        PeerError::Paused { .. } => failed(error.into()),
    }
}
