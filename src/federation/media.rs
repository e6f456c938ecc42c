//! Media of other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use federation::{BodyStream, Limits, TransportError};
use futures::{
    FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream,
};
use http::{HeaderMap, StatusCode, header};
use multer::Multipart;
use reqwest::Url;
use ruma::{
    ServerName,
    api::{error::ErrorKind, federation::authenticated_media::get_content},
    http_headers::ContentDisposition,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{Federation, PeerError};
use crate::{
    content::{RemoteError, RemoteFile, RemoteMedia},
    http::BodyError,
    outgoing::{Outgoing, OutgoingError},
};

/// Files fetched at once.
const AT_ONCE: usize = 64;
/// How long nothing may come, beside the time the other server waits for the file.
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// How long a whole file may take.
const WITHIN: Duration = Duration::from_mins(30);
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
        let client = outgoing.client().read_timeout(PIECE_WITHIN).build();
        let client = client.map_err(OutgoingError::Client)?;
        Ok(Self { federation, outgoing, client, places: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    async fn ask(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
        max_bytes: u64,
    ) -> Result<RemoteFile, RemoteError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|closed| failed(closed.into()))?;
        let max_bytes = usize::try_from(max_bytes.saturating_add(ENVELOPE_BYTES));
        let max_bytes = max_bytes.unwrap_or(usize::MAX);
        let limits = Limits { timeout: PIECE_WITHIN + wait, max_bytes };
        let mut request = get_content::v1::Request::new(media_id.to_owned());
        request.timeout_ms = wait;
        let request = self.federation.signed(server, request).map_err(refused)?;
        let mut file = match self.open(server, request, limits).await {
            Ok(answer) => self.parts(answer).await,
            Err(error) if is_unknown_there(&error) => {
                self.ask_openly(server, media_id, wait, limits).await
            }
            Err(error) => Err(refused(error)),
        }?;
        file.body = in_time(file.body, place).boxed();
        Ok(file)
    }

    /// Asks a server from before version 1.11 of the specification, by the path open to everybody.
    async fn ask_openly(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
        limits: Limits,
    ) -> Result<RemoteFile, RemoteError> {
        // Both are fit for a path: names of servers by their grammar, IDs as checked before.
        let request = http::Request::get(format!(
            "/_matrix/media/v3/download/{server}/{media_id}\
             ?allow_remote=false&allow_redirect=true&timeout_ms={}",
            wait.as_millis()
        ));
        let request = request.body(Bytes::new()).map_err(|error| failed(error.into()))?;
        let answer = self.open(server, request, limits).await.map_err(refused)?;
        if answer.status().is_redirection() {
            let location = text(answer.headers(), &header::LOCATION);
            let location = location.ok_or_else(|| failed("a redirect to nowhere".into()))?;
            return self.follow(&location).await;
        }
        let (head, body) = answer.into_parts();
        Ok(described(&head.headers, body.map_err(|error| broken(&error))))
    }

    /// Asks, and looks whether the answer may be so large before any of it is passed on.
    async fn open(
        &self,
        server: &ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> Result<http::Response<BodyStream>, PeerError> {
        let answer = self.federation.open(server, request, limits).await?;
        let length = text(answer.headers(), &header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length > limits.max_bytes) {
            let source = TransportError::TooLarge.into();
            return Err(PeerError::Failed { server: server.to_owned(), source });
        }
        Ok(answer)
    }

    /// The file of an answer: metadata, and then the file or where it is.
    async fn parts(&self, answer: http::Response<BodyStream>) -> Result<RemoteFile, RemoteError> {
        let (head, body) = answer.into_parts();
        let boundary = text(&head.headers, &header::CONTENT_TYPE)
            .and_then(|kind| kind.parse::<mime::Mime>().ok())
            .filter(|kind| kind.type_() == mime::MULTIPART)
            .and_then(|kind| Some(kind.get_param(mime::BOUNDARY)?.to_string()))
            .ok_or_else(|| failed("the answer is no multipart/mixed".into()))?;
        let mut parts = Multipart::new(body, boundary);
        let too_few = || failed("the answer has neither a file nor a place for it".into());
        let metadata = parts.next_field().await.map_err(unreadable)?.ok_or_else(too_few)?;
        drop(metadata);
        let file = parts.next_field().await.map_err(unreadable)?.ok_or_else(too_few)?;
        let headers = file.headers().clone();
        if let Some(location) = text(&headers, &header::LOCATION) {
            return self.follow(&location).await;
        }
        let body = file.map_err(|error| match unreadable(error) {
            RemoteError::TooLarge => BodyError::TooLarge,
            _ => BodyError::Broken,
        });
        Ok(described(&headers, body))
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
        let headers = answer.headers().clone();
        Ok(described(&headers, answer.bytes_stream().map_err(|_| BodyError::Broken)))
    }
}

/// A file as its headers describe it.
fn described(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
) -> RemoteFile {
    let said = headers.get(header::CONTENT_DISPOSITION);
    let said = said.and_then(|said| ContentDisposition::try_from(said.as_bytes()).ok());
    RemoteFile {
        body: body.boxed(),
        content_type: text(headers, &header::CONTENT_TYPE),
        name: said.and_then(|said| said.filename),
    }
}

fn text(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A body that breaks off if it takes too long, and holds its place until it ends.
fn in_time(
    body: impl Stream<Item = Result<Bytes, BodyError>> + Send + Unpin + 'static,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    let until = Instant::now() + WITHIN;
    stream::unfold(Some((body, place)), move |state| async move {
        let (mut body, place) = state?;
        match timeout_at(until, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some((body, place)))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Err(_) => Some((Err(BodyError::Broken), None)),
        }
    })
}

/// Whether a server does not know the signed endpoint.
fn is_unknown_there(error: &PeerError) -> bool {
    let PeerError::Refused { status, kind, .. } = error else { return false };
    match **kind {
        ErrorKind::Unrecognized => true,
        ErrorKind::Unknown => {
            matches!(*status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
        }
        _ => false,
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

fn broken(error: &TransportError) -> BodyError {
    match error {
        TransportError::TooLarge => BodyError::TooLarge,
        _ => BodyError::Broken,
    }
}

fn unreadable(error: multer::Error) -> RemoteError {
    match &error {
        multer::Error::StreamReadFailed(source)
            if matches!(source.downcast_ref(), Some(TransportError::TooLarge)) =>
        {
            RemoteError::TooLarge
        }
        _ => failed(error.into()),
    }
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
