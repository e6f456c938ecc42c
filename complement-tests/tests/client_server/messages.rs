//! Reading the history of a room.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>

use complement_tests::{Client, Config, Server, must_match, text};
use serde_json::{Value, json};

/// Pages follow one another without gap or overlap, backwards and forwards.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>
#[tokio::test]
async fn pages_join_up_in_both_directions() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut sent = Vec::new();
    for number in 0..25 {
        sent.push(alice.say(&room, &number.to_string()).await);
    }
    let backwards: Vec<String> = all_messages(&alice, &room, "b").await;
    let forwards: Vec<String> = all_messages(&alice, &room, "f").await;
    assert_eq!(forwards, sent);
    sent.reverse();
    assert_eq!(backwards, sent);
}

/// A gap in a limited sync is filled from its `prev_batch`.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#syncing>
#[tokio::test]
async fn a_limited_sync_is_completed_by_messages() {
    // One for itself: no event of another room comes between two of these.
    let server = Server::start(&Config::default());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let filter = json!({ "room": { "timeline": { "limit": 3 } } }).to_string();
    let mut sync = bob.sync().with_filter(&filter);
    sync.now().await;
    let before = sync.token().unwrap().to_owned();
    let mut sent = Vec::new();
    for number in 0..8 {
        sent.push(alice.say(&room, &number.to_string()).await);
    }
    let response = sync.now().await;
    let timeline = &response["rooms"]["join"][&room]["timeline"];
    assert_eq!(timeline["limited"], true, "{timeline}");
    assert_eq!(ids(&timeline["events"]), sent[5..]);
    let gap = bob
        .get(["rooms", &room, "messages"])
        .query("dir", "b")
        .query("from", &text(timeline, "/prev_batch"))
        .query("to", &before)
        .query("limit", "50")
        .await
        .ok();
    let mut filled = ids(&gap["chunk"]);
    filled.reverse();
    assert_eq!(filled, sent[..5]);
}

/// Without a limit a page is ten events.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>
#[tokio::test]
async fn a_page_is_ten_events_unless_said_otherwise() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    for number in 0..12 {
        alice.say(&room, &number.to_string()).await;
    }
    let page = alice.get(["rooms", &room, "messages"]).query("dir", "b").await.ok();
    assert_eq!(page["chunk"].as_array().unwrap().len(), 10);
    assert!(page["end"].is_string());
}

/// The end of the history has no token to go on.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>
#[tokio::test]
async fn the_beginning_of_the_room_is_the_end_of_paging() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut from: Option<String> = None;
    let mut last = Value::Null;
    for _ in 0..20 {
        let mut request =
            alice.get(["rooms", &room, "messages"]).query("dir", "b").query("limit", "5");
        if let Some(from) = &from {
            request = request.query("from", from);
        }
        let page = request.await.ok();
        if let Some(event) = page["chunk"].as_array().unwrap().last() {
            last = event.clone();
        }
        from = page["end"].as_str().map(str::to_owned);
        if from.is_none() {
            assert_eq!(last["type"], "m.room.create");
            return;
        }
    }
    panic!("paging a room of a few events has no end");
}

/// A filter chooses what a page shows.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#definition-roomeventfilter>
#[tokio::test]
async fn messages_can_be_filtered() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let hers = alice.say(&room, "from alice").await;
    let his = bob.say(&room, "from bob").await;
    bob.send(&room, "org.example.other", json!({})).await;
    let page = async |filter: Value| {
        let request = alice.get(["rooms", &room, "messages"]).query("dir", "b");
        ids(&request.query("filter", &filter.to_string()).await.ok()["chunk"])
    };
    assert_eq!(page(json!({ "types": ["m.room.message"] })).await, [his.clone(), hers.clone()]);
    assert_eq!(
        page(json!({ "types": ["m.room.message"], "senders": [alice.user_id] })).await,
        [hers]
    );
    assert_eq!(
        page(json!({ "types": ["m.room.message"], "not_senders": [alice.user_id] })).await,
        [his]
    );
    assert_eq!(page(json!({ "types": ["m.room.mes*"] })).await.len(), 2);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomideventeventid>
#[tokio::test]
async fn one_event_is_read_by_its_id() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let event_id = alice.say(&room, "hello").await;
    must_match(
        &bob.get(["rooms", &room, "event", &event_id]).await.ok(),
        &json!({
            "event_id": event_id, "room_id": room, "sender": alice.user_id,
            "type": "m.room.message", "content": { "body": "hello" },
        }),
    );
    bob.get(["rooms", &room, "event", "$unknown"]).await.fails(404, "M_NOT_FOUND");
    let elsewhere = bob.create_room(json!({})).await;
    bob.get(["rooms", &elsewhere, "event", &event_id]).await.fails(404, "M_NOT_FOUND");
}

/// Strangers read nothing.
#[tokio::test]
async fn history_is_for_members() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let room = alice.create_room_with(&[]).await;
    let event_id = alice.say(&room, "secret").await;
    mallory.get(["rooms", &room, "messages"]).query("dir", "b").await.fails(403, "M_FORBIDDEN");
    let answer = mallory.get(["rooms", &room, "event", &event_id]).await;
    assert!([403, 404].contains(&answer.status), "{answer}");
    assert!(!answer.text.contains("secret"));
}

/// What was said before one joined is hidden where the room says so.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>
#[tokio::test]
async fn history_visibility_hides_what_was_before_the_join() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({
            "preset": "public_chat",
            "initial_state": [{
                "type": "m.room.history_visibility", "state_key": "",
                "content": { "history_visibility": "joined" },
            }],
        }))
        .await;
    let before = alice.say(&room, "before").await;
    bob.join(&room).await;
    let after = alice.say(&room, "after").await;
    assert_eq!(all_messages(&bob, &room, "b").await, [after]);
    assert_eq!(all_messages(&alice, &room, "b").await.len(), 2);
    bob.get(["rooms", &room, "event", &before]).await.fails(404, "M_NOT_FOUND");
}

/// A kicked user reads what was said until then and no more.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>
#[tokio::test]
async fn former_members_read_up_to_their_leaving() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let before = alice.say(&room, "before").await;
    bob.leave(&room).await;
    alice.say(&room, "after").await;
    assert_eq!(all_messages(&bob, &room, "b").await, [before]);
}

/// The direction is required, and tokens are those that the server gave.
#[tokio::test]
async fn malformed_paging_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = ["rooms", room.as_str(), "messages"];
    for (name, value) in [("dir", "sideways"), ("from", "made-up"), ("limit", "many")] {
        let mut request = alice.get(path).query(name, value);
        if name != "dir" {
            request = request.query("dir", "b");
        }
        let answer = request.await;
        assert_eq!(answer.status, 400, "{answer}");
        assert!(!answer.errcode().is_empty(), "{answer}");
    }
}

/// The IDs of all messages, page by page.
async fn all_messages(user: &Client, room: &str, direction: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut from: Option<String> = None;
    for _ in 0..50 {
        let mut request =
            user.get(["rooms", room, "messages"]).query("dir", direction).query("limit", "4");
        if let Some(from) = &from {
            request = request.query("from", from);
        }
        let page = request.await.ok();
        let events = page["chunk"].as_array().unwrap();
        let messages = events.iter().filter(|event| event["type"] == "m.room.message");
        found.extend(messages.map(|event| text(event, "/event_id")));
        match page["end"].as_str() {
            Some(end) if !events.is_empty() => from = Some(end.to_owned()),
            _ => return found,
        }
    }
    panic!("paging has no end");
}

fn ids(events: &Value) -> Vec<String> {
    events.as_array().unwrap().iter().map(|event| text(event, "/event_id")).collect()
}
