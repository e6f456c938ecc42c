//! A network in memory, for tests with several servers in one process.

#[cfg(test)]
pub(crate) mod faults;

use std::{collections::HashMap, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use federation::{BodyStream, Limits, Transport, TransportError};
use futures::{StreamExt as _, future::BoxFuture};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tower::ServiceExt as _;

/// Servers that reach each other. Clones are the same network.
#[derive(Clone, Default)]
pub(crate) struct Network {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    routers: HashMap<OwnedServerName, Router>,
    /// Requests with such paths are lost.
    lost: Option<String>,
    /// Requests that came through, oldest first.
    seen: Vec<(OwnedServerName, http::Method, String)>,
}

impl Network {
    /// Whoever asks for `server` from now on reaches this router.
    pub(crate) fn connect(&self, server: &ServerName, router: Router) {
        self.shared.lock().routers.insert(server.to_owned(), router);
    }

    /// Takes a server off the network.
    pub(crate) fn disconnect(&self, server: &ServerName) {
        self.shared.lock().routers.remove(server);
    }

    /// From now on requests get lost whose paths begin so, or none.
    #[cfg(test)]
    pub(crate) fn lose(&self, path: Option<&str>) {
        self.shared.lock().lost = path.map(ToOwned::to_owned);
    }

    /// How many requests to `server` had a path that begins so.
    #[cfg(test)]
    pub(crate) fn count(&self, server: &ServerName, path: &str) -> usize {
        let shared = self.shared.lock();
        let is_one =
            |(to, _, seen): &&(OwnedServerName, _, String)| to == server && seen.starts_with(path);
        shared.seen.iter().filter(is_one).count()
    }
}

impl Network {
    /// Brings a request to the server it is for.
    async fn carry(
        &self,
        destination: &ServerName,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Body>, TransportError> {
        let router = {
            let mut shared = self.shared.lock();
            let path = request.uri().path().to_owned();
            if shared.lost.as_ref().is_some_and(|lost| path.starts_with(lost)) {
                return Err(TransportError::Lost);
            }
            shared.seen.push((destination.to_owned(), request.method().clone(), path));
            shared.routers.get(destination).cloned()
        };
        let router = router.ok_or(TransportError::Lost)?;
        // A server sees path and query, not the address that was dialled.
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().ok_or(TransportError::Invalid)?;
        head.uri = path.as_str().parse().map_err(|_| TransportError::Invalid)?;
        let request = http::Request::from_parts(head, Body::from(body));
        router.oneshot(request).await.map_err(|_| TransportError::Lost)
    }
}

impl Transport for Network {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let (head, body) = self.carry(destination, request).await?.into_parts();
            let body = axum::body::to_bytes(body, limits.max_bytes).await;
            Ok(http::Response::from_parts(head, body.map_err(|_| TransportError::TooLarge)?))
        })
    }

    fn open<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<BodyStream>, TransportError>> {
        Box::pin(async move {
            let answer = self.carry(destination, request).await?;
            let mut left = limits.max_bytes;
            Ok(answer.map(|body| {
                let pieces = body.into_data_stream().map(move |piece| {
                    let piece = piece.map_err(|_| TransportError::Lost)?;
                    left = left.checked_sub(piece.len()).ok_or(TransportError::TooLarge)?;
                    Ok(piece)
                });
                pieces.boxed()
            }))
        })
    }
}
