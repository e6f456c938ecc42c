//! Syncing as it was before `/sync`, which old clients and bots still use.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3events>

use complement_tests::{Client, Server, text};
use serde_json::{Value, json};

fn bodies(events: &Value) -> Vec<&str> {
    let events = events.as_array().unwrap().iter();
    events.filter_map(|event| event["content"]["body"].as_str()).collect()
}

async fn events(client: &Client, from: &str, timeout_ms: u64) -> Value {
    let request = client.get("events").query("from", from);
    request.query("timeout", &timeout_ms.to_string()).await.ok()
}

/// A snapshot, and from its end on a stream of everything that happens.
#[tokio::test]
async fn a_snapshot_is_followed_by_a_stream() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    for body in ["one", "two", "three"] {
        alice.say(&room, body).await;
    }
    let invited = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    let snapshot = bob.get("initialSync").query("limit", "2").await.ok();
    let rooms = snapshot["rooms"].as_array().unwrap();
    let of = |id: &str| rooms.iter().find(|room| room["room_id"] == id).unwrap();
    assert_eq!(of(&room)["membership"], "join");
    assert_eq!(bodies(&of(&room)["messages"]["chunk"]), ["two", "three"]);
    assert!(of(&room)["messages"]["chunk"][0]["room_id"] == room.as_str());
    let state = of(&room)["state"].as_array().unwrap();
    assert!(state.iter().any(|event| event["type"] == "m.room.create"), "{state:?}");
    assert_eq!(of(&invited)["membership"], "invite");
    assert_eq!(of(&invited)["invite"]["state_key"], bob.user_id.as_str());
    // What is before can be read on from there.
    let start = text(of(&room), "/messages/start");
    let page = bob.get(["rooms", &room, "messages"]).query("dir", "b").query("from", &start);
    assert_eq!(bodies(&page.await.ok()["chunk"]), ["one"]);

    let mut from = text(&snapshot, "/end");
    alice.say(&room, "four").await;
    let mut found = Vec::new();
    while !found.iter().any(|event: &Value| event["content"]["body"] == "four") {
        let stretch = events(&bob, &from, 5_000).await;
        assert_eq!(stretch["start"], from.as_str());
        from = text(&stretch, "/end");
        found.extend(stretch["chunk"].as_array().unwrap().iter().cloned());
    }
    assert_eq!(found.iter().filter(|event| event["room_id"] == room.as_str()).count(), 1);
    assert_eq!(events(&bob, &from, 0).await["chunk"], json!([]));
    let answer = bob.get("events").query("from", "rubbish").await;
    answer.fails_as(400, &["M_INVALID_PARAM", "M_UNKNOWN"]);
    server.anonymous().get("events").await.fails(401, "M_MISSING_TOKEN");
}

/// Without a token the stream begins now.
#[tokio::test]
async fn a_stream_without_a_token_begins_now() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.say(&room, "before").await;
    let first = alice.get("events").await.ok();
    assert_eq!(first["chunk"], json!([]));
    alice.say(&room, "after").await;
    let next = events(&alice, &text(&first, "/end"), 5_000).await;
    assert_eq!(bodies(&next["chunk"]), ["after"]);
}

/// Whoever may read a room can look into it without being there, and follow it.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-previews>
#[tokio::test]
async fn a_room_that_all_may_read_is_followed_from_outside() {
    let server = Server::shared();
    let (alice, guest) = (server.register("alice").await, server.register("guest").await);
    let readable = json!({
        "preset": "public_chat",
        "visibility": "public",
        "initial_state": [{
            "type": "m.room.history_visibility",
            "content": { "history_visibility": "world_readable" },
        }],
    });
    let room = alice.create_room(readable).await;
    let closed = alice.create_room(json!({})).await;
    alice.say(&room, "hello").await;
    let peek = guest.get(["rooms", &room, "initialSync"]).await.ok();
    assert_eq!(peek["room_id"], room.as_str());
    assert_eq!(peek["visibility"], "public");
    assert!(peek["membership"].is_null(), "{peek}");
    assert_eq!(bodies(&peek["messages"]["chunk"]), ["hello"]);
    assert!(!peek["state"].as_array().unwrap().is_empty());
    guest.get(["rooms", &closed, "initialSync"]).await.fails(403, "M_FORBIDDEN");

    let from = text(&peek, "/messages/end");
    let follow = async |room: &str| {
        let request = guest.get("events").query("from", &from).query("room_id", room);
        request.query("timeout", "10000").await
    };
    let (stretch, ()) = tokio::join!(follow(&room), async {
        alice.say(&room, "again").await;
    });
    let stretch = stretch.ok();
    assert_eq!(bodies(&stretch["chunk"]), ["again"]);
    assert_eq!(stretch["chunk"][0]["room_id"], room.as_str());
    follow(&closed).await.fails(403, "M_FORBIDDEN");
}
