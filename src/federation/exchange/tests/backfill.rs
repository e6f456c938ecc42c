//! History from before a server came into a room.

use ruma::api::federation::event::get_room_state_ids;

use super::*;

/// The IDs of a page that goes back, newest first, and where it ends.
async fn page(
    server: &TestServer,
    user: &TestUser,
    room: &str,
    from: &str,
    limit: usize,
) -> (Vec<String>, Option<String>) {
    let path = format!("/v3/rooms/{room}/messages?dir=b&limit={limit}&from={from}");
    let (status, page) = server.get(&path, Some(user)).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let chunk = page["chunk"].as_array().unwrap().iter();
    let ids = chunk.map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    (ids, page["end"].as_str().map(str::to_owned))
}

fn room_id(room: &str) -> ruma::OwnedRoomId {
    room.try_into().unwrap()
}

/// Everything of a room, newest first, page by page.
async fn pages(server: &TestServer, user: &TestUser, room: &str, limit: usize) -> Vec<String> {
    let (mut all, mut from) = (Vec::new(), String::new());
    for _ in 0..50 {
        let (ids, end) = page(server, user, room, &from, limit).await;
        assert!(ids.len() <= limit);
        all.extend(ids);
        let Some(end) = end else { return all };
        from = end;
    }
    panic!("it never ended");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>
#[tokio::test]
async fn a_reader_goes_back_to_the_create_event_and_sees_each_event_once() {
    // The third answer of 100 ends in the middle of the room's first events.
    for (messages, limit) in [(60, 25), (210, 100), (60, 1_000)] {
        let network = Network::default();
        let (a, b, alice, bob) = two(&network).await;
        let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
        for number in 0..messages {
            send(&b, &bob, &room, &format!("m{number}")).await;
            if number % 20 == 0 {
                let path = format!("/v3/rooms/{room}/state/m.room.power_levels/");
                let (_, mut levels) = b.get(&path, Some(&bob)).await;
                levels["events_default"] = json!(0);
                levels["notifications"] = json!({ "room": number });
                assert_eq!(b.put(&path, &bob, levels).await.0, StatusCode::OK);
            }
        }
        join(&a, &alice, &room).await;

        let at_b = pages(&b, &bob, &room, limit).await;
        let at_a = pages(&a, &alice, &room, limit).await;
        assert!(at_b.len() > messages);
        assert_eq!(at_a, at_b);
        // Now it is here: nobody is asked again.
        let b_name = b.server.federation().server_name();
        let backfill = "/_matrix/federation/v1/backfill";
        let asked = network.count(b_name, backfill);
        assert!((1..=3).contains(&asked), "{asked}");
        assert_eq!(pages(&a, &alice, &room, limit).await, at_b);
        assert_eq!(network.count(b_name, backfill), asked);
        // What is around the oldest message is told with the state it was sent in.
        let oldest = &at_b[at_b.len() - 20];
        let path = format!("/v3/rooms/{room}/context/{oldest}?limit=0");
        let (_, there) = a.get(&path, Some(&alice)).await;
        let (_, here) = b.get(&path, Some(&bob)).await;
        let state = |context: &Value| {
            let events = context["state"].as_array().unwrap().iter();
            events.map(|event| event["event_id"].clone()).collect::<std::collections::HashSet<_>>()
        };
        assert!(!state(&there).is_empty());
        assert_eq!(state(&there), state(&here));
        let there = a.server.rooms().room(&room_id(&room)).await.unwrap();
        let findings = a.server.rooms().check_room(&there).await.unwrap();
        assert_eq!(findings.problems, Vec::<String>::new());
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>
#[tokio::test]
async fn what_was_sent_for_members_only_is_not_shown_to_who_came_later() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
    let mut sent = Vec::new();
    for visibility in ["shared", "joined", "invited", "world_readable"] {
        let path = format!("/v3/rooms/{room}/state/m.room.history_visibility/");
        let content = json!({ "history_visibility": visibility });
        assert_eq!(b.put(&path, &bob, content).await.0, StatusCode::OK);
        sent.push(send(&b, &bob, &room, visibility).await);
    }
    join(&a, &alice, &room).await;
    let seen = pages(&a, &alice, &room, 10).await;
    let is_seen: Vec<bool> = sent.iter().map(|event| seen.contains(event)).collect();
    assert_eq!(is_seen, [true, false, false, true]);
}

#[tokio::test]
async fn a_page_ends_where_nobody_answers_and_goes_on_later() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
    let before = send(&b, &bob, &room, "before").await;
    join(&a, &alice, &room).await;
    let b_name = ruma::server_name!("b.example");
    network.disconnect(b_name);
    let (ids, end) = page(&a, &alice, &room, "", 10).await;
    assert_eq!(ids.len(), 1, "the join");
    let end = end.expect("there may be more later");
    // Not asked again at once.
    let backfill = "/_matrix/federation/v1/backfill";
    let asked = network.count(b_name, backfill);
    assert_eq!(page(&a, &alice, &room, &end, 10).await, (Vec::new(), Some(end.clone())));
    assert_eq!(network.count(b_name, backfill), asked);

    network.connect(b_name, b.server.router());
    a.clock.advance(Duration::from_hours(2));
    let (ids, _) = page(&a, &alice, &room, &end, 10).await;
    assert_eq!(ids.first(), Some(&before));
}

#[tokio::test]
async fn of_an_answer_only_what_was_asked_for_and_is_signed_is_stored() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let a = server(&network, "a.example", 1).await;
    let alice = a.register("alice").await;
    let (one_id, one) = peer.sign(joined.message(&joined.last, "one"));
    let (two_id, two) = peer.sign(joined.message(&one_id, "two"));
    assert!(peer.send(&us, &[&one, &two]).await.unwrap().pdus.values().all(Result::is_ok));
    arrives(&b, &bob, &joined.room, &two_id).await;
    let event = one_id.as_str().try_into().unwrap();
    let request = get_room_state_ids::v1::Request::new(event, room_id(&joined.room));
    let state = peer.federation.ask(&us, request, LIMITS).await.unwrap();
    let state = json!({ "auth_chain_ids": state.auth_chain_ids, "pdu_ids": state.pdu_ids });
    *peer.state_ids.lock() = state;
    let path = format!("/v3/join/{}?via=b.example", joined.room);
    assert_eq!(a.post(&path, Some(&alice), json!({})).await.0, StatusCode::OK);
    // From now on only the peer answers.
    network.disconnect(&us);

    let mut unsigned = two.clone();
    unsigned["signatures"] = json!({});
    let mut forged = joined.message(&one_id, "forged");
    forged["sender"] = json!("@bob:b.example");
    let mut elsewhere = joined.message(&one_id, "elsewhere");
    elsewhere["room_id"] = json!("!other:b.example");
    let beside = joined.message(&joined.last, "beside");
    let [forged, elsewhere, beside] = [forged, elsewhere, beside].map(|event| peer.sign(event));
    let lies = [&forged.1, &elsewhere.1, &beside.1, &json!({}), &json!(7)].map(Clone::clone);
    *peer.earlier.lock() = [&[unsigned, one.clone()], &lies[..]].concat();
    let (ids, end) = page(&a, &alice, &joined.room, "", 50).await;
    assert_eq!(ids.len(), 1, "the join");
    let end = end.unwrap();

    a.clock.advance(Duration::from_mins(1));
    *peer.earlier.lock() = [&lies[..], &[one, two]].concat();
    let (ids, _) = page(&a, &alice, &joined.room, &end, 50).await;
    assert_eq!(ids, [two_id, one_id]);
    for (event, _) in [&forged, &elsewhere, &beside] {
        let here = a.server.rooms().room(&room_id(&joined.room)).await.unwrap();
        let unknown = [event.as_str().try_into().unwrap()];
        assert_eq!(a.server.rooms().unknown_events(&here, &unknown).await.unwrap(), unknown);
    }
}

#[tokio::test]
async fn readers_of_one_room_share_a_fetch_and_without_federation_there_is_none() {
    let network = Network::default();
    let (a, b, alice, bob, room) = pair(&network).await;
    let backfill = "/_matrix/federation/v1/backfill";
    let asked = || network.count(ruma::server_name!("b.example"), backfill);

    let mut off = config("a.example");
    off.federation.enabled = false;
    let (db, clock) = (a.db.clone(), a.clock.clone());
    let alone = TestServer::among(&Network::default(), &off, db, clock, 3).await;
    let (ids, end) = page(&alone, &alice, &room, "", 50).await;
    assert_eq!((ids.len(), end, asked()), (1, None, 0));
    drop(alone);

    let read = || page(&a, &alice, &room, "", 50);
    let (one, two, three) = tokio::join!(read(), read(), read());
    assert_eq!(one.0, pages(&b, &bob, &room, 50).await);
    assert_eq!((&one, &one), (&two, &three));
    assert_eq!(asked(), 1);
}
