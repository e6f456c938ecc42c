//! Streams whose reader is slow: `docs/streams.md`.

use std::collections::BTreeSet;

use complement_tests::{Client, timeline};
use serde_json::{Value, json};

use super::streams::{Events, Socket, note, notes, server};

const NOTES: u64 = 250;
const MESSAGES: usize = 30;

/// Far more than fits between server and client while nobody reads: messages of 2.4 MB in all, in a
/// room, and more messages to the device than one response has.
async fn talk(alice: &Client, bob: &Client, room: &str) -> BTreeSet<String> {
    let mut said = BTreeSet::new();
    for number in 0..NOTES {
        note(alice, bob, number).await;
        if said.len() < MESSAGES {
            said.insert(alice.say(room, &"x".repeat(40_000)).await);
        }
    }
    said
}

/// What a reader has got of a talk.
#[derive(Default)]
struct Got {
    notes: Vec<Value>,
    events: BTreeSet<String>,
    gaps: Vec<String>,
}

impl Got {
    /// Takes a response; whether that is all there is to come.
    fn take(&mut self, response: &Value, room: &str) -> bool {
        self.notes.extend(notes(response));
        for event in timeline(response, room) {
            let new = self.events.insert(event["event_id"].as_str().unwrap().to_owned());
            assert!(new, "it came twice: {event}");
        }
        let joined = &response["rooms"]["join"][room]["timeline"];
        if joined["limited"] == true {
            self.gaps.push(joined["prev_batch"].as_str().unwrap().to_owned());
        }
        self.notes.last() == Some(&json!(NOTES - 1))
    }

    /// Everything came, in order and once, or is where a gap says that something is missing.
    async fn check(mut self, bob: &Client, room: &str, said: &BTreeSet<String>) {
        let all: Vec<Value> = (0..NOTES).map(|number| json!(number)).collect();
        assert_eq!(self.notes, all);
        for gap in &self.gaps {
            let page = bob.get(["rooms", room, "messages"]).query("dir", "b");
            let page = page.query("from", gap).query("limit", "100").await.ok();
            let events = page["chunk"].as_array().cloned().unwrap_or_default();
            let ids = events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned());
            self.events.extend(ids);
        }
        let lost: Vec<_> = said.difference(&self.events).collect();
        assert!(lost.is_empty(), "lost without a gap: {lost:?}");
    }
}

#[tokio::test]
async fn a_socket_that_is_read_late_brings_everything() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut socket = Socket::open(&server, &bob, None).await;
    socket.until(|_| true).await;
    let said = talk(&alice, &bob, &room).await;
    let mut got = Got::default();
    let last = socket.until(|response| got.take(response, &room)).await;
    // What was sent is there until it is said to have come.
    let again = Socket::open(&server, &bob, None).await.until(|_| true).await;
    assert_eq!(notes(&again).first(), Some(&json!(0)));
    socket.say(&json!({ "ack": last["next_batch"] }).to_string()).await;
    got.check(&bob, &room, &said).await;
}

#[tokio::test]
async fn events_that_are_read_late_bring_everything() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut events = Events::open(&server, &bob, None).await;
    events.next().await.unwrap();
    let said = talk(&alice, &bob, &room).await;
    let mut got = Got::default();
    events.until(|response| got.take(response, &room)).await;
    got.check(&bob, &room, &said).await;
}

/// How many readers of each kind take nothing, and how much is said meanwhile, in bytes.
const READERS: usize = 10;
const SAID: usize = 200 * 60_000;

async fn fill(alice: &Client, room: &str) {
    for _ in 0..200 {
        alice.say(room, &"x".repeat(SAID / 200)).await;
    }
}

/// However much is said in a room of readers who take nothing: each of them costs the memory of a
/// response, and not of all that they have not read.
#[tokio::test]
async fn readers_who_take_nothing_cost_a_response_each() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob, &carol]).await;
    // What the server remembers of any messages, it has then.
    fill(&alice, &room).await;
    let before = server.resident_kib();
    let (mut sockets, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..READERS {
        let mut socket = Socket::open(&server, &bob, None).await;
        socket.until(|_| true).await;
        sockets.push(socket);
        let mut events = Events::open(&server, &carol, None).await;
        events.next().await.unwrap();
        streams.push(events);
    }
    let opened = server.resident_kib();
    fill(&alice, &room).await;
    let stuck = server.resident_kib();
    fill(&alice, &room).await;
    let after = server.resident_kib();
    let unread_kib = 2 * 2 * READERS * SAID / 1024;
    println!(
        "KiB: {before} without readers, {opened} with {} of them, {stuck} when they had half, and \
         {after} when they had all of {unread_kib} unread",
        2 * READERS,
    );
    let grown = usize::try_from(after.saturating_sub(opened)).unwrap();
    assert!(grown < unread_kib / 5, "{grown} KiB more with {unread_kib} KiB unread");
}
