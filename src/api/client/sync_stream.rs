//! What happened, pushed: the responses of `/v3/sync` over a connection that stays open.
//!
//! Not in the specification; `docs/streams.md` says what clients have to know.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    extract::{
        RawQuery, State, WebSocketUpgrade,
        ws::{self, CloseFrame, Message, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use http::{HeaderMap, HeaderName, StatusCode};
use ruma::api::{client::sync::sync_events::v3::Request, error::ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::sync::{sync_request, token};
use crate::{
    api::{
        error::ApiError,
        extract::{Caller, Client, Token},
        json::ClientJson,
        standing,
    },
    http::Hold,
    sync::{KEEP_ALIVE, Streams, Sync, SyncStream, token::SyncToken},
    users::{
        Filters,
        session::{AuthError, Sessions},
    },
};

/// What clients send is nothing but acknowledgements.
const MAX_FRAME_BYTES: usize = 4096;
/// A client that was silent for so long, though it was asked to answer, is gone.
const SILENCE: std::time::Duration = KEEP_ALIVE.saturating_mul(3);
/// What a client has to close its side when asked to.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(3);
/// The status of a WebSocket whose client must log in again, as registered with IANA.
const UNAUTHORIZED: u16 = 3000;

/// Says that the client has everything up to a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acknowledgement {
    ack: String,
}

/// `POST /_matrix/client/unstable/dev.myelin.sync_stream/acknowledge`
pub(crate) async fn acknowledge(
    State(sync): State<Arc<Sync>>,
    ClientJson { session, value, .. }: ClientJson<Acknowledgement>,
) -> Result<Response, ApiError> {
    sync.acknowledge(&session, token(&value.ack)?).await?;
    Ok(Json(json!({})).into_response())
}

/// `GET /_matrix/client/unstable/dev.myelin.sync_stream/events`
pub(crate) async fn events(
    State(streams): State<Streams>,
    State(filters): State<Filters>,
    State(sessions): State<Sessions>,
    RawQuery(query): RawQuery,
    Token(access_token): Token,
    headers: HeaderMap,
    Client { session, mut request, caller, .. }: Client<Request>,
) -> Result<Response, ApiError> {
    // Browsers come back with the last token they saw, to the address they began with.
    if let Some(last) = headers.get("last-event-id") {
        request.since = Some(last.to_str().map_err(ApiError::invalid_param)?.to_owned());
    }
    let request = sync_request(&filters, &session, request, query.as_deref()).await?;
    let stream = streams.open(&session, request).await?;
    let door = Door { sessions, access_token, caller, query };
    let events = futures::stream::unfold(Some((stream, door)), async |open| {
        let (mut stream, door) = open?;
        match next(&mut stream, &door).await {
            Ok(Some(response)) => {
                let (token, data) = (response.next_batch.clone(), in_one_line(&response));
                let event = Event::default().event("sync").id(token).data(data);
                Some((Ok::<_, Infallible>(event), Some((stream, door))))
            }
            Ok(None) if stream.is_stopping() => None,
            Ok(None) => Some((Ok(Event::default().comment("still there")), Some((stream, door)))),
            Err(error) => {
                let event = Event::default().event("error").data(error.body().await);
                Some((Ok(event), None))
            }
        }
    });
    // Reverse proxies would wait for more to come.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), "no");
    Ok(([unbuffered], Sse::new(events)).into_response())
}

/// `GET /_matrix/client/unstable/dev.myelin.sync_stream/websocket`
#[expect(clippy::too_many_arguments, reason = "the parts of one request")]
pub(crate) async fn websocket(
    State(streams): State<Streams>,
    State(filters): State<Filters>,
    State(sessions): State<Sessions>,
    State(sync): State<Arc<Sync>>,
    RawQuery(query): RawQuery,
    Token(access_token): Token,
    hold: Hold,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    Client { session, request, caller, .. }: Client<Request>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::with_status(StatusCode::BAD_REQUEST, ErrorKind::Unknown, rejection)
    })?;
    let request = sync_request(&filters, &session, request, query.as_deref()).await?;
    let stream = streams.open(&session, request).await?;
    let door = Door { sessions, access_token, caller, query };
    let upgrade = upgrade.max_message_size(MAX_FRAME_BYTES).max_frame_size(MAX_FRAME_BYTES);
    Ok(upgrade.on_upgrade(async move |socket| {
        push(socket, stream, &door, &sync).await;
        drop(hold);
    }))
}

/// Asks again and again who is asking: a token may end while a stream goes on.
struct Door {
    sessions: Sessions,
    access_token: Option<String>,
    caller: Caller,
    query: Option<String>,
}

impl Door {
    async fn ask(&self) -> Result<(), ApiError> {
        let token = self.access_token.as_deref().ok_or(AuthError::Missing)?;
        let session = self.sessions.enter(token, &self.caller, self.query.as_deref()).await?;
        standing::check_locked(&self.sessions, &session).await
    }
}

/// What there is to tell next; nothing after a while without.
async fn next(
    stream: &mut SyncStream,
    door: &Door,
) -> Result<Option<crate::sync::Response>, ApiError> {
    let response = stream.next().await?;
    door.ask().await?;
    Ok(response)
}

/// JSON without line breaks: what clients wrote between its parts goes to others as it is, and
/// may have some.
fn in_one_line(response: &impl Serialize) -> String {
    let mut text = serde_json::to_string(response).expect("its keys are strings");
    if text.contains(['\r', '\n']) {
        // In strings they are escaped.
        text = text.replace(['\r', '\n'], " ");
    }
    text
}

/// Why a WebSocket is closed.
enum End {
    /// The client closed it, or is gone.
    Gone,
    /// By the server, and why.
    Closed(u16, String),
}

impl End {
    fn wrong(reason: &str) -> Self {
        Self::Closed(ws::close_code::POLICY, reason.to_owned())
    }

    fn of(error: &ApiError) -> Self {
        match error.errcode() {
            Some(code) if error.status() == StatusCode::UNAUTHORIZED => {
                Self::Closed(UNAUTHORIZED, code)
            }
            _ => Self::Closed(ws::close_code::ERROR, "M_UNKNOWN".to_owned()),
        }
    }
}

/// Tells a client what happens until one of both has enough.
async fn push(mut socket: WebSocket, mut stream: SyncStream, door: &Door, sync: &Sync) {
    let mut heard = Instant::now();
    let end = loop {
        if let Err(end) = push_next(&mut socket, &mut stream, door, sync, &mut heard).await {
            break end;
        }
    };
    if let End::Closed(code, reason) = end {
        let frame = CloseFrame { code, reason: reason.into() };
        let farewell = async {
            if socket.send(Message::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = socket.recv().await {}
            }
        };
        // Closed or not, it is over.
        timeout(FAREWELL, farewell).await.ok();
    }
}

/// Waits for the next response, taking acknowledgements meanwhile, and sends it.
async fn push_next(
    socket: &mut WebSocket,
    stream: &mut SyncStream,
    door: &Door,
    sync: &Sync,
    heard: &mut Instant,
) -> Result<(), End> {
    let session = stream.session().clone();
    let news = {
        let mut news = std::pin::pin!(next(stream, door));
        loop {
            tokio::select! {
                news = &mut news => break news.map_err(|error| End::of(&error))?,
                message = socket.recv() => {
                    *heard = Instant::now();
                    if let Some(token) = acknowledged(message)? {
                        let done = sync.acknowledge(&session, token).await;
                        done.map_err(|error| End::wrong(&error.to_string()))?;
                    }
                }
            }
        }
    };
    let message = match news {
        Some(response) => {
            let text = serde_json::to_string(&response).expect("its keys are strings");
            Message::Text(text.into())
        }
        None if stream.is_stopping() => {
            return Err(End::Closed(ws::close_code::AWAY, "the server stops".to_owned()));
        }
        None if heard.elapsed() > SILENCE => return Err(End::Gone),
        None => Message::Ping(bytes::Bytes::new()),
    };
    socket.send(message).await.map_err(|_| End::Gone)
}

/// The token that a message from the client acknowledges; none in those that keep the connection.
fn acknowledged(message: Option<Result<Message, axum::Error>>) -> Result<Option<SyncToken>, End> {
    match message {
        Some(Ok(Message::Text(text))) => {
            let Ok(Acknowledgement { ack }) = serde_json::from_str(&text) else {
                return Err(End::wrong("this is no {\"ack\": next_batch}"));
            };
            ack.parse()
                .map(Some)
                .map_err(|_| End::wrong("this server has not given out that token"))
        }
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Binary(_))) => {
            Err(End::Closed(ws::close_code::UNSUPPORTED, "only text is understood".to_owned()))
        }
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_between_the_parts_of_what_clients_wrote_are_left_out() {
        let raw = "{\r\n \"body\":\r\"one\\r\\ntwo\"\n}";
        let raw = serde_json::value::RawValue::from_string(raw.to_owned()).unwrap();
        let line = in_one_line(&raw);
        assert!(!line.contains(['\r', '\n']), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value, json!({ "body": "one\r\ntwo" }));
    }

    #[test]
    fn only_acknowledgements_are_taken() {
        let said = |text: &str| acknowledged(Some(Ok(Message::Text(text.into()))));
        let token = SyncToken { position: 7, to_device: 5 };
        assert_eq!(said(r#"{"ack":"s2_7_5"}"#).ok(), Some(Some(token)));
        for text in
            ["", "{}", "s2_7_5", r#"{"ack":7}"#, r#"{"ack":"7"}"#, r#"{"ack":"s2_7_5","x":1}"#]
        {
            assert!(matches!(said(text), Err(End::Closed(ws::close_code::POLICY, _))), "{text}");
        }
        let pong = Some(Ok(Message::Pong(bytes::Bytes::new())));
        assert!(matches!(acknowledged(pong), Ok(None)));
        assert!(matches!(acknowledged(None), Err(End::Gone)));
    }
}
