//! One connection: requests on it, and when it has been idle for too long.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{body::Body, extract::FromRequestParts, response::Response};
use http::{header, request::Parts};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::debug;

use super::{App, Limits, body::Watched, peer::Peer, stall::NoStall};

/// Head of a request; filters in the query make some long.
const HEAD_BYTES: u32 = 128 * 1024;

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;

/// How often an HTTP/2 peer is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);

/// What a peer has to close its side when asked to.
const FAREWELL: Duration = Duration::from_secs(3);

/// Serves requests until either side closes, the connection is idle for too long, or the server
/// stops; and then, if it was handed over to something else, until that is done.
pub(super) async fn serve<S>(stream: S, peer: Peer, app: App)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new();
    serve_requests(stream, peer, app, &activity).await;
    if let Some(mut held) = activity.handed_over() {
        held.recv().await;
    }
}

/// Keeps a connection that goes on as something else, a WebSocket, among those that are served.
/// Stands in the extensions of requests that ask for that.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    _until_dropped: mpsc::Sender<Infallible>,
}

impl<S: Send + Sync> FromRequestParts<S> for Hold {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // There is none where no connection is, in tests.
        Ok(parts
            .extensions
            .remove::<Self>()
            .unwrap_or_else(|| Self { _until_dropped: mpsc::channel(1).0 }))
    }
}

async fn serve_requests<S>(stream: S, peer: Peer, app: App, activity: &Activity)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = app.limits().clone();
    let stopping = app.stopping().clone();
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let running = activity.begin();
        let app = app.clone();
        if request.headers().contains_key(header::UPGRADE) {
            request.extensions_mut().insert(activity.hold());
        }
        async move {
            let response: Response = app.handle(peer, request.map(Body::new)).await;
            // Fetching the answer is part of the request.
            Ok::<_, Infallible>(response.map(|body| Watched::new(body, move || drop(running))))
        }
    });

    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // `Activity` covers this, HTTP/2 and silent connections alike.
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES);
    let io = TokioIo::new(NoStall::new(stream, limits.stall));
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));

    let mut closing = false;
    let mut stop = pin!(stopping.wait());
    let mut check = pin!(sleep(limits.first_request.min(limits.idle)));
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(error, "connection ended");
                }
                return;
            }
            () = stop.as_mut(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = check.as_mut() => {
                let now = Instant::now();
                let idle_at = activity.idle_at(&limits);
                if idle_at > now {
                    check.as_mut().reset(idle_at);
                } else if closing {
                    return;
                } else {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                    check.as_mut().reset(now + FAREWELL);
                }
            }
        }
    }
}

/// How busy a connection is.
struct Activity(Arc<Mutex<Busy>>);

struct Busy {
    requests: usize,
    /// Whether there has been a request yet.
    used: bool,
    /// When the last request ended, or when the connection began.
    idle_since: Instant,
    /// Tells when that is done to which the connection was handed over.
    handed_over: Option<mpsc::Receiver<Infallible>>,
}

/// A request that runs or whose answer is being fetched.
struct Running(Arc<Mutex<Busy>>);

impl Activity {
    fn new() -> Self {
        let idle_since = Instant::now();
        let busy = Busy { requests: 0, used: false, idle_since, handed_over: None };
        Self(Arc::new(Mutex::new(busy)))
    }

    fn begin(&self) -> Running {
        let mut busy = self.0.lock();
        busy.requests += 1;
        busy.used = true;
        Running(Arc::clone(&self.0))
    }

    /// For a request that may have the connection handed over to it.
    fn hold(&self) -> Hold {
        let (until_dropped, done) = mpsc::channel(1);
        self.0.lock().handed_over = Some(done);
        Hold { _until_dropped: until_dropped }
    }

    fn handed_over(&self) -> Option<mpsc::Receiver<Infallible>> {
        self.0.lock().handed_over.take()
    }

    /// When the connection has been idle for too long if nothing happens until then.
    fn idle_at(&self, limits: &Limits) -> Instant {
        let busy = self.0.lock();
        if busy.requests > 0 {
            Instant::now() + limits.idle
        } else if busy.used {
            busy.idle_since + limits.idle
        } else {
            busy.idle_since + limits.first_request
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut busy = self.0.lock();
        busy.requests = busy.requests.saturating_sub(1);
        busy.idle_since = Instant::now();
    }
}
