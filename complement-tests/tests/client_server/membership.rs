//! Joining, inviting, leaving, kicking, banning.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-membership>

use complement_tests::{Client, Server, must_match};
use serde_json::{Value, json};

/// What may be said of somebody who is banned: "a meaningful `errcode`".
const BANNED: [&str; 2] = ["M_FORBIDDEN", "M_BAD_STATE"];

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidjoin>
#[tokio::test]
async fn a_public_room_is_open_to_all() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[]).await;
    let joined = bob.post(["rooms", &room, "join"], json!({})).await.ok();
    assert_eq!(joined["room_id"], room);
    assert_eq!(alice.membership(&room, &bob.user_id).await, "join");
    let again = bob.post(["join", &room], json!({})).await.ok();
    assert_eq!(again["room_id"], room, "joining again changes nothing");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidinvite>
#[tokio::test]
async fn a_private_room_needs_an_invite() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    bob.post(["rooms", &room, "join"], json!({})).await.fails(403, "M_FORBIDDEN");
    alice.invite(&room, &bob.user_id).await;
    assert_eq!(alice.membership(&room, &bob.user_id).await, "invite");
    bob.join(&room).await;
    assert_eq!(alice.membership(&room, &bob.user_id).await, "join");
}

/// An invite shows the room's name before one has joined.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
#[tokio::test]
async fn an_invite_brings_stripped_state() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "name": "Kitchen" })).await;
    alice
        .post(
            ["rooms", &room, "invite"],
            json!({ "user_id": bob.user_id, "reason": "soup is ready" }),
        )
        .await
        .ok();
    let state = bob
        .sync()
        .until(|response| {
            response["rooms"]["invite"][&room]["invite_state"]["events"].as_array().cloned()
        })
        .await;
    let find = |event_type: &str, key: &str| {
        let mut events = state.iter();
        events
            .find(|event| event["type"] == event_type && event["state_key"] == key)
            .unwrap_or_else(|| panic!("no {event_type} in {state:#?}"))
    };
    must_match(find("m.room.name", ""), &json!({ "content": { "name": "Kitchen" } }));
    must_match(
        find("m.room.member", &bob.user_id),
        &json!({
            "sender": alice.user_id,
            "content": { "membership": "invite", "reason": "soup is ready" },
        }),
    );
    find("m.room.create", "");
    find("m.room.join_rules", "");
    for event in &state {
        assert!(event["event_id"].is_null() || event["type"] == "m.room.member", "{event}");
    }
}

/// An invite can be refused; it then leaves the list of invites.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidleave>
#[tokio::test]
async fn an_invite_can_be_refused() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    let mut sync = bob.sync();
    sync.until(|response| response["rooms"]["invite"].get(&room).map(|_| ())).await;
    bob.leave(&room).await;
    assert_eq!(alice.membership(&room, &bob.user_id).await, "leave");
    sync.until(|response| response["rooms"]["leave"].get(&room).map(|_| ())).await;
    let fresh = bob.sync().now().await;
    assert_eq!(fresh["rooms"]["invite"][&room], Value::Null, "{fresh}");
    bob.post(["rooms", &room, "join"], json!({})).await.fails(403, "M_FORBIDDEN");
}

/// Only members invite, and nobody is invited who is in or banned.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidinvite>
#[tokio::test]
async fn invites_have_their_rules() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob]).await;
    let invite = async |who: &Client, whom: &Client| {
        who.post(["rooms", &room, "invite"], json!({ "user_id": whom.user_id })).await
    };
    invite(&carol, &carol).await.fails(403, "M_FORBIDDEN");
    invite(&alice, &bob).await.fails(403, "M_FORBIDDEN");
    membership_change(&alice, &room, "ban", &carol).await.ok();
    invite(&alice, &carol).await.fails_as(403, &BANNED);
    let answer = alice.post(["rooms", &room, "invite"], json!({ "user_id": "carol" })).await;
    assert_eq!(answer.status, 400, "{answer}");
}

/// Leaving twice is no error; who never was in the room cannot leave it.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidleave>
#[tokio::test]
async fn whoever_left_sends_nothing_more() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let body = json!({ "reason": "soup was cold" });
    bob.post(["rooms", &room, "leave"], body).await.ok();
    must_match(
        &alice.state(&room, "m.room.member", &bob.user_id).await,
        &json!({ "membership": "leave", "reason": "soup was cold" }),
    );
    let message = json!({ "msgtype": "m.text", "body": "still here" });
    bob.put(["rooms", &room, "send", "m.room.message", "t"], message)
        .await
        .fails(403, "M_FORBIDDEN");
    let stranger = server.register("stranger").await;
    let answer = stranger.post(["rooms", &room, "leave"], json!({})).await;
    assert!([403, 404].contains(&answer.status), "{answer}");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidkick>
#[tokio::test]
async fn a_kicked_user_may_come_back() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    membership_change(&alice, &room, "kick", &bob).await.ok();
    must_match(
        &alice.state(&room, "m.room.member", &bob.user_id).await,
        &json!({ "membership": "leave", "reason": "because" }),
    );
    bob.join(&room).await;
}

/// Kick, ban and unban are for those who have the power.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
#[tokio::test]
async fn members_without_power_cannot_kick_ban_or_unban() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob, &carol]).await;
    membership_change(&bob, &room, "kick", &carol).await.fails(403, "M_FORBIDDEN");
    membership_change(&bob, &room, "ban", &carol).await.fails(403, "M_FORBIDDEN");
    membership_change(&bob, &room, "kick", &alice).await.fails(403, "M_FORBIDDEN");
    membership_change(&alice, &room, "ban", &carol).await.ok();
    membership_change(&bob, &room, "unban", &carol).await.fails(403, "M_FORBIDDEN");
    assert_eq!(alice.membership(&room, &carol.user_id).await, "ban");
}

/// A banned user stays out until unbanned.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#banning-users-in-a-room>
#[tokio::test]
async fn a_ban_lasts_until_it_is_lifted() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    membership_change(&alice, &room, "ban", &bob).await.ok();
    must_match(
        &alice.state(&room, "m.room.member", &bob.user_id).await,
        &json!({ "membership": "ban", "reason": "because" }),
    );
    bob.post(["rooms", &room, "join"], json!({})).await.fails_as(403, &BANNED);
    membership_change(&alice, &room, "unban", &bob).await.ok();
    assert_eq!(alice.membership(&room, &bob.user_id).await, "leave");
    bob.join(&room).await;
}

/// Who sends as an unprivileged member state about others is refused.
#[tokio::test]
async fn a_member_event_for_somebody_else_is_refused() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob]).await;
    let forge = async |who: &Client, membership: &str| {
        let path = ["rooms", &room, "state", "m.room.member", &carol.user_id];
        who.put(path, json!({ "membership": membership })).await
    };
    forge(&bob, "join").await.fails(403, "M_FORBIDDEN");
    forge(&alice, "join").await.fails(403, "M_FORBIDDEN");
    forge(&bob, "ban").await.fails(403, "M_FORBIDDEN");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers>
#[tokio::test]
async fn members_are_listed_by_membership() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob]).await;
    alice.invite(&room, &carol.user_id).await;
    bob.leave(&room).await;

    let list = async |parameter: Option<(&str, &str)>| {
        let mut request = alice.get(["rooms", &room, "members"]);
        if let Some((name, value)) = parameter {
            request = request.query(name, value);
        }
        let answer = request.await.ok();
        let mut found: Vec<(String, String)> = answer["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| {
                assert_eq!(event["type"], "m.room.member");
                (event["state_key"].as_str(), event["content"]["membership"].as_str())
            })
            .map(|(user, membership)| (user.unwrap().to_owned(), membership.unwrap().to_owned()))
            .collect();
        found.sort();
        found
    };
    let entry = |user: &Client, membership: &str| (user.user_id.clone(), membership.to_owned());
    let all = [entry(&alice, "join"), entry(&bob, "leave"), entry(&carol, "invite")];
    assert_eq!(list(None).await, all);
    assert_eq!(list(Some(("membership", "join"))).await, all[..1]);
    assert_eq!(list(Some(("membership", "invite"))).await, all[2..]);
    assert_eq!(list(Some(("not_membership", "leave"))).await, [all[0].clone(), all[2].clone()]);
    server
        .register("mallory")
        .await
        .get(["rooms", &room, "members"])
        .await
        .fails(403, "M_FORBIDDEN");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidjoined_members>
#[tokio::test]
async fn joined_members_are_given_with_their_names() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let name = json!({ "displayname": "Bob B." });
    bob.put(["profile", &bob.user_id, "displayname"], name).await.ok();
    let room = alice.create_room_with(&[&bob]).await;
    let answer = alice.get(["rooms", &room, "joined_members"]).await.ok();
    assert_eq!(answer["joined"].as_object().unwrap().len(), 2);
    assert_eq!(answer["joined"][&bob.user_id]["display_name"], "Bob B.");
    let mallory = server.register("mallory").await;
    mallory.get(["rooms", &room, "joined_members"]).await.fails(403, "M_FORBIDDEN");
}

/// A room that does not exist is not told apart from one that is closed.
#[tokio::test]
async fn an_unknown_room_cannot_be_joined() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = format!("!unknown:{}", alice.server_name());
    let answer = alice.post(["rooms", &room, "join"], json!({})).await;
    assert!([403, 404].contains(&answer.status), "{answer}");
    let alias = format!("#unknown:{}", alice.server_name());
    alice.post(["join", &alias], json!({})).await.fails(404, "M_NOT_FOUND");
    let answer = alice.post("join/neither-id-nor-alias", json!({})).await;
    assert_eq!(answer.status, 400, "{answer}");
}

/// Whoever has left may forget the room; who is in must leave first.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidforget>
#[tokio::test]
async fn a_room_is_forgotten_after_leaving() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    bob.post(["rooms", &room, "forget"], json!({})).await.fails(400, "M_UNKNOWN");
    bob.leave(&room).await;
    bob.post(["rooms", &room, "forget"], json!({})).await.ok();
    let filter = json!({ "room": { "include_leave": true } }).to_string();
    let response = bob.sync().with_filter(&filter).now().await;
    assert_eq!(response["rooms"]["leave"][&room], Value::Null, "{response}");
    bob.get(["rooms", &room, "messages"]).query("dir", "b").await.fails(403, "M_FORBIDDEN");
}

/// `at`: the members as they were when a sync ended.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers>
#[tokio::test]
async fn members_are_listed_as_of_a_token() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[]).await;
    let before = alice.sync().now().await["rooms"]["join"][&room]["timeline"]["prev_batch"].clone();
    let mut sync = alice.sync();
    sync.now().await;
    let then = sync.token().unwrap().to_owned();
    bob.join(&room).await;
    let listed = async |at: Option<&str>| {
        let mut request = alice.get(["rooms", &room, "members"]);
        if let Some(at) = at {
            request = request.query("at", at);
        }
        let answer = request.await.ok();
        answer["chunk"].as_array().unwrap().len()
    };
    assert!(before.is_string(), "{before}");
    assert_eq!((listed(Some(&then)).await, listed(None).await), (1, 2));
}

/// Nobody is thrown out who is not there.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidkick>
#[tokio::test]
async fn nobody_is_kicked_who_is_not_there() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let stranger = server.register("stranger").await;
    membership_change(&alice, &room, "kick", &stranger).await.fails(403, "M_FORBIDDEN");
    bob.leave(&room).await;
    membership_change(&alice, &room, "kick", &bob).await.fails(403, "M_FORBIDDEN");
    // An invitation is taken back so.
    alice.invite(&room, &stranger.user_id).await;
    membership_change(&alice, &room, "kick", &stranger).await.ok();
    let response = stranger.sync().now().await;
    assert_eq!(response["rooms"]["invite"][&room], Value::Null, "{response}");
}

async fn membership_change(
    who: &Client,
    room: &str,
    change: &str,
    whom: &Client,
) -> complement_tests::Answer {
    let body = json!({ "user_id": whom.user_id, "reason": "because" });
    who.post(["rooms", room, change], body).await
}
