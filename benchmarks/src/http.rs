//! Requests with as little work on this side as possible: client and server
//! usually share the machine.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// All but what RFC 3986 leaves as it is in a path segment or query value.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longer than any long-poll and slower than any answer waited for here.
const PATIENCE: Duration = Duration::from_mins(10);

/// Why a request brought nothing to measure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No complete answer came.
    #[error("no answer: {0}")]
    Transport(String),
    /// The server refused it.
    #[error("{0}: {1}")]
    Refused(StatusCode, String),
    /// The answer lacks what the specification promises.
    #[error("the answer has no {0}")]
    Missing(&'static str),
}

/// One homeserver; its clones share their connections.
#[derive(Clone)]
pub(crate) struct Api {
    http: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

/// A user who is logged in.
#[derive(Clone)]
pub(crate) struct Account {
    /// The homeserver.
    pub(crate) api: Api,
    /// Full user ID.
    pub(crate) user_id: String,
    token: String,
}

/// `text` as one segment of a path or value of a query.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A string of an answer.
///
/// # Errors
/// [`CallError::Missing`].
pub(crate) fn text(answer: &Value, field: &'static str) -> Result<String, CallError> {
    let found = answer.get(field).and_then(Value::as_str);
    found.map(str::to_owned).ok_or(CallError::Missing(field))
}

impl Api {
    /// The homeserver at `base`, such as `http://127.0.0.1:8008`.
    pub(crate) fn new(base: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Self { http, base: base.trim_end_matches('/').to_owned() }
    }

    /// Sends a request, and returns the body of its answer.
    ///
    /// # Errors
    /// If no complete answer comes, or one that is not a success.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        (content_type, body): (&str, Bytes),
    ) -> Result<Bytes, CallError> {
        let transport = |error: &dyn std::fmt::Display| CallError::Transport(error.to_string());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(http::header::CONTENT_TYPE, content_type);
        if let Some(token) = token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|error| transport(&error))?;
        let answer = async {
            let answer = self.http.request(request).await.map_err(|error| transport(&error))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| transport(&error))?.to_bytes();
            if head.status.is_success() {
                return Ok(body);
            }
            let shown = String::from_utf8_lossy(&body).chars().take(300).collect();
            Err(CallError::Refused(head.status, shown))
        };
        tokio::time::timeout(PATIENCE, answer).await.map_err(|error| transport(&error))?
    }

    /// Registers a user who has to prove nothing.
    ///
    /// # Errors
    /// If the server refuses, or its answer is not what the specification says.
    pub(crate) async fn register(&self, name: &str) -> Result<Account, CallError> {
        let body = serde_json::json!({
            "username": name,
            "password": "a good password",
            "auth": { "type": "m.login.dummy" },
        });
        let body = ("application/json", Bytes::from(body.to_string()));
        let answer = self.send(Method::POST, "/_matrix/client/v3/register", None, body).await?;
        let answer = json(&answer)?;
        Ok(Account {
            api: self.clone(),
            user_id: text(&answer, "user_id")?,
            token: text(&answer, "access_token")?,
        })
    }
}

fn json(body: &[u8]) -> Result<Value, CallError> {
    serde_json::from_slice(body).map_err(|error| CallError::Transport(error.to_string()))
}

impl Account {
    /// GET below `/_matrix/client/v3/`; the answer is not looked at.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, CallError> {
        self.send(Method::GET, &format!("/_matrix/client/v3/{path}"), Bytes::new()).await
    }

    /// Like [`Self::get`], with the answer as JSON.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn read(&self, path: &str) -> Result<Value, CallError> {
        json(&self.get(path).await?)
    }

    /// POST below `/_matrix/client/v3/`.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Value, CallError> {
        let path = format!("/_matrix/client/v3/{path}");
        json(&self.send(Method::POST, &path, body.to_string().into()).await?)
    }

    /// Uploads a file; returns its download path below `/_matrix/client/v1/media/`.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn upload(
        &self,
        content_type: &str,
        file: Bytes,
    ) -> Result<String, CallError> {
        let path = "/_matrix/media/v3/upload";
        let answer =
            self.api.send(Method::POST, path, Some(&self.token), (content_type, file)).await?;
        let uri = text(&json(&answer)?, "content_uri")?;
        uri.strip_prefix("mxc://").map(str::to_owned).ok_or(CallError::Missing("mxc:// URI"))
    }

    /// Fetches media: `kind` is `download` or `thumbnail`.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn media(&self, kind: &str, path_and_query: &str) -> Result<Bytes, CallError> {
        let path = format!("/_matrix/client/v1/media/{kind}/{path_and_query}");
        self.send(Method::GET, &path, Bytes::new()).await
    }

    /// Creates a public room; returns its ID.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn create_room(&self, name: &str) -> Result<String, CallError> {
        let body = serde_json::json!({ "preset": "public_chat", "name": name });
        text(&self.post("createRoom", body).await?, "room_id")
    }

    /// Joins a room.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn join(&self, room: &str) -> Result<(), CallError> {
        let path = format!("rooms/{}/join", segment(room));
        self.post(&path, serde_json::json!({})).await.map(|_| ())
    }

    /// Sends a text message with a transaction ID of the caller's.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn say(
        &self,
        room: &str,
        transaction: &str,
        text: &str,
    ) -> Result<(), CallError> {
        let path =
            format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{transaction}", segment(room));
        let body = serde_json::json!({ "msgtype": "m.text", "body": text });
        self.send(Method::PUT, &path, body.to_string().into()).await.map(|_| ())
    }

    /// The token from which an incremental sync goes on.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub(crate) async fn now(&self) -> Result<String, CallError> {
        text(&self.read("sync?set_presence=offline").await?, "next_batch")
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CallError> {
        self.api.send(method, path, Some(&self.token), ("application/json", body)).await
    }
}
