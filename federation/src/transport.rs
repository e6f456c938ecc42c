//! Requests to other servers, over HTTPS.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _,
    future::{BoxFuture, ready},
    stream::{self, BoxStream},
};
use http::{HeaderValue, header};
use moka::future::Cache;
use ruma::ServerName;

use crate::{
    delegation::{MAX_BYTES, WellKnown, WellKnownAnswer},
    dns::{Dns, DnsError},
    resolver::{ResolveError, Resolver, Route, Via},
};

/// How long fetching a `.well-known` file may take.
const WELL_KNOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection to servers found by SRV records is kept for.
const SERVICE_LIFETIME: Duration = Duration::from_mins(5);
/// To how many servers found by SRV records there are connections.
const MAX_SERVICES: u64 = 512;

/// What a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first look at the name to the last byte of the answer.
    pub timeout: Duration,
    /// The largest body of an answer.
    pub max_bytes: usize,
}

/// A body that is read as it comes. After an error nothing comes any more.
pub type BodyStream = BoxStream<'static, Result<Bytes, TransportError>>;

/// Takes a request to a server and brings its answer back.
///
/// The request's URI has path and query; its authority does not matter.
pub trait Transport: Send + Sync + 'static {
    /// Sends. Redirects are not followed: they come back as they are.
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, TransportError>>;

    /// Like [`Self::send`], for a body too large for memory. The time is until the answer begins,
    /// and then until each next piece of its body.
    fn open<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<BodyStream>, TransportError>> {
        let sending = self.send(destination, request, limits);
        Box::pin(async { Ok(sending.await?.map(|body| stream::once(ready(Ok(body))).boxed())) })
    }
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The name leads nowhere.
    #[error("the server can't be found")]
    Resolve(#[from] ResolveError),
    /// All its addresses are ones that must not be called.
    #[error("the server is at an address that must not be called")]
    Refused,
    /// No connection, no TLS, or an answer that is no HTTP.
    #[error("the server can't be reached")]
    Http(#[source] reqwest::Error),
    /// It took too long.
    #[error("the server did not answer in time")]
    Timeout,
    /// The answer is too large.
    #[error("the server's answer is too large")]
    TooLarge,
    /// The request can't be sent.
    #[error("this is no request")]
    Invalid,
    /// A network that is no real one lost it.
    #[error("the network lost it")]
    Lost,
}

/// Whether an address may be called.
pub type AddressFilter = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;
/// Makes clients that trust the right roots, and whose resolver refuses what must not be called.
type MakeClient = Box<dyn Fn() -> reqwest::ClientBuilder + Send + Sync>;

/// HTTPS with reqwest.
pub struct HttpTransport<D> {
    resolver: Resolver<D, WebFiles>,
    client: reqwest::Client,
    make_client: MakeClient,
    permits: AddressFilter,
    services: Cache<(String, String, u16), reqwest::Client>,
}

impl<D: Dns> HttpTransport<D> {
    /// Connects with clients of `make_client`, to addresses that `permits` allows. The clients'
    /// own resolver must hold to it too.
    ///
    /// # Errors
    /// What reqwest says if no client can be made.
    pub fn new(
        dns: D,
        make_client: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
        permits: AddressFilter,
        now: crate::Now,
        random: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, reqwest::Error> {
        // Redirects of `.well-known` files are followed as the clients do by default.
        let files = WebFiles { client: make_client().build()? };
        let make_client: MakeClient = Box::new(move || {
            // Servers are told apart by `Host`, which HTTP/2 does not have.
            make_client().http1_only().redirect(reqwest::redirect::Policy::none())
        });
        let services = Cache::builder().max_capacity(MAX_SERVICES).time_to_live(SERVICE_LIFETIME);
        Ok(Self {
            resolver: Resolver::new(dns, files, now, random),
            client: make_client().build()?,
            make_client,
            permits,
            services: services.build(),
        })
    }

    async fn send_now(
        &self,
        destination: &ServerName,
        request: http::Request<Bytes>,
    ) -> Result<reqwest::Response, TransportError> {
        let route = self.resolver.resolve(destination).await?;
        match &route.via {
            Via::Address(address, port) => {
                if !(self.permits)(*address) {
                    return Err(TransportError::Refused);
                }
                let host = SocketAddr::new(*address, *port).to_string();
                send_to(&self.client, &host, &route, request).await
            }
            Via::Name(port) => {
                let host = format!("{}:{port}", route.certificate);
                send_to(&self.client, &host, &route, request).await
            }
            Via::Services(targets) => {
                let mut failed = None;
                for (target, port) in targets {
                    let client = match self.client_to(&route, target, *port).await {
                        Ok(client) => client,
                        Err(error) => {
                            failed = Some(error);
                            continue;
                        }
                    };
                    let host = format!("{}:{port}", route.certificate);
                    match send_to(&client, &host, &route, request.clone()).await {
                        // Nothing was sent yet: the next one may be there.
                        Err(TransportError::Http(error)) if error.is_connect() => {
                            failed = Some(TransportError::Http(error));
                        }
                        sent => return sent,
                    }
                }
                Err(failed.unwrap_or(TransportError::Refused))
            }
        }
    }

    /// A client that connects to `target` and wants the certificate of the route.
    async fn client_to(
        &self,
        route: &Route,
        target: &str,
        port: u16,
    ) -> Result<reqwest::Client, TransportError> {
        let key = (route.certificate.clone(), target.to_owned(), port);
        if let Some(client) = self.services.get(&key).await {
            return Ok(client);
        }
        let found = self.resolver.dns().addresses(target).await;
        let addresses: Vec<SocketAddr> = found
            .map_err(|error: DnsError| TransportError::Resolve(error.into()))?
            .into_iter()
            .filter(|address| (self.permits)(*address))
            .map(|address| SocketAddr::new(address, port))
            .collect();
        if addresses.is_empty() {
            return Err(TransportError::Refused);
        }
        let client = (self.make_client)()
            .resolve_to_addrs(&route.certificate, &addresses)
            .build()
            .map_err(TransportError::Http)?;
        self.services.insert(key, client.clone()).await;
        Ok(client)
    }
}

async fn send_to(
    client: &reqwest::Client,
    authority: &str,
    route: &Route,
    request: http::Request<Bytes>,
) -> Result<reqwest::Response, TransportError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().ok_or(TransportError::Invalid)?;
    let host = HeaderValue::from_str(&route.host_header).map_err(|_| TransportError::Invalid)?;
    let request = client
        .request(parts.method, format!("https://{authority}{path}"))
        .headers(parts.headers)
        .header(header::HOST, host)
        .body(body);
    request.send().await.map_err(TransportError::Http)
}

impl<D: Dns> Transport for HttpTransport<D> {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let sending = async {
                let answer = self.send_now(destination, request).await?;
                let head = head(&answer);
                Ok::<_, TransportError>((head, read(answer, limits.max_bytes).await?))
            };
            let done = tokio::time::timeout(limits.timeout, sending).await;
            let (head, body) = done.map_err(|_| TransportError::Timeout)??;
            Ok(head.map(|()| body))
        })
    }

    fn open<'a>(
        &'a self,
        destination: &'a ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<http::Response<BodyStream>, TransportError>> {
        Box::pin(async move {
            let sending = self.send_now(destination, request);
            let answer = tokio::time::timeout(limits.timeout, sending).await;
            let answer = answer.map_err(|_| TransportError::Timeout)??;
            Ok(head(&answer).map(|()| pieces(answer, limits)))
        })
    }
}

/// An answer without its body.
fn head(answer: &reqwest::Response) -> http::Response<()> {
    let mut head = http::Response::new(());
    *head.status_mut() = answer.status();
    head.headers_mut().clone_from(answer.headers());
    head
}

async fn read(answer: reqwest::Response, max_bytes: usize) -> Result<Bytes, TransportError> {
    let mut body = BytesMut::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(TransportError::Http)?;
        if body.len().saturating_add(piece.len()) > max_bytes {
            return Err(TransportError::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

fn pieces(answer: reqwest::Response, limits: Limits) -> BodyStream {
    let state = Some((answer, limits.max_bytes));
    let pieces = stream::unfold(state, move |state| async move {
        let (mut answer, left) = state?;
        let next = match tokio::time::timeout(limits.timeout, answer.chunk()).await {
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(piece))) => match left.checked_sub(piece.len()) {
                Some(left) => return Some((Ok(piece), Some((answer, left)))),
                None => TransportError::TooLarge,
            },
            Ok(Err(error)) => TransportError::Http(error),
            Err(_) => TransportError::Timeout,
        };
        Some((Err(next), None))
    });
    pieces.boxed()
}

/// `.well-known` files from the web.
struct WebFiles {
    client: reqwest::Client,
}

impl WellKnown for WebFiles {
    fn fetch<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Option<WellKnownAnswer>> {
        Box::pin(async move {
            let url = format!("https://{host}/.well-known/matrix/server");
            let request = self.client.get(url).timeout(WELL_KNOWN_TIMEOUT);
            let answer = request.send().await.ok()?;
            let status = answer.status();
            let cache_control = answer.headers().get(header::CACHE_CONTROL);
            let cache_control = cache_control.and_then(|value| value.to_str().ok());
            let cache_control = cache_control.map(str::to_owned);
            let body = read(answer, MAX_BYTES).await.ok()?.to_vec();
            Some(WellKnownAnswer { status, cache_control, body })
        })
    }
}
