//! One connection: requests on it, and when it has been idle for too long.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
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
/// stops.
pub(super) async fn serve<S>(stream: S, peer: Peer, app: App)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = app.limits().clone();
    let stopping = app.stopping().clone();
    let activity = Arc::new(Activity::new());
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let running = activity.begin();
        let app = app.clone();
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
    let mut connection = pin!(builder.serve_connection(io, service));

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
}

/// A request that runs or whose answer is being fetched.
struct Running(Arc<Mutex<Busy>>);

impl Activity {
    fn new() -> Self {
        let busy = Busy { requests: 0, used: false, idle_since: Instant::now() };
        Self(Arc::new(Mutex::new(busy)))
    }

    fn begin(&self) -> Running {
        let mut busy = self.0.lock();
        busy.requests += 1;
        busy.used = true;
        Running(Arc::clone(&self.0))
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
