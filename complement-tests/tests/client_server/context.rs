//! What is around an event, and what was said at a time.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidcontexteventid>

use complement_tests::{Server, text};
use serde_json::{Value, json};

fn bodies(events: &Value) -> Vec<&str> {
    let events = events.as_array().unwrap().iter();
    events.filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn an_event_is_shown_with_what_is_around_it() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut ids = Vec::new();
    for body in ["one", "two", "three", "four", "five"] {
        ids.push(alice.say(&room, body).await);
    }
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "later" })).await;
    let context = ["rooms", room.as_str(), "context", ids[2].as_str()];
    let found = bob.get(context).query("limit", "4").await.ok();
    assert_eq!(found["event"]["content"]["body"], "three");
    assert_eq!(bodies(&found["events_before"]), ["two", "one"]);
    assert_eq!(bodies(&found["events_after"]), ["four", "five"]);
    // The state at the last of them, not now.
    let state = found["state"].as_array().unwrap();
    assert!(state.iter().any(|event| event["type"] == "m.room.create"), "{state:?}");
    assert!(!state.iter().any(|event| event["type"] == "m.room.topic"), "{state:?}");
    // Reading goes on from either end.
    let page = bob.get(["rooms", &room, "messages"]).query("dir", "f");
    let page = page.query("from", &text(&found, "/end")).await.ok();
    assert_eq!(page["chunk"][0]["type"], "m.room.topic");
    let page = bob.get(["rooms", &room, "messages"]).query("dir", "b");
    let page = page.query("from", &text(&found, "/start")).await.ok();
    assert!(bodies(&page["chunk"]).is_empty(), "{page}");

    let alone = bob.get(context).query("limit", "0").await.ok();
    for around in ["events_before", "events_after"] {
        assert!(alone[around].as_array().is_none_or(Vec::is_empty), "{alone}");
    }
    let lazy = json!({
        "lazy_load_members": true, "senders": [alice.user_id], "not_types": ["m.room.topic"],
    });
    let lazy = bob.get(context).query("filter", &lazy.to_string()).await.ok();
    let state = lazy["state"].as_array().unwrap();
    let members = state.iter().filter(|event| event["type"] == "m.room.member").count();
    assert_eq!(members, 1, "only who spoke");
    assert!(state.iter().all(|event| event["type"] != "m.room.topic"), "{lazy}");
    let messages = r#"{"types":["m.room.message"]}"#;
    let messages = bob.get(context).query("filter", messages).await.ok();
    assert!(messages["state"].as_array().is_none_or(Vec::is_empty), "{messages}");

    let eve = server.register("eve").await;
    let answer = eve.get(context).await;
    assert!([403, 404].contains(&answer.status), "{answer}");
    bob.get(["rooms", &room, "context", "$unknown"]).await.fails(404, "M_NOT_FOUND");
    bob.anonymous().get(context).await.fails(401, "M_MISSING_TOKEN");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3eventseventid>
#[tokio::test]
async fn an_event_is_found_without_its_room() {
    let server = Server::shared();
    let (alice, eve) = (server.register("alice").await, server.register("eve").await);
    let room = alice.create_room(json!({})).await;
    let event = alice.say(&room, "where am I").await;
    let found = alice.get(["events", &event]).await.ok();
    assert_eq!(found["content"]["body"], "where am I");
    assert_eq!(found["room_id"], room);
    eve.get(["events", &event]).await.fails(404, "M_NOT_FOUND");
    alice.get(["events", "$unknown"]).await.fails(404, "M_NOT_FOUND");
    alice.get(["events", "rubbish"]).await.fails(400, "M_INVALID_PARAM");
    alice.anonymous().get(["events", &event]).await.fails(401, "M_MISSING_TOKEN");
}

/// Those invited see what they may from their invitation on.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>
#[tokio::test]
async fn the_invited_read_from_their_invitation_on_where_the_room_says_so() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let visible = json!({ "history_visibility": "invited" });
    let visible =
        json!({ "type": "m.room.history_visibility", "state_key": "", "content": visible });
    let room = alice.create_room(json!({ "initial_state": [visible] })).await;
    let before = alice.say(&room, "before").await;
    alice.invite(&room, &bob.user_id).await;
    let between = alice.say(&room, "between").await;
    bob.join(&room).await;
    alice.say(&room, "after").await;
    let page = bob.get(["rooms", &room, "messages"]).query("dir", "b").await.ok();
    assert_eq!(bodies(&page["chunk"]), ["after", "between"]);
    bob.get(["rooms", &room, "event", &between]).await.ok();
    bob.get(["rooms", &room, "event", &before]).await.fails(404, "M_NOT_FOUND");
}
