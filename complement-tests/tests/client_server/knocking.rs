//! Knocking, and rooms that members of other rooms may come into.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#knocking-on-rooms>

use complement_tests::{Client, Server};
use serde_json::{Value, json};

/// A room with this join rule.
async fn room(owner: &Client, rule: Value) -> String {
    let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": rule });
    let body = json!({ "initial_state": [rule], "name": "Behind the door" });
    owner.create_room(body).await
}

/// Whoever knocks is let in, or not.
#[tokio::test]
async fn a_knock_is_answered_by_an_invitation_or_not() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = room(&alice, json!({ "join_rule": "knock" })).await;
    bob.post(["rooms", &room, "join"], json!({})).await.fails(403, "M_FORBIDDEN");
    let knocked = bob.post(["knock", &room], json!({ "reason": "it rains" })).await.ok();
    assert_eq!(knocked["room_id"], room);
    let event = alice.state(&room, "m.room.member", &bob.user_id).await;
    assert_eq!((&event["membership"], &event["reason"]), (&json!("knock"), &json!("it rains")));
    // Who knocks sees what the door looks like, and nothing behind it.
    let sync = bob.sync().now().await;
    let seen = &sync["rooms"]["knock"][&room]["knock_state"]["events"];
    let named = |kind: &str| seen.as_array().unwrap().iter().any(|event| event["type"] == kind);
    assert!(named("m.room.name") && named("m.room.member"), "{sync}");
    bob.get(["rooms", &room, "messages"]).query("dir", "b").await.fails(403, "M_FORBIDDEN");

    alice.invite(&room, &bob.user_id).await;
    bob.join(&room).await;
    bob.post(["knock", &room], json!({})).await.fails(403, "M_FORBIDDEN");

    let carol = server.register("carol").await;
    carol.post(["knock", &room], json!({})).await.ok();
    alice.post(["rooms", &room, "kick"], json!({ "user_id": carol.user_id })).await.ok();
    assert_eq!(alice.membership(&room, &carol.user_id).await, "leave");
    carol.post(["knock", &room], json!({})).await.ok();
    carol.leave(&room).await;
    alice.post(["rooms", &room, "ban"], json!({ "user_id": carol.user_id })).await.ok();
    // "A meaningful `errcode`", of whoever is banned.
    let answer = carol.post(["knock", &room], json!({})).await;
    answer.fails_as(403, &["M_FORBIDDEN", "M_BAD_STATE"]);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3knockroomidoralias>
#[tokio::test]
async fn not_every_door_is_knocked_on() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let closed = alice.create_room(json!({})).await;
    bob.post(["knock", &closed], json!({})).await.fails(403, "M_FORBIDDEN");
    let open = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.post(["knock", &open], json!({})).await.fails(403, "M_FORBIDDEN");
    let nowhere = bob.post(["knock", "#nowhere:complement.test"], json!({})).await;
    nowhere.fails(404, "M_NOT_FOUND");
    bob.anonymous().post(["knock", &open], json!({})).await.fails(401, "M_MISSING_TOKEN");
    // Rooms from before version 7 have no such rule.
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let old = json!({ "room_version": "6", "initial_state": [rule] });
    let old = alice.create_room(old).await;
    bob.post(["knock", &old], json!({})).await.fails(403, "M_FORBIDDEN");
}

/// Members of a room that the rule names come in, by the word of a member who may invite.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>
#[tokio::test]
async fn a_restricted_room_is_open_to_members_of_another() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let space = alice.create_room(json!({ "preset": "public_chat" })).await;
    let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
    for rule in ["restricted", "knock_restricted"] {
        let room = room(&alice, json!({ "join_rule": rule, "allow": allow })).await;
        let join = ["rooms", room.as_str(), "join"];
        bob.post(join, json!({})).await.fails(403, "M_FORBIDDEN");
        let knock = bob.post(["knock", &room], json!({})).await;
        if rule == "restricted" {
            knock.fails(403, "M_FORBIDDEN");
        } else {
            knock.ok();
            bob.leave(&room).await;
        }
        bob.join(&space).await;
        bob.post(join, json!({})).await.ok();
        let event = alice.state(&room, "m.room.member", &bob.user_id).await;
        assert_eq!(event["join_authorised_via_users_server"], alice.user_id);
        bob.leave(&room).await;
        bob.leave(&space).await;
        bob.post(join, json!({})).await.fails(403, "M_FORBIDDEN");
        // An invitation is as good.
        alice.invite(&room, &bob.user_id).await;
        bob.join(&room).await;
    }
}
