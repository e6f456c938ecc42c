//! What another server may read, and how much of it at once.

use complement_tests::peer::{Peer, Room};
use serde_json::{Value, json};

use crate::{Meeting, server};

fn ids(events: &Value) -> usize {
    events.as_array().map_or(0, Vec::len)
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-events>
#[tokio::test]
async fn who_is_not_in_a_room_reads_nothing_of_it() {
    let meeting = Meeting::new().await;
    let (server, room) = (&meeting.server, &meeting.room.id);
    let said = meeting.alice.say(room, "inside").await;
    let stranger = Peer::start().await;
    let paths = [
        format!("state/{room}?event_id={said}"),
        format!("state_ids/{room}?event_id={said}"),
        format!("backfill/{room}?v={said}&limit=10"),
        format!("event_auth/{room}/{said}"),
        format!("timestamp_to_event/{room}?ts=0&dir=f"),
    ];
    for path in &paths {
        let path = format!("/_matrix/federation/v1/{path}");
        meeting.peer.get(server, &path).await.ok();
        stranger.get(server, &path).await.fails(403, "M_FORBIDDEN");
    }
    let path = format!("/_matrix/federation/v1/event/{said}");
    meeting.peer.get(server, &path).await.ok();
    stranger.get(server, &path).await.fails(404, "M_NOT_FOUND");
    let path = format!("/_matrix/federation/v1/get_missing_events/{room}");
    let body = json!({ "latest_events": [said], "earliest_events": [] });
    meeting.peer.post(server, &path, &body).await.ok();
    stranger.post(server, &path, &body).await.fails(403, "M_FORBIDDEN");
}

/// A server that is denied is told nothing, though its user is in the room.
#[tokio::test]
async fn a_denied_server_reads_nothing() {
    let meeting = Meeting::new().await;
    let (server, room) = (&meeting.server, &meeting.room.id);
    let list = json!({ "allow": ["*"], "deny": [], "allow_ip_literals": false });
    let said = meeting.alice.set_state(room, "m.room.server_acl", "", list).await;
    let user = meeting.peer.user("another");
    for path in [
        format!("state_ids/{room}?event_id={said}"),
        format!("backfill/{room}?v={said}&limit=10"),
        format!("event_auth/{room}/{said}"),
        format!("make_join/{room}/{user}?ver=11"),
        format!("make_leave/{room}/{}", meeting.eve),
        format!("make_knock/{room}/{user}?ver=11"),
    ] {
        let path = format!("/_matrix/federation/v1/{path}");
        meeting.peer.get(server, &path).await.fails(403, "M_FORBIDDEN");
    }
    let path = format!("/_matrix/federation/v1/event/{said}");
    meeting.peer.get(server, &path).await.fails(404, "M_NOT_FOUND");
}

/// However much is asked for.
#[tokio::test]
async fn an_answer_has_bounds() {
    let meeting = Meeting::new().await;
    let (server, room) = (&meeting.server, &meeting.room.id);
    let mut said = String::new();
    for number in 0..120 {
        said = meeting.alice.say(room, &number.to_string()).await;
    }
    let path = format!("/_matrix/federation/v1/backfill/{room}?v={said}&limit=1000000");
    let answer = meeting.peer.get(server, &path).await.ok();
    assert_eq!(ids(&answer["pdus"]), 100);
    let path = format!("/_matrix/federation/v1/get_missing_events/{room}");
    let body = json!({ "latest_events": [said], "earliest_events": [], "limit": 1_000_000 });
    let answer = meeting.peer.post(server, &path, &body).await.ok();
    assert_eq!(ids(&answer["events"]), 100);
    let body = json!({ "latest_events": [said], "earliest_events": [], "limit": 3 });
    assert_eq!(ids(&meeting.peer.post(server, &path, &body).await.ok()["events"]), 3);
    let path = format!("/_matrix/federation/v1/state_ids/{room}?event_id=$nowhere");
    meeting.peer.get(server, &path).await.fails(404, "M_NOT_FOUND");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>
#[tokio::test]
async fn what_members_alone_may_read_is_empty_for_who_came_later() {
    let (server, peer) = (server(), Peer::start().await);
    let alice = server.register("alice").await;
    let visibility = json!({ "type": "m.room.history_visibility", "state_key": "",
        "content": { "history_visibility": "joined" } });
    let body = json!({ "preset": "public_chat", "room_version": "11",
        "initial_state": [visibility] });
    let id = alice.create_room(body).await;
    let secret = alice.say(&id, "secret").await;
    let room = Room::join(&peer, &server, &id, &peer.user("eve")).await;
    let shared = alice.say(&id, "shared").await;
    let path = format!("/_matrix/federation/v1/backfill/{id}?v={shared}&limit=100");
    let answer = peer.get(&server, &path).await.ok();
    let texts: Vec<&Value> = answer["pdus"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pdu| pdu["type"] == "m.room.message")
        .map(|pdu| &pdu["content"]["body"])
        .collect();
    assert_eq!(texts, [&json!("shared"), &Value::Null]);
    let path = format!("/_matrix/federation/v1/event/{secret}");
    let answer = peer.get(&server, &path).await.ok();
    assert_eq!(answer["pdus"][0]["content"], json!({}));
    assert!(!room.last().is_empty());
}

/// A server that joins the fast way gets a state without the members, is told which servers are there,
/// and fetches the rest afterwards.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
#[tokio::test]
async fn a_join_without_the_members_is_completed_by_the_state_before_it() {
    let meeting = Meeting::new().await;
    let (peer, server, room) = (&meeting.peer, &meeting.server, &meeting.room.id);
    let bob = server.register("bob").await;
    bob.join(room).await;
    // Of a room without a name, those who give it one would come along.
    meeting.alice.set_state(room, "m.room.name", "", json!({ "name": "Tea" })).await;
    let late = peer.user("late");
    let path = format!("/_matrix/federation/v1/make_join/{room}/{late}?ver=11");
    let join = peer.sign(peer.get(server, &path).await.ok()["event"].clone());
    let path = format!("/_matrix/federation/v2/send_join/{room}/{}?omit_members=true", join.id);
    let answer = peer.put(server, &path, &join.json).await.ok();
    assert_eq!(answer["members_omitted"], true);
    let mut servers: Vec<&str> =
        answer["servers_in_room"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    servers.sort_unstable();
    let mut expected = [server.name(), peer.name().to_owned()];
    expected.sort_unstable();
    assert_eq!(servers, expected);
    let kinds = |events: &Value| -> Vec<String> {
        let events = events.as_array().unwrap().iter();
        events.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    };
    let state = kinds(&answer["state"]);
    for needed in ["m.room.create", "m.room.power_levels", "m.room.join_rules"] {
        assert!(state.iter().any(|kind| kind == needed), "{answer}");
    }
    assert!(!state.iter().any(|kind| kind == "m.room.member"), "{answer}");
    // Who sent what is there can still be judged by what comes with it.
    let chain = kinds(&answer["auth_chain"]);
    assert!(chain.iter().any(|kind| kind == "m.room.member"), "the creator: {answer}");

    let path = format!("/_matrix/federation/v1/state/{room}?event_id={}", join.id);
    let whole = peer.get(server, &path).await.ok();
    let mut members: Vec<&str> = whole["pdus"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .filter_map(|event| event["state_key"].as_str())
        .collect();
    members.sort_unstable();
    let mut expected = [&meeting.alice.user_id, &bob.user_id, &meeting.eve].map(String::as_str);
    expected.sort_unstable();
    assert_eq!(members, expected, "those before the join");
    let path = format!("/_matrix/federation/v1/state_ids/{room}?event_id={}", join.id);
    let ids = peer.get(server, &path).await.ok();
    assert_eq!(
        ids["pdu_ids"].as_array().unwrap().len(),
        whole["pdus"].as_array().unwrap().len(),
        "{ids}"
    );
}
