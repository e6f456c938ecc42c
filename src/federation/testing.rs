//! A network in memory, for tests with several servers in one process.

use std::{collections::HashMap, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use federation::{Limits, Transport, TransportError};
use futures::future::BoxFuture;
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

    /// How many requests to `server` had a path that begins so.
    pub(crate) fn count(&self, server: &ServerName, path: &str) -> usize {
        let shared = self.shared.lock();
        let is_one =
            |(to, _, seen): &&(OwnedServerName, _, String)| to == server && seen.starts_with(path);
        shared.seen.iter().filter(is_one).count()
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
            let router = {
                let mut shared = self.shared.lock();
                let path = request.uri().path().to_owned();
                shared.seen.push((destination.to_owned(), request.method().clone(), path));
                shared.routers.get(destination).cloned()
            };
            let router = router.ok_or(TransportError::Lost)?;
            // A server sees path and query, not the address that was dialled.
            let (mut head, body) = request.into_parts();
            let path = head.uri.path_and_query().ok_or(TransportError::Invalid)?;
            head.uri = path.as_str().parse().map_err(|_| TransportError::Invalid)?;
            let request = http::Request::from_parts(head, Body::from(body));
            let answer = router.oneshot(request).await.map_err(|_| TransportError::Lost)?;
            let (head, body) = answer.into_parts();
            let body = axum::body::to_bytes(body, limits.max_bytes).await;
            Ok(http::Response::from_parts(head, body.map_err(|_| TransportError::TooLarge)?))
        })
    }
}
