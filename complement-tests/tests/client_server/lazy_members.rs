//! Members that come only when they matter, and the names of rooms that have none.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>

use complement_tests::{Server, must_match, text};
use serde_json::{Value, json};

/// With lazy loading only the members that matter for the timeline are in the state.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>
#[tokio::test]
async fn members_are_loaded_lazily() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Kitchen" })).await;
    bob.join(&room).await;
    carol.join(&room).await;
    bob.say(&room, "hello").await;
    let filter = json!({
        "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 1 } },
    });
    let response = alice.sync().with_filter(&filter.to_string()).now().await;
    let state = response["rooms"]["join"][&room]["state"]["events"].as_array().unwrap();
    let members: Vec<&Value> = state
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| &event["state_key"])
        .collect();
    assert!(members.contains(&&json!(bob.user_id)), "the sender is loaded: {members:?}");
    assert!(!members.contains(&&json!(carol.user_id)), "nobody else is: {members:?}");
    must_match(
        &response["rooms"]["join"][&room]["summary"],
        &json!({ "m.joined_member_count": 3 }),
    );
}

/// With lazy loading, too, a name that changed while nobody looked is known when its owner speaks.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>
#[tokio::test]
async fn who_was_renamed_in_a_gap_comes_with_what_they_say() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    bob.say(&room, "it is me").await;
    let filter = json!({
        "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 1 } },
    });
    let mut sync = alice.sync().with_filter(&filter.to_string());
    sync.now().await;
    let member = ["rooms", room.as_str(), "state", "m.room.member", bob.user_id.as_str()];
    bob.put(member, json!({ "membership": "join", "displayname": "Robert" })).await.ok();
    alice.say(&room, "who is this?").await;
    bob.say(&room, "still me").await;
    let response = sync.now().await;
    let joined = &response["rooms"]["join"][&room];
    assert_eq!(joined["timeline"]["limited"], true);
    let state = joined["state"]["events"].as_array().unwrap();
    let own = state.iter().find(|event| event["state_key"] == bob.user_id.as_str());
    assert_eq!(own.unwrap()["content"]["displayname"], "Robert", "{joined}");
}

/// A room without a name is named by its members.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn a_room_without_a_name_has_heroes() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob]).await;
    alice.invite(&room, &carol.user_id).await;
    // Who has all members needs no summary.
    let lazy = r#"{"room":{"state":{"lazy_load_members":true}}}"#;
    let summary = alice.sync().with_filter(lazy).now().await;
    let summary = summary["rooms"]["join"][&room]["summary"].clone();
    let mut heroes: Vec<&str> =
        summary["m.heroes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    heroes.sort_unstable();
    assert_eq!(heroes, [&*bob.user_id, &*carol.user_id], "{summary}");
    assert_eq!(summary["m.joined_member_count"], 2);
    assert_eq!(summary["m.invited_member_count"], 1);
    // Who was there is better than nobody.
    let mut sync = alice.sync().with_filter(lazy);
    sync.now().await;
    bob.leave(&room).await;
    carol.leave(&room).await;
    let summary = sync
        .until(|response| {
            let summary = &response["rooms"]["join"][&room]["summary"];
            (summary["m.joined_member_count"] == 1 && summary["m.invited_member_count"] == 0)
                .then(|| summary.clone())
        })
        .await;
    assert_eq!(summary["m.heroes"].as_array().unwrap().len(), 2, "{summary}");
}

/// "When lazy-loading room members is enabled, the membership events for the heroes MUST be included
/// in the `state`, unless they are redundant."
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn heroes_come_also_when_members_come_lazily() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let lazy = json!({
        "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 1 } },
    });
    let lazy = lazy.to_string();
    let members = |response: &Value| -> Vec<String> {
        let state = response["rooms"]["join"][&room]["state"]["events"].as_array().cloned();
        let members = state.unwrap_or_default().into_iter();
        let members = members.filter(|event| event["type"] == "m.room.member");
        members.map(|event| text(&event, "/state_key")).collect()
    };
    // Nobody but Alice speaks.
    alice.say(&room, "is anybody there?").await;
    let mut sync = alice.sync().with_filter(&lazy);
    let first = sync.now().await;
    assert_eq!(first["rooms"]["join"][&room]["summary"]["m.heroes"], json!([bob.user_id]));
    assert!(members(&first).contains(&bob.user_id), "{first}");
}

/// "Required if the room's `m.room.name` or `m.room.canonical_alias` state events are unset or empty":
/// also from then on.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
#[tokio::test]
async fn a_room_that_loses_its_name_has_heroes_from_then_on() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Kitchen" })).await;
    bob.join(&room).await;
    alice.say(&room, "is anybody there?").await;
    let lazy = json!({
        "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 1 } },
    });
    let mut sync = alice.sync().with_filter(&lazy.to_string());
    let named = sync.now().await["rooms"]["join"][&room].clone();
    let has_bob = |room: &Value| room["state"].to_string().contains(&bob.user_id);
    assert!(!has_bob(&named), "nobody needs them where there is a name: {named}");
    alice.set_state(&room, "m.room.name", "", json!({ "name": "" })).await;
    let nameless = sync.now().await["rooms"]["join"][&room].clone();
    assert_eq!(nameless["summary"]["m.heroes"], json!([bob.user_id]));
    assert!(has_bob(&nameless), "{nameless}");
}
