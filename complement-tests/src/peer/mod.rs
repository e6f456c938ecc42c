//! A homeserver driven by hand: it signs whatever it is given, and answers as a test wants.
//!
//! It has a name, a signing key and a certificate that the server under test trusts if its
//! configuration went through [`trusting`]. It hosts rooms or joins others', makes events, true or
//! false, and keeps what it is asked.

mod event;
mod room;
pub(crate) mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{self, StatusCode};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::coverage::{self, Way};
use crate::{Answer, Config, Server, Signer, wait_until};
pub use event::{Pdu, content_hash, is_signature, is_signed, reference_id, signature_of};
pub use room::Room;
pub(crate) use tls::certificate_files;

/// The name of its key.
const KEY: &str = "hand";
/// How long a key is said to count: far beyond every test.
const VALID_UNTIL_MS: u64 = 4_000_000_000_000;

/// A configuration by which a server talks to [`Peer`]s.
pub fn trusting(config: Config) -> Config {
    config
        .with("outgoing.ca_certificates", vec![tls::authority_file()])
        .with("outgoing.allow_private_addresses", true)
}

/// A request that a peer got.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its method.
    pub method: String,
    /// Its path, decoded, without the query.
    pub path: String,
    /// Its query as it came.
    pub query: String,
    /// Its JSON; null if there is none.
    pub body: Value,
}

impl Received {
    /// The last segment of the path.
    pub fn last(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// What a peer answers: a status and JSON.
pub type Reply = (u16, Value);

type Handler = Box<dyn Fn(&Received) -> Option<Reply> + Send + Sync>;

/// Another homeserver.
#[derive(Clone)]
pub struct Peer {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    key: Signer,
    http: reqwest::Client,
    handlers: Mutex<Vec<Handler>>,
    received: Mutex<Vec<Received>>,
    rooms: Mutex<Vec<Room>>,
    transactions: Mutex<u64>,
    address: Address,
    acceptor: TlsAcceptor,
    serving: Mutex<Option<Serving>>,
}

/// What ends its listening, and the end.
type Serving = (oneshot::Sender<()>, JoinHandle<()>);

impl Peer {
    /// A new one, on a free port of this machine.
    pub async fn start() -> Self {
        // Nobody minds who was first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let (listener, address) = tls::listen().await;
        let name = address.to_string();
        let inner = Inner {
            key: Signer::named(&name),
            name,
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            handlers: Mutex::default(),
            received: Mutex::default(),
            rooms: Mutex::default(),
            transactions: Mutex::default(),
            address,
            acceptor: listener.acceptor(),
            serving: Mutex::default(),
        };
        let peer = Self { inner: Arc::new(inner) };
        peer.serve(listener);
        peer
    }

    fn serve(&self, listener: tls::TlsListener) {
        let answering = self.clone();
        let router = axum::Router::new().fallback(move |request: http::Request<Body>| {
            let peer = answering.clone();
            async move { peer.take(request).await }
        });
        let (end, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let ended = async { drop(ended.await) };
            axum::serve(listener, router).with_graceful_shutdown(ended).await.ok();
        });
        *lock(&self.inner.serving) = Some((end, serving));
    }

    /// From now on refuses connections.
    pub async fn go_away(&self) {
        let serving = lock(&self.inner.serving).take();
        let (end, serving) = serving.expect("it is there");
        end.send(()).ok();
        serving.await.expect("it ends well");
    }

    /// Is there again, under the same name.
    pub async fn come_back(&self) {
        let acceptor = self.inner.acceptor.clone();
        self.serve(tls::listen_again(self.inner.address, acceptor).await);
    }

    /// Its server name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The ID of a user of it.
    pub fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.name())
    }

    /// From now on answers what `handler` says, where it says something; the newest is asked first.
    pub fn on(&self, handler: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static) {
        lock(&self.inner.handlers).push(Box::new(handler));
    }

    /// From now on answers this to every request whose path has `part` in it.
    pub fn answer(&self, part: &'static str, status: u16, body: Value) {
        self.on(move |request| request.path.contains(part).then(|| (status, body.clone())));
    }

    /// What it was asked whose path has `part` in it.
    pub fn received(&self, part: &str) -> Vec<Received> {
        let received = lock(&self.inner.received);
        received.iter().filter(|request| request.path.contains(part)).cloned().collect()
    }

    /// Waits until it was asked that.
    pub async fn gets(&self, part: &str) -> Vec<Received> {
        wait_until(part, async || {
            let received = self.received(part);
            (!received.is_empty()).then_some(received)
        })
        .await
    }

    /// Waits until an event with this ID, or one like it, comes in a transaction.
    pub async fn gets_pdu(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until("an event", async || {
            let sent = self.received("/_matrix/federation/v1/send/");
            let pdus = sent.iter().flat_map(|sent| sent.body["pdus"].as_array().into_iter());
            pdus.flatten().find(|pdu| wanted(pdu)).cloned()
        })
        .await
    }

    /// Waits until an EDU like this comes in a transaction; its content.
    pub async fn gets_edu(&self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until(kind, async || {
            let sent = self.received("/_matrix/federation/v1/send/");
            let edus = sent.iter().flat_map(|sent| sent.body["edus"].as_array().into_iter());
            let contents = edus.flatten().filter(|edu| edu["edu_type"] == kind);
            contents.map(|edu| &edu["content"]).find(|content| wanted(content)).cloned()
        })
        .await
    }

    /// A request to `server` that is signed as it must be.
    pub async fn request(
        &self,
        server: &Server,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let header = self.authorization(&server.name(), &method, path, body);
        self.request_with(server, method, path, body, &header).await
    }

    /// A request with whatever stands in its `Authorization` header.
    pub async fn request_with(
        &self,
        server: &Server,
        method: Method,
        path: &str,
        body: Option<&Value>,
        authorization: &str,
    ) -> Answer {
        let described = format!("{} {method} {path}", self.name());
        let name = method.to_string();
        let mut request = self.inner.http.request(method, format!("{}{path}", server.url()));
        request = request.header("authorization", authorization);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let sent = request.timeout(Duration::from_mins(2)).send().await.expect("an answer");
        let answer = Answer::read(described, sent).await.expect("a whole answer");
        coverage::record(Way::ToServer, authorization, &name, path, answer.status, &answer.json);
        answer
    }

    /// The header that says who asks, for a request to the server of that name.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>
    pub fn authorization(
        &self,
        destination: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> String {
        let name = self.name();
        let mut signed = json!({
            "method": method.as_str(), "uri": path, "origin": name, "destination": destination,
        });
        if let Some(body) = body {
            signed["content"] = body.clone();
        }
        let signature = self.inner.key.signature(&signed);
        format!(
            "X-Matrix origin=\"{name}\",destination=\"{destination}\",key=\"ed25519:{KEY}\",\
             sig=\"{signature}\""
        )
    }

    /// `GET`, signed.
    pub async fn get(&self, server: &Server, path: &str) -> Answer {
        self.request(server, Method::GET, path, None).await
    }

    /// `PUT`, signed.
    pub async fn put(&self, server: &Server, path: &str, body: &Value) -> Answer {
        self.request(server, Method::PUT, path, Some(body)).await
    }

    /// `POST`, signed.
    pub async fn post(&self, server: &Server, path: &str, body: &Value) -> Answer {
        self.request(server, Method::POST, path, Some(body)).await
    }

    /// Sends a transaction of its own.
    pub async fn transact(&self, server: &Server, pdus: &[&Pdu], edus: &[Value]) -> Answer {
        let number = {
            let mut number = lock(&self.inner.transactions);
            *number += 1;
            *number
        };
        self.transact_as(server, &number.to_string(), pdus, edus).await
    }

    /// Sends the transaction of this ID.
    pub async fn transact_as(
        &self,
        server: &Server,
        id: &str,
        pdus: &[&Pdu],
        edus: &[Value],
    ) -> Answer {
        let pdus: Vec<&Value> = pdus.iter().map(|pdu| &pdu.json).collect();
        let body = json!({
            "origin": self.name(), "origin_server_ts": event::NOW_MS, "pdus": pdus, "edus": edus,
        });
        self.put(server, &format!("/_matrix/federation/v1/send/{id}"), &body).await
    }

    /// Sends events that must be taken, each.
    pub async fn sends(&self, server: &Server, pdus: &[&Pdu]) {
        let answer = self.transact(server, pdus, &[]).await.ok();
        for pdu in pdus {
            assert_eq!(answer["pdus"][&pdu.id], json!({}), "{answer}");
        }
    }

    /// Sends an event that must be refused.
    pub async fn is_refused(&self, server: &Server, pdu: &Pdu) {
        let answer = self.transact(server, &[pdu], &[]).await.ok();
        let result = &answer["pdus"][&pdu.id];
        assert!(result["error"].is_string(), "{} was not refused: {answer}", pdu.json);
    }

    /// Hashes and signs an event, and names it.
    pub fn sign(&self, draft: Value) -> Pdu {
        Pdu::signed(draft, self.name(), KEY, &self.inner.key)
    }

    /// The same as a server that is not there, whose keys are [`Self::keys_of`] it.
    pub fn sign_as(server: &str, draft: Value) -> Pdu {
        Pdu::signed(draft, server, KEY, &Signer::named(server))
    }

    /// What a server that is not there published of its keys.
    pub fn keys_of(server: &str) -> Value {
        published(server, &Signer::named(server))
    }

    /// Adds its signature to an event of another server.
    pub fn countersign(&self, pdu: &mut Value) {
        event::add_signature(pdu, self.name(), KEY, &self.inner.key);
    }

    /// What it publishes of its keys.
    pub fn keys(&self) -> Value {
        published(self.name(), &self.inner.key)
    }

    /// A room of version 11 that it hosts: others may join it and read it.
    pub fn host(&self, creator: &str, join_rule: &str) -> Room {
        let room = Room::create(self, &self.user(creator), join_rule);
        lock(&self.inner.rooms).push(room.clone());
        room
    }

    async fn take(&self, request: http::Request<Body>) -> Response {
        let (head, body) = request.into_parts();
        let Ok(body) = to_bytes(body, usize::MAX).await else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        let received = Received {
            method: head.method.to_string(),
            path: percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        lock(&self.inner.received).push(received.clone());
        let said = lock(&self.inner.handlers).iter().rev().find_map(|handler| handler(&received));
        let (status, body) = said.unwrap_or_else(|| self.usual(&received));
        let target = head.uri.path();
        coverage::record(Way::FromServer, "", &received.method, target, status, &body);
        let status = StatusCode::from_u16(status).expect("a status");
        (status, axum::Json(body)).into_response()
    }

    /// What it answers if no test says otherwise.
    fn usual(&self, request: &Received) -> Reply {
        let path = request.path.as_str();
        if path == "/_matrix/key/v2/server" {
            return (200, self.keys());
        }
        if path.starts_with("/_matrix/federation/v1/send/") {
            return (200, json!({ "pdus": {} }));
        }
        let rooms = lock(&self.inner.rooms).clone();
        let hosted = rooms.iter().find_map(|room| room.serve(self, request));
        hosted.unwrap_or_else(|| {
            (404, json!({ "errcode": "M_UNRECOGNIZED", "error": "nobody taught me this" }))
        })
    }
}

fn published(server: &str, key: &Signer) -> Value {
    let keys = json!({
        "server_name": server, "valid_until_ts": VALID_UNTIL_MS, "old_verify_keys": {},
        "verify_keys": { format!("ed25519:{KEY}"): { "key": key.public_key() } },
    });
    key.sign(server, KEY, keys)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where it listens.
pub(crate) type Address = SocketAddr;
