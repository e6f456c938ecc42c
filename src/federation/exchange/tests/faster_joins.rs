//! Rooms that are joined without waiting for all of their members.

mod held_up;
mod verdicts;

use ruma::{api::federation::event::get_room_state_ids, server_name};

use super::{servers::change_json, *};
use crate::storage::{Range, schema::PARTIAL_ROOMS};

const STATE_IDS: &str = "/_matrix/federation/v1/state_ids";
const SEND_JOIN: &str = "/_matrix/federation/v2/send_join";
/// `{"room":{"state":{"lazy_load_members":true}}}`
const LAZY: &str = "%7B%22room%22%3A%7B%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%7D%7D";

/// A named room on b, with bob and dave of b and carol of c; a is not in it.
struct Meeting {
    network: Network,
    a: TestServer,
    b: TestServer,
    c: TestServer,
    alice: TestUser,
    bob: TestUser,
    carol: TestUser,
    dave: TestUser,
    room: String,
}

impl Meeting {
    async fn new() -> Self {
        let Three { network, a, b, c, alice, bob, carol } = Three::new().await;
        let dave = b.register("dave").await;
        let body = json!({ "preset": "public_chat", "name": "named", "room_version": "11" });
        let room = room(&b, &bob, body).await;
        join(&c, &carol, &room).await;
        join(&b, &dave, &room).await;
        eventually("dave's join", async || {
            membership(&c, &carol, &room, &dave.user_id).await == "join"
        })
        .await;
        let meeting = Self { network, a, b, c, alice, bob, carol, dave, room };
        meeting.becomes_whole(&meeting.c).await;
        meeting
    }

    /// Alice comes in while nobody tells the whole state.
    async fn joined_in_part() -> Self {
        let meeting = Self::new().await;
        meeting.network.lose(Some(STATE_IDS));
        meeting.join().await;
        assert!(is_partial(&meeting.a).await);
        meeting
    }

    async fn join(&self) {
        join(&self.a, &self.alice, &self.room).await;
    }

    /// The whole state can be had again.
    async fn tell_all(&self) {
        self.network.lose(None);
        self.a.clock.advance(Duration::from_hours(1));
        self.becomes_whole(&self.a).await;
    }

    async fn becomes_whole(&self, server: &TestServer) {
        for _ in 0..1_500 {
            if !is_partial(server).await {
                let id: ruma::OwnedRoomId = self.room.as_str().try_into().unwrap();
                let rooms = server.server.rooms();
                let findings = rooms.check_room(&rooms.room(&id).await.unwrap()).await.unwrap();
                assert_eq!(findings.problems, [""; 0]);
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the room is never whole");
    }

    async fn sync(&self, query: &str) -> Value {
        let path = format!("/v3/sync?timeout=0{query}");
        let (status, answer) = self.a.get(&path, Some(&self.alice)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    async fn state(&self, server: &TestServer, user: &TestUser) -> Vec<String> {
        let path = format!("/v3/rooms/{}/state", self.room);
        let (status, state) = server.get(&path, Some(user)).await;
        assert_eq!(status, StatusCode::OK, "{state}");
        let ids = state.as_array().unwrap().iter().map(|event| text(&event["event_id"]));
        let mut ids: Vec<String> = ids.collect();
        ids.sort();
        ids
    }

    /// The other servers that a counts to the room.
    async fn servers(&self) -> Vec<String> {
        let rooms = self.a.server.rooms();
        let id: ruma::OwnedRoomId = self.room.as_str().try_into().unwrap();
        let room = rooms.room(&id).await.unwrap();
        rooms.other_servers(&room).into_iter().map(String::from).collect()
    }
}

async fn is_partial(server: &TestServer) -> bool {
    let rows = PARTIAL_ROOMS.scan(&server.db, &Range::all(), usize::MAX).await.unwrap();
    rows.into_iter().any(|(_, row)| row.0.whole_since.is_none())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
#[tokio::test]
async fn messages_go_both_ways_before_all_members_are_known() {
    let it = Meeting::joined_in_part().await;
    let from_b = send(&it.b, &it.bob, &it.room, "from-b").await;
    arrives(&it.a, &it.alice, &it.room, &from_b).await;
    let from_a = send(&it.a, &it.alice, &it.room, "from-a").await;
    arrives(&it.b, &it.bob, &it.room, &from_a).await;
    arrives(&it.c, &it.carol, &it.room, &from_a).await;
    let from_c = send(&it.c, &it.carol, &it.room, "from-c").await;
    arrives(&it.a, &it.alice, &it.room, &from_c).await;
    // Carol is known by what she sent.
    assert_eq!(membership(&it.a, &it.alice, &it.room, &it.carol.user_id).await, "join");
    let path = format!("/v3/rooms/{}/state/m.room.topic/", it.room);
    assert_eq!(it.b.put(&path, &it.bob, json!({ "topic": "tea" })).await.0, StatusCode::OK);
    eventually("the topic", async || it.a.get(&path, Some(&it.alice)).await.1["topic"] == "tea")
        .await;
    assert!(is_partial(&it.a).await);

    it.tell_all().await;
    assert_eq!(it.state(&it.a, &it.alice).await, it.state(&it.b, &it.bob).await);
    assert_eq!(it.servers().await, ["b.example", "c.example"]);
    let (_, page) =
        it.a.get(&format!("/v3/rooms/{}/messages?dir=b&limit=4", it.room), Some(&it.alice)).await;
    let ids: Vec<String> =
        page["chunk"].as_array().unwrap().iter().map(|event| text(&event["event_id"])).collect();
    assert_eq!(ids[1..], [from_c, from_a, from_b], "the topic and these stay where they were");
    let after = send(&it.a, &it.alice, &it.room, "after").await;
    arrives(&it.c, &it.carol, &it.room, &after).await;
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>
#[tokio::test]
async fn clients_that_count_on_all_members_get_the_room_when_it_is_whole() {
    let it = Meeting::joined_in_part().await;
    let eager = it.sync("").await;
    assert_eq!(eager["rooms"]["join"][&it.room], Value::Null);
    let lazy = it.sync(&format!("&filter={LAZY}")).await;
    assert_eq!(lazy["rooms"]["join"][&it.room]["timeline"]["events"][0]["type"], "m.room.member");
    let from_c = send(&it.c, &it.carol, &it.room, "from-c").await;
    arrives(&it.a, &it.alice, &it.room, &from_c).await;
    let since = |answer: &Value| format!("&since={}", answer["next_batch"].as_str().unwrap());
    let lazy = it.sync(&format!("&filter={LAZY}{}", since(&lazy))).await;
    let there = &lazy["rooms"]["join"][&it.room];
    assert_eq!(there["timeline"]["events"][0]["event_id"], from_c.as_str());
    let members = |room: &Value| {
        let state = room["state"]["events"].as_array().into_iter().flatten();
        let timeline = room["timeline"]["events"].as_array().into_iter().flatten();
        let members = state.chain(timeline).filter(|event| event["type"] == "m.room.member");
        let mut members: Vec<String> = members.map(|event| text(&event["state_key"])).collect();
        members.sort();
        members.dedup();
        members
    };
    assert_eq!(members(there), [it.carol.user_id.as_str()]);
    let eager = it.sync(&since(&eager)).await;
    assert_eq!(eager["rooms"]["join"][&it.room], Value::Null);

    it.tell_all().await;
    let (before_eager, before_lazy) = (since(&eager), since(&lazy));
    let eager = it.sync(&before_eager).await;
    let there = &eager["rooms"]["join"][&it.room];
    let everybody = [&it.alice, &it.bob, &it.carol, &it.dave].map(|user| user.user_id.clone());
    let mut everybody = everybody.to_vec();
    everybody.sort();
    assert_eq!(members(there), everybody);
    assert_eq!(there["summary"]["m.joined_member_count"], 4);
    let changed: Vec<String> =
        eager["device_lists"]["changed"].as_array().unwrap().iter().map(text).collect();
    assert!(changed.contains(&it.dave.user_id), "{changed:?}");
    let lazy = it.sync(&format!("&filter={LAZY}{before_lazy}")).await;
    assert_eq!(lazy["rooms"]["join"][&it.room]["summary"]["m.joined_member_count"], 4);
    let changed = lazy["device_lists"]["changed"].to_string();
    assert!(changed.contains(&it.dave.user_id), "{changed}");
    // Nothing comes twice.
    let eager = it.sync(&since(&eager)).await;
    assert_eq!(eager["rooms"]["join"][&it.room], Value::Null);
    // A restart does not hide it from who asks with an old token.
    let Meeting { network, a, alice, room, .. } = it;
    let clock = a.clock.clone();
    let a = TestServer::among(&network, &config("a.example"), a.crashed().await, clock, 1).await;
    let (_, eager) = a.get(&format!("/v3/sync?timeout=0{before_eager}"), Some(&alice)).await;
    assert_eq!(members(&eager["rooms"]["join"][&room]), everybody);
}

#[tokio::test]
async fn whoever_asks_for_all_members_waits_for_them() {
    let it = Meeting::joined_in_part().await;
    let lazy = it.sync(&format!("&filter={LAZY}")).await;
    let then = lazy["next_batch"].as_str().unwrap();
    let members = format!("/v3/rooms/{}/members", it.room);
    let members_then = format!("{members}?at={then}");
    let joined = format!("/v3/rooms/{}/joined_members", it.room);
    let dave = format!("/v3/rooms/{}/state/m.room.member/{}", it.room, it.dave.user_id);
    let asked = futures::future::join4(
        it.a.get(&members, Some(&it.alice)),
        it.a.get(&members_then, Some(&it.alice)),
        it.a.get(&joined, Some(&it.alice)),
        it.a.get(&dave, Some(&it.alice)),
    );
    tokio::pin!(asked);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut asked).await;
    assert!(early.is_err(), "{early:?}");
    let (answers, ()) = futures::future::join(asked, it.tell_all()).await;
    let (members, then, joined, dave) = answers;
    assert_eq!(members.1["chunk"].as_array().unwrap().len(), 4, "{}", members.1);
    assert_eq!(then.1["chunk"].as_array().unwrap().len(), 4, "{}", then.1);
    assert_eq!(joined.1["joined"].as_object().unwrap().len(), 4, "{}", joined.1);
    assert_eq!(dave.1["membership"], "join");
}

#[tokio::test]
async fn other_servers_are_told_to_ask_elsewhere() {
    let it = Meeting::joined_in_part().await;
    let a = server_name!("a.example");
    let peer = Peer::new(&it.network, "peer.example", 9).await;
    let room_id: ruma::OwnedRoomId = it.room.as_str().try_into().unwrap();
    let user = "@eve:peer.example".try_into().unwrap();
    let mut request = prepare_join_event::v1::Request::new(room_id.clone(), user);
    request.ver = vec![RoomVersionId::V11];
    let refused = peer.federation.ask(a, request, LIMITS).await.unwrap_err();
    let is_not_found = |error: &PeerError| matches!(error, PeerError::Refused { status, .. } if *status == StatusCode::NOT_FOUND);
    assert!(is_not_found(&refused), "{refused:?}");
    it.network.lose(None);
    let from_a = send(&it.a, &it.alice, &it.room, "from-a").await;
    arrives(&it.c, &it.carol, &it.room, &from_a).await;
    let request =
        get_room_state_ids::v1::Request::new(from_a.as_str().try_into().unwrap(), room_id);
    if is_partial(&it.a).await {
        let refused = it.c.server.federation().ask(a, request.clone(), LIMITS).await.unwrap_err();
        assert!(is_not_found(&refused), "{refused:?}");
    }
    it.tell_all().await;
    let told = it.c.server.federation().ask(a, request, LIMITS).await.unwrap();
    let ids = told.pdu_ids.len();
    assert_eq!(ids, it.state(&it.b, &it.bob).await.len());
}

#[tokio::test]
async fn it_goes_on_after_a_crash() {
    let it = Meeting::joined_in_part().await;
    let before = send(&it.a, &it.alice, &it.room, "before").await;
    let Meeting { network, a, b, c, alice, bob, carol, dave, room } = it;
    let clock = a.clock.clone();
    let a = TestServer::among(&network, &config("a.example"), a.crashed().await, clock, 1).await;
    let it = Meeting { network, a, b, c, alice, bob, carol, dave, room };
    assert!(is_partial(&it.a).await);
    let after = send(&it.a, &it.alice, &it.room, "after").await;
    arrives(&it.c, &it.carol, &it.room, &before).await;
    arrives(&it.c, &it.carol, &it.room, &after).await;
    it.tell_all().await;
    assert_eq!(it.state(&it.a, &it.alice).await, it.state(&it.b, &it.bob).await);
}

#[tokio::test]
async fn who_leaves_before_it_is_whole_may_come_again() {
    let it = Meeting::joined_in_part().await;
    let leave = format!("/v3/rooms/{}/leave", it.room);
    assert_eq!(it.a.post(&leave, Some(&it.alice), json!({})).await.0, StatusCode::OK);
    eventually("the departure", async || {
        membership(&it.c, &it.carol, &it.room, &it.alice.user_id).await == "leave"
    })
    .await;
    // Nobody fetches the rest, and nobody waits for it.
    let (status, answer) =
        it.a.get(&format!("/v3/rooms/{}/members", it.room), Some(&it.alice)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let unheard = send(&it.b, &it.bob, &it.room, "unheard").await;
    arrives(&it.c, &it.carol, &it.room, &unheard).await;
    it.network.lose(None);
    it.a.clock.advance(Duration::from_hours(1));
    it.join().await;
    it.becomes_whole(&it.a).await;
    assert_eq!(it.state(&it.a, &it.alice).await, it.state(&it.b, &it.bob).await);
    let heard = send(&it.b, &it.bob, &it.room, "heard").await;
    arrives(&it.a, &it.alice, &it.room, &heard).await;
}

#[tokio::test]
async fn who_is_thrown_out_before_it_is_whole_is_out() {
    let it = Meeting::joined_in_part().await;
    let kick = format!("/v3/rooms/{}/kick", it.room);
    let body = json!({ "user_id": it.alice.user_id });
    assert_eq!(it.b.post(&kick, Some(&it.bob), body).await.0, StatusCode::OK);
    eventually("the end", async || {
        it.a.get("/v3/joined_rooms", Some(&it.alice)).await.1["joined_rooms"] == json!([])
    })
    .await;
    let path = format!("/v3/rooms/{}/send/m.room.message/1", it.room);
    let (status, _) = it.a.put(&path, &it.alice, json!({ "body": "?" })).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn another_server_is_asked_where_one_tells_what_can_not_be() {
    let it = Meeting::new().await;
    change_json(&it.network, &it.b, STATE_IDS, |answer| {
        answer["pdu_ids"] = json!([]);
    });
    it.join().await;
    it.becomes_whole(&it.a).await;
    assert!(it.network.count(server_name!("c.example"), STATE_IDS) > 0);
    assert_eq!(it.state(&it.a, &it.alice).await, it.state(&it.c, &it.carol).await);
}

#[tokio::test]
async fn a_server_that_is_gone_does_not_keep_the_room_from_becoming_whole() {
    let it = Meeting::joined_in_part().await;
    it.network.disconnect(server_name!("b.example"));
    it.tell_all().await;
    assert_eq!(it.state(&it.a, &it.alice).await, it.state(&it.c, &it.carol).await);
}

#[tokio::test]
async fn servers_that_nobody_named_are_told_what_they_missed() {
    let it = Meeting::new().await;
    change_json(&it.network, &it.b, SEND_JOIN, |answer| {
        answer["servers_in_room"] = json!(["a.example", "no name", "nobody.example"]);
    });
    it.network.lose(Some(STATE_IDS));
    it.join().await;
    assert_eq!(it.servers().await, ["b.example", "nobody.example"]);
    let missed = send(&it.a, &it.alice, &it.room, "missed").await;
    arrives(&it.b, &it.bob, &it.room, &missed).await;
    it.tell_all().await;
    assert_eq!(it.servers().await, ["b.example", "c.example"]);
    arrives(&it.c, &it.carol, &it.room, &missed).await;
}

#[tokio::test]
async fn members_that_are_left_out_unasked_are_no_state() {
    let it = Meeting::new().await;
    change_json(&it.network, &it.b, SEND_JOIN, |answer| {
        answer["members_omitted"] = json!(true);
        let state = answer["state"].as_array_mut().unwrap();
        state.retain(|event| event["type"] != "m.room.create");
    });
    let path = format!("/v3/join/{}?via=b.example", it.room);
    let (status, _) = it.a.post(&path, Some(&it.alice), json!({})).await;
    assert_ne!(status, StatusCode::OK);
    assert!(!is_partial(&it.a).await);
}

#[tokio::test]
async fn people_are_seen_to_type_and_read_before_they_are_known() {
    let it = Meeting::joined_in_part().await;
    let from_b = send(&it.b, &it.bob, &it.room, "from-b").await;
    arrives(&it.a, &it.alice, &it.room, &from_b).await;
    let path = format!("/v3/rooms/{}/typing/{}", it.room, it.carol.user_id);
    let body = json!({ "typing": true, "timeout": 30_000 });
    assert_eq!(it.c.put(&path, &it.carol, body).await.0, StatusCode::OK);
    arrives(&it.c, &it.carol, &it.room, &from_b).await;
    let path = format!("/v3/rooms/{}/receipt/m.read/{from_b}", it.room);
    assert_eq!(it.c.post(&path, Some(&it.carol), json!({})).await.0, StatusCode::OK);
    let query = format!("&filter={LAZY}");
    eventually("typing", async || {
        let ephemeral = it.sync(&query).await["rooms"]["join"][&it.room]["ephemeral"].to_string();
        ephemeral.contains("m.typing") && ephemeral.contains("m.receipt")
    })
    .await;
    assert!(is_partial(&it.a).await);
}

/// All that came meanwhile is judged again in one change.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
#[tokio::test]
async fn a_room_of_which_much_came_before_all_members_were_known_becomes_whole() {
    const MESSAGES: usize = 2_000;
    let it = Meeting::joined_in_part().await;
    let mut last = String::new();
    for number in 0..MESSAGES {
        let (server, user) = if number % 2 == 0 { (&it.b, &it.bob) } else { (&it.a, &it.alice) };
        last = send(server, user, &it.room, &format!("m{number}")).await;
        if number % 50 == 49 {
            arrives(&it.b, &it.bob, &it.room, &last).await;
        }
    }
    let end = send(&it.b, &it.bob, &it.room, "end").await;
    arrives(&it.a, &it.alice, &it.room, &end).await;
    assert!(is_partial(&it.a).await, "{last}");
    it.tell_all().await;
    assert_eq!(it.state(&it.a, &it.alice).await, it.state(&it.b, &it.bob).await);
    let (mut said, mut from) = (0, String::new());
    loop {
        let path = format!("/v3/rooms/{}/messages?dir=b&limit=500{from}", it.room);
        let (_, page) = it.a.get(&path, Some(&it.alice)).await;
        let events = page["chunk"].as_array().unwrap();
        said += events.iter().filter(|event| event["type"] == "m.room.message").count();
        let Some(end) = page["end"].as_str().filter(|_| !events.is_empty()) else { break };
        from = format!("&from={end}");
    }
    assert_eq!(said, MESSAGES + 1);
    let after = send(&it.a, &it.alice, &it.room, "after").await;
    arrives(&it.c, &it.carol, &it.room, &after).await;
}
