//! What is soon replaced, and what happens to servers that are away.

use ruma::{OwnedEventId, server_name};

use super::*;
use crate::storage::{Range, schema::DESTINATIONS};

async fn presence(server: &TestServer, reader: &TestUser, of: &TestUser) -> Value {
    server.get(&format!("/v3/presence/{}/status", of.user_id), Some(reader)).await.1
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#presence>
#[tokio::test]
async fn presence_goes_to_servers_with_members_in_the_same_rooms() {
    let network = Network::default();
    let (a, b, alice, bob, _) = pair(&network).await;
    let c = server(&network, "c.example", 3).await;
    let status = json!({ "presence": "online", "status_msg": "soup" });
    let path = format!("/v3/presence/{}/status", alice.user_id);
    assert_eq!(a.put(&path, &alice, status).await.0, StatusCode::OK);
    eventually("alice's presence", async || {
        let told = presence(&b, &bob, &alice).await;
        told["presence"] == "online" && told["status_msg"] == "soup"
    })
    .await;
    assert_eq!(network.count(c.server.federation().server_name(), "/_matrix/federation"), 0);
    // It is not believed for ever.
    b.clock.advance(Duration::from_mins(45));
    assert_eq!(presence(&b, &bob, &alice).await["presence"], "offline");
}

#[tokio::test]
async fn who_comes_into_a_room_is_told_who_is_there() {
    let network = Network::default();
    let (a, b, alice, bob, room) = pair(&network).await;
    let c = server(&network, "c.example", 3).await;
    let carol = c.register("carol").await;
    for (server, user) in [(&a, &alice), (&b, &bob), (&c, &carol)] {
        let path = format!("/v3/presence/{}/status", user.user_id);
        assert_eq!(server.put(&path, user, json!({ "presence": "online" })).await.0, 200);
    }
    // Nobody changes anything any more.
    eventually("the others' presence", async || {
        presence(&b, &bob, &alice).await["presence"] == "online"
            && presence(&a, &alice, &bob).await["presence"] == "online"
    })
    .await;
    join(&c, &carol, &room).await;
    for (server, reader, of) in
        [(&c, &carol, &bob), (&c, &carol, &alice), (&a, &alice, &carol), (&b, &bob, &carol)]
    {
        eventually("everybody's presence", async || {
            presence(server, reader, of).await["presence"] == "online"
        })
        .await;
    }
}

#[tokio::test]
async fn presence_that_makes_no_sense_is_left_out() {
    let network = Network::default();
    let (b, bob, peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let push = |user: &str, state: &str| {
        let update = json!({ "user_id": user, "presence": state, "last_active_ago": 5 });
        json!({ "edu_type": "m.presence", "content": { "push": [update] } })
    };
    let stranger = push("@stranger:peer.example", "online");
    let forged = push(&bob.user_id, "online");
    let odd = push(&joined.user, "levitating");
    peer.send_edus("p1", &us, &[&stranger, &forged, &odd]).await.unwrap();
    let eve = TestUser { user_id: joined.user.clone(), ..bob.clone() };
    assert_eq!(presence(&b, &bob, &eve).await["presence"], "offline");
    assert_eq!(presence(&b, &bob, &bob).await["presence"], "offline");
    peer.send_edus("p2", &us, &[&push(&joined.user, "unavailable")]).await.unwrap();
    assert_eq!(presence(&b, &bob, &eve).await["presence"], "unavailable");
}

/// What is said of somebody travels beside the join, and may overtake it.
#[tokio::test]
async fn presence_that_comes_before_its_user_counts_when_they_have_come_in() {
    let network = Network::default();
    let (b, bob, peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let frank = TestUser { user_id: "@frank:peer.example".to_owned(), ..bob.clone() };
    let update =
        json!({ "user_id": frank.user_id, "presence": "unavailable", "last_active_ago": 5 });
    let push = json!({ "edu_type": "m.presence", "content": { "push": [update] } });
    peer.send_edus("p1", &us, &[&push]).await.unwrap();
    assert_ne!(presence(&b, &bob, &frank).await["presence"], "unavailable");
    peer.join(&us, &joined.room, &frank.user_id).await;
    assert_eq!(presence(&b, &bob, &frank).await["presence"], "unavailable");
}

#[tokio::test]
async fn a_server_that_keeps_presence_to_itself_neither_tells_nor_listens() {
    let network = Network::default();
    let mut settings = config("b.example");
    settings.presence.federate = false;
    let clock = Clock::manual(START_MS);
    let b = TestServer::among(&network, &settings, Db::in_memory().await, clock, 2).await;
    let bob = b.register("bob").await;
    let body = json!({ "preset": "public_chat", "room_version": "11" });
    let room = room(&b, &bob, body).await;
    let peer = Peer::new(&network, "peer.example", 9).await;
    let us = b.server.federation().server_name().to_owned();
    let joined = peer.join(&us, &room, "@eve:peer.example").await;
    let update = json!({ "user_id": joined.user, "presence": "online", "last_active_ago": 5 });
    let push = json!({ "edu_type": "m.presence", "content": { "push": [update] } });
    peer.send_edus("p1", &us, &[&push]).await.unwrap();
    let eve = TestUser { user_id: joined.user.clone(), ..bob.clone() };
    assert_eq!(presence(&b, &bob, &eve).await["presence"], "offline");
}

/// Its pause is on disk until a transaction is taken, also if it was ended by its own words.
#[tokio::test]
async fn the_pause_of_a_server_ends_when_it_speaks_and_is_forgotten_when_it_listens() {
    let network = Network::default();
    let (a, b, alice, bob, room) = pair(&network).await;
    let a_name = server_name!("a.example");
    network.disconnect(a_name);
    let missed = send(&b, &bob, &room, "missed").await;
    let is_paused = async || !DESTINATIONS.scan(&b.db, &Range::all(), 1).await.unwrap().is_empty();
    eventually("the pause", is_paused).await;
    network.connect(a_name, a.server.router());
    send(&a, &alice, &room, "back").await;
    arrives(&a, &alice, &room, &missed).await;
    eventually("the end of the pause", async || !is_paused().await).await;
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>
#[tokio::test]
async fn a_server_that_was_away_for_long_gets_the_newest_event_and_asks_for_the_rest() {
    let network = Network::default();
    let (a, b, alice, bob, room) = pair(&network).await;
    let a_name = server_name!("a.example");
    network.disconnect(a_name);
    let mut last = send(&b, &bob, &room, "first").await;
    // So often that it is known to be away for long; each time the clock goes on.
    for _ in 0..12 {
        let failures = network.count(a_name, "/_matrix/federation/v1/send");
        eventually("another failure", async || {
            b.clock.advance(Duration::from_hours(1));
            send(&b, &bob, &room, &format!("m{failures}-{}", b.clock.now_ms())).await;
            network.count(a_name, "/_matrix/federation/v1/send") > failures
        })
        .await;
    }
    for number in 0..120 {
        last = send(&b, &bob, &room, &format!("n{number}")).await;
    }
    let before = network.count(a_name, "/_matrix/federation/v1/send");
    network.connect(a_name, a.server.router());
    send(&a, &alice, &room, "back").await;
    arrives(&a, &alice, &room, &last).await;
    let transactions = network.count(a_name, "/_matrix/federation/v1/send") - before;
    assert!(transactions <= 2, "{transactions} transactions: not all it missed");
    let missing = "/_matrix/federation/v1/get_missing_events";
    assert!(
        network.count(server_name!("b.example"), missing) > 0,
        "it asked for what lies between"
    );
    let _: OwnedEventId = last.as_str().try_into().unwrap();
}
