//! Sending messages.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#sending-events-to-a-room>

use std::future::IntoFuture as _;

use complement_tests::{Server, must_match, text};

use serde_json::json;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid>
#[tokio::test]
async fn a_message_reaches_the_others() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync = bob.sync();
    sync.now().await;
    let event_id = alice.say(&room, "Hello, Bob! 👋 \u{0}").await;
    let event = sync.until_event(&room, &event_id).await;
    must_match(
        &event,
        &json!({
            "type": "m.room.message", "sender": alice.user_id,
            "content": { "msgtype": "m.text", "body": "Hello, Bob! 👋 \u{0}" },
        }),
    );
    assert!(event["origin_server_ts"].as_u64().unwrap() > 1_600_000_000_000);
    for internal in ["auth_events", "prev_events", "hashes", "signatures", "depth"] {
        assert!(event[internal].is_null(), "{internal} is not for clients: {event}");
    }
}

/// The same transaction ID from the same device is the same event.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers>
#[tokio::test]
async fn a_repeated_transaction_is_one_event() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let body = json!({ "msgtype": "m.text", "body": "once" });
    let path = ["rooms", room.as_str(), "send", "m.room.message", "same"];
    let first = text(&alice.put(path, body.clone()).await.ok(), "/event_id");
    let second = text(&alice.put(path, body.clone()).await.ok(), "/event_id");
    assert_eq!(first, second);
    let (third, fourth) = tokio::join!(
        alice
            .put(["rooms", &room, "send", "m.room.message", "together"], body.clone())
            .into_future(),
        alice
            .put(["rooms", &room, "send", "m.room.message", "together"], body.clone())
            .into_future(),
    );
    assert_eq!(text(&third.ok(), "/event_id"), text(&fourth.ok(), "/event_id"));

    let messages = alice.get(["rooms", &room, "messages"]).query("dir", "b").await.ok();
    let sent = messages["chunk"].as_array().unwrap().iter();
    assert_eq!(sent.filter(|event| event["type"] == "m.room.message").count(), 2);
}

/// Transaction IDs belong to device, room and endpoint.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers>
#[tokio::test]
async fn a_transaction_id_is_the_devices_own() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let second = alice.log_in_again().await;
    let (room, other) = (alice.create_room(json!({})).await, alice.create_room(json!({})).await);
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let send = async |client: &complement_tests::Client, room: &str| {
        let path = ["rooms", room, "send", "m.room.message", "same"];
        text(&client.put(path, body.clone()).await.ok(), "/event_id")
    };
    let first = send(&alice, &room).await;
    assert_ne!(first, send(&second, &room).await);
    assert_ne!(first, send(&alice, &other).await);
}

/// The sending device finds its own transaction ID with the event; nobody else does.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#definition-clientevent>
#[tokio::test]
async fn the_sender_finds_its_transaction_id() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let (mut mine, mut theirs) = (alice.sync(), bob.sync());
    let path = ["rooms", room.as_str(), "send", "m.room.message", "my-own"];
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let event_id = text(&alice.put(path, body).await.ok(), "/event_id");
    let event = mine.until_event(&room, &event_id).await;
    assert_eq!(event["unsigned"]["transaction_id"], "my-own");
    let event = theirs.until_event(&room, &event_id).await;
    assert!(event["unsigned"]["transaction_id"].is_null(), "{event}");
}

/// Only those in the room send to it.
#[tokio::test]
async fn strangers_cannot_send() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let room = alice.create_room_with(&[]).await;
    let path = ["rooms", room.as_str(), "send", "m.room.message", "t"];
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    mallory.put(path, body.clone()).await.fails(403, "M_FORBIDDEN");
    server.anonymous().put(path, body.clone()).await.fails(401, "M_MISSING_TOKEN");
    let unknown = format!("!unknown:{}", alice.server_name());
    let answer = alice.put(["rooms", &unknown, "send", "m.room.message", "t"], body).await;
    assert!([403, 404].contains(&answer.status), "{answer}");
}

/// `events_default` and `events` of the power levels decide who may send what.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
#[tokio::test]
async fn a_message_needs_its_power_level() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({
            "preset": "public_chat",
            "power_level_content_override": { "events": { "org.example.announcement": 50 } },
        }))
        .await;
    bob.join(&room).await;
    bob.say(&room, "I may speak").await;
    let path = ["rooms", room.as_str(), "send", "org.example.announcement", "t"];
    bob.put(path, json!({ "text": "hear" })).await.fails(403, "M_FORBIDDEN");
    alice.send(&room, "org.example.announcement", json!({ "text": "hear" })).await;
}

/// An event is at most 65,536 bytes, whoever sends it.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = ["rooms", room.as_str(), "send", "m.room.message", "large"];
    let body = json!({ "msgtype": "m.text", "body": "x".repeat(66_000) });
    alice.put(path, body).await.fails(413, "M_TOO_LARGE");
    alice.say(&room, &"x".repeat(60_000)).await;
}

/// Canonical JSON has integers only, within ±2^53 − 1.
/// Spec: <https://spec.matrix.org/v1.19/appendices/#canonical-json>
#[tokio::test]
async fn numbers_outside_canonical_json_are_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    for number in ["1.5", "9007199254740992", "-9007199254740992", "1e400"] {
        let path = ["rooms", room.as_str(), "send", "org.example.number", number];
        let body = format!("{{\"number\":{number}}}");
        let answer = alice.request(reqwest::Method::PUT, path).raw(body).await;
        assert_eq!(answer.status, 400, "{answer}");
        assert!(["M_BAD_JSON", "M_NOT_JSON"].contains(&answer.errcode()), "{answer}");
    }
    alice.send(&room, "org.example.number", json!({ "number": 9_007_199_254_740_991_i64 })).await;
}

/// "If a client re-uses a transaction ID for the same endpoint after refreshing an access token, it
/// will be assumed to be a duplicate request"; so it is for a new login of the same device.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers>
#[tokio::test]
async fn a_transaction_id_outlives_its_token() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut login = alice.password_login();
    login["refresh_token"] = json!(true);
    let answer = alice.anonymous().post("login", login.clone()).await.ok();
    let first = alice.logged_in(&answer, "");
    let send = async |client: &complement_tests::Client| {
        let path = ["rooms", room.as_str(), "send", "m.room.message", "same"];
        let body = json!({ "msgtype": "m.text", "body": "once" });
        text(&client.put(path, body).await.ok(), "/event_id")
    };
    let once = send(&first).await;
    let body = json!({ "refresh_token": text(&answer, "/refresh_token") });
    let renewed = server.anonymous().post("refresh", body).await.ok();
    let second = first.with_token(&text(&renewed, "/access_token"));
    assert_eq!(send(&second).await, once);
    login["device_id"] = json!(first.device_id);
    let third = alice.logged_in(&alice.anonymous().post("login", login).await.ok(), "");
    assert_eq!(send(&third).await, once);
    assert_ne!(send(&alice).await, once, "another device");
}
