//! What was acknowledged survives: restarts in good order, and SIGKILL in the middle.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic; a missing field of JSON is null, and compared as such"
)]

use std::time::Duration;

use complement_tests::{Client, Config, Server, must_match, text, timeline};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Everything that an account is outlives the process.
#[tokio::test]
async fn accounts_survive_a_restart() {
    for kill in [false, true] {
        let server = Server::start(&Config::default());
        let alice = server.register("alice").await;
        let second = alice.log_in_again().await;
        alice
            .put(["profile", &alice.user_id, "displayname"], json!({ "displayname": "A" }))
            .await
            .ok();
        let data = ["user", alice.user_id.as_str(), "account_data", "org.example.x"];
        alice.put(data, json!({ "x": 1 })).await.ok();
        let filter =
            alice.post(["user", &alice.user_id, "filter"], json!({ "room": {} })).await.ok();
        let challenge = alice.delete(["devices", &second.device_id]).await.has_status(401);

        if kill {
            server.kill();
        } else {
            assert_eq!(server.terminate().await.status.code(), Some(0));
        }
        server.start_again();

        must_match(
            &alice.get("account/whoami").await.ok(),
            &json!({ "user_id": alice.user_id, "device_id": alice.device_id }),
        );
        assert_eq!(
            alice.get(["profile", &alice.user_id, "displayname"]).await.ok()["displayname"],
            "A"
        );
        assert_eq!(alice.get(data).await.ok(), json!({ "x": 1 }));
        alice.get(["user", &alice.user_id, "filter", &text(&filter, "/filter_id")]).await.ok();
        // Also a user-interactive session that was open when the server went down.
        let auth = json!({ "auth": alice.password_proof(&challenge) });
        alice.delete(["devices", &second.device_id]).json(&auth).await.ok();
        second.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
        alice.log_in_again().await;
    }
}

/// The server is killed again and again while two people talk: each message that
/// was acknowledged is there once, the sync goes on from its old token, a
/// repeated transaction stays one event.
#[tokio::test]
async fn a_conversation_survives_sigkill() {
    let server = Server::start(&Config::default());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    // More than the usual ten events of a timeline pass between two syncs.
    let mut sync = bob.sync().with_filter(r#"{"room":{"timeline":{"limit":100}}}"#);
    sync.now().await;
    let mut sent = Vec::new();
    let mut seen = Vec::new();
    for round in 0..5 {
        for number in 0..5 {
            sent.push(alice.say(&room, &format!("{round}.{number}")).await);
        }
        if round % 2 == 0 {
            seen.extend(ids(&sync.now().await, &room));
        }
        let transaction = format!("round-{round}");
        let path = ["rooms", room.as_str(), "send", "m.room.message", &transaction];
        let body = json!({ "msgtype": "m.text", "body": "again" });
        let event_id = text(&alice.put(path, body.clone()).await.ok(), "/event_id");
        server.kill_and_start_again();
        assert_eq!(text(&alice.put(path, body).await.ok(), "/event_id"), event_id);
        sent.push(event_id);
    }
    while seen.len() < sent.len() {
        let more = ids(&sync.now().await, &room);
        assert!(!more.is_empty(), "{} of {} were seen", seen.len(), sent.len());
        seen.extend(more);
    }
    assert_eq!(seen, sent);
    assert!(ids(&sync.now().await, &room).is_empty());
    assert_eq!(bob.membership(&room, &alice.user_id).await, "join");
}

/// Killed in the middle of many requests: what was answered is there, and what
/// was not is there once or not at all.
#[tokio::test]
async fn what_was_acknowledged_under_load_is_there_after_sigkill() {
    let server = Server::start(&Config::default());
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    for round in 0..3 {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                tokio::spawn(write_until_cut_off(alice.clone(), room.clone(), round, writer))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(400)).await;
        server.kill();
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        assert!(!acknowledged.is_empty(), "nothing was written");
        server.start_again();
        for (event_id, body) in acknowledged {
            let event = alice.get(["rooms", &room, "event", &event_id]).await.ok();
            assert_eq!(event["content"]["body"], body);
        }
        let mut bodies = all_bodies(&alice, &room).await;
        let total = bodies.len();
        bodies.sort();
        bodies.dedup();
        assert_eq!(bodies.len(), total, "something is there twice");
    }
}

/// Bodies of a hundred megabytes and other junk are refused, and leave nothing behind in memory.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#common-error-codes>
#[tokio::test]
async fn junk_does_not_grow_the_server() {
    let server = Server::start(&Config::default().with("log.level", "warn"));
    let alice = server.register("alice").await;
    let token = alice.token.clone().unwrap();
    let junk = async || {
        let length = pour(&server, &token, "content-length: 104857600").await;
        assert!(length.starts_with("HTTP/1.1 413") && length.contains("M_TOO_LARGE"), "{length}");
        // Without a declared length the server must count.
        let chunked = pour(&server, &token, "transfer-encoding: chunked").await;
        assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
        for _ in 0..50 {
            let deep = "[".repeat(100_000);
            let answer = alice.request(reqwest::Method::POST, "createRoom").raw(deep).await;
            assert_eq!(answer.status, 400, "{answer}");
            alice.with_token(&"x".repeat(4_000)).get("account/whoami").await.has_status(401);
            alice.get(["profile", &"y".repeat(3_000)]).await;
        }
    };
    junk().await;
    let before = server.resident_kib();
    for _ in 0..5 {
        junk().await;
    }
    let after = server.resident_kib();
    assert!(after < before + 16 * 1024, "memory grew from {before} KiB to {after} KiB");
    alice.create_room(json!({})).await;
}

/// Clients that stop in the middle of a request, or say nothing, cost nothing.
#[tokio::test]
async fn half_requests_do_not_stop_the_server() {
    let server = Server::start(&Config::default());
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut half = Vec::new();
    for number in 0..100 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let part =
            ["", "GET", "POST /_matrix/client/v3/login HTTP/1.1\r\ncontent-length: 99\r\n\r\n{"];
        stream.write_all(part[number % 3].as_bytes()).await.unwrap();
        half.push(stream);
    }
    server.register("alice").await;
    drop(half);
    server.register("bob").await;
}

/// A paused server is a slow one: requests wait and are then answered.
#[tokio::test]
async fn a_paused_server_goes_on() {
    let server = Server::start(&Config::default());
    let alice = server.register("alice").await;
    server.pause();
    let request = tokio::spawn(alice.get("account/whoami").attempt());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!request.is_finished());
    server.resume();
    request.await.unwrap().unwrap().ok();
}

async fn write_until_cut_off(
    alice: Client,
    room: String,
    round: u32,
    writer: u32,
) -> Vec<(String, String)> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let body = format!("{round}/{writer}/{number}");
        let transaction = format!("{round}-{writer}-{number}");
        let path = ["rooms", room.as_str(), "send", "m.room.message", &transaction];
        let content = json!({ "msgtype": "m.text", "body": body });
        match alice.put(path, content).attempt().await {
            Ok(answer) => acknowledged.push((text(&answer.ok(), "/event_id"), body)),
            Err(_) => break,
        }
    }
    acknowledged
}

async fn all_bodies(user: &Client, room: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let mut request =
            user.get(["rooms", room, "messages"]).query("dir", "b").query("limit", "100");
        if let Some(from) = &from {
            request = request.query("from", from);
        }
        let page = request.await.ok();
        let events = page["chunk"].as_array().unwrap();
        found.extend(
            events.iter().filter_map(|event| event["content"]["body"].as_str()).map(str::to_owned),
        );
        match page["end"].as_str() {
            Some(end) if !events.is_empty() => from = Some(end.to_owned()),
            _ => return found,
        }
    }
}

fn ids(response: &serde_json::Value, room: &str) -> Vec<String> {
    assert_ne!(response["rooms"]["join"][room]["timeline"]["limited"], true, "{response}");
    timeline(response, room).iter().map(|event| text(event, "/event_id")).collect()
}

/// Sends a body of 100 MB, until the server has enough; returns its answer.
async fn pour(server: &Server, token: &str, framing: &str) -> String {
    let address = server.url().trim_start_matches("http://");
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let head = format!(
        "POST /_matrix/client/v3/createRoom HTTP/1.1\r\nhost: complement.test\r\n\
         authorization: Bearer {token}\r\ncontent-type: application/json\r\n{framing}\r\n\r\n"
    );
    let chunked = framing.contains("chunked");
    let pouring = tokio::spawn(async move {
        let data = vec![b' '; 65_536];
        write.write_all(head.as_bytes()).await?;
        for _ in 0..1_600 {
            if chunked {
                write.write_all(b"10000\r\n").await?;
            }
            write.write_all(&data).await?;
            if chunked {
                write.write_all(b"\r\n").await?;
            }
        }
        // Kept open, so that the answer can still be read.
        std::io::Result::Ok(write)
    });
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // The server may close the connection with what it did not read still on its way.
    while let Ok(length @ 1..) = read.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..length]);
        if String::from_utf8_lossy(&answer).contains('}') {
            break;
        }
    }
    pouring.abort();
    String::from_utf8_lossy(&answer).into_owned()
}
