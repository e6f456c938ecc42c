//! An application service in the test's own process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::coverage::{self, Way};
use crate::{Client, Server};

/// How long something may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest request that is read.
const MAX_BYTES: usize = 16 << 20;

/// A bridge or a bot: what the server sends it, and what it answers.
pub struct Appservice {
    /// Its ID.
    pub id: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    directory: TempDir,
    task: tokio::task::JoinHandle<()>,
}

/// A request that came from the server.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method and path with query, as they came.
    pub line: String,
    /// The bearer token.
    pub token: String,
    /// The body; null if it is no JSON.
    pub body: Value,
    /// The status of the answer.
    pub status: u16,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    /// Answers by the beginning of the line; the longest counts.
    answers: Mutex<BTreeMap<String, (u16, Value)>>,
    changed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Appservice {
    /// Starts to listen. `more` is added to the registration file, which says that `@_ID_*` users and
    /// `#_ID_*` aliases are its own.
    pub async fn start(id: &str, more: &str) -> Self {
        let listener =
            tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port of its own");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            axum::serve(listener, routes).await.expect("the listener goes on");
        });
        let directory = TempDir::new().expect("a temporary directory");
        let this = Self { id: id.to_owned(), address, shared, directory, task };
        this.write(&this.registration(more));
        this
    }

    /// The registration file with more keys.
    pub fn registration(&self, more: &str) -> String {
        let Self { id, address, .. } = self;
        format!(
            "id: {id}\nurl: http://{address}\nas_token: {}\nhs_token: {}\n\
             sender_localpart: _{id}_bot\nnamespaces:\n  users:\n  - exclusive: true\n    \
             regex: '@_{id}_.*'\n  aliases:\n  - exclusive: true\n    regex: '#_{id}_.*'\n{more}\n",
            self.as_token(),
            self.hs_token(),
        )
    }

    /// Writes the registration file anew.
    pub fn write(&self, registration: &str) {
        std::fs::write(self.file(), registration).expect("the temporary directory can be written");
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("registration.yaml")
    }

    /// Where the registration file is.
    pub fn path(&self) -> String {
        self.file().to_string_lossy().into_owned()
    }

    /// By which it proves who it is.
    pub fn as_token(&self) -> String {
        format!("as-token-of-{}", self.id)
    }

    /// By which the server does.
    pub fn hs_token(&self) -> String {
        format!("hs-token-of-{}", self.id)
    }

    /// Its user ID for this name, at the test servers' usual name.
    pub fn user(&self, name: &str) -> String {
        format!("@_{}_{name}:complement.test", self.id)
    }

    /// It as its bot.
    pub fn bot(&self, server: &Server) -> Client {
        let mut bot = server.anonymous().with_token(&self.as_token());
        bot.user_id = self.user("bot");
        bot
    }

    /// It as a user that it makes.
    pub async fn ghost(&self, server: &Server, name: &str) -> Client {
        let bot = self.bot(server);
        let body = json!({
            "type": "m.login.application_service", "username": format!("_{}_{name}", self.id),
            "inhibit_login": true,
        });
        bot.post("register", body).await.ok();
        bot.acting_as(&self.user(name))
    }

    /// From now on answers requests whose line begins so in this way.
    pub fn answers(&self, beginning: &str, status: u16, body: Value) {
        lock(&self.shared.answers).insert(beginning.to_owned(), (status, body));
    }

    /// From now on takes transactions, or refuses them.
    pub fn takes_transactions(&self, takes: bool) {
        let status = if takes { 200 } else { 503 };
        self.answers("PUT /_matrix/app/v1/transactions/", status, json!({}));
    }

    /// Listens no more.
    pub fn stop(&self) {
        self.task.abort();
    }

    /// Has the server send what waits at once, by a ping.
    pub async fn ping(&self, server: &Server) {
        self.bot(server)
            .post(["/_matrix/client/v1/appservice", &self.id, "ping"], json!({}))
            .await
            .ok();
    }

    /// Everything that came so far.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// Waits until `find` finds what it looks for in what came.
    pub async fn wait_for<T>(&self, find: impl Fn(&[Received]) -> Option<T>) -> T {
        let found = timeout(PATIENCE, async {
            loop {
                let changed = self.shared.changed.notified();
                if let Some(found) = find(&self.received()) {
                    return found;
                }
                changed.await;
            }
        });
        let Ok(found) = found.await else {
            panic!("not received; what came is {:#?}", self.received());
        };
        found
    }

    /// The transactions that it took so far: the ID and the body of each, repetitions included.
    pub fn transactions(&self) -> Vec<(String, Value)> {
        transactions(&self.received())
    }

    /// The events so far, of each transaction once.
    pub fn events(&self) -> Vec<Value> {
        items(&self.received(), "events")
    }

    /// Waits until it has refused a transaction with this in it.
    pub async fn refused(&self, text: &str) {
        self.wait_for(|received| {
            let refused = |one: &Received| one.status != 200 && one.body.to_string().contains(text);
            received.iter().any(refused).then_some(())
        })
        .await;
    }

    /// Waits for an event with this ID.
    pub async fn event(&self, event_id: &str) -> Value {
        self.item("events", |event| event["event_id"] == event_id).await
    }

    /// Waits for something in one of the lists of transactions.
    pub async fn item(&self, list: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(|received| items(received, list).into_iter().find(|item| is(item))).await
    }

    /// Waits for a transaction in whose body `find` finds what it looks for.
    pub async fn transaction<T>(&self, find: impl Fn(&Value) -> Option<T>) -> T {
        self.wait_for(|received| transactions(received).iter().find_map(|(_, body)| find(body)))
            .await
    }
}

impl Drop for Appservice {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn transactions(received: &[Received]) -> Vec<(String, Value)> {
    received
        .iter()
        .filter(|one| one.status == 200)
        .filter_map(|one| {
            let id = one.line.strip_prefix("PUT /_matrix/app/v1/transactions/")?;
            Some((id.to_owned(), one.body.clone()))
        })
        .collect()
}

/// What is in one list of all transactions, each transaction counted once.
fn items(received: &[Received], list: &str) -> Vec<Value> {
    let mut seen = std::collections::BTreeSet::new();
    let once = transactions(received).into_iter().filter(|(id, _)| seen.insert(id.clone()));
    once.flat_map(|(_, body)| body[list].as_array().cloned().unwrap_or_default()).collect()
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let line = format!("{} {path}", parts.method);
    let header = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let body: Bytes = to_bytes(body, MAX_BYTES).await.unwrap_or_default();
    let found = {
        let answers = lock(&shared.answers);
        let mut fitting = answers.iter().filter(|(beginning, _)| line.starts_with(*beginning));
        fitting.next_back().map(|(_, answer)| answer.clone())
    };
    let (status, answer) = found.unwrap_or_else(|| {
        if line.starts_with("PUT ") || line.starts_with("POST /_matrix/app/v1/ping") {
            (200, json!({}))
        } else {
            (404, json!({ "errcode": "M_NOT_FOUND", "error": "not here" }))
        }
    });
    let (method, header) = (parts.method.as_str(), header.unwrap_or_default());
    coverage::record(Way::FromServer, header, method, path, status, &answer);
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    lock(&shared.received).push(Received { line, token: token.to_owned(), body, status });
    shared.changed.notify_waiters();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(answer)).into_response()
}
