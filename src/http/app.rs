//! What every request passes through, whatever it is for.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::Request,
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures::FutureExt as _;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tower::ServiceExt as _;
use tower_http::{
    CompressionLevel,
    compression::{Compression, CompressionLayer, Predicate, predicate::SizeAbove},
};
use tracing::{Instrument as _, debug, field, info, info_span, warn};

use super::{
    Limits, answer,
    body::Bounded,
    endpoint::{Endpoint, NoteEndpoint},
    peer::{ClientAddress, Peer, REQUEST_ID, RequestIds},
    well_known,
};
use crate::{
    config::{Config, TrustedProxy},
    shutdown::Stopping,
    telemetry::requests,
    to_the_end::to_the_end,
};

/// Answers shorter than this gain nothing from compression.
const COMPRESS_FROM_BYTES: u16 = 1024;

/// The whole application, as connections see it. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct App {
    router: Compression<Router, Compressible>,
    shared: Arc<Shared>,
}

struct Shared {
    trusted: Vec<TrustedProxy>,
    ids: RequestIds,
    limits: Limits,
    stopping: Stopping,
    measure: bool,
    /// How many requests may go on without the client, and so without a connection that counts.
    changing: Arc<Semaphore>,
}

impl App {
    /// `router` has the endpoints; `/health`, `/.well-known/matrix/` and the answers to unknown
    /// paths and methods are added here.
    pub(crate) fn new(router: Router, config: &Config, limits: Limits, stopping: Stopping) -> Self {
        let health = {
            let stopping = stopping.clone();
            get(move || std::future::ready(health(&stopping)))
        };
        let router = router
            .route("/health", health)
            .merge(well_known::routes(&config.well_known))
            .fallback(answer::unknown_path)
            .method_not_allowed_fallback(answer::unknown_method)
            .layer(NoteEndpoint);
        let compression = CompressionLayer::new()
            .gzip(true)
            // The last few per cent of size would cost several times the work.
            .quality(CompressionLevel::Fastest)
            .compress_when(Compressible(SizeAbove::new(COMPRESS_FROM_BYTES)));
        Self {
            router: tower::Layer::layer(&compression, router),
            shared: Arc::new(Shared {
                trusted: config.proxies.trusted.clone(),
                ids: RequestIds::new(),
                changing: Arc::new(Semaphore::new(limits.connections)),
                limits,
                stopping,
                measure: config.metrics.address.is_some(),
            }),
        }
    }

    /// Without anything of its own, for a listener that is not for Matrix.
    pub(crate) fn plain(router: Router, limits: Limits, stopping: Stopping) -> Self {
        Self::new(router, &Config::default(), limits, stopping)
    }

    /// Whether anybody reads the numbers.
    pub(super) fn is_measured(&self) -> bool {
        self.shared.measure
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(super) fn stopping(&self) -> &Stopping {
        &self.shared.stopping
    }

    /// Answers one request. Dropped if the client goes away meanwhile; what [`changes`] something
    /// goes on even then, to its end: its later steps follow from the first.
    pub(super) async fn handle(&self, peer: Peer, mut request: Request) -> Response {
        let shared = &*self.shared;
        let id = shared.ids.of(peer, request.headers(), &shared.trusted);
        let client = ClientAddress::of(peer, request.headers(), &shared.trusted);
        let endpoint = Endpoint::default();
        let extensions = request.extensions_mut();
        extensions.insert(id.clone());
        if let Some(client) = client {
            extensions.insert(client);
        }
        extensions.insert(endpoint.clone());

        let method = request.method().clone();
        let started = Instant::now();
        let in_flight = shared.measure.then(requests::Present::request);
        let span = info_span!("request", id = %id);
        let mut response = self.answer(request).instrument(span.clone()).await;
        drop(in_flight);

        let took = started.elapsed();
        let status = response.status();
        let template = endpoint.template();
        if shared.measure {
            requests::record(template, &method, status, took);
        }
        span.in_scope(|| {
            // Neither the path nor the query: there are identifiers and tokens in them.
            let (status, ms, client) =
                (status.as_u16(), took.as_millis(), client.map(|client| field::display(client.0)));
            if status >= 500 {
                warn!(%method, endpoint = template, status, ms, client, "request failed");
            } else if matches!(status, 401 | 403 | 413 | 429) {
                // What an operator, or a tool that blocks addresses, wants to see.
                info!(%method, endpoint = template, status, ms, client, "request refused");
            } else {
                debug!(%method, endpoint = template, status, ms, client, "request answered");
            }
        });

        answer::allow_browsers(&mut response);
        if let Some(id) = id.to_header() {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }

    async fn answer(&self, request: Request) -> Response {
        if request.method() == Method::OPTIONS {
            return answer::options();
        }
        let limits = &self.shared.limits;
        let within = limits.answer_within(request.uri().path());
        let changes = changes(&request);
        let request = match bound(request, limits) {
            Ok(request) => request,
            Err(limit_bytes) => return answer::too_large(limit_bytes),
        };
        // What the endpoint shares with others is behind locks that a panic leaves as they were, or
        // in storage.
        let answer = AssertUnwindSafe(self.router.clone().oneshot(request)).catch_unwind();
        let answered = if changes {
            let places = Arc::clone(&self.shared.changing);
            let carried_out = async move {
                // Never closed. It is held to the end, which may come after the client went.
                let place = places.acquire_owned().await;
                let answer = async move {
                    let answer = answer.await;
                    drop(place);
                    answer
                };
                to_the_end(answer.in_current_span()).await
            };
            timeout(within, carried_out).await
        } else {
            timeout(within, answer).await
        };
        match answered {
            Ok(Ok(Ok(response))) => response.map(Body::new),
            Ok(Ok(Err(impossible))) => match impossible {},
            // Logged and counted by the panic hook, which knows where it was.
            Ok(Err(_panic)) => answer::panicked(),
            Err(_elapsed) => answer::took_too_long(),
        }
    }
}

/// Whether the endpoint may change something. A sync by `POST` waits as one by `GET` does, for
/// somebody who may be gone.
fn changes(request: &Request) -> bool {
    !request.method().is_safe() && !request.uri().path().ends_with("/sync")
}

/// Bounds the body. `Err` with the bound if the head says already that it is too large.
fn bound(request: Request, limits: &Limits) -> Result<Request, u64> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let limit_bytes = limits.body_bytes(request.uri().path());
    let waits = waits_for_continue(request.headers());
    let announced = request.body().size_hint().lower();
    let request =
        request.map(|body| Body::new(Bounded::new(body, limit_bytes, limits.stall, waits)));
    if announced > limit_bytes { Err(limit_bytes) } else { Ok(request) }
}

fn waits_for_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A load balancer should look elsewhere once the server is stopping.
fn health(stopping: &Stopping) -> Response {
    if stopping.is_stopping() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping").into_response()
    } else {
        "ok".into_response()
    }
}

/// JSON and text; media is compressed already, or served in ranges.
#[derive(Clone, Copy)]
struct Compressible(SizeAbove);

impl Predicate for Compressible {
    fn should_compress<B: axum::body::HttpBody>(&self, response: &http::Response<B>) -> bool {
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let kind = content_type.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        (kind.starts_with("application/json") || kind.starts_with("text/"))
            // What is to be seen at once would wait for more.
            && kind != "text/event-stream"
            && !response.headers().contains_key(header::ACCEPT_RANGES)
            && self.0.should_compress(response)
    }
}
