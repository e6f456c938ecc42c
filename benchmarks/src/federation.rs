//! What other servers cost: events a second that come in, joining a large room, catching up, and
//! servers that are gone.
//!
//! The other server is driven by hand, in this process, on the same machine; what it needs is made
//! beforehand.

#![allow(clippy::unwrap_used, reason = "what is missing is of this process's own making")]

mod large;

use std::path::Path;
use std::time::Duration;

use complement_tests::peer::{Pdu, Peer, Room, trusting};
use complement_tests::{Client, Config, Server};
use serde_json::json;
use tokio::time::Instant;

use large::Large;

/// How many events a transaction has.
const IN_ONE: usize = 50;
const VERSION: &str = "11";

/// All of it, each part with so many events or members, and a table of what it took.
pub(crate) async fn print(myelin: &Path, count: usize) {
    complement_tests::use_binary(myelin);
    inbound(1, count).await;
    inbound(50, count).await;
    join(count, false).await;
    join(count, true).await;
    catch_up(count).await;
    dead_destinations(0).await;
    dead_destinations(1_000).await;
}

fn server() -> Server {
    Server::start(&trusting(Config::default().with("log.level", "warn")))
}

/// What the server takes, from now on.
struct Meter<'a> {
    server: &'a Server,
    began: Instant,
    processor: Duration,
    memory_kib: u64,
}

impl<'a> Meter<'a> {
    fn start(server: &'a Server) -> Self {
        let (processor, memory_kib) = (server.processor_time(), server.resident_kib());
        Self { server, began: Instant::now(), processor, memory_kib }
    }

    fn tell(&self, what: &str, count: usize) {
        let took = self.began.elapsed().as_secs_f64();
        let processor = self.server.processor_time().saturating_sub(self.processor).as_secs_f64();
        println!(
            "{what:<44} {took:>8.2} s {:>9.0} /s   CPU {processor:>7.2} s {:>8.3} ms each   \
             memory {} MiB before, at most {} MiB",
            count as f64 / took,
            processor * 1000.0 / count as f64,
            self.memory_kib / 1024,
            self.server.peak_kib() / 1024
        );
    }
}

/// Waits until a client sees the event.
async fn arrives(alice: &Client, room: &str, event: &str) {
    let patience = Instant::now() + Duration::from_mins(10);
    while alice.get(["rooms", room, "event", event]).await.status != 200 {
        assert!(Instant::now() < patience, "{event} never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Messages of one other server in so many rooms, a transaction at a time.
async fn inbound(rooms: usize, count: usize) {
    let (server, peer) = (server(), Peer::start().await);
    let alice = server.register("alice").await;
    let eve = peer.user("eve");
    let mut joined = Vec::with_capacity(rooms);
    for _ in 0..rooms {
        let body = json!({ "preset": "public_chat", "room_version": VERSION });
        let id = alice.create_room(body).await;
        joined.push(Room::join(&peer, &server, &id, &eve).await);
    }
    let mut pdus: Vec<Pdu> = Vec::with_capacity(count);
    for number in 0..count {
        let content = json!({ "msgtype": "m.text", "body": format!("message {number}") });
        let room = &joined[number % rooms];
        pdus.push(room.send(&peer, &eve, "m.room.message", None, content));
    }
    let meter = Meter::start(&server);
    for part in pdus.chunks(IN_ONE) {
        peer.sends(&server, &part.iter().collect::<Vec<_>>()).await;
    }
    for room in &joined {
        arrives(&alice, &room.id, &room.last()).await;
    }
    meter.tell(&format!("{count} messages come in, {rooms} room(s)"), count);
}

async fn join_room(alice: &Client, peer: &Peer, room: &str) {
    let path = format!("join/{room}?via={}", peer.name());
    alice.post(path, json!({})).await.ok();
}

/// A room with so many members, with all of them at once or with most of them afterwards.
async fn join(count: usize, faster: bool) {
    let config =
        Config::default().with("log.level", "warn").with("federation.faster_joins", faster);
    let (server, peer) = (Server::start(&trusting(config)), Peer::start().await);
    let alice = server.register("alice").await;
    let members: Vec<String> = (0..count).map(|number| peer.user(&format!("m{number}"))).collect();
    let large = Large::new(&peer, &members, 0).served(&peer);
    let meter = Meter::start(&server);
    join_room(&alice, &peer, &large.id).await;
    let how = if faster { "at once" } else { "with all of them" };
    meter.tell(&format!("join a room of {count} members, {how}"), count);
    // Whoever asks for the members waits for them, for a while.
    let (patience, path) =
        (Instant::now() + Duration::from_mins(10), format!("rooms/{}/members", large.id));
    loop {
        let answer = alice.get(path.clone()).await;
        if answer.status == 200 {
            assert_eq!(answer.ok()["chunk"].as_array().unwrap().len(), count + 2);
            break;
        }
        assert!(Instant::now() < patience, "the members never came");
    }
    meter.tell(&format!("all {count} members are there, {how}"), count);
}

/// This server was away: it is sent the last event, fetches what lies closest before it, and the rest
/// when somebody reads back.
async fn catch_up(count: usize) {
    let (server, peer) = (server(), Peer::start().await);
    let alice = server.register("alice").await;
    let mut before = Large::new(&peer, &[], count);
    // It joined before the first of the messages.
    let messages = std::mem::take(&mut before.messages);
    let id = before.id.clone();
    let joined = before.served(&peer);
    join_room(&alice, &peer, &id).await;
    let missed = Large {
        id: id.clone(),
        state: joined.state.clone(),
        rules: joined.rules.clone(),
        messages,
        eve: joined.eve.clone(),
        eve_joined: joined.eve_joined.clone(),
    };
    let first = missed.messages[0].id.clone();
    let last = missed.messages.last().unwrap().id.clone();
    let missed = missed.served(&peer);
    let newest = missed.after(&peer, &[&last], count + 5);
    let meter = Meter::start(&server);
    peer.sends(&server, &[&newest]).await;
    arrives(&alice, &id, &newest.id).await;
    meter.tell(&format!("the newest of {count} missed events is there"), 1);
    let mut from = String::new();
    while alice.get(["rooms", &id, "event", &first]).await.status != 200 {
        let path = format!("rooms/{id}/messages?dir=b&limit=100{from}");
        let page = alice.get(path).await.ok();
        from = page["end"].as_str().map(|end| format!("&from={end}")).unwrap_or_default();
    }
    meter.tell(&format!("all {count} are there, reading back"), count);
}

/// What messages cost in a room with so many servers that are gone.
async fn dead_destinations(count: usize) {
    let (server, peer) = (server(), Peer::start().await);
    let alice = server.register("alice").await;
    // Addresses at which nobody listens.
    let members: Vec<String> = (0..count)
        .map(|number| format!("@m:127.1.{}.{}:9", number / 250, number % 250 + 1))
        .collect();
    let large = Large::new(&peer, &members, 0).served(&peer);
    join_room(&alice, &peer, &large.id).await;
    // The first failures are over.
    alice.say(&large.id, "first").await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let meter = Meter::start(&server);
    for number in 0..200 {
        alice.say(&large.id, &format!("message {number}")).await;
    }
    peer.gets_pdu(|pdu| pdu["content"]["body"] == "message 199").await;
    meter.tell(&format!("send, {count} servers are gone"), 200);
    let meter = Meter::start(&server);
    tokio::time::sleep(Duration::from_mins(1)).await;
    meter.tell(&format!("a minute of nothing, {count} servers are gone"), 1);
}
