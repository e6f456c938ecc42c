//! Somebody who talks to the homeserver.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::coverage::{self, Way};
use crate::{Answer, Sync, text};

/// All but what RFC 3986 leaves as it is in a path segment or query value.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A user on one device, or somebody without an account.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    /// Sent as bearer token; none for somebody without an account.
    pub token: Option<String>,
    /// Full ID such as `@alice:example.org`; empty without an account.
    pub user_id: String,
    /// ID of the device that the token belongs to.
    pub device_id: String,
    /// The account's password, for the steps that ask for it again.
    pub password: String,
    /// Query parameters of every request: whom an application service speaks for.
    asserted: Vec<(String, String)>,
    transactions: Arc<AtomicU64>,
}

/// Where a request goes.
///
/// A text is taken as it is; segments are percent-encoded and joined. Unless it
/// starts with a slash (or its first segment does), the path stands under
/// `/_matrix/client/v3/`.
pub trait Path {
    /// The absolute path.
    fn absolute(&self) -> String;
}

impl Path for &str {
    fn absolute(&self) -> String {
        if self.starts_with('/') {
            (*self).to_owned()
        } else {
            format!("/_matrix/client/v3/{self}")
        }
    }
}

impl Path for String {
    fn absolute(&self) -> String {
        self.as_str().absolute()
    }
}

impl<const N: usize> Path for [&str; N] {
    fn absolute(&self) -> String {
        let encoded: Vec<String> = self
            .iter()
            .enumerate()
            .map(|(i, segment)| match i {
                // The first segment is a literal and may hold several.
                0 => (*segment).to_owned(),
                _ => utf8_percent_encode(segment, SEGMENT).to_string(),
            })
            .collect();
        encoded.join("/").as_str().absolute()
    }
}

/// A request being put together; awaiting it sends it.
#[must_use = "a request is sent when it is awaited"]
pub struct Request {
    http: reqwest::Client,
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    sender: String,
}

impl Request {
    /// Adds a query parameter.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.url.push(if self.url.contains('?') { '&' } else { '?' });
        self.url.extend([name, "="]);
        self.url.extend(utf8_percent_encode(value, SEGMENT));
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends JSON.
    pub fn json(self, body: &Value) -> Self {
        self.raw(body.to_string())
    }

    /// Sends these bytes as they are, declared as JSON.
    pub fn raw(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self.header("content-type", "application/json")
    }

    /// Sends a file of this type.
    pub fn file(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self.header("content-type", content_type)
    }

    /// Sends it; unlike awaiting, a broken connection is a result and ends no test.
    ///
    /// # Errors
    /// If there is no complete answer.
    pub async fn attempt(self) -> Result<Answer, reqwest::Error> {
        let described = self.to_string();
        let (method, url) = (self.method.to_string(), self.url.clone());
        let sent = self.headers.iter().find(|(name, _)| name == "authorization");
        let authorization = sent.map(|(_, value)| value.clone()).unwrap_or_default();
        let mut builder = self.http.request(self.method, self.url);
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        if let Some(body) = self.body {
            builder = builder.body(body);
        }
        let answer = Answer::read(described, builder.send().await?).await?;
        let Answer { status, json, .. } = &answer;
        coverage::record(Way::ToServer, &authorization, &method, &url, *status, json);
        Ok(answer)
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.sender, self.method, self.url)?;
        if let Some(body) = &self.body {
            let beginning = body.get(..4000).unwrap_or(body);
            let shown: String = String::from_utf8_lossy(beginning).chars().take(1000).collect();
            write!(f, "\n{shown}")?;
        }
        Ok(())
    }
}

impl IntoFuture for Request {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let described = self.to_string();
            match self.attempt().await {
                Ok(answer) => answer,
                Err(error) => panic!("{described}\ngot no answer: {error:?}"),
            }
        })
    }
}

impl Client {
    /// Somebody without an account at the server at `base`.
    pub(crate) fn new(base: &str) -> Self {
        // Fails when another test was first, which comes to the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            // A connection kept from before the server was killed fails the next request.
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_mins(2))
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([])
            .build()
            .expect("a client without special needs");
        Self::with_http(http, base)
    }

    /// Somebody without an account who connects in a special way, such as by TLS.
    pub fn with_http(http: reqwest::Client, base: &str) -> Self {
        Self {
            http,
            base: base.to_owned(),
            token: None,
            user_id: String::new(),
            device_id: String::new(),
            password: String::new(),
            asserted: Vec::new(),
            transactions: Arc::default(),
        }
    }

    /// An application service as one of its users.
    #[must_use]
    pub fn acting_as(&self, user_id: &str) -> Self {
        let asserted = vec![("user_id".to_owned(), user_id.to_owned())];
        Self { user_id: user_id.to_owned(), asserted, ..self.clone() }
    }

    /// An application service that says more of whom it speaks for with every request.
    #[must_use]
    pub fn asserting(mut self, name: &str, value: &str) -> Self {
        self.asserted.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same person with another access token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The user that an answer to a login or registration tells of.
    #[must_use]
    pub fn logged_in(&self, answer: &Value, password: &str) -> Self {
        Self {
            token: Some(text(answer, "/access_token")),
            user_id: text(answer, "/user_id"),
            device_id: text(answer, "/device_id"),
            password: password.to_owned(),
            transactions: Arc::default(),
            ..self.clone()
        }
    }

    pub(crate) async fn register(base: &str, username: &str, password: &str) -> Self {
        let anonymous = Self::new(base);
        let mut body = json!({ "username": username, "password": password });
        let challenge = anonymous.post("register", body.clone()).await.has_status(401);
        body["auth"] = json!({ "type": "m.login.dummy", "session": challenge["session"] });
        let answer = anonymous.post("register", body).await.ok();
        anonymous.logged_in(&answer, password)
    }

    /// The same user on one more device.
    pub async fn log_in_again(&self) -> Self {
        let answer = self.anonymous().post("login", self.password_login()).await.ok();
        self.logged_in(&answer, &self.password)
    }

    /// Somebody without an account at the same server.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self::with_http(self.http.clone(), &self.base)
    }

    /// The body of a login with user ID and password.
    pub fn password_login(&self) -> Value {
        json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": self.user_id },
            "password": self.password,
        })
    }

    /// The part of the user ID before the server's name, without `@`.
    pub fn localpart(&self) -> &str {
        self.user_id.trim_start_matches('@').split(':').next().unwrap_or_default()
    }

    /// The server's name.
    pub fn server_name(&self) -> &str {
        self.user_id.split_once(':').map(|(_, name)| name).unwrap_or_default()
    }

    /// Begins a request.
    pub fn request(&self, method: Method, path: impl Path) -> Request {
        let path = path.absolute();
        let request = Request {
            http: self.http.clone(),
            method,
            url: format!("{}{path}", self.base),
            headers: Vec::new(),
            body: None,
            sender: self.user_id.clone(),
        };
        let asserted = self.asserted.iter();
        let request = asserted.fold(request, |request, (name, value)| request.query(name, value));
        match &self.token {
            Some(token) => request.header("authorization", &format!("Bearer {token}")),
            None => request,
        }
    }

    /// Uploads a file; returns server name and media ID of its `mxc://` URI.
    pub async fn upload(&self, content_type: &str, file: impl Into<Vec<u8>>) -> [String; 2] {
        let request = self.request(Method::POST, "/_matrix/media/v3/upload");
        media_of(&request.file(content_type, file).await.ok())
    }

    /// Begins a download of a media.
    pub fn download(&self, media: &[String; 2]) -> Request {
        self.get(["/_matrix/client/v1/media/download", &media[0], &media[1]])
    }

    /// Begins a download of a thumbnail.
    pub fn thumbnail(&self, media: &[String; 2], width: u32, height: u32, method: &str) -> Request {
        self.get(["/_matrix/client/v1/media/thumbnail", &media[0], &media[1]])
            .query("width", &width.to_string())
            .query("height", &height.to_string())
            .query("method", method)
    }

    /// GET.
    pub fn get(&self, path: impl Path) -> Request {
        self.request(Method::GET, path)
    }

    /// POST with a JSON body.
    pub fn post(&self, path: impl Path, body: Value) -> Request {
        self.request(Method::POST, path).json(&body)
    }

    /// PUT with a JSON body.
    pub fn put(&self, path: impl Path, body: Value) -> Request {
        self.request(Method::PUT, path).json(&body)
    }

    /// DELETE without a body.
    pub fn delete(&self, path: impl Path) -> Request {
        self.request(Method::DELETE, path)
    }

    /// Sends a request that needs user-interactive authentication, and proves
    /// the password in a second one.
    pub async fn with_password(&self, method: Method, path: impl Path, mut body: Value) -> Answer {
        let path = path.absolute();
        let challenge =
            self.request(method.clone(), path.as_str()).json(&body).await.has_status(401);
        body["auth"] = self.password_proof(&challenge);
        self.request(method, path.as_str()).json(&body).await
    }

    /// The password stage for the session that a 401 has opened.
    pub fn password_proof(&self, challenge: &Value) -> Value {
        json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": self.user_id },
            "password": self.password,
            "session": challenge["session"],
        })
    }

    /// A transaction ID not used before by this device.
    pub fn transaction(&self) -> String {
        format!("t{}", self.transactions.fetch_add(1, Ordering::Relaxed))
    }

    /// Creates a room; returns its ID.
    pub async fn create_room(&self, body: Value) -> String {
        text(&self.post("createRoom", body).await.ok(), "/room_id")
    }

    /// Creates a public room and lets the others join; returns its ID.
    pub async fn create_room_with(&self, others: &[&Client]) -> String {
        let room = self.create_room(json!({ "preset": "public_chat" })).await;
        for other in others {
            other.join(&room).await;
        }
        room
    }

    /// Invites a user.
    pub async fn invite(&self, room: &str, user_id: &str) {
        self.post(["rooms", room, "invite"], json!({ "user_id": user_id })).await.ok();
    }

    /// Joins a room.
    pub async fn join(&self, room: &str) {
        self.post(["rooms", room, "join"], json!({})).await.ok();
    }

    /// Leaves a room, or refuses an invite.
    pub async fn leave(&self, room: &str) {
        self.post(["rooms", room, "leave"], json!({})).await.ok();
    }

    /// Sends a text message; returns its event ID.
    pub async fn say(&self, room: &str, body: &str) -> String {
        self.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
    }

    /// Sends a message event; returns its event ID.
    pub async fn send(&self, room: &str, event_type: &str, content: Value) -> String {
        let transaction = self.transaction();
        let path = ["rooms", room, "send", event_type, &transaction];
        text(&self.put(path, content).await.ok(), "/event_id")
    }

    /// Sets a piece of state; returns the event ID.
    pub async fn set_state(
        &self,
        room: &str,
        event_type: &str,
        key: &str,
        content: Value,
    ) -> String {
        let path = ["rooms", room, "state", event_type, key];
        text(&self.put(path, content).await.ok(), "/event_id")
    }

    /// The content of a piece of state.
    pub async fn state(&self, room: &str, event_type: &str, key: &str) -> Value {
        self.get(["rooms", room, "state", event_type, key]).await.ok()
    }

    /// A user's membership in a room, as this user may see it.
    pub async fn membership(&self, room: &str, user_id: &str) -> String {
        text(&self.state(room, "m.room.member", user_id).await, "/membership")
    }

    /// Syncing from the beginning.
    pub fn sync(&self) -> Sync {
        Sync::new(self.clone())
    }
}

/// Server name and media ID of the `content_uri` in an answer.
pub fn media_of(answer: &Value) -> [String; 2] {
    let uri = text(answer, "/content_uri");
    let parts = uri.strip_prefix("mxc://").and_then(|parts| parts.split_once('/'));
    let (server, id) = parts.unwrap_or_else(|| panic!("{uri} is no mxc:// URI"));
    [server.to_owned(), id.to_owned()]
}
