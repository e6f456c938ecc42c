//! Clients that sync at any time and page back where the timeline has a gap.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use ruma::{OwnedRoomId, api::Direction, user_id};
use serde_json::Value;

use super::{World, filter, since};
use crate::{
    rooms::{Boundary, Change, EventFilter, PageRequest},
    sync::{Request, StateForm, token::SyncToken},
    users::session::Session,
};

/// A client that keeps what it is told.
struct ClientSide {
    session: Session,
    since: Option<SyncToken>,
    limit: u32,
    state_after: bool,
    timelines: BTreeMap<OwnedRoomId, Vec<String>>,
    state: BTreeMap<OwnedRoomId, BTreeMap<(String, String), String>>,
}

impl ClientSide {
    fn new(session: Session, limit: u32, state_after: bool) -> Self {
        Self {
            session,
            since: None,
            limit,
            state_after,
            timelines: BTreeMap::new(),
            state: BTreeMap::new(),
        }
    }

    async fn sync(&mut self, world: &World) {
        let request = Request {
            since: self.since,
            filter: filter(self.limit),
            state_form: if self.state_after { StateForm::After } else { StateForm::Before },
            ..Request::default()
        };
        let response = world.sync(&self.session, &request).await;
        self.since = Some(since(&response));
        let empty = serde_json::Map::new();
        // A room that is joined again later is told of from the start.
        for room_id in response["rooms"]["leave"].as_object().unwrap_or(&empty).keys() {
            let room_id: OwnedRoomId = room_id.as_str().try_into().unwrap();
            self.timelines.remove(&room_id);
            self.state.remove(&room_id);
        }
        let joined = response["rooms"]["join"].as_object().unwrap_or(&empty);
        for (room_id, room) in joined {
            let room_id: OwnedRoomId = room_id.as_str().try_into().unwrap();
            let timeline = room["timeline"]["events"].as_array().unwrap();
            if room["timeline"]["limited"] == true {
                self.fill_gap(world, &room_id, room["timeline"]["prev_batch"].as_str().unwrap())
                    .await;
            }
            let told = self.timelines.entry(room_id.clone()).or_default();
            told.extend(timeline.iter().map(id));
            let state = self.state.entry(room_id).or_default();
            if self.state_after {
                assert!(room.get("state").is_none());
                apply(state, room["state_after"]["events"].as_array().unwrap());
            } else {
                apply(state, room["state"]["events"].as_array().unwrap());
                apply(state, timeline);
            }
        }
    }

    /// Pages back until something known turns up.
    async fn fill_gap(&mut self, world: &World, room_id: &OwnedRoomId, prev_batch: &str) {
        let told = self.timelines.entry(room_id.clone()).or_default();
        let mut from: Option<Boundary> = Some(prev_batch.parse().unwrap());
        let mut gap = Vec::new();
        'pages: while from.is_some() {
            let request = PageRequest {
                from,
                to: None,
                direction: Direction::Backward,
                limit: 3,
                filter: EventFilter::default(),
                only_live: false,
            };
            let page = world.rooms.messages(&self.session, room_id, &request).await.unwrap();
            for event in &page.chunk {
                let event = id(&serde_json::from_str(event.get()).unwrap());
                if told.contains(&event) {
                    break 'pages;
                }
                gap.push(event);
            }
            from = page.end;
        }
        gap.reverse();
        told.extend(gap);
    }
}

fn id(event: &Value) -> String {
    event["event_id"].as_str().unwrap().to_owned()
}

fn apply(state: &mut BTreeMap<(String, String), String>, events: &[Value]) {
    for event in events.iter().filter(|event| event.get("state_key").is_some()) {
        let text = |key: &str| event[key].as_str().unwrap().to_owned();
        state.insert((text("type"), text("state_key")), text("event_id"));
    }
}

/// What a member who may see everything should have: the room's timeline and its state.
pub(super) async fn truth(
    world: &World,
    session: &Session,
    room_id: &OwnedRoomId,
) -> (Vec<String>, BTreeMap<(String, String), String>) {
    let request = PageRequest {
        from: None,
        to: None,
        direction: Direction::Forward,
        limit: 1_000,
        filter: EventFilter::default(),
        only_live: false,
    };
    let page = world.rooms.messages(session, room_id, &request).await.unwrap();
    let timeline =
        page.chunk.iter().map(|event| id(&serde_json::from_str(event.get()).unwrap())).collect();
    let events = world.rooms.readable_state(session, room_id).await.unwrap();
    let events: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect();
    let mut state = BTreeMap::new();
    apply(&mut state, &events);
    (timeline, state)
}

async fn converse(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        rooms.push(world.public_room(&alice).await);
    }
    let mut bob_is_in = BTreeSet::new();
    let mut clients = vec![
        ClientSide::new(alice.clone(), 1, false),
        ClientSide::new(alice.clone(), 5, true),
        ClientSide::new(bob.clone(), 2, false),
        ClientSide::new(bob.clone(), 50, true),
    ];
    for step in 0..120 {
        let room = rooms[random.random_range(0..rooms.len())].clone();
        match random.next_u32() % 10 {
            0..=3 => {
                world.send(&alice, &room, &format!("message {step}")).await;
            }
            4 if bob_is_in.contains(&room) => {
                world.send(&bob, &room, &format!("answer {step}")).await;
            }
            5 => {
                world.topic(&alice, &room, &format!("topic {step}")).await;
            }
            6 if bob_is_in.insert(room.clone()) => world.change(&bob, &room, Change::Join).await,
            7 if step % 3 == 0 && bob_is_in.remove(&room) => {
                world.change(&bob, &room, Change::Leave).await;
            }
            _ => {
                let client = random.random_range(0..clients.len());
                clients[client].sync(&world).await;
            }
        }
    }
    for client in &mut clients {
        client.sync(&world).await;
        for room in &rooms {
            if client.session.user == bob.user && !bob_is_in.contains(room) {
                continue;
            }
            let (timeline, state) = truth(&world, &client.session, room).await;
            let mut told = client.timelines[room].clone();
            let times = told.len();
            told.sort_unstable();
            told.dedup();
            assert_eq!(told.len(), times, "seed {seed}: something was told twice");
            assert_eq!(client.state[room], state, "seed {seed}: the state differs");
            // What happened before the first sync is there to be paged to, not to be told.
            let told = &client.timelines[room];
            let missing: Vec<_> = timeline.iter().filter(|event| !told.contains(event)).collect();
            assert_eq!(missing, Vec::<&String>::new(), "seed {seed}: events were missed");
        }
    }
}

#[tokio::test]
async fn clients_that_sync_at_any_time_and_fill_their_gaps_have_everything_once() {
    for seed in 0..12 {
        converse(seed).await;
    }
}
