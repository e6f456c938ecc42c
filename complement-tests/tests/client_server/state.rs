//! Room state.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#getting-events-for-a-room>

use complement_tests::{Server, must_match};
use reqwest::Method;
use serde_json::json;

/// State is set and read by type and key; the last one counts.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey>
#[tokio::test]
async fn the_last_value_of_a_state_key_counts() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let first = alice.set_state(&room, "org.example.colour", "wall", json!({ "is": "blue" })).await;
    alice.set_state(&room, "org.example.colour", "door", json!({ "is": "red" })).await;
    let second =
        alice.set_state(&room, "org.example.colour", "wall", json!({ "is": "green" })).await;
    assert_ne!(first, second);
    assert_eq!(alice.state(&room, "org.example.colour", "wall").await, json!({ "is": "green" }));
    assert_eq!(alice.state(&room, "org.example.colour", "door").await, json!({ "is": "red" }));
}

/// The empty state key may be left out of the path, with or without the last slash.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey>
#[tokio::test]
async fn the_empty_state_key_has_three_paths() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let short = ["rooms", room.as_str(), "state", "m.room.topic"];
    let slash = ["rooms", room.as_str(), "state", "m.room.topic", ""];
    alice.put(short, json!({ "topic": "soup" })).await.ok();
    must_match(&alice.get(short).await.ok(), &json!({ "topic": "soup" }));
    must_match(&alice.get(slash).await.ok(), &json!({ "topic": "soup" }));
    alice.put(slash, json!({ "topic": "bread" })).await.ok();
    must_match(&alice.get(short).await.ok(), &json!({ "topic": "bread" }));
}

/// Keys are any text, slashes and spaces included.
#[tokio::test]
async fn state_keys_are_any_text() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    for key in ["a/b", "two words", "ümlaut", "100%", "?#&+"] {
        alice.set_state(&room, "org.example.key", key, json!({ "key": key })).await;
        let state = alice.get(["rooms", &room, "state"]).await.ok();
        let found = state.as_array().unwrap().iter().any(|event| event["state_key"] == key);
        assert!(found, "{key} in {state}");
        assert_eq!(alice.state(&room, "org.example.key", key).await, json!({ "key": key }));
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstate>
#[tokio::test]
async fn the_whole_state_is_listed_as_events() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "Kitchen" })).await;
    let state = alice.get(["rooms", &room, "state"]).await.ok();
    let events = state.as_array().unwrap();
    for event_type in ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.name"] {
        let found: Vec<_> = events.iter().filter(|event| event["type"] == event_type).collect();
        assert_eq!(found.len(), 1, "{event_type} in {state:#}");
        assert!(found[0]["event_id"].is_string() && found[0]["sender"] == alice.user_id);
        assert!(found[0]["origin_server_ts"].is_u64());
        assert_eq!(found[0]["room_id"], room);
    }
}

/// `format=event` gives the event around the content.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey>
#[tokio::test]
async fn a_piece_of_state_can_be_read_as_an_event() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let id = alice.set_state(&room, "m.room.topic", "", json!({ "topic": "soup" })).await;
    let path = ["rooms", room.as_str(), "state", "m.room.topic", ""];
    let event = alice.get(path).query("format", "event").await.ok();
    must_match(
        &event,
        &json!({
            "type": "m.room.topic", "state_key": "", "event_id": id, "sender": alice.user_id,
            "room_id": room, "content": { "topic": "soup" },
        }),
    );
    assert_eq!(alice.get(path).query("format", "content").await.ok(), json!({ "topic": "soup" }));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey>
#[tokio::test]
async fn unknown_state_is_not_found() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.get(["rooms", &room, "state", "m.room.topic", ""]).await.fails(404, "M_NOT_FOUND");
}

/// Strangers see nothing of a room that is not open to the world; a room open
/// to the world is read by all.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>
#[tokio::test]
async fn state_is_for_members() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let room = alice.create_room_with(&[]).await;
    mallory.get(["rooms", &room, "state"]).await.fails(403, "M_FORBIDDEN");
    mallory.get(["rooms", &room, "state", "m.room.create", ""]).await.fails(403, "M_FORBIDDEN");
    let visible = json!({ "history_visibility": "world_readable" });
    alice.set_state(&room, "m.room.history_visibility", "", visible).await;
    mallory.get(["rooms", &room, "state", "m.room.create", ""]).await.ok();
}

/// Who has left reads the state as it was then.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstate>
#[tokio::test]
async fn former_members_see_the_state_of_when_they_left() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "before" })).await;
    bob.leave(&room).await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "after" })).await;
    must_match(&bob.state(&room, "m.room.topic", "").await, &json!({ "topic": "before" }));
}

/// State needs more power than messages.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
#[tokio::test]
async fn state_needs_power() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let path = ["rooms", room.as_str(), "state", "m.room.topic", ""];
    bob.put(path, json!({ "topic": "mine" })).await.fails(403, "M_FORBIDDEN");
    let mut levels = alice.state(&room, "m.room.power_levels", "").await;
    levels["users"][&bob.user_id] = json!(50);
    alice.set_state(&room, "m.room.power_levels", "", levels.clone()).await;
    bob.put(path, json!({ "topic": "ours" })).await.ok();
    levels["users"][&bob.user_id] = json!(100);
    bob.put(["rooms", &room, "state", "m.room.power_levels", ""], levels)
        .await
        .fails(403, "M_FORBIDDEN");
}

/// A state key that is a user ID belongs to that user.
/// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#authorization-rules>
#[tokio::test]
async fn state_under_a_user_id_is_that_users() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({
            "preset": "public_chat",
            "power_level_content_override": { "state_default": 0 },
        }))
        .await;
    bob.join(&room).await;
    let path = ["rooms", room.as_str(), "state", "org.example.mood", &alice.user_id];
    bob.put(path, json!({ "mood": "sad" })).await.fails(403, "M_FORBIDDEN");
    alice.put(path, json!({ "mood": "glad" })).await.ok();
}

/// An alias event names only aliases that lead to the room.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey>
#[tokio::test]
async fn a_canonical_alias_must_lead_here() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let alias = format!("#{}-nowhere:{}", alice.localpart(), alice.server_name());
    let path = ["rooms", room.as_str(), "state", "m.room.canonical_alias", ""];
    alice.put(path, json!({ "alias": alias })).await.fails(400, "M_BAD_ALIAS");
    let answer = alice.put(path, json!({ "alias": "no alias" })).await;
    assert_eq!(answer.status, 400, "{answer}");
}

/// A state event is content in an object.
#[tokio::test]
async fn malformed_state_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let put = async |event_type: &str, body: &str| {
        let path = ["rooms", room.as_str(), "state", event_type, ""];
        alice.request(Method::PUT, path).raw(body).await
    };
    put("org.example.x", "{").await.fails(400, "M_NOT_JSON");
    put("org.example.x", "[]").await.fails(400, "M_BAD_JSON");
    let levels = put("m.room.power_levels", "{\"users\":{\"@a:b\":\"high\"}}").await;
    assert!([400, 403].contains(&levels.status), "{levels}");
    let create = put("m.room.create", "{\"room_version\":\"11\"}").await;
    assert!([400, 403].contains(&create.status), "{create}");
}
