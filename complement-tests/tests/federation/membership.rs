//! Members of other servers come in, knock, are invited and leave.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use complement_tests::peer::{Pdu, Peer};
use complement_tests::{Answer, Client, Server, wait_until};
use serde_json::{Value, json};

use crate::{Meeting, server};

/// A template that the server gave out, filled and signed.
async fn signed(peer: &Peer, server: &Server, path: &str) -> Pdu {
    let made = peer.get(server, &format!("/_matrix/federation/v1/{path}")).await.ok();
    peer.sign(made["event"].clone())
}

async fn send(peer: &Peer, server: &Server, what: &str, room: &str, event: &Pdu) -> Answer {
    let path = format!("/_matrix/federation/{what}/{room}/{}", event.id);
    peer.put(server, &path, &event.json).await
}

/// A room of the server with this join rule, and who made it.
async fn closed_room(server: &Server, join_rule: &str) -> (Client, String) {
    let alice = server.register("alice").await;
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": join_rule } });
    let body = json!({ "preset": "private_chat", "room_version": "11", "initial_state": [rule] });
    let room = alice.create_room(body).await;
    (alice, room)
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid>
#[tokio::test]
async fn a_template_is_made_for_whom_the_room_lets_in() {
    let meeting = Meeting::new().await;
    let (peer, server, room) = (&meeting.peer, &meeting.server, &meeting.room.id);
    let user = peer.user("mallory");
    let make = async |kind: &str, room: &str, user: &str, query: &str| {
        let path = format!("/_matrix/federation/v1/{kind}/{room}/{user}{query}");
        peer.get(server, &path).await
    };
    let nowhere = "!nowhere:complement.test";
    for kind in ["make_join", "make_knock"] {
        make(kind, nowhere, &user, "?ver=11").await.fails(404, "M_NOT_FOUND");
        // Who says nothing of versions joins rooms of the first.
        let queries = ["?ver=9&ver=12", "?ver=no.such", ""];
        for query in queries.iter().filter(|query| kind == "make_join" || !query.is_empty()) {
            let answer = make(kind, room, &user, query).await;
            let refusal = answer.fails(400, "M_INCOMPATIBLE_ROOM_VERSION");
            assert_eq!(refusal["room_version"], "11");
        }
        make(kind, room, "@bob:elsewhere.example", "?ver=11").await.fails(403, "M_FORBIDDEN");
    }
    make("make_leave", room, "@bob:elsewhere.example", "").await.fails(403, "M_FORBIDDEN");
    // Somebody who is not there does not leave, and nobody knocks where the door is open.
    make("make_leave", room, &user, "").await.fails(403, "M_FORBIDDEN");
    make("make_knock", room, &user, "?ver=11").await.fails(403, "M_FORBIDDEN");
    // Neither does somebody come in who was banned.
    meeting.alice.post(["rooms", room, "ban"], json!({ "user_id": user })).await.ok();
    make("make_join", room, &user, "?ver=11").await.fails(403, "M_FORBIDDEN");
    let template = make("make_join", room, &peer.user("bob"), "?ver=10&ver=11").await.ok();
    assert_eq!(template["room_version"], "11");
    assert_eq!(template["event"]["content"]["membership"], "join");
    assert_eq!(template["event"]["state_key"], peer.user("bob"));
}

/// What is sent back is judged again, whatever the template was.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
#[tokio::test]
async fn a_join_is_what_it_says() {
    let meeting = Meeting::new().await;
    let (peer, server, room) = (&meeting.peer, &meeting.server, &meeting.room.id);
    let template = format!("make_join/{room}/{}?ver=11", peer.user("bob"));
    let join = signed(peer, server, &template).await;

    let mut other = join.json.clone();
    other["content"]["membership"] = json!("leave");
    let mut elsewhere = join.json.clone();
    elsewhere["room_id"] = json!("!elsewhere:complement.test");
    let mut message = join.json.clone();
    message["type"] = json!("m.room.message");
    for draft in [other, elsewhere, message] {
        let event = peer.sign(draft);
        let answer = send(peer, server, "v2/send_join", room, &event).await;
        answer.fails(400, "M_INVALID_PARAM");
    }
    let mut unsigned = join.clone();
    unsigned.json["signatures"] = json!({});
    let answer = send(peer, server, "v2/send_join", room, &unsigned).await;
    answer.fails(403, "M_FORBIDDEN");
    // The ID is not that of the event.
    let path = format!("/_matrix/federation/v2/send_join/{room}/$another");
    peer.put(server, &path, &join.json).await.fails(400, "M_INVALID_PARAM");
    let path = format!("/_matrix/federation/v2/send_join/{room}/{}", join.id);
    let answer = peer.put(server, &path, &json!({})).await;
    assert!((400..500).contains(&answer.status), "{answer}");

    // Somebody for whom the door was closed meanwhile.
    let carol = format!("make_join/{room}/{}?ver=11", peer.user("carol"));
    let late = signed(peer, server, &carol).await;
    let ban = json!({ "user_id": peer.user("carol") });
    meeting.alice.post(["rooms", room, "ban"], ban).await.ok();
    send(peer, server, "v2/send_join", room, &late).await.fails(403, "M_FORBIDDEN");

    let state = send(peer, server, "v2/send_join", room, &join).await.ok();
    assert!(state["state"].as_array().is_some_and(|state| state.len() > 3), "{state}");
    assert_eq!(meeting.alice.membership(room, &peer.user("bob")).await, "join");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms>
#[tokio::test]
async fn members_of_another_room_come_into_a_restricted_one_by_somebodys_word() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let allow = json!([{ "type": "m.room_membership", "room_id": meeting.room.id }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    let rule = json!({ "type": "m.room.join_rules", "content": rule });
    let body = json!({ "preset": "private_chat", "room_version": "11", "initial_state": [rule] });
    let inner = meeting.alice.create_room(body).await;

    let stranger = peer.user("stranger");
    let path = format!("/_matrix/federation/v1/make_join/{inner}/{stranger}?ver=11");
    let answer = peer.get(server, &path).await;
    assert_eq!(answer.status, 403, "{answer}");
    // Eve is in the outer room.
    let join = signed(peer, server, &format!("make_join/{inner}/{}?ver=11", meeting.eve)).await;
    let by = &join.json["content"]["join_authorised_via_users_server"];
    assert_eq!(*by, meeting.alice.user_id);
    let answer = send(peer, server, "v2/send_join", &inner, &join).await.ok();
    // The server of whose word it counts has signed too.
    assert!(answer["event"]["signatures"]["complement.test"].is_object(), "{answer}");
    assert_eq!(meeting.alice.membership(&inner, &meeting.eve).await, "join");
}

/// A restricted room whose condition this server cannot judge is refused with the reason.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms>
#[tokio::test]
async fn a_server_that_knows_nothing_of_the_other_room_says_so() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let allow = json!([{ "type": "m.room_membership", "room_id": "!unknown:elsewhere.example" }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    let rule = json!({ "type": "m.room.join_rules", "content": rule });
    let body = json!({ "preset": "private_chat", "room_version": "11", "initial_state": [rule] });
    let inner = meeting.alice.create_room(body).await;
    let path = format!("/_matrix/federation/v1/make_join/{inner}/{}?ver=11", meeting.eve);
    peer.get(server, &path).await.fails(400, "M_UNABLE_TO_AUTHORISE_JOIN");

    // The same if the condition has changed since the template was made.
    let rules = |room: &str| {
        let allow = json!([{ "type": "m.room_membership", "room_id": room }]);
        json!({ "join_rule": "restricted", "allow": allow })
    };
    let known = rules(&meeting.room.id);
    meeting.alice.set_state(&inner, "m.room.join_rules", "", known).await;
    let join = signed(peer, server, &format!("make_join/{inner}/{}?ver=11", meeting.eve)).await;
    let unknown = rules("!unknown:elsewhere.example");
    meeting.alice.set_state(&inner, "m.room.join_rules", "", unknown).await;
    let answer = send(peer, server, "v2/send_join", &inner, &join).await;
    answer.fails(400, "M_UNABLE_TO_AUTHORISE_JOIN");
}

/// Who could be let in, if somebody here might.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms>
#[tokio::test]
async fn a_server_where_nobody_may_invite_says_so() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let allow = json!([{ "type": "m.room_membership", "room_id": meeting.room.id }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    let rule = json!({ "type": "m.room.join_rules", "content": rule });
    let body = json!({ "preset": "private_chat", "room_version": "11", "initial_state": [rule] });
    let inner = meeting.alice.create_room(body).await;
    let join = signed(peer, server, &format!("make_join/{inner}/{}?ver=11", meeting.eve)).await;
    let levels = json!({ "users": { meeting.alice.user_id.as_str(): 50 }, "invite": 100 });
    meeting.alice.set_state(&inner, "m.room.power_levels", "", levels).await;
    let path = format!("/_matrix/federation/v1/make_join/{inner}/{}?ver=11", meeting.eve);
    peer.get(server, &path).await.fails(400, "M_UNABLE_TO_GRANT_JOIN");
    let answer = send(peer, server, "v2/send_join", &inner, &join).await;
    answer.fails(400, "M_UNABLE_TO_GRANT_JOIN");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#knocking-upon-a-room>
#[tokio::test]
async fn who_knocks_may_be_let_in() {
    let (server, peer) = (server(), Peer::start().await);
    let (alice, room) = closed_room(&server, "knock").await;
    let eve = peer.user("eve");
    let knock = signed(&peer, &server, &format!("make_knock/{room}/{eve}?ver=11")).await;
    assert_eq!(knock.json["content"]["membership"], "knock");

    let mut join = knock.json.clone();
    join["content"]["membership"] = json!("join");
    let join = peer.sign(join);
    send(&peer, &server, "v1/send_knock", &room, &join).await.fails(400, "M_INVALID_PARAM");
    let nowhere = "!nowhere:complement.test";
    let answer = send(&peer, &server, "v1/send_knock", nowhere, &knock).await;
    assert!([400, 404].contains(&answer.status), "{answer}");

    let answer = send(&peer, &server, "v1/send_knock", &room, &knock).await.ok();
    let shown = answer["knock_room_state"].as_array().expect("what the room is");
    assert!(shown.iter().any(|event| event["type"] == "m.room.create"), "{answer}");
    assert_eq!(alice.membership(&room, &eve).await, "knock");

    // Who is banned is not heard.
    let mallory = peer.user("mallory");
    let rude = signed(&peer, &server, &format!("make_knock/{room}/{mallory}?ver=11")).await;
    alice.post(["rooms", &room, "ban"], json!({ "user_id": mallory })).await.ok();
    send(&peer, &server, "v1/send_knock", &room, &rude).await.fails(403, "M_FORBIDDEN");

    // The invitation goes to the server of whoever knocked.
    peer.on(|request| {
        let invite = request.path.starts_with("/_matrix/federation/v2/invite/");
        invite.then(|| (403, json!({ "errcode": "M_FORBIDDEN", "error": "changed their mind" })))
    });
    let invite = alice.post(["rooms", &room, "invite"], json!({ "user_id": eve })).await;
    assert!(invite.status >= 400, "{invite}");
    assert_eq!(peer.gets("/v2/invite/").await[0].body["room_version"], "11");
    assert_eq!(alice.membership(&room, &eve).await, "knock");

    // A server that does not know such rooms.
    let refusal = json!({
        "errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "what is 11?", "room_version": "11",
    });
    peer.answer("/v2/invite/", 400, refusal);
    let invite = alice.post(["rooms", &room, "invite"], json!({ "user_id": eve })).await;
    invite.fails(400, "M_UNSUPPORTED_ROOM_VERSION");
    assert_eq!(alice.membership(&room, &eve).await, "knock");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites>
#[tokio::test]
async fn who_leaves_is_gone() {
    let meeting = Meeting::new().await;
    let (peer, server, room) = (&meeting.peer, &meeting.server, &meeting.room.id);
    let leave = signed(peer, server, &format!("make_leave/{room}/{}", meeting.eve)).await;
    let mut join = leave.json.clone();
    join["content"]["membership"] = json!("join");
    let join = peer.sign(join);
    send(peer, server, "v2/send_leave", room, &join).await.fails(400, "M_INVALID_PARAM");
    // Another server does not say for them that they leave.
    let other = Peer::start().await;
    send(&other, server, "v2/send_leave", room, &leave).await.fails(403, "M_FORBIDDEN");
    assert_eq!(send(peer, server, "v2/send_leave", room, &leave).await.ok(), json!({}));
    wait_until("the leaving", async || {
        let membership = meeting.alice.membership(room, &meeting.eve).await;
        (membership == "leave").then_some(())
    })
    .await;
    // Nothing of it is told to that server any more.
    let path = format!("/_matrix/federation/v1/state_ids/{room}?event_id={}", leave.id);
    let later = meeting.alice.say(room, "are they gone?").await;
    let path = path.replace(&leave.id, &later);
    peer.get(server, &path).await.fails(403, "M_FORBIDDEN");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1inviteroomideventid>
#[tokio::test]
async fn invitations_of_either_version_are_signed_or_refused() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "invite");
    let content = json!({ "membership": "invite" });
    let draft = room.draft(&peer.user("eve"), "m.room.member", Some(&bob.user_id), content);
    let invite = peer.sign(draft.clone());
    let v2 = async |event: &Pdu, body: Value| {
        let path = format!("/_matrix/federation/v2/invite/{}/{}", room.id, event.id);
        peer.put(&server, &path, &body).await
    };
    let whole = json!({ "room_version": "11", "event": invite.json, "invite_room_state": [] });
    let mut incomplete = whole.clone();
    incomplete.as_object_mut().expect("an object").remove("room_version");
    let answer = v2(&invite, incomplete).await;
    assert_eq!(answer.status, 400, "{answer}");
    let mut join = draft.clone();
    join["content"]["membership"] = json!("join");
    let join = peer.sign(join);
    let body = json!({ "room_version": "11", "event": join.json, "invite_room_state": [] });
    v2(&join, body).await.fails(400, "M_INVALID_PARAM");

    // The first version of the endpoint is for rooms of the first versions.
    let path = format!("/_matrix/federation/v1/invite/{}/{}", room.id, invite.id);
    let answer = peer.put(&server, &path, &invite.json).await;
    assert!((400..500).contains(&answer.status), "{answer}");

    // Who wants no invitations gets none.
    let config = json!({ "default_action": "block" });
    let path = ["user", &bob.user_id, "account_data", "m.invite_permission_config"];
    bob.put(path, config).await.ok();
    v2(&invite, whole.clone()).await.fails(403, "M_INVITE_BLOCKED");
    bob.put(path, json!({})).await.ok();
    let signed = v2(&invite, whole).await.ok();
    assert!(signed["event"]["signatures"]["complement.test"].is_object(), "{signed}");
}
