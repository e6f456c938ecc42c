//! What users were notified of.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#listing-notifications>

use complement_tests::{Client, Server, must_match, text};
use serde_json::{Value, json};

async fn bodies(client: &Client) -> Vec<String> {
    let page = client.get("notifications").await.ok();
    assert!(page.get("next_token").is_none(), "{page}");
    let found = page["notifications"].as_array().unwrap().iter();
    found.map(|one| text(one, "/event/content/body")).collect()
}

/// Spec: "This API is used to paginate through the list of events that the user has been, or would
/// have been notified about."
#[tokio::test]
async fn notifications_of_all_rooms_come_in_pages_the_latest_first() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..3 {
        let room = bob.create_room_with(&[&alice]).await;
        rooms.push(room);
    }
    let mut expected = Vec::new();
    for count in 0..10 {
        let room = &rooms[count % 3];
        expected.push((room.clone(), bob.say(room, &format!("message {count}")).await));
        alice.say(room, "my own").await;
        let notice = json!({ "msgtype": "m.notice", "body": "a bot" });
        bob.send(room, "m.room.message", notice).await;
    }
    expected.reverse();

    let mut found = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let mut request = alice.get("notifications").query("limit", "4");
        if let Some(from) = &from {
            request = request.query("from", from);
        }
        let page = request.await.ok();
        let notifications = page["notifications"].as_array().unwrap();
        assert!(notifications.len() <= 4, "{page}");
        for one in notifications {
            assert!(one["event"].get("room_id").is_none(), "{one}");
            assert!(one["ts"].is_u64(), "{one}");
            must_match(one, &json!({ "read": false, "event": { "sender": bob.user_id } }));
            assert_eq!(one["actions"][0], "notify", "{one}");
            found.push((text(one, "/room_id"), text(one, "/event/event_id")));
        }
        match page.get("next_token").and_then(Value::as_str) {
            Some(token) => from = Some(token.to_owned()),
            None => break,
        }
    }
    assert_eq!(found, expected);
    let answer = alice.get("notifications").query("from", "nonsense").await;
    answer.fails_as(400, &["M_INVALID_PARAM", "M_UNKNOWN"]);
}

/// Spec: "Supply `highlight` to return only events where the notification had the highlight tweak
/// set"; `read`: "whether the user has sent a read receipt indicating that they have read this
/// message".
#[tokio::test]
async fn highlights_and_what_was_read_are_told_apart() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = bob.create_room_with(&[&alice]).await;
    bob.say(&room, "plain").await;
    let mention = json!({
        "msgtype": "m.text", "body": "for you", "m.mentions": { "user_ids": [alice.user_id] },
    });
    let mention = bob.send(&room, "m.room.message", mention).await;
    let plain = bob.say(&room, "after").await;
    alice.post(["rooms", &room, "receipt", "m.read", &mention], json!({})).await.ok();

    let page = alice.get("notifications").query("only", "highlight").await.ok();
    let found = page["notifications"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{page}");
    must_match(
        &found[0],
        &json!({ "read": true, "room_id": room, "event": { "event_id": mention } }),
    );
    let page = alice.get("notifications").await.ok();
    let read: Vec<&Value> =
        page["notifications"].as_array().unwrap().iter().map(|one| &one["read"]).collect();
    assert_eq!(read, [false, true, true]);

    // A thread is read by itself.
    let relation = json!({ "rel_type": "m.thread", "event_id": plain });
    let answer = json!({ "msgtype": "m.text", "body": "in a thread", "m.relates_to": relation });
    bob.send(&room, "m.room.message", answer).await;
    let main = json!({ "thread_id": "main" });
    alice.post(["rooms", &room, "receipt", "m.read", &plain], main).await.ok();
    let page = alice.get("notifications").query("limit", "2").await.ok();
    let read: Vec<&Value> =
        page["notifications"].as_array().unwrap().iter().map(|one| &one["read"]).collect();
    assert_eq!(read, [false, true]);
}

/// Nothing is told of what was redacted, of users who are ignored, of rooms that were left, or of
/// the time before the user came.
#[tokio::test]
async fn what_nobody_is_to_hear_of_is_not_there() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let troll = server.register("troll").await;
    let room = bob.create_room_with(&[]).await;
    bob.say(&room, "before").await;
    alice.join(&room).await;
    troll.join(&room).await;
    bob.say(&room, "kept").await;
    let secret = bob.say(&room, "redacted").await;
    bob.put(["rooms", &room, "redact", &secret, "t"], json!({})).await.ok();
    troll.say(&room, "ha").await;
    assert_eq!(bodies(&alice).await, ["ha", "kept"]);
    let ignored = json!({ "ignored_users": { troll.user_id.clone(): {} } });
    let path = ["user", &alice.user_id, "account_data", "m.ignored_user_list"];
    alice.put(path, ignored).await.ok();
    assert_eq!(bodies(&alice).await, ["kept"]);

    let invite = json!({ "name": "Kitchen", "invite": [alice.user_id] });
    let kitchen = bob.create_room(invite).await;
    let page = alice.get("notifications").await.ok();
    must_match(
        &page["notifications"][0],
        &json!({ "room_id": kitchen, "event": { "type": "m.room.member", "sender": bob.user_id } }),
    );
    alice.leave(&kitchen).await;
    assert_eq!(bodies(&alice).await, ["kept"]);
    alice.leave(&room).await;
    assert!(bodies(&alice).await.is_empty());
}
