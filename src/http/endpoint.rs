//! Which endpoint a request went to, as the template of its path: a bounded set, so fit for metrics
//! and logs, and without anybody's identifiers.

use std::{
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use axum::extract::{MatchedPath, Request};
use tower::{Layer, Service};

/// Put into a request on the way in and filled by the router, so that it is known also if the
/// endpoint then panics or takes too long.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoint(Arc<OnceLock<MatchedPath>>);

impl Endpoint {
    /// `unknown` if the router had no such path.
    pub(super) fn template(&self) -> &str {
        self.0.get().map_or("unknown", MatchedPath::as_str)
    }
}

/// Goes around every route, since only there the matched path is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoteEndpoint;

/// [`NoteEndpoint`] around a route.
#[derive(Clone, Debug)]
pub(super) struct Noting<S>(S);

impl<S> Layer<S> for NoteEndpoint {
    type Service = Noting<S>;

    fn layer(&self, inner: S) -> Noting<S> {
        Noting(inner)
    }
}

impl<S: Service<Request>> Service<Request> for Noting<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> S::Future {
        let extensions = request.extensions();
        if let (Some(endpoint), Some(path)) =
            (extensions.get::<Endpoint>(), extensions.get::<MatchedPath>())
        {
            // Set twice only where routers are nested; the outer one is met first and has it all.
            endpoint.0.set(path.clone()).ok();
        }
        self.0.call(request)
    }
}
