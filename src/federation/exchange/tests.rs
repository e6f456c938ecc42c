//! Rooms on several servers: joins, messages both ways, and what hostile servers try.

mod backfill;
mod elsewhere;
mod encryption;
mod endpoints;
mod failing;
mod faster_joins;
mod joined_state;
mod outliers;
mod passing;
mod policy;
mod servers;
mod simulation;
mod streams;

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, routing::get};
use federation::Limits;
use http::StatusCode;
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, OwnedServerName, RoomVersionId, ServerName,
    api::federation::{
        event::get_missing_events,
        membership::{create_join_event, prepare_join_event},
        transactions::send_transaction_message,
    },
    signatures::{hash_and_sign_event, reference_hash},
};
use serde_json::{Value, json, value::to_raw_value};

use self::servers::{Three, join, pair, two};
use crate::{
    api::testing::{TestServer, TestUser, open_config},
    clock::{Clock, Random},
    federation::{Federation, PeerError, testing::Network},
    storage::Db,
};

const START_MS: u64 = 1_700_000_000_000;
const LIMITS: Limits = Limits { timeout: Duration::from_secs(5), max_bytes: 1 << 24 };

fn config(name: &str) -> crate::config::Config {
    let mut config = open_config();
    config.server_name = OwnedServerName::try_from(name).unwrap();
    config
}

async fn server(network: &Network, name: &str, seed: u64) -> TestServer {
    let clock = Clock::manual(START_MS);
    TestServer::among(network, &config(name), Db::in_memory().await, clock, seed).await
}

async fn room(server: &TestServer, user: &TestUser, body: Value) -> String {
    let (status, answer) = server.post("/v3/createRoom", Some(user), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["room_id"].as_str().unwrap().to_owned()
}

async fn send(server: &TestServer, user: &TestUser, room: &str, body: &str) -> String {
    let path = format!("/v3/rooms/{room}/send/m.room.message/{body}");
    let content = json!({ "msgtype": "m.text", "body": body });
    let (status, answer) = server.put(&path, user, content).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["event_id"].as_str().unwrap().to_owned()
}

/// Asks until it is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came: {what}");
}

async fn arrives(server: &TestServer, user: &TestUser, room: &str, event: &str) {
    // Room version 3 has IDs that are no parts of paths.
    let escaped = event.replace('/', "%2F").replace('+', "%2B");
    let path = format!("/v3/rooms/{room}/event/{escaped}");
    eventually(event, async || server.get(&path, Some(user)).await.0 == StatusCode::OK).await;
}

async fn membership(server: &TestServer, reader: &TestUser, room: &str, user: &str) -> Value {
    let path = format!("/v3/rooms/{room}/state/m.room.member/{user}");
    server.get(&path, Some(reader)).await.1["membership"].clone()
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>
#[tokio::test]
async fn messages_go_both_ways_in_rooms_of_every_version() {
    for version in ["1", "3", "6", "9", "10", "11", "12"] {
        let network = Network::default();
        let (a, b, alice, bob) = two(&network).await;
        let body = json!({ "preset": "public_chat", "room_version": version });
        let room = room(&b, &bob, body).await;
        let before = send(&b, &bob, &room, "before").await;
        let path = format!("/v3/join/{room}?via=b.example");
        let (status, answer) = a.post(&path, Some(&alice), json!({})).await;
        assert_eq!(status, StatusCode::OK, "version {version}: {answer}");
        assert_eq!(membership(&b, &bob, &room, &alice.user_id).await, "join");
        assert_eq!(membership(&a, &alice, &room, &bob.user_id).await, "join");

        let from_b = send(&b, &bob, &room, "from-b").await;
        arrives(&a, &alice, &room, &from_b).await;
        let from_a = send(&a, &alice, &room, "from-a").await;
        arrives(&b, &bob, &room, &from_a).await;
        // Both built on the other's last event: there is one end of the graph on each side.
        let (_, page) =
            a.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=5"), Some(&alice)).await;
        let ids: Vec<&str> = page["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|e| e["event_id"].as_str())
            .collect();
        assert_eq!(ids[..2], [&*from_a, &*from_b], "version {version}");
        assert_eq!(ids[3], before, "version {version}: what was before the join is fetched");

        let (status, _) = a.post(&format!("/v3/rooms/{room}/leave"), Some(&alice), json!({})).await;
        assert_eq!(status, StatusCode::OK);
        eventually("the departure", async || {
            membership(&b, &bob, &room, &alice.user_id).await == "leave"
        })
        .await;
    }
}

#[tokio::test]
async fn a_third_server_learns_of_a_join_and_of_what_follows() {
    let Three { network: _network, a, b, c, alice, bob, carol } = Three::new().await;
    let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
    join(&a, &alice, &room).await;
    join(&c, &carol, &room).await;
    eventually("carol's join", async || {
        membership(&a, &alice, &room, &carol.user_id).await == "join"
    })
    .await;
    let event = send(&c, &carol, &room, "hello").await;
    arrives(&a, &alice, &room, &event).await;
    arrives(&b, &bob, &room, &event).await;
}

#[tokio::test]
async fn a_join_falls_over_to_the_next_server() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
    let path = format!("/v3/join/{room}?via=gone.example&via=a.example&via=b.example");
    let (status, answer) = a.post(&path, Some(&alice), json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, answer) = a.post("/v3/join/!none:gone.example", Some(&alice), json!({})).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_GATEWAY, &json!("M_UNKNOWN")));
}

#[tokio::test]
async fn a_private_room_lets_nobody_in_and_says_so() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let room = room(&b, &bob, json!({ "preset": "private_chat" })).await;
    let path = format!("/v3/join/{room}?via=b.example");
    let (status, answer) = a.post(&path, Some(&alice), json!({})).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
}

#[tokio::test]
async fn a_server_that_was_away_gets_what_it_missed() {
    let network = Network::default();
    let (a, b, alice, bob, room) = pair(&network).await;
    let a_name = ruma::server_name!("a.example");
    network.disconnect(a_name);
    let mut missed = Vec::new();
    for number in 0..120 {
        missed.push(send(&b, &bob, &room, &format!("m{number}")).await);
    }
    eventually("a failure", async || network.count(a_name, "/_matrix/federation/v1/send") > 0)
        .await;
    // It comes back, and speaks: no need to wait for the pause to end.
    network.connect(a_name, a.server.router());
    let spoken = send(&a, &alice, &room, "back").await;
    arrives(&b, &bob, &room, &spoken).await;
    for event in &missed {
        arrives(&a, &alice, &room, event).await;
    }
}

/// A server driven by hand: it signs whatever it is given.
struct Peer {
    federation: Federation,
    missing: Arc<Mutex<Vec<Value>>>,
    /// What it answers to `/backfill`.
    earlier: Arc<Mutex<Vec<Value>>>,
    /// What it answers to `/event_auth`.
    auth_chain: Arc<Mutex<Vec<Value>>>,
    /// What it answers to `/state_ids`.
    state_ids: Arc<Mutex<Value>>,
    /// What it answers to `/user/devices`.
    devices: Arc<Mutex<Value>>,
    transaction: u64,
}

impl Peer {
    async fn new(network: &Network, name: &str, seed: u64) -> Self {
        let (db, random) = (Db::in_memory().await, Random::seeded(seed));
        let clock = Clock::manual(START_MS);
        let transport = Arc::new(network.clone());
        let federation =
            Federation::over(&config(name), db, clock, random, transport).await.unwrap();
        let keys = federation.clone();
        let missing = Arc::<Mutex<Vec<Value>>>::default();
        let answer = Arc::clone(&missing);
        let (earlier, state_ids) =
            (Arc::<Mutex<Vec<Value>>>::default(), Arc::<Mutex<Value>>::default());
        let (earlier_answer, state_answer) = (Arc::clone(&earlier), Arc::clone(&state_ids));
        let auth_chain = Arc::<Mutex<Vec<Value>>>::default();
        let auth_answer = Arc::clone(&auth_chain);
        let devices = Arc::<Mutex<Value>>::default();
        let devices_answer = Arc::clone(&devices);
        let origin = name.to_owned();
        let policy_server = config(name).server_name;
        let router = Router::new()
            .route(
                "/_matrix/key/v2/server",
                get(move || std::future::ready(Json(json!(keys.own_keys())))),
            )
            .route(
                "/_matrix/federation/v1/get_missing_events/{room}",
                axum::routing::post(move || {
                    std::future::ready(Json(json!({ "events": answer.lock().clone() })))
                }),
            )
            .route(
                "/_matrix/federation/v1/backfill/{room}",
                get(move || {
                    let pdus = earlier_answer.lock().clone();
                    let answer =
                        json!({ "origin": origin, "origin_server_ts": START_MS, "pdus": pdus });
                    std::future::ready(Json(answer))
                }),
            )
            .route(
                "/_matrix/federation/v1/event_auth/{room}/{event}",
                get(move || {
                    let answer = json!({ "auth_chain": auth_answer.lock().clone() });
                    std::future::ready(Json(answer))
                }),
            )
            .route(
                "/_matrix/policy/v1/sign",
                axum::routing::post(move |Json(event): Json<Value>| {
                    std::future::ready(policy::sign(&policy_server, &event))
                }),
            )
            .route(
                "/_matrix/federation/v1/state_ids/{room}",
                get(move || std::future::ready(Json(state_answer.lock().clone()))),
            )
            .route(
                "/_matrix/federation/v1/user/devices/{user}",
                get(move || std::future::ready(Json(devices_answer.lock().clone()))),
            );
        network.connect(&config(name).server_name, router);
        Self { federation, missing, earlier, auth_chain, state_ids, devices, transaction: 0 }
    }

    fn name(&self) -> &ServerName {
        self.federation.server_name()
    }

    /// Hashes and signs, and names the event.
    fn sign(&self, mut event: Value) -> (String, Value) {
        let rules = RoomVersionId::V11.rules().unwrap();
        event.as_object_mut().unwrap().remove("hashes");
        let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
        let key_pair = &self.federation.shared.key_pair;
        hash_and_sign_event(self.name().as_str(), key_pair, &mut object, &rules.redaction).unwrap();
        let id = format!("${}", reference_hash(&object, &rules).unwrap());
        (id, serde_json::to_value(&object).unwrap())
    }

    /// Joins through `to`; the join, and the IDs of the state before it by type and key.
    async fn join(&self, to: &ServerName, room: &str, user: &str) -> Joined {
        let (room_id, user_id) = (room.try_into().unwrap(), user.try_into().unwrap());
        let mut request = prepare_join_event::v1::Request::new(room_id, user_id);
        request.ver = vec![RoomVersionId::V11];
        let made = self.federation.ask(to, request, LIMITS).await.unwrap();
        let (id, join) = self.sign(serde_json::from_str(made.event.get()).unwrap());
        let request = create_join_event::v2::Request::new(
            room.try_into().unwrap(),
            id.as_str().try_into().unwrap(),
            to_raw_value(&join).unwrap(),
        );
        let state = self.federation.ask(to, request, LIMITS).await.unwrap().room_state;
        let rules = RoomVersionId::V11.rules().unwrap();
        let mut auth = vec![id.clone()];
        for event in &state.state {
            let event: CanonicalJsonObject = serde_json::from_str(event.get()).unwrap();
            let event_type = event["type"].as_str().unwrap();
            if matches!(event_type, "m.room.create" | "m.room.power_levels") {
                auth.push(format!("${}", reference_hash(&event, &rules).unwrap()));
            }
        }
        Joined { room: room.to_owned(), user: user.to_owned(), last: id, auth, depth: 50 }
    }

    async fn send(
        &mut self,
        to: &ServerName,
        events: &[&Value],
    ) -> Result<send_transaction_message::v1::Response, PeerError> {
        self.transaction += 1;
        let id = self.transaction.to_string();
        self.send_as(&id, to, events).await
    }

    async fn send_as(
        &self,
        id: &str,
        to: &ServerName,
        events: &[&Value],
    ) -> Result<send_transaction_message::v1::Response, PeerError> {
        let now = ruma::MilliSecondsSinceUnixEpoch(START_MS.try_into().unwrap());
        let mut request =
            send_transaction_message::v1::Request::new(id.into(), self.name().to_owned(), now);
        request.pdus = events.iter().map(|event| to_raw_value(event).unwrap()).collect();
        self.federation.tell(to, request, LIMITS).await
    }
}

impl Peer {
    async fn send_edus(
        &self,
        id: &str,
        to: &ServerName,
        edus: &[&Value],
    ) -> Result<send_transaction_message::v1::Response, PeerError> {
        let now = ruma::MilliSecondsSinceUnixEpoch(START_MS.try_into().unwrap());
        let mut request =
            send_transaction_message::v1::Request::new(id.into(), self.name().to_owned(), now);
        let raw = |edu: &&Value| ruma::serde::Raw::from_json(to_raw_value(edu).unwrap());
        request.edus = edus.iter().map(raw).collect();
        self.federation.tell(to, request, LIMITS).await
    }
}

/// Where somebody of a peer is in a room.
struct Joined {
    room: String,
    user: String,
    last: String,
    auth: Vec<String>,
    depth: u64,
}

impl Joined {
    /// A message after this event, not signed yet.
    fn message(&self, after: &str, body: &str) -> Value {
        json!({
            "auth_events": self.auth, "prev_events": [after], "depth": self.depth,
            "room_id": self.room, "sender": self.user, "type": "m.room.message",
            "origin_server_ts": START_MS, "content": { "msgtype": "m.text", "body": body },
        })
    }
}

/// A public room of version 11 on b, with somebody of the peer in it.
async fn meeting(network: &Network) -> (TestServer, TestUser, Peer, Joined) {
    let b = server(network, "b.example", 2).await;
    let bob = b.register("bob").await;
    let body = json!({ "preset": "public_chat", "room_version": "11" });
    let room = room(&b, &bob, body).await;
    let peer = Peer::new(network, "peer.example", 9).await;
    let joined = peer.join(b.server.federation().server_name(), &room, "@eve:peer.example").await;
    assert_eq!(membership(&b, &bob, &room, "@eve:peer.example").await, "join");
    (b, bob, peer, joined)
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
#[tokio::test]
async fn one_bad_event_does_not_harm_the_others_of_its_transaction() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let (good_id, good) = peer.sign(joined.message(&joined.last, "good"));

    let mut unsigned = peer.sign(joined.message(&joined.last, "unsigned"));
    unsigned.1["signatures"] = json!({});
    let mut changed = peer.sign(joined.message(&joined.last, "changed"));
    changed.1["depth"] = json!(51);
    let mut forged = joined.message(&joined.last, "forged");
    forged["sender"] = json!("@bob:b.example");
    let forged = peer.sign(forged);
    let mut elsewhere = joined.message(&joined.last, "elsewhere");
    elsewhere["room_id"] = json!("!other:b.example");
    let elsewhere = peer.sign(elsewhere);
    let not_an_event = json!({ "room_id": joined.room });
    let events = [&unsigned.1, &changed.1, &forged.1, &elsewhere.1, &not_an_event, &good];
    let answer = peer.send(&us, &events).await.unwrap();
    let of =
        |id: &str| answer.pdus.iter().find(|(event, _)| *event == id).map(|(_, result)| result);
    assert!(of(&good_id).unwrap().is_ok());
    assert!(of(&unsigned.0).unwrap().is_err());
    assert!(of(&forged.0).unwrap().is_err());
    assert!(of(&elsewhere.0).is_none(), "a room that is not here has no version to name it by");
    assert_eq!(answer.pdus.values().filter(|result| result.is_ok()).count(), 1);
    arrives(&b, &bob, &joined.room, &good_id).await;
    for (event, _) in [&unsigned, &changed, &forged, &elsewhere] {
        let path = format!("/v3/rooms/{}/event/{event}", joined.room);
        assert_eq!(b.get(&path, Some(&bob)).await.0, StatusCode::NOT_FOUND);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#calculating-the-content-hash-for-an-event>
#[tokio::test]
async fn content_that_is_not_what_was_hashed_is_left_out() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let (id, mut event) = peer.sign(joined.message(&joined.last, "true"));
    event["content"]["body"] = json!("a lie");
    assert!(peer.send(&us, &[&event]).await.unwrap().pdus.values().all(Result::is_ok));
    arrives(&b, &bob, &joined.room, &id).await;
    let path = format!("/v3/rooms/{}/event/{id}", joined.room);
    assert_eq!(b.get(&path, Some(&bob)).await.1["content"], json!({}));
}

#[tokio::test]
async fn a_transaction_counts_once_and_is_bounded() {
    let network = Network::default();
    let (b, bob, peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let (first, event) = peer.sign(joined.message(&joined.last, "first"));
    let (second, other) = peer.sign(joined.message(&joined.last, "second"));
    let answer = peer.send_as("t", &us, &[&event]).await.unwrap();
    arrives(&b, &bob, &joined.room, &first).await;
    // The same transaction with another event in it is the same transaction.
    let again = peer.send_as("t", &us, &[&other]).await.unwrap();
    assert_eq!(again.pdus.keys().collect::<Vec<_>>(), answer.pdus.keys().collect::<Vec<_>>());
    let path = format!("/v3/rooms/{}/event/{second}", joined.room);
    assert_eq!(b.get(&path, Some(&bob)).await.0, StatusCode::NOT_FOUND);

    let many: Vec<&Value> = std::iter::repeat_n(&event, 51).collect();
    let error = peer.send_as("u", &us, &many).await.unwrap_err();
    assert!(matches!(error, PeerError::Refused { status: StatusCode::BAD_REQUEST, .. }));
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls>
#[tokio::test]
async fn a_denied_server_neither_sends_nor_reads_nor_comes_in() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let list = json!({ "allow": ["*"], "deny": ["peer.example"] });
    let path = format!("/v3/rooms/{}/state/m.room.server_acl/", joined.room);
    assert_eq!(b.put(&path, &bob, list).await.0, StatusCode::OK);
    let (id, event) = peer.sign(joined.message(&joined.last, "denied"));
    let answer = peer.send(&us, &[&event]).await.unwrap();
    assert!(answer.pdus.values().all(Result::is_err), "{:?}", answer.pdus);
    let path = format!("/v3/rooms/{}/event/{id}", joined.room);
    assert_eq!(b.get(&path, Some(&bob)).await.0, StatusCode::NOT_FOUND);
    let room_id: ruma::OwnedRoomId = joined.room.as_str().try_into().unwrap();
    let user_id = joined.user.as_str().try_into().unwrap();
    let mut request = prepare_join_event::v1::Request::new(room_id.clone(), user_id);
    request.ver = vec![RoomVersionId::V11];
    let error = peer.federation.ask(&us, request, LIMITS).await.unwrap_err();
    assert!(matches!(error, PeerError::Refused { status: StatusCode::FORBIDDEN, .. }));
    let request = get_missing_events::v1::Request::new(room_id, Vec::new(), Vec::new());
    let error = peer.federation.ask(&us, request, LIMITS).await.unwrap_err();
    assert!(matches!(error, PeerError::Refused { status: StatusCode::FORBIDDEN, .. }));
}

#[tokio::test]
async fn a_gap_is_filled_before_what_comes_after_it() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let (one, first) = peer.sign(joined.message(&joined.last, "one"));
    let (two, second) = peer.sign(joined.message(&one, "two"));
    let (three, third) = peer.sign(joined.message(&two, "three"));
    *peer.missing.lock() = vec![first, second];
    assert!(peer.send(&us, &[&third]).await.unwrap().pdus.values().all(Result::is_ok));
    for event in [&one, &two, &three] {
        arrives(&b, &bob, &joined.room, event).await;
    }
}

#[tokio::test]
async fn who_is_not_in_a_room_reads_nothing_of_it() {
    let network = Network::default();
    let (b, bob, _, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let event = send(&b, &bob, &joined.room, "inside").await;
    let stranger = Peer::new(&network, "stranger.example", 10).await;
    let room_id: ruma::OwnedRoomId = joined.room.as_str().try_into().unwrap();
    let event: ruma::OwnedEventId = event.as_str().try_into().unwrap();
    let request = ruma::api::federation::event::get_event::v1::Request::new(event.clone());
    let error = stranger.federation.ask(&us, request, LIMITS).await.unwrap_err();
    assert!(matches!(error, PeerError::Refused { status: StatusCode::NOT_FOUND, .. }), "{error:?}");
    let request = get_missing_events::v1::Request::new(room_id, Vec::new(), vec![event]);
    let error = stranger.federation.ask(&us, request, LIMITS).await.unwrap_err();
    assert!(matches!(error, PeerError::Refused { status: StatusCode::FORBIDDEN, .. }), "{error:?}");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#rejection>
#[tokio::test]
async fn a_rejected_event_is_shown_to_nobody() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let mut grab = joined.message(&joined.last, "grab");
    grab["type"] = json!("m.room.power_levels");
    grab["state_key"] = json!("");
    grab["content"] = json!({ "users": { &joined.user: 100 } });
    let (grab_id, grab) = peer.sign(grab);
    let mut orphan = joined.message(&joined.last, "orphan");
    orphan["prev_events"] = json!([]);
    let (orphan_id, orphan) = peer.sign(orphan);
    let (fence_id, fence) = peer.sign(joined.message(&joined.last, "fence"));
    peer.send(&us, &[&grab, &orphan, &fence]).await.unwrap();
    arrives(&b, &bob, &joined.room, &fence_id).await;
    for event in [&grab_id, &orphan_id] {
        let path = format!("/v3/rooms/{}/event/{event}", joined.room);
        assert_eq!(b.get(&path, Some(&bob)).await.0, StatusCode::NOT_FOUND, "{event}");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#soft-failure>
#[tokio::test]
async fn an_event_sent_around_a_ban_is_shown_to_nobody() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let (id, evasion) = peer.sign(joined.message(&joined.last, "evasion"));
    let path = format!("/v3/rooms/{}/ban", joined.room);
    let body = json!({ "user_id": joined.user });
    assert_eq!(b.post(&path, Some(&bob), body).await.0, StatusCode::OK);
    peer.send(&us, &[&evasion]).await.unwrap();
    let rooms = b.server.rooms();
    let room_id: ruma::OwnedRoomId = joined.room.as_str().try_into().unwrap();
    let room = rooms.room(&room_id).await.unwrap();
    let event: ruma::OwnedEventId = id.as_str().try_into().unwrap();
    eventually("the evasion", async || rooms.pdu(&room, &event).await.unwrap().is_some()).await;
    let path = format!("/v3/rooms/{}/event/{id}", joined.room);
    assert_eq!(b.get(&path, Some(&bob)).await.0, StatusCode::NOT_FOUND);
}
