//! Messages from device to device.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging>

use complement_tests::{Client, Server, Sync};
use serde_json::{Value, json};

async fn send(from: &Client, transaction: &str, messages: Value) {
    let path = ["sendToDevice", "org.example.note", transaction];
    from.put(path, json!({ "messages": messages })).await.ok();
}

fn received(response: &Value) -> Vec<Value> {
    let events = response["to_device"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| event["content"]["n"].clone()).collect()
}

async fn tokens(sync: &mut Sync) -> Vec<Value> {
    received(&sync.now().await)
}

/// Messages come in their order and stay until the token that came with them is used.
#[tokio::test]
async fn messages_are_kept_until_their_token_comes_back() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut sync = bob.sync();
    sync.now().await;
    let before = sync.token().unwrap().to_owned();
    for number in 0..3 {
        let message = json!({ &*bob.user_id: { &*bob.device_id: { "n": number } } });
        send(&alice, &number.to_string(), message).await;
    }
    let response = sync.now().await;
    let event = &response["to_device"]["events"][0];
    assert_eq!(event["sender"], *alice.user_id);
    assert_eq!(event["type"], "org.example.note");
    assert_eq!(received(&response), [0, 1, 2]);
    // The answer was lost: the same token brings the same.
    assert_eq!(tokens(&mut bob.sync().from(&before)).await, [0, 1, 2]);
    assert_eq!(tokens(&mut sync).await, Vec::<Value>::new());
    // Now they are gone for good, also from the beginning.
    assert_eq!(tokens(&mut bob.sync()).await, Vec::<Value>::new());
}

/// `*` is every device of the user, and a long-poll wakes for it.
#[tokio::test]
async fn all_devices_of_a_user_are_reached_by_a_star() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let second = bob.log_in_again().await;
    let (mut first_sync, mut second_sync) = (bob.sync(), second.sync());
    first_sync.now().await;
    second_sync.now().await;
    let waiting = tokio::spawn(async move {
        first_sync.until(|response| Some(received(response)).filter(|n| !n.is_empty())).await
    });
    send(&alice, "t", json!({ &*bob.user_id: { "*": { "n": "all" } } })).await;
    assert_eq!(waiting.await.unwrap(), ["all"]);
    assert_eq!(tokens(&mut second_sync).await, ["all"]);
}

/// The same transaction ID again is the same request; of another device it is another.
#[tokio::test]
async fn a_repeated_transaction_sends_nothing_more() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let elsewhere = alice.log_in_again().await;
    let message = json!({ &*bob.user_id: { "*": { "n": 1 } } });
    for client in [&alice, &alice, &elsewhere] {
        send(client, "same", message.clone()).await;
    }
    assert_eq!(tokens(&mut bob.sync()).await, [1, 1]);
}

/// More than one response takes come with the next ones, each once.
#[tokio::test]
async fn many_messages_come_in_several_responses() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut sync = bob.sync();
    sync.now().await;
    for number in 0..130 {
        let message = json!({ &*bob.user_id: { &*bob.device_id: { "n": number } } });
        send(&alice, &number.to_string(), message).await;
    }
    let mut all = tokens(&mut sync).await;
    assert!(all.len() < 130);
    // There is more: the next one does not wait.
    all.extend(received(&sync.next(30_000).await));
    assert_eq!(all, (0..130).collect::<Vec<_>>());
}

/// Unknown recipients are no error; what is too large or no object is.
#[tokio::test]
async fn bad_messages_are_refused_and_unknown_recipients_are_not() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let unknown = json!({
        "@nobody:unreachable.invalid": { "*": {} },
        &*bob.user_id: { "UNKNOWN": { "n": 1 } },
    });
    send(&alice, "unknown", unknown).await;
    let path = |transaction| ["sendToDevice", "org.example.note", transaction];
    let large = json!({ &*bob.user_id: { "*": { "n": "x".repeat(70_000) } } });
    alice.put(path("large"), json!({ "messages": large })).await.fails(413, "M_TOO_LARGE");
    let text = json!({ &*bob.user_id: { "*": "text" } });
    alice.put(path("text"), json!({ "messages": text })).await.has_status(400);
    alice.put(path("none"), json!({})).await.has_status(400);
    assert_eq!(tokens(&mut bob.sync()).await, Vec::<Value>::new());
}
