//! Clients of every kind that sync at random moments, while people come and go and the server
//! crashes, end up with what the server holds of the rooms they are in: all of the events once, the
//! state, the receipts and the counts.
//!
//! They speak the client API. What they should know is what a client would be told that begins then.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::api::testing::{TestServer, TestUser, open_config};

/// How a client syncs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// With all of the state before the timeline.
    Plain,
    /// With the state after it.
    After,
    /// With the members who speak.
    Lazy,
    /// Without topics, and of one sender nothing.
    Filtered,
    /// By sliding sync.
    Sliding,
}

/// What a filtered client does not want.
const UNWANTED: &str = "m.room.topic";

#[derive(Debug, Default)]
struct RoomView {
    events: BTreeSet<String>,
    /// The event of each state key.
    state: BTreeMap<(String, String), String>,
    /// By user and kind.
    receipts: BTreeMap<(String, String), String>,
    counts: Option<(u64, u64)>,
}

struct Client {
    kind: Kind,
    device: TestUser,
    since: Option<String>,
    rooms: BTreeMap<String, RoomView>,
}

struct Model {
    seed: u64,
    random: StdRng,
    server: Option<TestServer>,
    clients: Vec<Client>,
    rooms: Vec<String>,
    number: u64,
    restarts: u64,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn is_member(((kind, _), _): (&(String, String), &String)) -> bool {
    kind == "m.room.member"
}

impl RoomView {
    fn apply(&mut self, events: &[Value]) {
        for event in events.iter().filter(|event| event.get("state_key").is_some()) {
            let key = (text(&event["type"]), text(&event["state_key"]));
            self.state.insert(key, text(&event["event_id"]));
        }
    }

    fn take_receipts(&mut self, content: &Value) {
        for (event_id, kinds) in entries(content) {
            for (kind, users) in entries(kinds) {
                // What was delivered is told of late, and not after a crash.
                for (user, _) in entries(users).filter(|_| kind.starts_with("m.read")) {
                    self.receipts.insert((user.clone(), kind.clone()), event_id.clone());
                }
            }
        }
    }
}

impl Client {
    fn filter(&self) -> Value {
        let mut room = json!({ "timeline": { "limit": 4 }, "state": {} });
        match self.kind {
            Kind::Lazy => room["state"]["lazy_load_members"] = json!(true),
            Kind::Filtered => {
                for part in ["timeline", "state"] {
                    room[part]["not_types"] = json!([UNWANTED]);
                }
            }
            _ => {}
        }
        json!({ "room": room })
    }

    /// A filter for pages of the timeline.
    fn page_filter(&self) -> Value {
        match self.kind {
            Kind::Filtered => json!({ "not_types": [UNWANTED] }),
            _ => json!({}),
        }
    }

    /// Everything that happened since the last time.
    async fn sync(&mut self, server: &TestServer) {
        if self.kind == Kind::Sliding {
            self.slide(server).await;
            return;
        }
        let filter = encoded(&self.filter());
        let mut path =
            format!("/v3/sync?filter={filter}&use_state_after={}", self.kind == Kind::After);
        if let Some(since) = &self.since {
            path = format!("{path}&since={since}");
        }
        let (status, answer) = server.get(&path, Some(&self.device)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        self.since = Some(text(&answer["next_batch"]));
        for gone in ["leave", "invite"] {
            for (room, _) in entries(&answer["rooms"][gone]) {
                self.rooms.remove(room);
            }
        }
        for (room, told) in entries(&answer["rooms"]["join"]) {
            let timeline = list(&told["timeline"]["events"]);
            let is_new = !self.rooms.contains_key(room);
            if told["timeline"]["limited"] == true || is_new {
                self.fill(server, room, &text(&told["timeline"]["prev_batch"])).await;
            }
            self.take_timeline(room, timeline);
            let view = self.rooms.get_mut(room).unwrap();
            if self.kind == Kind::After {
                view.apply(list(&told["state_after"]["events"]));
            } else {
                view.apply(list(&told["state"]["events"]));
                view.apply(timeline);
            }
            for event in list(&told["ephemeral"]["events"]) {
                if event["type"] == "m.receipt" {
                    view.take_receipts(&event["content"]);
                }
            }
            if let Some(counts) = told.get("unread_notifications") {
                view.counts = Some(counted(counts));
            }
        }
    }

    async fn slide(&mut self, server: &TestServer) {
        let since = self.since.as_deref().map(|pos| format!("?pos={pos}")).unwrap_or_default();
        let path = format!("/unstable/org.matrix.simplified_msc3575/sync{since}");
        let ask = json!({
            "lists": { "all": {
                "ranges": [[0, 99]], "timeline_limit": 3, "required_state": [["*", "*"]],
            } },
            "extensions": { "receipts": { "enabled": true } },
        });
        let (mut status, mut answer) = server.post(&path, Some(&self.device), ask.clone()).await;
        if answer["errcode"] == "M_UNKNOWN_POS" {
            // The server does not know the connection since it crashed: clients begin again.
            self.rooms.clear();
            let path = "/unstable/org.matrix.simplified_msc3575/sync";
            (status, answer) = server.post(path, Some(&self.device), ask).await;
        }
        assert_eq!(status, StatusCode::OK, "{answer}");
        self.since = Some(text(&answer["pos"]));
        for (room, told) in entries(&answer["rooms"]) {
            if told.get("invite_state").is_some() {
                self.rooms.remove(room);
                continue;
            }
            if told["initial"] == true {
                self.rooms.remove(room);
            }
            let timeline = list(&told["timeline"]);
            if told["limited"] == true || told["initial"] == true {
                self.fill(server, room, &text(&told["prev_batch"])).await;
            }
            self.take_timeline(room, timeline);
            let view = self.rooms.get_mut(room).unwrap();
            view.apply(list(&told["required_state"]));
            if let (Some(notifications), Some(highlights)) =
                (told["notification_count"].as_u64(), told["highlight_count"].as_u64())
            {
                view.counts = Some((notifications, highlights));
            }
        }
        for (room, event) in entries(&answer["extensions"]["receipts"]["rooms"]) {
            if let Some(view) = self.rooms.get_mut(room) {
                view.take_receipts(&event["content"]);
            }
        }
    }

    fn take_timeline(&mut self, room: &str, timeline: &[Value]) {
        let view = self.rooms.entry(room.to_owned()).or_default();
        for event in timeline {
            let id = text(&event["event_id"]);
            assert!(view.events.insert(id), "told twice: {event}, {:?}", self.kind);
        }
    }

    /// Pages back until something known turns up, or the beginning.
    async fn fill(&mut self, server: &TestServer, room: &str, prev_batch: &str) {
        let filter = encoded(&self.page_filter());
        let view = self.rooms.entry(room.to_owned()).or_default();
        let mut gap = BTreeSet::new();
        let mut from = prev_batch.to_owned();
        'pages: while !from.is_empty() {
            let path =
                format!("/v3/rooms/{room}/messages?dir=b&limit=7&filter={filter}&from={from}");
            let (status, page) = server.get(&path, Some(&self.device)).await;
            // Somebody threw them out meanwhile, which the next sync tells.
            if status == StatusCode::FORBIDDEN {
                break;
            }
            assert_eq!(status, StatusCode::OK, "{page}");
            for event in list(&page["chunk"]) {
                let id = text(&event["event_id"]);
                if view.events.contains(&id) {
                    break 'pages;
                }
                gap.insert(id);
            }
            from = text(&page["end"]);
        }
        view.events.extend(gap);
    }
}

fn counted(counts: &Value) -> (u64, u64) {
    let of = |name: &str| counts[name].as_u64().unwrap();
    (of("notification_count"), of("highlight_count"))
}

fn encoded(filter: &Value) -> String {
    url::form_urlencoded::byte_serialize(filter.to_string().as_bytes()).collect()
}

impl Model {
    async fn new(seed: u64) -> Self {
        let server = TestServer::new(&open_config()).await;
        let mut clients = Vec::new();
        for (name, kinds) in [
            ("alice", [Kind::Plain, Kind::Sliding]),
            ("bob", [Kind::Lazy, Kind::Filtered]),
            ("carol", [Kind::After, Kind::Sliding]),
        ] {
            let first = server.register(name).await;
            for kind in kinds {
                let login = json!({
                    "type": "m.login.password", "password": "secret",
                    "identifier": { "type": "m.id.user", "user": first.user_id },
                });
                let (status, answer) = server.post("/v3/login", None, login).await;
                assert_eq!(status, StatusCode::OK, "{answer}");
                let device = TestUser::from(&answer);
                clients.push(Client { kind, device, since: None, rooms: BTreeMap::new() });
            }
        }
        let mut rooms = Vec::new();
        for _ in 0..3 {
            let body = json!({ "preset": "public_chat" });
            let (_, answer) = server.post("/v3/createRoom", Some(&clients[0].device), body).await;
            rooms.push(text(&answer["room_id"]));
        }
        let random = StdRng::seed_from_u64(seed);
        Self { seed, random, server: Some(server), clients, rooms, number: 0, restarts: 0 }
    }

    /// Something that somebody does, whether they may or not.
    async fn act(&mut self) {
        self.number += 1;
        let number = self.number;
        let who = self.random.random_range(0..self.clients.len());
        let device = self.clients[who].device.clone();
        let other = self.random.random_range(2..self.clients.len());
        let other = json!({ "user_id": self.clients[other].device.user_id });
        let room = self.rooms[self.random.random_range(0..self.rooms.len())].clone();
        let path = |rest: &str| format!("/v3/rooms/{room}/{rest}");
        let (what, empty) = (self.random.random_range(0..100_u32), json!({}));
        let server = self.server.as_ref().unwrap();
        let (status, answer) = match what {
            0..25 => {
                let content = json!({ "msgtype": "m.text", "body": format!("{number}, bob") });
                server.put(&path(&format!("send/m.room.message/t{number}")), &device, content).await
            }
            25..32 => {
                let content = json!({ "topic": format!("topic {number}") });
                let admin = &self.clients[0].device;
                server.put(&path("state/m.room.topic/"), admin, content).await
            }
            32..44 => server.post(&path("join"), Some(&device), empty).await,
            44..48 => server.post(&path("leave"), Some(&device), empty).await,
            48..50 => server.post(&path("kick"), Some(&self.clients[0].device), other).await,
            50..52 => server.post(&path("invite"), Some(&self.clients[0].device), other).await,
            52..54 => {
                let name = format!("name {number}");
                let content = json!({ "membership": "join", "displayname": name });
                let path = path(&format!("state/m.room.member/{}", device.user_id));
                server.put(&path, &device, content).await
            }
            54..62 => {
                let (_, page) = server.get(&path("messages?dir=b&limit=1"), Some(&device)).await;
                let Some(last) = page["chunk"].get(0) else { return };
                let event = text(&last["event_id"]);
                let kind = if number.is_multiple_of(4) { "m.read.private" } else { "m.read" };
                server.post(&path(&format!("receipt/{kind}/{event}")), Some(&device), empty).await
            }
            62..64 => {
                self.restart().await;
                return;
            }
            _ => {
                let server = self.server.take().unwrap();
                self.clients[who].sync(&server).await;
                self.server = Some(server);
                return;
            }
        };
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "seed {}: {answer}", self.seed);
    }

    /// The server crashes: it goes on from what was on its disk.
    async fn restart(&mut self) {
        self.restarts += 1;
        let old = self.server.take().unwrap();
        let clock = old.clock.clone();
        let db = old.crashed().await;
        let seed = self.seed * 1_000 + self.restarts;
        self.server = Some(TestServer::over(&open_config(), db, clock, seed).await);
    }

    async fn check(&mut self) {
        let server = self.server.take().unwrap();
        for client in &mut self.clients {
            client.sync(&server).await;
            let at = format!("seed {}, {:?} of {}", self.seed, client.kind, client.device.user_id);
            let (_, joined) = server.get("/v3/joined_rooms", Some(&client.device)).await;
            let joined: Vec<String> = list(&joined["joined_rooms"]).iter().map(text).collect();
            if client.kind != Kind::Sliding {
                let known: Vec<&String> = client.rooms.keys().collect();
                let mut joined: Vec<&String> = joined.iter().collect();
                joined.sort_unstable();
                assert_eq!(known, joined, "{at}");
            }
            let mut fresh = Client {
                kind: if client.kind == Kind::Sliding { Kind::Plain } else { client.kind },
                device: client.device.clone(),
                since: None,
                rooms: BTreeMap::new(),
            };
            fresh.sync(&server).await;
            for room in joined {
                let view = client.rooms.get(&room).unwrap_or_else(|| panic!("{at}: {room} lacks"));
                let truth = &fresh.rooms[&room];
                assert_eq!(view.events, truth.events, "{at}");
                assert_eq!(view.receipts, truth.receipts, "{at}");
                assert_eq!(view.counts, truth.counts, "{at}");
                let path = format!("/v3/rooms/{room}/state");
                let (_, state) = server.get(&path, Some(&client.device)).await;
                let mut whole = RoomView::default();
                whole.apply(list(&state));
                let mut state = view.state.clone();
                match client.kind {
                    Kind::Lazy => {
                        // Those that it knows are right, and the rest is whole.
                        for (key, event) in state.iter().filter(|entry| is_member(*entry)) {
                            assert_eq!(whole.state.get(key), Some(event), "{at}: {key:?}");
                        }
                        state.retain(|key, event| !is_member((key, event)));
                        whole.state.retain(|key, event| !is_member((key, event)));
                    }
                    Kind::Filtered => whole.state.retain(|(kind, _), _| kind != UNWANTED),
                    _ => {}
                }
                assert_eq!(state, whole.state, "{at}");
            }
        }
        self.server = Some(server);
    }
}

async fn run(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut model = Model::new(seed).await;
        for _ in 0..3 {
            for _ in 0..70 {
                model.act().await;
            }
            model.check().await;
        }
    }
}

// Seed 2 had counts that sliding sync did not tell of when they were read elsewhere, seed 12 members
// who left in a gap and stayed with a client that loads them lazily.
#[tokio::test]
async fn clients_of_every_kind_have_what_the_server_holds() {
    run(0..15).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn clients_of_every_kind_have_what_the_server_holds_whatever_happens() {
    run(15..500).await;
}
