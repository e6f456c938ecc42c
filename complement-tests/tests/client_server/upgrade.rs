//! Upgrading rooms: another room of a newer version takes a room's place.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

use complement_tests::{Client, Server, must_match, text};
use serde_json::{Value, json};

async fn upgrade(who: &Client, room: &str, body: Value) -> String {
    let answer = who.post(["rooms", room, "upgrade"], body).await.ok();
    text(&answer, "/replacement_room")
}

/// "Transferable" state comes along, both rooms name each other, and aliases lead to the new one.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-16>
#[tokio::test]
async fn an_upgraded_room_has_a_successor_with_its_state() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let eve = server.register("eve").await;
    let name = format!("{}-up", alice.localpart());
    let old = alice
        .create_room(json!({
            "preset": "public_chat", "room_version": "10", "name": "Tea", "topic": "leaves",
            "room_alias_name": name, "visibility": "public",
            "creation_content": { "m.federate": false, "type": "org.example.kind" },
            "power_level_content_override": { "events": { "m.room.name": 30 } },
        }))
        .await;
    let alias = format!("#{name}:{}", alice.server_name());
    bob.join(&old).await;
    alice.post(["rooms", &old, "ban"], json!({ "user_id": eve.user_id })).await.ok();
    alice.set_state(&old, "m.room.server_acl", "", json!({ "allow": ["*"] })).await;
    let last = bob.say(&old, "before").await;

    let new = upgrade(&alice, &old, json!({ "new_version": "11" })).await;
    assert_ne!(new, old);
    let tombstone = alice.state(&old, "m.room.tombstone", "").await;
    assert_eq!(tombstone["replacement_room"], new);
    assert!(tombstone["body"].is_string(), "{tombstone}");
    let create = alice.state(&new, "m.room.create", "").await;
    must_match(
        &create,
        &json!({
            "room_version": "11", "m.federate": false, "type": "org.example.kind",
            "predecessor": { "room_id": old },
        }),
    );
    // "The last known event in the old room", which is the tombstone if that was sent before.
    let mut ends = vec![last];
    let state = alice.get(["rooms", &old, "state"]).await.ok();
    let tombstone =
        state.as_array().unwrap().iter().find(|event| event["type"] == "m.room.tombstone");
    ends.push(text(tombstone.unwrap(), "/event_id"));
    assert!(ends.contains(&text(&create, "/predecessor/event_id")), "{create}");
    for (kind, key, value) in [
        ("m.room.name", "name", "Tea"),
        ("m.room.topic", "topic", "leaves"),
        ("m.room.join_rules", "join_rule", "public"),
        ("m.room.history_visibility", "history_visibility", "shared"),
        ("m.room.guest_access", "guest_access", "forbidden"),
        ("m.room.canonical_alias", "alias", alias.as_str()),
    ] {
        assert_eq!(alice.state(&new, kind, "").await[key], value, "{kind}");
    }
    assert_eq!(alice.state(&new, "m.room.server_acl", "").await["allow"], json!(["*"]));
    assert_eq!(alice.membership(&new, &eve.user_id).await, "ban");
    let levels = alice.state(&new, "m.room.power_levels", "").await;
    assert_eq!(levels["events"]["m.room.name"], 30);
    assert_eq!(levels["users"][&alice.user_id], 100);

    let found = server.get(["directory/room", &alias]).await.ok();
    assert_eq!(found["room_id"], new);
    let left = alice.state(&old, "m.room.canonical_alias", "").await;
    assert_eq!(left["alias"], Value::Null);
    let listed = async |room: &str| {
        let path = ["directory/list/room", room];
        text(&server.anonymous().get(path).await.ok(), "/visibility")
    };
    assert_eq!((listed(&old).await, listed(&new).await), ("private".into(), "public".into()));

    // Members come over by themselves; in the old room they can't go on.
    bob.get(["rooms", &new, "state"]).await.fails(403, "M_FORBIDDEN");
    let path = ["rooms", &old, "send", "m.room.message", "after"];
    bob.put(path, json!({ "msgtype": "m.text", "body": "after" })).await.fails(403, "M_FORBIDDEN");
    let joined = bob.post(["join", &alias], json!({})).await.ok();
    assert_eq!(joined["room_id"], new);
    eve.post(["join", &alias], json!({})).await.fails(403, "M_FORBIDDEN");
}

/// In a room of version 12 creators stand above all numbers; others can be made creators.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidupgrade>
#[tokio::test]
async fn version_12_takes_additional_creators() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    bob.join(&old).await;
    let levels = json!({ "users": { &alice.user_id: 100, &bob.user_id: 50 } });
    alice.set_state(&old, "m.room.power_levels", "", levels).await;
    let body = json!({ "new_version": "12", "additional_creators": [bob.user_id] });
    let new = upgrade(&alice, &old, body).await;
    assert!(!new.contains(':'), "{new}");
    let create = alice.state(&new, "m.room.create", "").await;
    assert_eq!(create["additional_creators"], json!([bob.user_id]));
    assert_eq!(create["predecessor"]["room_id"], old);
    let levels = alice.state(&new, "m.room.power_levels", "").await;
    for creator in [&alice, &bob] {
        assert_eq!(levels["users"][&creator.user_id], Value::Null, "{levels}");
    }
    bob.join(&new).await;
    // Only a creator may do this: no number is as high.
    let mut levels = levels;
    levels["events"]["m.room.name"] = json!(9_000);
    bob.set_state(&new, "m.room.power_levels", "", levels).await;

    // From one such room to the next they are not taken along.
    let newer = upgrade(&alice, &new, json!({ "new_version": "12" })).await;
    let create = alice.state(&newer, "m.room.create", "").await;
    assert_eq!(create["additional_creators"], Value::Null, "{create}");
    assert_eq!(alice.state(&new, "m.room.tombstone", "").await["replacement_room"], newer);
}

/// Whoever is no longer a creator keeps the highest number, where Synapse leaves them none.
#[tokio::test]
async fn who_was_a_creator_keeps_power() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let creators = json!({ "additional_creators": [bob.user_id] });
    let old = alice.create_room(json!({ "creation_content": creators })).await;
    for version in ["12", "11"] {
        let new = upgrade(&alice, &old, json!({ "new_version": version })).await;
        let levels = alice.state(&new, "m.room.power_levels", "").await;
        assert_eq!(levels["users"][&bob.user_id], 100, "version {version}: {levels}");
    }
}

/// "When upgrading to a room version which doesn't support additional creators, this field is
/// ignored and has no effect during the upgrade process."
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidupgrade>
#[tokio::test]
async fn additional_creators_are_ignored_where_there_can_be_none() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice.create_room(json!({ "room_version": "10" })).await;
    let body = json!({ "new_version": "11", "additional_creators": [bob.user_id] });
    let new = upgrade(&alice, &old, body).await;
    let create = alice.state(&new, "m.room.create", "").await;
    assert_eq!(create["room_version"], "11");
    assert_eq!(create["additional_creators"], Value::Null, "{create}");
    let levels = alice.state(&new, "m.room.power_levels", "").await;
    assert_eq!(levels["users"], json!({ &*alice.user_id: 100 }));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidupgrade>
#[tokio::test]
async fn an_upgrade_needs_the_power_to_send_a_tombstone() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    let path = ["rooms", room.as_str(), "upgrade"];
    let to = |version: &str| json!({ "new_version": version });
    bob.post(path, to("12")).await.fails(403, "M_FORBIDDEN");
    bob.join(&room).await;
    bob.post(path, to("12")).await.fails(403, "M_FORBIDDEN");
    bob.anonymous().post(path, to("12")).await.fails(401, "M_MISSING_TOKEN");
    alice.post(path, to("13")).await.fails(400, "M_UNSUPPORTED_ROOM_VERSION");
    let answer = alice.post(path, json!({})).await;
    answer.fails_as(400, &["M_BAD_JSON", "M_MISSING_PARAM"]);
    alice.get(["rooms", &room, "state", "m.room.tombstone"]).await.fails(404, "M_NOT_FOUND");
    let joined = alice.get("joined_rooms").await.ok();
    assert_eq!(joined["joined_rooms"], json!([room]), "no half-made room is left");
}

/// A space takes its children along.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-16>
#[tokio::test]
async fn the_children_of_a_space_come_along() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let child = alice.create_room(json!({})).await;
    let space = alice.create_room(json!({ "creation_content": { "type": "m.space" } })).await;
    let via = json!({ "via": [alice.server_name()] });
    alice.set_state(&space, "m.space.child", &child, via.clone()).await;
    let new = upgrade(&alice, &space, json!({ "new_version": "11" })).await;
    assert_eq!(alice.state(&new, "m.space.child", &child).await, via);
    assert_eq!(alice.state(&new, "m.room.create", "").await["type"], "m.space");
}
