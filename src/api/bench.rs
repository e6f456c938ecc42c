//! A door for `benches/requests.rs`: requests to the real router over RocksDB, and events that one
//! server takes in from another. There is no network: servers reach each other in memory.

use std::{net::IpAddr, path::Path, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Method, Request, header};
use ruma::OwnedRoomId;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    clock::{Clock, Random},
    config::Config,
    federation::{Federation, testing::Network},
    http::ClientAddress,
    rooms::{
        Room,
        ingest::{Ingested, Verdict},
        pdu::Pdu,
    },
    server::Server,
    shutdown::Shutdown,
    storage::{Db, Settings},
};

/// The memory of the database, in bytes.
const MEMORY: u64 = 256 << 20;

/// What went wrong; a benchmark only reports it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A server with a database of its own.
pub struct Bench {
    server: Server,
    router: Router,
    network: Network,
    config: Config,
    shutdown: Shutdown,
}

/// An event on its way between two servers.
pub struct Event(Pdu);

/// A room as a server knows it.
pub struct Taker(Arc<Room>);

/// Servers that reach each other.
#[derive(Clone, Default)]
pub struct Servers(Network);

impl Bench {
    /// A server called `name` whose database is in `directory`.
    ///
    /// # Errors
    /// If it can't be started.
    pub async fn start(servers: &Servers, name: &str, directory: &Path) -> Result<Self, Error> {
        let mut config = Config { server_name: name.try_into()?, ..Config::default() };
        config.data_dir = directory.to_owned();
        config.registration.enabled = true;
        config.registration.require_token = false;
        config.password.argon2_memory_kib = 64;
        config.password.argon2_iterations = 1;
        config.rate_limits.enabled = false;
        let settings = Settings::new(config.server_name.clone(), MEMORY);
        let db = Db::open(&directory.join("db"), &settings).await?;
        let (clock, random, shutdown) = (Clock::System, Random::system(), Shutdown::new());
        let transport = Arc::new(servers.0.clone());
        let (to, rng) = (db.clone(), random.clone());
        let federation = Federation::over(&config, to, clock.clone(), rng, transport).await?;
        let stopping = shutdown.stopping();
        let server = Server::start_with(&config, db, clock, random, stopping, federation).await?;
        let router = server.router();
        servers.0.connect(&config.server_name, router.clone());
        Ok(Self { server, router, network: servers.0.clone(), config, shutdown })
    }

    /// The answer to a request below `/_matrix/client/v3/`.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, Error> {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(format!("/_matrix/client/v3/{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .extension(ClientAddress(IpAddr::from([192, 0, 2, 1])))
            .body(body)?;
        let answer = self.router.clone().oneshot(request).await?;
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await?;
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(body)
    }

    /// Registers a user; their access token.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn register(&self, name: &str) -> Result<String, Error> {
        let auth = json!({ "type": "m.login.dummy" });
        let body = json!({ "username": name, "password": "secret", "auth": auth });
        let answer = self.call(Method::POST, "register", "", Some(&body)).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        Ok(answer.get("access_token").and_then(Value::as_str).ok_or("no token")?.to_owned())
    }

    /// From now on no other server reaches this one.
    pub fn disconnect(&self) {
        self.network.disconnect(&self.config.server_name);
    }

    /// A room, to take events into.
    ///
    /// # Errors
    /// If the server does not know it.
    pub async fn taker(&self, room: &str) -> Result<Taker, Error> {
        Ok(Taker(self.server.rooms().room(&OwnedRoomId::try_from(room)?).await?))
    }

    /// One of its events, as other servers are sent it.
    ///
    /// # Errors
    /// If there is none with this ID.
    pub async fn event(&self, room: &Taker, id: &str) -> Result<Event, Error> {
        let found = self.server.rooms().pdu(&room.0, id.try_into()?).await?;
        let (_, record) = found.ok_or("no such event")?;
        Ok(Event(Pdu::parse(serde_json::from_str(&record.json)?, &room.0.rules)?))
    }

    /// Takes an event in whose signatures were checked: authorizes it, finds the state after it and
    /// writes all of it down.
    ///
    /// # Errors
    /// If it is not new and accepted.
    pub async fn take_in(&self, room: &Taker, event: &Event) -> Result<(), Error> {
        match self.server.rooms().ingest(&room.0, &event.0).await? {
            Ingested::New { verdict: Verdict::Accepted, .. } => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shutdown.start();
    }
}
