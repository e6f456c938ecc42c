//! Taking back what was said.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#redactions>

use complement_tests::{Client, Server, must_match, text};
use serde_json::json;

/// The content goes, the event stays and says why; those who follow see the redaction.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid>
#[tokio::test]
async fn a_redacted_message_is_empty() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for version in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] {
        let body = json!({ "preset": "public_chat", "room_version": version });
        let room = alice.create_room(body).await;
        bob.join(&room).await;
        let message = bob.say(&room, "regretted").await;
        let mut sync = alice.sync();
        sync.now().await;
        let redaction = redact(&bob, &room, &message, "redact-1").await.ok();
        let redaction = text(&redaction, "/event_id");

        let seen = sync.until_event(&room, &redaction).await;
        must_match(
            &seen,
            &json!({ "type": "m.room.redaction", "content": { "reason": "regret" } }),
        );
        // Clients of all ages find the target, wherever the room version keeps it.
        assert_eq!(seen["redacts"], message, "{seen}");
        if matches!(version, "11" | "12") {
            assert_eq!(seen["content"]["redacts"], message, "{seen}");
        }
        let event = alice.get(["rooms", &room, "event", &message]).await.ok();
        assert_eq!(event["content"], json!({}), "{event}");
        assert_eq!(event["sender"], bob.user_id);
        must_match(
            &event["unsigned"]["redacted_because"],
            &json!({ "event_id": redaction, "type": "m.room.redaction" }),
        );
        let history = alice.get(["rooms", &room, "messages"]).query("dir", "b").await;
        assert!(!history.text.contains("regretted"), "{history}");
    }
}

/// One's own messages, or everybody's with the power to.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#redactions>
#[tokio::test]
async fn redacting_others_needs_power() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let hers = alice.say(&room, "hers").await;
    let his = bob.say(&room, "his").await;
    redact(&bob, &room, &hers, "redact-1").await.fails(403, "M_FORBIDDEN");
    redact(&alice, &room, &his, "redact-1").await.ok();
    let event = alice.get(["rooms", &room, "event", &hers]).await.ok();
    assert_eq!(event["content"]["body"], "hers");
    let stranger = server.register("stranger").await;
    redact(&stranger, &room, &hers, "redact-1").await.fails(403, "M_FORBIDDEN");
}

/// A transaction ID of one endpoint means nothing to another.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers>
#[tokio::test]
async fn a_redaction_may_share_its_transaction_id_with_a_message() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = ["rooms", room.as_str(), "send", "m.room.message", "same"];
    let message = alice.put(path, json!({ "msgtype": "m.text", "body": "regretted" })).await.ok();
    let message = text(&message, "/event_id");
    let redaction = redact(&alice, &room, &message, "same").await.ok();
    assert_ne!(redaction["event_id"], message);
    let event = alice.get(["rooms", &room, "event", &message]).await.ok();
    assert_eq!(event["content"], json!({}), "{event}");
}

/// A repeated request is one redaction.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers>
#[tokio::test]
async fn a_repeated_redaction_is_one_event() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let message = alice.say(&room, "regretted").await;
    let first = redact(&alice, &room, &message, "same").await.ok();
    let second = redact(&alice, &room, &message, "same").await.ok();
    assert_eq!(first, second);
}

/// Redacted state loses what the room version does not protect, and keeps its place.
/// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#redactions>
#[tokio::test]
async fn redacted_state_keeps_what_is_protected() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "room_version": "11" })).await;
    let topic = alice.set_state(&room, "m.room.topic", "", json!({ "topic": "regretted" })).await;
    redact(&alice, &room, &topic, "redact-1").await.ok();
    assert_eq!(alice.state(&room, "m.room.topic", "").await, json!({}));
    let rules = json!({ "join_rule": "invite", "org.example.extra": 1 });
    let rules = alice.set_state(&room, "m.room.join_rules", "", rules).await;
    redact(&alice, &room, &rules, "redact-2").await.ok();
    assert_eq!(alice.state(&room, "m.room.join_rules", "").await, json!({ "join_rule": "invite" }));
}

async fn redact(who: &Client, room: &str, event: &str, txn: &str) -> complement_tests::Answer {
    who.put(["rooms", room, "redact", event, txn], json!({ "reason": "regret" })).await
}
