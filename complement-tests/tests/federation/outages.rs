//! Another server is away, or knows only a part: nothing is lost, and nothing comes twice.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use complement_tests::peer::Peer;
use complement_tests::{Client, wait_until};
use serde_json::{Value, json};

use crate::{Meeting, server};

/// The messages to devices that a peer was sent, by their IDs; a repetition counts once.
fn messages(peer: &Peer) -> Vec<Value> {
    let sent = peer.received("/_matrix/federation/v1/send/");
    let edus = sent.iter().flat_map(|sent| sent.body["edus"].as_array().into_iter().flatten());
    let mut found: Vec<Value> = Vec::new();
    for edu in edus.filter(|edu| edu["edu_type"] == "m.direct_to_device") {
        let content = &edu["content"];
        if !found.iter().any(|known| known["message_id"] == content["message_id"]) {
            found.push(content.clone());
        }
    }
    found
}

async fn send_to_device(from: &Client, to: &str, number: usize) {
    let body = json!({ "messages": { to: { "DEVICE": { "number": number } } } });
    let transaction = from.transaction();
    from.put(["sendToDevice", "m.test", &transaction], body).await.ok();
}

/// Messages to devices wait for a server that fails, over a crash of this one, in their order.
#[tokio::test]
async fn messages_to_devices_wait_for_a_server_that_is_away() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    let taken = Arc::new(std::sync::Mutex::new(Vec::<Value>::new()));
    let taking = Arc::clone(&taken);
    peer.on(move |request| {
        if !request.path.starts_with("/_matrix/federation/v1/send/") {
            return None;
        }
        if is_away.load(Ordering::Relaxed) {
            return Some((503, json!({ "errcode": "M_UNKNOWN", "error": "not now" })));
        }
        taking.lock().expect("nobody fails under it").push(request.body.clone());
        Some((200, json!({ "pdus": {} })))
    });
    for number in 0..3 {
        send_to_device(&meeting.alice, &meeting.eve, number).await;
    }
    peer.gets("/_matrix/federation/v1/send/").await;
    server.kill_and_start_again();
    send_to_device(&meeting.alice, &meeting.eve, 3).await;

    away.store(false, Ordering::Relaxed);
    // Whoever speaks is back.
    let fence = peer.sign(meeting.room.message(&meeting.eve, "I am back"));
    peer.sends(server, &[&fence]).await;
    let numbers = wait_until("four messages", async || {
        let taken = taken.lock().expect("nobody fails under it").clone();
        let edus = taken.iter().flat_map(|body| body["edus"].as_array().into_iter().flatten());
        let mut seen: Vec<Value> = Vec::new();
        let mut numbers = Vec::new();
        for edu in edus.filter(|edu| edu["edu_type"] == "m.direct_to_device") {
            let content = &edu["content"];
            if !seen.contains(&content["message_id"]) {
                seen.push(content["message_id"].clone());
                numbers.push(content["messages"][&meeting.eve]["DEVICE"]["number"].clone());
            }
        }
        (numbers.len() == 4).then_some(numbers)
    })
    .await;
    assert_eq!(numbers, [0, 1, 2, 3].map(|number| json!(number)));
    assert_eq!(messages(peer).len(), 4);
}

/// The same transaction is sent until it is taken, before any other, over a crash of this server.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid>
#[tokio::test]
async fn a_transaction_that_was_not_taken_is_sent_again_as_it_was() {
    let meeting = Meeting::new().await;
    let (peer, room) = (&meeting.peer, &meeting.room.id);
    let (away, sent) = (Arc::new(AtomicBool::new(true)), "/_matrix/federation/v1/send/");
    let is_away = Arc::clone(&away);
    peer.on(move |request| {
        let lost = request.path.starts_with(sent)
            && request.body["pdus"].as_array().is_some_and(|pdus| !pdus.is_empty())
            && is_away.load(Ordering::Relaxed);
        lost.then(|| (500, json!({ "errcode": "M_UNKNOWN", "error": "lost" })))
    });
    let with = |text: &'static str| {
        let sent = peer.received(sent).into_iter();
        sent.filter(move |sent| sent.body["pdus"].to_string().contains(text)).collect::<Vec<_>>()
    };
    let again = async |text: &'static str, times: usize| {
        wait_until("a repetition", async || {
            // Whoever speaks is there.
            meeting.all_is_taken_in().await;
            Some(with(text)).filter(|sent| sent.len() >= times)
        })
        .await
    };
    let said = meeting.alice.say(room, "once").await;
    again("\"once\"", 2).await;
    meeting.server.kill_and_start_again();
    let later = meeting.alice.say(room, "later").await;
    let before = with("\"once\"").len();
    let transactions = again("\"once\"", before + 1).await;
    for transaction in &transactions {
        assert_eq!(transaction.path, transactions[0].path);
        assert_eq!(transaction.body, transactions[0].body);
    }
    assert_eq!(with("\"later\"").len(), 0, "one after the other");
    away.store(false, Ordering::Relaxed);
    again("\"later\"", 1).await;
    meeting.arrives(&said).await;
    meeting.arrives(&later).await;
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>
#[tokio::test]
async fn what_was_before_the_join_is_fetched_when_somebody_reads_back() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "public");
    let eve = peer.user("eve");
    let content = |number: usize| json!({ "msgtype": "m.text", "body": format!("old {number}") });
    let said: Vec<String> = (0..25)
        .map(|number| room.send(&peer, &eve, "m.room.message", None, content(number)).id)
        .collect();
    bob.post(format!("join/{}?via={}", room.id, peer.name()), json!({})).await.ok();

    let mut found = Vec::new();
    let mut from: Option<String> = None;
    for _ in 0..50 {
        let mut page = bob.get(["rooms", &room.id, "messages"]).query("dir", "b");
        page = page.query("limit", "10");
        if let Some(from) = &from {
            page = page.query("from", from);
        }
        let page = page.await.ok();
        let events = page["chunk"].as_array().cloned().unwrap_or_default();
        found
            .extend(events.iter().filter_map(|event| Some(event["event_id"].as_str()?.to_owned())));
        let Some(end) = page["end"].as_str() else { break };
        from = Some(end.to_owned());
    }
    let mut old: Vec<&String> = found.iter().filter(|id| said.contains(id)).collect();
    old.reverse();
    assert_eq!(old, said.iter().collect::<Vec<_>>());
    assert!(!peer.received("/backfill/").is_empty());
}

/// A user who was banned has their server send what it says was sent before.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#soft-failure>
#[tokio::test]
async fn what_is_sent_around_a_ban_is_seen_by_nobody() {
    let meeting = Meeting::new().await;
    let (peer, server, room) = (&meeting.peer, &meeting.server, &meeting.room);
    let frank = peer.user("frank");
    let path = format!("/_matrix/federation/v1/make_join/{}/{frank}?ver=11", room.id);
    let made = peer.get(server, &path).await.ok();
    let join = peer.sign(made["event"].clone());
    let path = format!("/_matrix/federation/v2/send_join/{}/{}", room.id, join.id);
    peer.put(server, &path, &join.json).await.ok();
    // Made now, kept back until the ban.
    let mut evasion = room.message(&meeting.eve, "evasion");
    evasion["prev_events"] = json!([join.id]);
    let evasion = peer.sign(evasion);
    let ban = json!({ "user_id": meeting.eve });
    meeting.alice.post(["rooms", &room.id, "ban"], ban).await.ok();
    peer.transact(server, &[&evasion], &[]).await.ok();

    // Frank is still there, and what he says shows that it was dealt with.
    let mut fence = room.message(&frank, "fence");
    fence["prev_events"] = json!([join.id]);
    let auth = fence["auth_events"].as_array_mut().expect("a list");
    auth.retain(|id| {
        *id != room.state("m.room.member", &meeting.eve).map_or_else(String::new, |it| it.id)
    });
    auth.push(json!(join.id));
    let fence = peer.sign(fence);
    peer.sends(server, &[&fence]).await;
    meeting.arrives(&fence.id).await;
    let path = ["rooms", &room.id, "event", &evasion.id];
    meeting.alice.get(path).await.fails(404, "M_NOT_FOUND");
    let page = meeting.alice.get(["rooms", &room.id, "messages"]).query("dir", "b").await.ok();
    assert!(!page.to_string().contains("evasion"), "{page}");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy>
#[tokio::test]
async fn rooms_of_a_space_that_only_others_know_are_asked_for() {
    let (server, peer) = (server(), Peer::start().await);
    let alice = server.register("alice").await;
    let room = peer.host("eve", "public");
    let space = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
    let space = alice.create_room(space).await;
    let via = json!({ "via": [peer.name()] });
    alice.set_state(&space, "m.space.child", &room.id, via).await;
    let summary = json!({
        "room_id": room.id, "name": "Far away", "num_joined_members": 7, "guest_can_join": false,
        "world_readable": false, "join_rule": "public", "children_state": [],
    });
    let answer = json!({ "room": summary, "children": [], "inaccessible_children": [] });
    peer.answer("/hierarchy/", 200, answer);
    let shown = alice.get(["/_matrix/client/v1/rooms", &space, "hierarchy"]).await.ok();
    let rooms: Vec<&Value> = shown["rooms"].as_array().into_iter().flatten().collect();
    assert_eq!(rooms.len(), 2, "{shown}");
    assert_eq!(rooms[1]["name"], "Far away");
}
