//! Who has read what.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receipts>

use complement_tests::{Client, Server, ephemeral};
use serde_json::json;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid>
#[tokio::test]
async fn others_see_what_was_read() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let message = alice.say(&room, "hello").await;
    let mut sync = alice.sync();
    sync.now().await;
    receipt(&bob, &room, "m.read", &message).await.ok();
    let read = sync
        .until(|response| {
            let content = ephemeral(response, &room, "m.receipt")?;
            content[&message]["m.read"].get(&bob.user_id).cloned()
        })
        .await;
    assert!(read["ts"].as_u64().unwrap() > 1_600_000_000_000, "{read}");
}

/// Private receipts are one's own.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#private-read-receipts>
#[tokio::test]
async fn a_private_receipt_is_seen_by_its_owner_only() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let message = alice.say(&room, "hello").await;
    let (mut hers, mut his) = (alice.sync(), bob.sync());
    hers.now().await;
    receipt(&bob, &room, "m.read.private", &message).await.ok();
    his.until(|response| {
        let content = ephemeral(response, &room, "m.receipt")?;
        content[&message]["m.read.private"].get(&bob.user_id).map(|_| ())
    })
    .await;
    // The public receipt comes later: with it in sight, the private one has been left out.
    let next = alice.say(&room, "and more").await;
    receipt(&bob, &room, "m.read", &next).await.ok();
    hers.until(|response| {
        assert!(!response.to_string().contains("m.read.private"), "{response}");
        let content = ephemeral(response, &room, "m.receipt")?;
        content[&next]["m.read"].get(&bob.user_id).map(|_| ())
    })
    .await;
}

/// The fully-read marker is account data of the room.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#fully-read-markers>
#[tokio::test]
async fn read_markers_set_receipt_and_fully_read() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let message = alice.say(&room, "hello").await;
    let mut sync = bob.sync();
    let body = json!({ "m.fully_read": message, "m.read": message });
    bob.post(["rooms", &room, "read_markers"], body).await.ok();
    let (mut read, mut marked) = (false, false);
    sync.until(|response| {
        let joined = &response["rooms"]["join"][&room];
        marked |= joined["account_data"]["events"].as_array().into_iter().flatten().any(|event| {
            event["type"] == "m.fully_read" && event["content"]["event_id"] == message
        });
        read |= ephemeral(response, &room, "m.receipt")
            .is_some_and(|content| content[&message]["m.read"].get(&bob.user_id).is_some());
        (read && marked).then_some(())
    })
    .await;
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid>
#[tokio::test]
async fn unknown_kinds_and_strangers_are_refused() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let room = alice.create_room_with(&[]).await;
    let message = alice.say(&room, "hello").await;
    let answer = receipt(&alice, &room, "org.example.smelled", &message).await;
    assert_eq!(answer.status, 400, "{answer}");
    receipt(&mallory, &room, "m.read", &message).await.fails(403, "M_FORBIDDEN");
    receipt(&server.anonymous(), &room, "m.read", &message).await.fails(401, "M_MISSING_TOKEN");
}

async fn receipt(who: &Client, room: &str, kind: &str, event: &str) -> complement_tests::Answer {
    who.post(["rooms", room, "receipt", kind, event], json!({})).await
}

/// "The `thread_id` is invalid in some way": no text, empty, of an incompatible type, or "the
/// `event_id` is not related to the `thread_id`".
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid>
#[tokio::test]
async fn a_threaded_receipt_is_for_an_event_of_its_thread() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let related = async |kind: &str, parent: &str| {
        let relation = json!({ "rel_type": kind, "event_id": parent, "key": "x" });
        let content = json!({ "msgtype": "m.text", "body": "b", "m.relates_to": relation });
        alice.send(&room, "m.room.message", content).await
    };
    let (topic, other) = (alice.say(&room, "a topic").await, alice.say(&room, "another").await);
    let inside = related("m.thread", &topic).await;
    let below = related("m.annotation", &inside).await;
    let beside = related("m.annotation", &topic).await;
    let read = async |kind: &str, event: &str, thread: serde_json::Value| {
        let path = ["rooms", room.as_str(), "receipt", kind, event];
        bob.post(path, json!({ "thread_id": thread })).await
    };
    for (event, thread) in [
        (&inside, &*topic),
        (&below, &topic),
        (&topic, "main"),
        (&topic, &topic),
        (&beside, "main"),
        (&beside, &topic),
        (&other, "main"),
    ] {
        read("m.read", event, json!(thread)).await.ok();
        read("m.read.private", event, json!(thread)).await.ok();
    }
    for (event, thread) in [
        (&inside, "main"),
        (&below, "main"),
        (&other, &*topic),
        (&inside, &other),
        (&inside, "$unknown"),
    ] {
        let answer = read("m.read", event, json!(thread)).await;
        assert_eq!(
            (answer.status, answer.errcode()),
            (400, "M_INVALID_PARAM"),
            "{thread} {answer}"
        );
    }
    for wrong in [json!(""), json!(7)] {
        assert_eq!(read("m.read", &other, wrong).await.status, 400);
    }
    assert_eq!(read("m.fully_read", &other, json!("main")).await.status, 400);
}
