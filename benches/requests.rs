//! What a request costs without the connection: syncs put together, a message sent, and an event of
//! another server taken in. RocksDB below, on a disk; commits are flushed.
//!
//! ```sh
//! cargo bench --features bench --bench requests
//! ```

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::Method;
use myelin::request_bench::{Bench, Error, Servers};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Rooms of the user who syncs, and messages in each.
const ROOMS: usize = 20;
const MESSAGES: usize = 20;

/// A user of a server.
struct User<'a> {
    server: &'a Bench,
    token: String,
}

impl<'a> User<'a> {
    async fn new(server: &'a Bench, name: &str) -> Result<Self, Error> {
        Ok(Self { server, token: server.register(name).await? })
    }

    async fn get(&self, path: &str) -> Result<Value, Error> {
        let answer = self.server.call(Method::GET, path, &self.token, None).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// The answer, not looked at.
    async fn sync(&self, query: &str) -> usize {
        let path = format!("sync?set_presence=offline{query}");
        let answer = self.server.call(Method::GET, &path, &self.token, None).await;
        answer.expect("a sync").len()
    }

    async fn room(&self) -> Result<String, Error> {
        let body = json!({ "preset": "public_chat" });
        let answer = self.server.call(Method::POST, "createRoom", &self.token, Some(&body)).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        Ok(answer.get("room_id").and_then(Value::as_str).ok_or("no room")?.to_owned())
    }

    /// Says something; the event's ID.
    async fn say(&self, room: &str, number: usize) -> Result<String, Error> {
        let body = json!({ "msgtype": "m.text", "body": format!("message {number}") });
        let path = format!("rooms/{room}/send/m.room.message/{number}");
        let answer = self.server.call(Method::PUT, &path, &self.token, Some(&body)).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        Ok(answer.get("event_id").and_then(Value::as_str).ok_or("no event")?.to_owned())
    }

    async fn now(&self) -> Result<String, Error> {
        let filter = "%7B%22room%22%3A%7B%22rooms%22%3A%5B%5D%7D%7D";
        let answer = self.get(&format!("sync?filter={filter}")).await?;
        Ok(answer.get("next_batch").and_then(Value::as_str).ok_or("no token")?.to_owned())
    }
}

fn requests(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let servers = Servers::default();
    let start = |name: &'static str| {
        let directory = directory.path().join(name);
        runtime.block_on(Bench::start(&servers, name, &directory)).expect("a server")
    };
    let (here, there) = (start("here.example"), start("there.example"));

    let (alice, bob, room) = runtime
        .block_on(async {
            let (alice, bob) = (User::new(&here, "alice").await?, User::new(&there, "bob").await?);
            let mut room = String::new();
            for _ in 0..ROOMS {
                room = alice.room().await?;
                for number in 0..MESSAGES {
                    alice.say(&room, number).await?;
                }
            }
            let join = format!("join/{room}?via=here.example");
            there.call(Method::POST, &join, &bob.token, Some(&json!({}))).await?;
            Ok::<_, Error>((alice, bob, room))
        })
        .expect("a world");

    criterion.bench_function(
        &format!("initial sync, {ROOMS} rooms × {MESSAGES} events"),
        |bencher| {
            let filter = "%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A20%7D%7D%7D";
            bencher.iter(|| runtime.block_on(alice.sync(black_box(&format!("&filter={filter}")))));
        },
    );
    criterion.bench_function(&format!("incremental sync without news, {ROOMS} rooms"), |bencher| {
        let query = format!("&since={}", runtime.block_on(alice.now()).expect("a token"));
        bencher.iter(|| runtime.block_on(alice.sync(black_box(&query))));
    });
    let mut number = MESSAGES;
    criterion.bench_function("send a message", |bencher| {
        bencher.iter(|| {
            number += 1;
            runtime.block_on(alice.say(&room, number)).expect("an event")
        });
    });
    criterion.bench_function("incremental sync of one message", |bencher| {
        let since = || {
            let query = format!("&since={}", runtime.block_on(alice.now()).expect("a token"));
            number += 1;
            runtime.block_on(alice.say(&room, number)).expect("an event");
            query
        };
        let sync = |query: String| runtime.block_on(alice.sync(black_box(&query)));
        bencher.iter_batched(since, sync, BatchSize::PerIteration);
    });

    // What alice says from here on reaches bob's server by hand.
    there.disconnect();
    let told = runtime.block_on(alice.server.taker(&room)).expect("the room");
    let taker = runtime.block_on(bob.server.taker(&room)).expect("the room");
    criterion.bench_function("take in an event of another server", |bencher| {
        let next = || {
            number += 1;
            runtime.block_on(async {
                let id = alice.say(&room, number).await?;
                alice.server.event(&told, &id).await
            })
        };
        let take_in = |event: Result<_, Error>| {
            let event = event.expect("an event");
            runtime.block_on(bob.server.take_in(&taker, &event)).expect("accepted");
        };
        bencher.iter_batched(next, take_in, BatchSize::PerIteration);
    });
}

criterion_group!(benches, requests);
criterion_main!(benches);
