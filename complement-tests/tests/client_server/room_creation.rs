//! Creating rooms.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#creation>

use complement_tests::{Client, Server, must_match, text};
use serde_json::{Value, json};

/// What each preset sets.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn presets_set_join_rule_history_and_guest_access() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for (preset, join_rule, guests) in [
        ("private_chat", "invite", "can_join"),
        ("trusted_private_chat", "invite", "can_join"),
        ("public_chat", "public", "forbidden"),
    ] {
        let body = json!({ "preset": preset, "room_version": "11", "invite": [bob.user_id] });
        let room = alice.create_room(body).await;
        let state = async |event_type: &str| alice.state(&room, event_type, "").await;
        must_match(&state("m.room.join_rules").await, &json!({ "join_rule": join_rule }));
        must_match(
            &state("m.room.history_visibility").await,
            &json!({ "history_visibility": "shared" }),
        );
        // Without the event guests are forbidden as well.
        let path = ["rooms", room.as_str(), "state", "m.room.guest_access", ""];
        let answer = alice.get(path).await;
        let allowed = answer.json["guest_access"].as_str().unwrap_or("forbidden");
        assert_eq!(allowed, guests, "{preset}: {answer}");
        let levels = state("m.room.power_levels").await;
        assert_eq!(levels["users"][&alice.user_id], 100, "{levels}");
        let bob_level = if preset == "trusted_private_chat" { json!(100) } else { Value::Null };
        assert_eq!(levels["users"][&bob.user_id], bob_level, "{preset}: {levels}");
    }
}

/// Without a preset the visibility decides.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn visibility_chooses_the_preset() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for (body, join_rule) in [
        (json!({}), "invite"),
        (json!({ "visibility": "private" }), "invite"),
        (json!({ "visibility": "public" }), "public"),
    ] {
        let room = alice.create_room(body).await;
        must_match(
            &alice.state(&room, "m.room.join_rules", "").await,
            &json!({ "join_rule": join_rule }),
        );
    }
}

/// The events of a new room come in an order that the specification fixes.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn the_first_events_stand_in_order() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let alias = format!("{}-room", alice.localpart());
    let room = alice
        .create_room(json!({
            "preset": "private_chat", "room_alias_name": alias, "name": "Kitchen", "topic": "Soup",
            "initial_state": [{ "type": "org.example.colour", "content": { "colour": "blue" } }],
            "invite": [bob.user_id],
        }))
        .await;
    let messages = alice.get(["rooms", &room, "messages"]).query("dir", "f").query("limit", "50");
    let messages = messages.await.ok();
    let events = messages["chunk"].as_array().unwrap();
    let position = |event_type: &str, key: &str| {
        events
            .iter()
            .position(|event| event["type"] == event_type && event["state_key"] == key)
            .unwrap_or_else(|| panic!("no {event_type} {key} in {messages:#}"))
    };
    assert_eq!(position("m.room.create", ""), 0);
    assert_eq!(position("m.room.member", &alice.user_id), 1);
    assert_eq!(position("m.room.power_levels", ""), 2);
    let preset = ["m.room.join_rules", "m.room.history_visibility", "m.room.guest_access"]
        .map(|event_type| position(event_type, ""));
    let initial = position("org.example.colour", "");
    let (name, topic) = (position("m.room.name", ""), position("m.room.topic", ""));
    let invite = position("m.room.member", &bob.user_id);
    assert!(preset.iter().all(|at| (3..initial).contains(at)), "{messages:#}");
    assert!(initial < name && initial < topic && name < invite && topic < invite, "{messages:#}");

    must_match(&alice.state(&room, "m.room.name", "").await, &json!({ "name": "Kitchen" }));
    must_match(&alice.state(&room, "m.room.topic", "").await, &json!({ "topic": "Soup" }));
    must_match(
        &alice.state(&room, "m.room.canonical_alias", "").await,
        &json!({ "alias": format!("#{alias}:{}", alice.server_name()) }),
    );
}

/// An alias leads to the room, and is taken once.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-aliases>
#[tokio::test]
async fn an_alias_leads_to_the_room() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let name = format!("{}-room", alice.localpart());
    let body = json!({ "preset": "public_chat", "room_alias_name": name });
    let room = alice.create_room(body.clone()).await;
    let alias = format!("#{name}:{}", alice.server_name());
    let found = server.get(["directory/room", &alias]).await.ok();
    assert_eq!(found["room_id"], room);
    assert!(found["servers"].as_array().unwrap().contains(&json!(alice.server_name())));
    bob.post("createRoom", body).await.fails(400, "M_ROOM_IN_USE");
    let joined = bob.post(["join", &alias], json!({})).await.ok();
    assert_eq!(joined["room_id"], room);
}

/// Every stable version can be asked for; the creator stands above power levels in version 12.
/// Spec: <https://spec.matrix.org/v1.19/rooms/>
#[tokio::test]
async fn rooms_of_each_version_carry_messages() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for version in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] {
        let body = json!({ "preset": "public_chat", "room_version": version });
        let room = alice.create_room(body).await;
        bob.join(&room).await;
        bob.say(&room, "hello").await;
        let create = alice.state(&room, "m.room.create", "").await;
        assert_eq!(create["room_version"], version);
        let levels = alice.state(&room, "m.room.power_levels", "").await;
        let expected = if version == "12" { Value::Null } else { json!(100) };
        assert_eq!(levels["users"][&alice.user_id], expected, "version {version}: {levels}");
        match version {
            "11" | "12" => assert_eq!(create["creator"], Value::Null),
            _ => assert_eq!(create["creator"], alice.user_id),
        }
        assert_eq!(room.contains(':'), version != "12", "{room}");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn an_unknown_version_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    alice
        .post("createRoom", json!({ "room_version": "no-such-version" }))
        .await
        .fails(400, "M_UNSUPPORTED_ROOM_VERSION");
}

/// `creation_content` goes into the create event; the version there is the server's business.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn creation_content_is_merged() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice
        .create_room(json!({
            "room_version": "11",
            "creation_content": { "type": "m.space", "m.federate": false, "room_version": "9" },
        }))
        .await;
    must_match(
        &alice.state(&room, "m.room.create", "").await,
        &json!({ "type": "m.space", "m.federate": false, "room_version": "11" }),
    );
}

/// `power_level_content_override` replaces fields of what the preset gives.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn power_levels_can_be_overridden() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice
        .create_room(json!({
            "room_version": "11", "preset": "public_chat",
            "power_level_content_override": { "events_default": 7, "events": { "m.room.name": 9 } },
        }))
        .await;
    must_match(
        &alice.state(&room, "m.room.power_levels", "").await,
        &json!({
            "events_default": 7, "events": { "m.room.name": 9 }, "users": { &alice.user_id: 100 },
        }),
    );
}

/// "The server will create the events in the following order": what is said later counts.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn a_preset_gives_way_to_the_initial_state_and_that_to_the_name() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let state = |kind: &str, content: Value| json!({ "type": kind, "content": content });
    let room = alice
        .create_room(json!({
            "preset": "public_chat", "name": "said last",
            "initial_state": [
                state("m.room.join_rules", json!({ "join_rule": "invite" })),
                state("m.room.history_visibility", json!({ "history_visibility": "joined" })),
                state("m.room.name", json!({ "name": "said first" })),
            ],
        }))
        .await;
    for (kind, key, value) in [
        ("m.room.join_rules", "join_rule", "invite"),
        ("m.room.history_visibility", "history_visibility", "joined"),
        ("m.room.name", "name", "said last"),
    ] {
        assert_eq!(alice.state(&room, kind, "").await[key], value, "{kind}");
    }
}

/// Invited users get the invite, marked as direct if it is.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#direct-messaging>
#[tokio::test]
async fn invited_users_see_a_direct_chat() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({
            "preset": "trusted_private_chat", "is_direct": true, "invite": [bob.user_id],
        }))
        .await;
    let invite = bob
        .sync()
        .until(|response| {
            let state = response["rooms"]["invite"][&room]["invite_state"]["events"].as_array()?;
            state.iter().find(|event| event["state_key"] == bob.user_id).cloned()
        })
        .await;
    must_match(
        &invite,
        &json!({
            "type": "m.room.member", "sender": alice.user_id,
            "content": { "membership": "invite", "is_direct": true },
        }),
    );
}

/// What is wrong is refused whole: no half-made room is left.
#[tokio::test]
async fn malformed_requests_create_nothing() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let refused = async |body: Value| {
        let answer = alice.post("createRoom", body).await;
        assert_eq!(answer.status, 400, "{answer}");
    };
    refused(json!({ "preset": 7 })).await;
    refused(json!({ "invite": ["no user ID"] })).await;
    refused(json!({ "room_alias_name": "#with:colon" })).await;
    refused(json!({ "initial_state": [{ "content": {} }] })).await;
    refused(json!({ "power_level_content_override": { "users": { "nobody": 100 } } })).await;
    assert_eq!(joined_rooms(&alice).await, Vec::<String>::new());
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3joined_rooms>
#[tokio::test]
async fn joined_rooms_are_listed() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    assert!(joined_rooms(&alice).await.is_empty());
    let (first, second) = (alice.create_room(json!({})).await, alice.create_room(json!({})).await);
    let mut expected = vec![first.clone(), second.clone()];
    expected.sort();
    assert_eq!(joined_rooms(&alice).await, expected);
    alice.leave(&first).await;
    assert_eq!(joined_rooms(&alice).await, [second]);
    server.anonymous().get("joined_rooms").await.fails(401, "M_MISSING_TOKEN");
    server.anonymous().post("createRoom", json!({})).await.fails(401, "M_MISSING_TOKEN");
}

async fn joined_rooms(user: &Client) -> Vec<String> {
    let answer = user.get("joined_rooms").await.ok();
    let rooms = answer["joined_rooms"].as_array().unwrap();
    let mut rooms: Vec<String> = rooms.iter().map(|room| text(room, "")).collect();
    rooms.sort();
    rooms
}
