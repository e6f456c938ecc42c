//! Following what happens.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::future::IntoFuture as _;
use std::time::Duration;

use complement_tests::{Server, must_match, text, timeline};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The first sync shows every joined room with its state and latest events.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn the_first_sync_shows_the_rooms() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    for number in 0..30 {
        alice.say(&room, &number.to_string()).await;
    }
    let response = bob.sync().now().await;
    let joined = &response["rooms"]["join"][&room];
    let events = timeline(&response, &room);
    assert_eq!(joined["timeline"]["limited"], true);
    assert!(joined["timeline"]["prev_batch"].is_string());
    assert_eq!(events.last().unwrap()["content"]["body"], "29");
    // State is that before the timeline, so each piece is in one of the two.
    let state = joined["state"]["events"].as_array().unwrap();
    for event_type in ["m.room.create", "m.room.join_rules", "m.room.power_levels"] {
        let all = state.iter().chain(&events);
        assert_eq!(all.filter(|event| event["type"] == event_type).count(), 1, "{joined:#}");
    }
}

/// Nothing new: the answer comes when the time is over, and nothing is in it.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn a_sync_without_news_waits() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut sync = alice.sync();
    sync.now().await;
    // What the first sync itself caused, if anything, is out of the way with the second.
    sync.now().await;
    let begun = Instant::now();
    let response = sync.next(700).await;
    assert!(begun.elapsed() >= Duration::from_millis(600), "answered too early: {response}");
    assert_eq!(response["rooms"]["join"][&room], Value::Null, "{response}");
}

/// A waiting sync is woken by the event it waits for, at once.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn a_waiting_sync_is_woken() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync = bob.sync();
    sync.now().await;
    sync.now().await;
    let begun = Instant::now();
    let (response, event_id) = tokio::join!(sync.next(60_000), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        alice.say(&room, "wake up").await
    });
    assert!(begun.elapsed() < Duration::from_secs(30), "woken by time only");
    let events = timeline(&response, &room);
    assert_eq!(events.last().unwrap()["event_id"], event_id, "{response}");
}

/// Every event once, in order, over many small syncs.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#syncing>
#[tokio::test]
async fn nothing_is_missed_and_nothing_comes_twice() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync = bob.sync();
    sync.now().await;
    let speak = async {
        let mut sent = Vec::new();
        for number in 0..30 {
            sent.push(alice.say(&room, &number.to_string()).await);
        }
        sent
    };
    let listen = async {
        let mut seen = Vec::new();
        let end = Instant::now() + Duration::from_mins(1);
        while seen.len() < 30 && Instant::now() < end {
            let response = sync.next(2_000).await;
            assert_ne!(response["rooms"]["join"][&room]["timeline"]["limited"], true, "{response}");
            seen.extend(timeline(&response, &room).iter().map(|event| text(event, "/event_id")));
        }
        seen
    };
    let (sent, seen) = tokio::join!(speak, listen);
    assert_eq!(seen, sent);
    let after = sync.now().await;
    assert!(timeline(&after, &room).is_empty(), "{after}");
}

/// The same token gives the same news again: a lost answer loses nothing.
#[tokio::test]
async fn a_token_can_be_used_again() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync = bob.sync();
    sync.now().await;
    let token = sync.token().unwrap().to_owned();
    let event_id = alice.say(&room, "hello").await;
    for _ in 0..2 {
        bob.sync().from(&token).until_event(&room, &event_id).await;
    }
}

/// Leaving shows the room one last time, with the leave event.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn a_left_room_is_shown_once_more() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync = bob.sync();
    sync.now().await;
    let last = alice.say(&room, "before").await;
    bob.leave(&room).await;
    alice.say(&room, "after").await;
    let left = sync.until(|response| response["rooms"]["leave"].get(&room).cloned()).await;
    let events = left["timeline"]["events"].as_array().unwrap();
    assert_eq!(events[0]["event_id"], last, "{left}");
    must_match(
        events.last().unwrap(),
        &json!({ "type": "m.room.member", "content": { "membership": "leave" } }),
    );
    assert!(!left.to_string().contains("after"));
    alice.say(&room, "much later").await;
    let response = sync.now().await;
    assert_eq!(response["rooms"]["leave"][&room], Value::Null, "{response}");
    let fresh = bob.sync().now().await;
    assert_eq!(fresh["rooms"]["leave"][&room], Value::Null, "{fresh}");
    assert_eq!(fresh["rooms"]["join"][&room], Value::Null, "{fresh}");
}

/// A room left and joined again between two syncs is one that the user is in, with what they missed.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn a_room_left_and_joined_again_comes_as_joined() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync = bob.sync();
    sync.now().await;
    bob.leave(&room).await;
    let topic = json!({ "topic": "set while he was away" });
    alice.put(["rooms", &room, "state", "m.room.topic"], topic.clone()).await.ok();
    bob.join(&room).await;
    let last = alice.say(&room, "welcome back").await;
    let response = sync
        .until(|response| {
            let timeline = &response["rooms"]["join"][&room]["timeline"]["events"];
            let mut events = timeline.as_array().into_iter().flatten();
            events.any(|event| event["event_id"] == last).then(|| response.clone())
        })
        .await;
    assert_eq!(response["rooms"]["leave"][&room], Value::Null, "{response}");
    let joined = &response["rooms"]["join"][&room];
    let shown = [&joined["state"]["events"], &joined["timeline"]["events"]];
    let mut shown = shown.into_iter().flat_map(|events| events.as_array().into_iter().flatten());
    assert!(shown.any(|event| event["content"] == topic), "{joined}");
}

/// Joining brings the state of the room into an incremental sync.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn a_newly_joined_room_comes_with_its_state() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Kitchen" })).await;
    for number in 0..30 {
        alice.say(&room, &number.to_string()).await;
    }
    let mut sync = bob.sync();
    sync.now().await;
    bob.join(&room).await;
    let joined = sync.until(|response| response["rooms"]["join"].get(&room).cloned()).await;
    let state = joined["state"]["events"].as_array().unwrap();
    let name = state.iter().find(|event| event["type"] == "m.room.name").unwrap();
    assert_eq!(name["content"]["name"], "Kitchen");
}

/// `full_state` repeats all state, changed or not.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn full_state_repeats_the_state() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "Kitchen" })).await;
    let mut sync = alice.sync();
    sync.now().await;
    let since = sync.token().unwrap().to_owned();
    let request = alice.get("sync").query("since", &since).query("full_state", "true");
    let response = request.query("timeout", "30000").await.ok();
    let state = response["rooms"]["join"][&room]["state"]["events"].as_array().unwrap();
    assert!(state.iter().any(|event| event["type"] == "m.room.name"), "{response}");
}

/// State changes in a gap come in `state`, not lost with the skipped timeline.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn state_changed_in_a_gap_is_not_lost() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let filter = json!({ "room": { "timeline": { "limit": 2 } } }).to_string();
    let mut sync = bob.sync().with_filter(&filter);
    sync.now().await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "first" })).await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "second" })).await;
    for number in 0..5 {
        alice.say(&room, &number.to_string()).await;
    }
    let response = sync.now().await;
    let joined = &response["rooms"]["join"][&room];
    assert_eq!(joined["timeline"]["limited"], true);
    let state = joined["state"]["events"].as_array().unwrap();
    let topics: Vec<&Value> = state
        .iter()
        .filter(|event| event["type"] == "m.room.topic")
        .map(|event| &event["content"]["topic"])
        .collect();
    assert_eq!(topics, ["second"], "{joined:#}");
}

/// A filter may stand in the request or be named by its ID.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>
#[tokio::test]
async fn filters_choose_events_and_rooms() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let (room, other) = (alice.create_room(json!({})).await, alice.create_room(json!({})).await);
    alice.say(&room, "hello").await;
    alice.say(&other, "hello").await;
    let filter = json!({
        "room": { "rooms": [room], "timeline": { "types": ["m.room.message"], "limit": 5 } },
    });
    let id = alice.post(["user", &alice.user_id, "filter"], filter.clone()).await.ok();
    for filter in [filter.to_string(), text(&id, "/filter_id")] {
        let response = alice.sync().with_filter(&filter).now().await;
        let events = timeline(&response, &room);
        assert!(!events.is_empty(), "{response}");
        assert!(events.iter().all(|event| event["type"] == "m.room.message"), "{response}");
        assert_eq!(response["rooms"]["join"][&other], Value::Null, "{response}");
    }
}

/// Tokens are those of the server.
#[tokio::test]
async fn malformed_syncs_are_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for (name, value) in [("since", "made-up"), ("filter", "{broken"), ("timeout", "soon")] {
        let answer = alice.get("sync").query(name, value).await;
        assert_eq!(answer.status, 400, "{answer}");
        assert!(!answer.errcode().is_empty(), "{answer}");
    }
    server.anonymous().get("sync").await.fails(401, "M_MISSING_TOKEN");
}

/// A session that ends while its sync waits gets no more news.
#[tokio::test]
async fn logging_out_ends_a_waiting_sync() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync = bob.sync();
    sync.now().await;
    let waiting = bob.get("sync").query("since", sync.token().unwrap()).query("timeout", "20000");
    let (answer, ()) = tokio::join!(waiting.into_future(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bob.post("logout", json!({})).await.ok();
        alice.say(&room, "not for the logged out").await;
    });
    assert!(!answer.text.contains("not for the logged out"), "{answer}");
}

/// `include_leave`: rooms that the user has left, up to their leaving.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridfilter>
#[tokio::test]
async fn rooms_that_were_left_come_when_they_are_asked_for() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (left, kicked) =
        (alice.create_room_with(&[&bob]).await, alice.create_room_with(&[&bob]).await);
    let topic = json!({ "topic": "before" });
    for room in [&left, &kicked] {
        alice.set_state(room, "m.room.topic", "", topic.clone()).await;
        alice.say(room, "seen").await;
    }
    bob.leave(&left).await;
    alice.post(["rooms", &kicked, "kick"], json!({ "user_id": bob.user_id })).await.ok();
    for room in [&left, &kicked] {
        alice.set_state(room, "m.room.topic", "", json!({ "topic": "after" })).await;
        alice.say(room, "unseen").await;
    }
    let filter = json!({ "room": { "include_leave": true } }).to_string();
    let response = bob.sync().with_filter(&filter).now().await;
    for room in [&left, &kicked] {
        let shown = &response["rooms"]["leave"][room];
        let text = shown.to_string();
        assert!(text.contains("seen") && !text.contains("unseen"), "{shown}");
        assert!(text.contains("before") && !text.contains("after"), "{shown}");
        let timeline = shown["timeline"]["events"].as_array().unwrap();
        must_match(
            timeline.last().unwrap(),
            &json!({ "state_key": bob.user_id, "content": { "membership": "leave" } }),
        );
    }
    // Once more by a sync that goes on, they are no news.
    let mut sync = bob.sync().with_filter(&filter);
    sync.now().await;
    let response = sync.now().await;
    assert_eq!(response["rooms"]["leave"].get(&left), None, "{response}");
}

/// `use_state_after`: the state at the end of the timeline instead of its beginning.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn the_state_after_the_timeline_comes_when_it_is_asked_for() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let since = bob.get("sync").query("use_state_after", "true").await.ok();
    let joined = &since["rooms"]["join"][&room];
    assert_eq!(joined["state"], Value::Null, "{joined}");
    let all = joined["state_after"]["events"].as_array().unwrap();
    assert!(all.iter().any(|event| event["type"] == "m.room.create"), "{joined}");
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "first" })).await;
    let last = alice.set_state(&room, "m.room.topic", "", json!({ "topic": "second" })).await;
    let request = bob.get("sync").query("since", &text(&since, "/next_batch"));
    let response = request.query("use_state_after", "true").await.ok();
    let joined = &response["rooms"]["join"][&room];
    let after = joined["state_after"]["events"].as_array().unwrap();
    let ids: Vec<&Value> = after.iter().map(|event| &event["event_id"]).collect();
    assert_eq!(
        ids,
        [&json!(last)],
        "what is in the timeline is in the state too, and only the last"
    );
    assert_eq!(timeline(&response, &room).len(), 2);
}
