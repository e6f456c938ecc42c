//! The real router over the memory engine, for tests of endpoints.

use std::{net::IpAddr, sync::Arc};

use axum::{Router, body::Body, response::Response};
use federation::Transport;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    clock::{Clock, Random},
    config::Config,
    federation::{Federation, testing::Network},
    http::ClientAddress,
    server::Server,
    shutdown::Shutdown,
    storage::Db,
};

/// A server without a network.
pub(crate) struct TestServer {
    pub(crate) server: Server,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    router: Router,
    shutdown: Shutdown,
}

/// A user who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct TestUser {
    pub(crate) user_id: String,
    pub(crate) device_id: String,
    pub(crate) token: String,
}

/// An answer: its status and its JSON.
pub(crate) type Answer = (StatusCode, Value);

/// A configuration in which anybody may register and nothing is slow or limited.
pub(crate) fn open_config() -> Config {
    let mut config = Config::default();
    config.registration.enabled = true;
    config.registration.require_token = false;
    config.password.argon2_memory_kib = 64;
    config.password.argon2_iterations = 1;
    config.rate_limits.enabled = false;
    config
}

impl TestServer {
    /// A server anybody may register on.
    pub(crate) async fn open() -> Self {
        Self::new(&open_config()).await
    }

    /// A server as configured.
    pub(crate) async fn new(config: &Config) -> Self {
        let db = Db::in_memory().await;
        Self::over(config, db, Clock::manual(1_700_000_000_000), 1).await
    }

    /// A server as configured over a database that may have been used before.
    pub(crate) async fn over(config: &Config, db: Db, clock: Clock, seed: u64) -> Self {
        Self::among(&Network::default(), config, db, clock, seed).await
    }

    /// A server that others reach over `network`.
    pub(crate) async fn among(
        network: &Network,
        config: &Config,
        db: Db,
        clock: Clock,
        seed: u64,
    ) -> Self {
        let transport = Arc::new(network.clone());
        let server = Self::reaching(transport, config, db, clock, seed).await;
        network.connect(&config.server_name, server.router.clone());
        server
    }

    /// A server that reaches others over `transport`; how others reach it is the caller's to say.
    pub(crate) async fn reaching(
        transport: Arc<dyn Transport>,
        config: &Config,
        db: Db,
        clock: Clock,
        seed: u64,
    ) -> Self {
        let (shutdown, random) = (Shutdown::new(), Random::seeded(seed));
        let federation =
            Federation::over(config, db.clone(), clock.clone(), random.clone(), transport)
                .await
                .unwrap();
        let stopping = shutdown.stopping();
        let server =
            Server::start_with(config, db.clone(), clock.clone(), random, stopping, federation)
                .await
                .unwrap();
        let router = server.router();
        Self { server, db, clock, router, shutdown }
    }

    /// What is on its disk when it stops in the middle of everything. What it still does then, it
    /// does to no effect.
    pub(crate) async fn crashed(self) -> Db {
        let db = self.db.copied().await;
        self.shutdown.start();
        db
    }

    /// The same database under a new server.
    pub(crate) async fn restarted(self, config: &Config) -> Self {
        self.shutdown.start();
        Self::over(config, self.db, self.clock, 2).await
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a request with a JSON body.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let request = request.extension(ClientAddress(address)).body(body).unwrap();
        let response = self.send(request).await;
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// `GET` below `/_matrix/client`.
    pub(crate) async fn get(&self, path: &str, user: Option<&TestUser>) -> Answer {
        let token = user.map(|user| user.token.as_str());
        self.request(Method::GET, &format!("/_matrix/client{path}"), token, None).await
    }

    /// `POST` below `/_matrix/client`.
    pub(crate) async fn post(&self, path: &str, user: Option<&TestUser>, body: Value) -> Answer {
        let token = user.map(|user| user.token.as_str());
        self.request(Method::POST, &format!("/_matrix/client{path}"), token, Some(&body)).await
    }

    /// `PUT` below `/_matrix/client`.
    pub(crate) async fn put(&self, path: &str, user: &TestUser, body: Value) -> Answer {
        let path = format!("/_matrix/client{path}");
        self.request(Method::PUT, &path, Some(&user.token), Some(&body)).await
    }

    /// `DELETE` below `/_matrix/client`.
    pub(crate) async fn delete(&self, path: &str, user: &TestUser, body: Value) -> Answer {
        let path = format!("/_matrix/client{path}");
        self.request(Method::DELETE, &path, Some(&user.token), Some(&body)).await
    }

    /// Registers a user whose password is `secret`, and logs in.
    pub(crate) async fn register(&self, username: &str) -> TestUser {
        let body = json!({
            "username": username,
            "password": "secret",
            "auth": { "type": "m.login.dummy" },
        });
        let (status, answer) = self.post("/v3/register", None, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        TestUser::from(&answer)
    }
}

impl From<&Value> for TestUser {
    fn from(answer: &Value) -> Self {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        Self { user_id: text("user_id"), device_id: text("device_id"), token: text("access_token") }
    }
}
