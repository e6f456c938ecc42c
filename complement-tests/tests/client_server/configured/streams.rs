//! What is synced, pushed over `WebSockets` and as server-sent events: `docs/streams.md`.

use std::time::Duration;

use complement_tests::{Client, Config, Server, text, timeline};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};

const BASE: &str = "/_matrix/client/unstable/dev.myelin.sync_stream";
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn server() -> Server {
    Server::start(&Config::default().with("sync.streams", true))
}

pub(super) async fn note(from: &Client, to: &Client, number: u64) {
    let path = ["sendToDevice", "org.example.note", &format!("t{number}")];
    let message = json!({ &*to.user_id: { &*to.device_id: { "n": number } } });
    from.put(path, json!({ "messages": message })).await.ok();
}

pub(super) fn notes(response: &Value) -> Vec<Value> {
    let events = response["to_device"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| event["content"]["n"].clone()).collect()
}

/// A stream of events as a browser reads it.
pub(super) struct Events {
    response: reqwest::Response,
    unread: String,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Event {
    kind: String,
    id: String,
    data: Value,
}

impl Events {
    pub(super) async fn open(server: &Server, client: &Client, last: Option<&str>) -> Self {
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let token = client.token.as_deref().unwrap();
        let mut request = http
            .get(format!("{}{BASE}/events?access_token={token}", server.url()))
            .header("accept-encoding", "gzip");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers().get("content-encoding"), None);
        Self { response, unread: String::new() }
    }

    /// The next event; none when the stream ends.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, _)) = self.unread.split_once("\n\n") {
                let end = event.len() + 2;
                let mut read = Event::default();
                for line in event.lines() {
                    match line.split_once(": ") {
                        Some(("event", kind)) => kind.clone_into(&mut read.kind),
                        Some(("id", id)) => id.clone_into(&mut read.id),
                        Some(("data", data)) => read.data = serde_json::from_str(data).unwrap(),
                        _ => {}
                    }
                }
                self.unread.drain(..end);
                if !read.kind.is_empty() {
                    return Some(read);
                }
            } else {
                let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("an event");
                self.unread.push_str(std::str::from_utf8(&chunk.unwrap()?).unwrap());
            }
        }
    }

    pub(super) async fn until(&mut self, mut find: impl FnMut(&Value) -> bool) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            assert_eq!(event.kind, "sync", "{event:?}");
            assert_eq!(event.id, event.data["next_batch"], "{event:?}");
            if find(&event.data) {
                return event;
            }
        }
    }
}

/// A WebSocket.
pub(super) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn try_open(
        server: &Server,
        client: &Client,
        since: Option<&str>,
    ) -> Result<Self, Error> {
        let token = client.token.as_deref().unwrap();
        let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
        let url = server.url().replacen("http", "ws", 1);
        let url = format!("{url}{BASE}/websocket?access_token={token}{since}");
        Ok(Self(connect_async(url).await?.0))
    }

    pub(super) async fn open(server: &Server, client: &Client, since: Option<&str>) -> Self {
        Self::try_open(server, client, since).await.expect("a WebSocket")
    }

    pub(super) async fn until(&mut self, mut find: impl FnMut(&Value) -> bool) -> Value {
        loop {
            let message = timeout(PATIENCE, self.0.next()).await.expect("a message");
            if let Message::Text(text) = message.expect("an open socket").unwrap() {
                let response = serde_json::from_str(&text).unwrap();
                if find(&response) {
                    return response;
                }
            }
        }
    }

    pub(super) async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// With which status and reason the server closes it.
    async fn closed(&mut self) -> (u16, String) {
        loop {
            let message = timeout(PATIENCE, self.0.next()).await.expect("it is closed");
            if let Message::Close(frame) = message.expect("a farewell").unwrap() {
                let frame = frame.expect("a reason");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }
}

fn has(room: &str, event: &str) -> impl Fn(&Value) -> bool {
    move |response| timeline(response, room).iter().any(|found| found["event_id"] == event)
}

#[tokio::test]
async fn events_bring_what_happens_and_go_on_from_the_last_one_seen() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut events = Events::open(&server, &bob, None).await;
    let first = events.next().await.unwrap();
    assert!(first.data["rooms"]["join"][&room]["state"].is_object(), "{first:?}");
    let hello = alice.say(&room, "hello").await;
    let seen = events.until(has(&room, &hello)).await;
    note(&alice, &bob, 1).await;
    events.until(|response| notes(response) == [1]).await;
    drop(events);

    // The message came, and the client did not say that it has it.
    let again = alice.say(&room, "again").await;
    let mut events = Events::open(&server, &bob, Some(&seen.id)).await;
    let mut messages = Vec::new();
    let last = events
        .until(|response| {
            messages.extend(notes(response));
            assert!(!has(&room, &hello)(response), "it was seen: {response:#}");
            has(&room, &again)(response)
        })
        .await;
    assert_eq!(messages, [1]);
    bob.post(format!("{BASE}/acknowledge").as_str(), json!({ "ack": last.id })).await.ok();
    assert_eq!(notes(&bob.sync().now().await), Vec::<Value>::new());
}

#[tokio::test]
async fn a_socket_brings_what_happens_and_takes_acknowledgements() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut socket = Socket::open(&server, &bob, None).await;
    let before = socket.until(|_| true).await;
    note(&alice, &bob, 1).await;
    socket.until(|response| notes(response) == [1]).await;
    note(&alice, &bob, 2).await;
    // What was sent is not sent again while the socket is open.
    let second = socket.until(|response| notes(response) == [2]).await;
    let hello = alice.say(&room, "hello").await;
    let third = socket.until(has(&room, &hello)).await;
    let mut lost = Socket::open(&server, &bob, Some(&text(&before, "/next_batch"))).await;
    assert_eq!(notes(&lost.until(|response| !notes(response).is_empty()).await), [1, 2]);

    socket.say(&json!({ "ack": second["next_batch"] }).to_string()).await;
    socket.say(&json!({ "ack": third["next_batch"] }).to_string()).await;
    complement_tests::wait_until("the messages are gone", async || {
        notes(&bob.sync().now().await).is_empty().then_some(())
    })
    .await;
}

/// Nothing counts as delivered before the client says so.
#[tokio::test]
async fn senders_hear_of_deliveries_when_they_are_acknowledged() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut hers = alice.sync();
    hers.now().await;
    let mut socket = Socket::open(&server, &bob, None).await;
    let hello = alice.say(&room, "hello").await;
    let with_it = socket.until(has(&room, &hello)).await;
    let mut seen = String::new();
    hers.until(|response| {
        seen.push_str(&response.to_string());
        has(&room, &hello)(response).then_some(())
    })
    .await;
    assert!(!seen.contains("dev.myelin.delivered"), "{seen}");
    socket.say(&json!({ "ack": with_it["next_batch"] }).to_string()).await;
    hers.until(|response| {
        let receipt = complement_tests::ephemeral(response, &room, "m.receipt")?;
        receipt[&hello]["dev.myelin.delivered"].get(&bob.user_id).map(drop)
    })
    .await;
}

#[tokio::test]
async fn what_is_no_acknowledgement_ends_the_socket() {
    let server = server();
    let bob = server.register("bob").await;
    for (frame, status) in [
        (Message::text("hello"), 1008),
        (Message::text(r#"{"ack":"s2_1"}"#), 1008),
        (Message::text(r#"{"ack":"s2_99999999999_1"}"#), 1008),
        (Message::binary(vec![1, 2, 3]), 1003),
    ] {
        let mut socket = Socket::open(&server, &bob, None).await;
        socket.0.send(frame.clone()).await.unwrap();
        assert_eq!(socket.closed().await.0, status, "{frame}");
    }
    let mut socket = Socket::open(&server, &bob, None).await;
    socket.until(|_| true).await;
    // Longer than any token. It may be gone before all of it is sent.
    socket.0.send(Message::text("x".repeat(100_000))).await.ok();
    let rest = timeout(PATIENCE, async { while let Some(Ok(_)) = socket.0.next().await {} });
    rest.await.expect("it ends");
    let answer = bob.post(format!("{BASE}/acknowledge").as_str(), json!({ "ack": "x" })).await;
    answer.fails(400, "M_INVALID_PARAM");
    bob.get(format!("{BASE}/websocket").as_str()).await.fails(400, "M_UNKNOWN");
}

#[tokio::test]
async fn streams_end_with_the_login() {
    let server = server();
    let bob = server.register("bob").await;
    let other = bob.log_in_again().await;
    let mut socket = Socket::open(&server, &bob, None).await;
    let mut events = Events::open(&server, &bob, None).await;
    socket.until(|_| true).await;
    events.next().await.unwrap();
    bob.post("logout", json!({})).await.ok();
    assert_eq!(socket.closed().await, (3000, "M_UNKNOWN_TOKEN".to_owned()));
    let mut last = events.next().await;
    while last.as_ref().is_some_and(|event| event.kind == "sync") {
        last = events.next().await;
    }
    let last = last.expect("a farewell");
    assert_eq!((&*last.kind, &last.data["errcode"]), ("error", &json!("M_UNKNOWN_TOKEN")));
    assert!(events.next().await.is_none());
    // Another login of the same user goes on.
    Socket::open(&server, &other, None).await.until(|_| true).await;
}

#[tokio::test]
async fn a_user_has_few_of_them() {
    let config = Config::default().with("sync.streams", true);
    let server = Server::start(&config.with("sync.max_streams_per_user", 2));
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let first = Socket::open(&server, &bob, None).await;
    let _second = Events::open(&server, &bob, None).await;
    let Err(Error::Http(refusal)) = Socket::try_open(&server, &bob, None).await else {
        panic!("a third one")
    };
    assert_eq!(refusal.status(), 429);
    bob.get(format!("{BASE}/events").as_str()).await.fails(429, "M_LIMIT_EXCEEDED");
    Socket::open(&server, &alice, None).await;
    drop(first);
    complement_tests::wait_until("there is room for another", async || {
        Socket::try_open(&server, &bob, None).await.ok()
    })
    .await;
}

/// A server that stops says so, and goes.
#[tokio::test]
async fn a_server_that_stops_closes_them() {
    let server = server();
    let bob = server.register("bob").await;
    let mut socket = Socket::open(&server, &bob, None).await;
    let mut events = Events::open(&server, &bob, None).await;
    socket.until(|_| true).await;
    events.next().await.unwrap();
    let (exit, status, end) = tokio::join!(server.terminate(), socket.closed(), events.next());
    assert_eq!(exit.status.code(), Some(0), "{}", exit.output);
    assert!(!exit.output.contains("connections were cut"), "{}", exit.output);
    assert_eq!(status.0, 1001);
    assert!(end.is_none(), "{end:?}");
}

#[tokio::test]
async fn without_the_switch_there_are_none() {
    let server = Server::start(&Config::default());
    let bob = server.register("bob").await;
    let flag = |versions: &Value| versions["unstable_features"]["dev.myelin.sync_stream"].clone();
    let versions = bob.get("/_matrix/client/versions").await.ok();
    assert_eq!(flag(&versions), false);
    bob.get(format!("{BASE}/events").as_str()).await.fails(404, "M_UNRECOGNIZED");
    let server = self::server();
    assert_eq!(flag(&server.anonymous().get("/_matrix/client/versions").await.ok()), true);
    let anonymous = server.anonymous().get(format!("{BASE}/events").as_str()).await;
    anonymous.fails(401, "M_MISSING_TOKEN");
}
