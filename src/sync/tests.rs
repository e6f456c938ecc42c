//! A client that syncs must end up with what happened: nothing missed, nothing twice.

mod clients;
mod gaps;
mod model;
mod sliding;
mod stream;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::{
    CanonicalJsonObject, OwnedDeviceId, OwnedEventId, OwnedRoomId, UserId,
    api::client::filter::FilterDefinition, server_name, user_id,
};
use serde_json::{Value, json};

use super::{Request, StateForm, Sync, SyncError, SyncFilter, token::SyncToken};
use crate::{
    clock::{Clock, Random},
    config,
    e2ee::{Delivery, E2ee, Keys, Target, ToDevice},
    push::{PushRules, Unread},
    rooms::{
        Change, NewRoom, Preset, Profile, Rooms, keys::ServerKey, receipts::Receipts,
        typing::Typing,
    },
    shutdown::Shutdown,
    storage::{Batch, Db, Json, schema::DEVICES},
    users::{
        AccountData, GLOBAL,
        presence::Presence,
        rows::Device,
        session::{Session, Sessions},
    },
};

/// A server in memory.
struct World {
    db: Db,
    rooms: Rooms,
    typing: Typing,
    sessions: Sessions,
    sync: Arc<Sync>,
    shutdown: Shutdown,
    transaction: u64,
}

impl World {
    async fn new() -> Self {
        Self::over(Db::in_memory().await).await
    }

    /// What is on the disk, under another process: the first one stopped in the middle of everything.
    async fn restarted(self) -> Self {
        let db = self.db.copied().await;
        self.shutdown.start();
        Self { transaction: self.transaction, ..Self::over(db).await }
    }

    async fn over(db: Db) -> Self {
        let random = Random::seeded(7);
        let clock = Clock::manual(1_700_000_000_000);
        let key = ServerKey::load(&db, &random, server_name!("localhost")).await.unwrap();
        let profiles = Box::new(|_| Box::pin(async { Ok(Profile::default()) }) as _);
        let sessions = Sessions::new(db.clone(), clock.clone(), random.clone());
        let rooms = Rooms::new(
            db.clone(),
            clock.clone(),
            random,
            key,
            profiles,
            crate::rooms::Settings::default(),
        );
        let typing = Typing::new(db.clone());
        let receipts = Receipts::new(db.clone(), clock.clone());
        let e2ee = E2ee {
            keys: Keys::new(db.clone(), server_name!("localhost"), None),
            to_device: ToDevice::new(
                db.clone(),
                clock.clone(),
                Random::seeded(1),
                server_name!("localhost"),
                false,
            ),
        };
        let presence = Presence::new(db.clone(), clock.clone(), config::Presence::default());
        let shutdown = Shutdown::new();
        let sync = Arc::new(Sync::new(
            db.clone(),
            rooms.clone(),
            typing.clone(),
            receipts,
            e2ee,
            Unread::new(db.clone(), rooms.clone(), PushRules::new(AccountData::new(db.clone()))),
            presence,
            sessions.clone(),
            shutdown.stopping(),
        ));
        Self { db, rooms, typing, sessions, sync, shutdown, transaction: 0 }
    }

    async fn session(&self, user_id: &UserId) -> Session {
        self.session_of(user_id, "DEVICE").await
    }

    async fn session_of(&self, user_id: &UserId, device: &str) -> Session {
        let user = self.db.users().intern(&self.db, user_id).await.unwrap();
        let mut batch = Batch::new();
        let key = (user, OwnedDeviceId::from(device));
        DEVICES.put(&mut batch, &key, &Json(Device::default()));
        self.db.commit(batch).await.unwrap();
        Session {
            user_id: user_id.to_owned(),
            user,
            device_id: device.into(),
            guest: false,
            appservice: None,
        }
    }

    async fn public_room(&self, creator: &Session) -> OwnedRoomId {
        let new = NewRoom {
            version: None,
            preset: Preset::Public,
            creation_content: CanonicalJsonObject::new(),
            initial_state: Vec::new(),
            power_levels: CanonicalJsonObject::new(),
            name: None,
            topic: None,
            alias_name: None,
            invite: Vec::new(),
            is_direct: false,
            public: false,
        };
        self.rooms.create(creator, &new).await.unwrap()
    }

    async fn send(&mut self, session: &Session, room: &OwnedRoomId, body: &str) -> OwnedEventId {
        self.transaction += 1;
        let transaction = format!("t{}", self.transaction);
        let content = object(&json!({"msgtype": "m.text", "body": body}));
        self.rooms
            .send(session, room, "m.room.message", transaction.as_str().into(), content)
            .await
            .unwrap()
    }

    async fn note(&self, from: &Session, to: &Session, transaction: &str) {
        let content = serde_json::value::to_raw_value(&json!({ "n": transaction })).unwrap();
        let target = Target::Device(to.device_id.clone());
        let delivery = Delivery::from([(to.user_id.clone(), [(target, content)].into())]);
        let to_device = &self.sync.e2ee.to_device;
        to_device.send(from, "org.example.note", transaction.into(), &delivery).await.unwrap();
    }

    async fn topic(&self, session: &Session, room: &OwnedRoomId, topic: &str) -> OwnedEventId {
        let content = object(&json!({ "topic": topic }));
        self.rooms.send_state(session, room, "m.room.topic", "", content).await.unwrap()
    }

    async fn change(&self, session: &Session, room: &OwnedRoomId, change: Change) {
        self.rooms.change_membership(session, room, &session.user_id, change, None).await.unwrap();
    }

    async fn sync(&self, session: &Session, request: &Request) -> Value {
        let response = self.sync.v3(session, request).await.unwrap();
        serde_json::to_value(response).unwrap()
    }
}

fn object(value: &Value) -> CanonicalJsonObject {
    serde_json::from_value(value.clone()).unwrap()
}

fn filter(limit: u32) -> SyncFilter {
    let filter: FilterDefinition =
        serde_json::from_value(json!({"room": {"timeline": {"limit": limit}}})).unwrap();
    filter.into()
}

fn since(response: &Value) -> SyncToken {
    response["next_batch"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_long_poll_returns_when_something_happens() {
    let mut world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let room = world.public_room(&alice).await;
    let first = world.sync(&alice, &Request::default()).await;
    let request = Request {
        since: Some(since(&first)),
        timeout: Duration::from_mins(1),
        ..Request::default()
    };
    let waiting = tokio::spawn({
        let (sync, alice) = (world.sync.clone(), alice.clone());
        async move { sync.v3(&alice, &request).await }
    });
    // Whether the poll waits already or not, it must not miss this.
    let event = world.send(&alice, &room, "hello").await;
    let response = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
    let response = serde_json::to_value(response.unwrap().unwrap()).unwrap();
    let events = &response["rooms"]["join"][room.as_str()]["timeline"]["events"];
    assert_eq!(events[0]["event_id"], event.as_str());
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_without_news_ends_empty_when_its_time_is_over() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    world.public_room(&alice).await;
    let first = world.sync(&alice, &Request::default()).await;
    let request = Request {
        since: Some(since(&first)),
        timeout: Duration::from_secs(30),
        ..Request::default()
    };
    let started = tokio::time::Instant::now();
    let response = world.sync(&alice, &request).await;
    assert_eq!(started.elapsed(), Duration::from_secs(30));
    assert_eq!(response["rooms"], json!({}));
}

#[tokio::test]
async fn a_server_that_stops_lets_its_clients_go() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let first = world.sync(&alice, &Request::default()).await;
    world.shutdown.start();
    let request = Request {
        since: Some(since(&first)),
        timeout: Duration::from_mins(1),
        ..Request::default()
    };
    let answered = tokio::time::timeout(Duration::from_secs(30), world.sync(&alice, &request));
    assert!(answered.await.is_ok());
}

#[tokio::test]
async fn a_token_from_the_future_is_refused() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let request = Request {
        since: Some(SyncToken { position: u64::MAX, to_device: 0 }),
        ..Request::default()
    };
    let refused = world.sync.v3(&alice, &request).await;
    assert!(matches!(refused, Err(SyncError::FromTheFuture)));
}

#[tokio::test]
async fn a_room_that_was_left_is_told_of_once_up_to_the_leaving() {
    let mut world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let room = world.public_room(&alice).await;
    world.change(&bob, &room, Change::Join).await;
    let first = world.sync(&bob, &Request::default()).await;
    world.send(&alice, &room, "before").await;
    world.change(&bob, &room, Change::Leave).await;
    let after = world.send(&alice, &room, "after").await;
    let request = Request { since: Some(since(&first)), ..Request::default() };
    let second = world.sync(&bob, &request).await;
    let left = &second["rooms"]["leave"][room.as_str()]["timeline"]["events"];
    let bodies: Vec<&Value> =
        left.as_array().unwrap().iter().map(|event| &event["content"]).collect();
    assert_eq!(bodies[0]["body"], "before");
    assert_eq!(bodies[1]["membership"], "leave");
    assert!(!left.to_string().contains(after.as_str()));
    let request = Request { since: Some(since(&second)), ..Request::default() };
    assert_eq!(world.sync(&bob, &request).await["rooms"], json!({}));
}

#[tokio::test]
async fn an_invitation_shows_who_invites_and_to_what() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let room = world.public_room(&alice).await;
    world.rooms.change_membership(&alice, &room, &bob.user_id, Change::Invite, None).await.unwrap();
    let response = world.sync(&bob, &Request::default()).await;
    let events = &response["rooms"]["invite"][room.as_str()]["invite_state"]["events"];
    let types: BTreeSet<&str> =
        events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    for expected in ["m.room.create", "m.room.join_rules", "m.room.member"] {
        assert!(types.contains(expected), "{expected} is not among {types:?}");
    }
}

#[tokio::test]
async fn a_lazy_loading_client_gets_the_members_who_speak() {
    let mut world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let carol = world.session(user_id!("@carol:localhost")).await;
    let room = world.public_room(&alice).await;
    // In a room without one, those who name it would come as well.
    let name = object(&json!({"name": "Kitchen"}));
    world.rooms.send_state(&alice, &room, "m.room.name", "", name).await.unwrap();
    world.change(&bob, &room, Change::Join).await;
    world.change(&carol, &room, Change::Join).await;
    for number in 0..5 {
        world.send(&bob, &room, &format!("message {number}")).await;
    }
    let lazy: FilterDefinition = serde_json::from_value(json!({"room": {
        "timeline": {"limit": 3},
        "state": {"lazy_load_members": true},
    }}))
    .unwrap();
    let request = Request { filter: lazy.into(), ..Request::default() };
    let response = world.sync(&alice, &request).await;
    let joined = &response["rooms"]["join"][room.as_str()];
    let members: BTreeSet<&str> = joined["state"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| event["state_key"].as_str().unwrap())
        .collect();
    assert_eq!(members, ["@alice:localhost", "@bob:localhost"].into());
    assert_eq!(joined["summary"]["m.joined_member_count"], 3);
}

/// A member event is sent once to a device that goes on from each response, unless it wants it again;
/// to one that comes back with an older token all is sent again.
#[tokio::test]
async fn a_lazy_loading_client_gets_a_member_once() {
    let mut world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let room = world.public_room(&alice).await;
    world.change(&bob, &room, Change::Join).await;
    let filter = |redundant: bool| -> SyncFilter {
        let state = json!({"lazy_load_members": true, "include_redundant_members": redundant});
        let filter = json!({"room": {"timeline": {"limit": 1}, "state": state}});
        serde_json::from_value::<FilterDefinition>(filter).unwrap().into()
    };
    let members = |response: &Value| -> usize {
        let state = response["rooms"]["join"][room.as_str()]["state"]["events"].as_array();
        let state = state.unwrap().iter().filter(|event| event["type"] == "m.room.member");
        state.filter(|event| event["state_key"] == "@bob:localhost").count()
    };
    for (redundant, expected) in [(false, [0, 0, 1, 1, 0]), (true, [1, 1, 1, 1, 1])] {
        let request = |since| Request { since, filter: filter(redundant), ..Request::default() };
        let mut token = since(&world.sync(&alice, &request(None)).await);
        let mut older = token;
        for (turn, expected) in expected.into_iter().enumerate() {
            if turn == 3 {
                // Another name is another event.
                let name = format!("Bob {redundant}");
                let content = object(&json!({"membership": "join", "displayname": name}));
                let key = bob.user_id.as_str();
                world.rooms.send_state(&bob, &room, "m.room.member", key, content).await.unwrap();
            }
            world.send(&bob, &room, "one").await;
            world.send(&bob, &room, "two").await;
            let from = if turn == 2 { older } else { token };
            let response = world.sync(&alice, &request(Some(from))).await;
            assert_eq!(members(&response), expected, "turn {turn}: {response:#}");
            (older, token) = (token, since(&response));
        }
    }
}

/// Clients that ask by the name from before it was in the spec get the answer by that name.
#[tokio::test]
async fn state_after_the_timeline_comes_by_the_name_it_is_asked_for() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let room = world.public_room(&alice).await;
    for (state_form, name) in [
        (StateForm::Before, "state"),
        (StateForm::After, "state_after"),
        (StateForm::UnstableAfter, "org.matrix.msc4222.state_after"),
    ] {
        let request = Request { state_form, ..Request::default() };
        let response = world.sync(&alice, &request).await;
        let joined = response["rooms"]["join"][room.as_str()].as_object().unwrap();
        let names: Vec<&String> = joined.keys().filter(|name| name.contains("state")).collect();
        assert_eq!(names, [name]);
    }
}

#[tokio::test]
async fn who_types_is_told_to_those_in_the_room() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let room_id = world.public_room(&alice).await;
    world.change(&bob, &room_id, Change::Join).await;
    let first = world.sync(&bob, &Request::default()).await;
    let room = world.rooms.joined(&alice, &room_id).await.unwrap();
    let timeout = Some(Duration::from_secs(30));
    world.typing.set(room.number, alice.user, timeout, room.local_members()).await.unwrap();
    let request = Request { since: Some(since(&first)), ..Request::default() };
    let response = world.sync(&bob, &request).await;
    let ephemeral = &response["rooms"]["join"][room_id.as_str()]["ephemeral"]["events"][0];
    assert_eq!(ephemeral["type"], "m.typing");
    assert_eq!(ephemeral["content"]["user_ids"], json!(["@alice:localhost"]));
}

#[tokio::test]
async fn rooms_without_news_cost_no_reads() {
    let mut world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    for _ in 0..20 {
        world.public_room(&alice).await;
    }
    let room = world.public_room(&alice).await;
    let first = world.sync(&alice, &Request::default()).await;
    let request = Request { since: Some(since(&first)), ..Request::default() };
    let before = world.db.round_trips();
    let nothing = world.sync(&alice, &request).await;
    let idle = world.db.round_trips() - before;
    assert_eq!(idle, 0, "reads though nothing happened in 21 rooms");
    assert_eq!(since(&nothing), since(&first));
    let mut request = request;
    let mut busy = Vec::new();
    for text in ["hello", "again"] {
        let event_id = world.send(&alice, &room, text).await;
        let before = world.db.round_trips();
        let response = world.sync(&alice, &request).await;
        busy.push(world.db.round_trips() - before);
        assert!(response.to_string().contains(event_id.as_str()), "{response}");
        request.since = Some(since(&response));
    }
    // What the user is to the room and may see of it, by which rules it notifies them; the event,
    // what relates to it and what was read.
    assert!(busy[0] <= 18, "{busy:?} reads for one message in one of 21 rooms");
    // The first half of that is known by now.
    assert!(busy[1] <= 8, "{busy:?} reads for one message in one of 21 rooms");
}

#[tokio::test]
async fn what_is_no_message_is_not_taken_for_nothing() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let room_id = world.public_room(&alice).await;
    world.change(&bob, &room_id, Change::Join).await;
    let first = world.sync(&bob, &Request::default()).await;
    let mut request = Request { since: Some(since(&first)), ..Request::default() };
    let mut next = async |world: &World| {
        let response = world.sync(&bob, &request).await;
        request.since = Some(since(&response));
        response
    };
    // The token reaches back to before what happens, each time.
    world.topic(&alice, &room_id, "news").await;
    assert!(next(&world).await.to_string().contains("news"));
    let data = AccountData::new(world.db.clone());
    let blue = serde_json::value::to_raw_value(&json!({"is": "blue"})).unwrap();
    data.set(bob.user, GLOBAL, "org.example.colour", &blue).await.unwrap();
    let response = next(&world).await;
    assert_eq!(response["account_data"]["events"][0]["content"]["is"], "blue");
    world.change(&alice, &room_id, Change::Leave).await;
    let left = next(&world).await;
    assert!(left.to_string().contains("leave"), "{left}");
    assert_eq!(left["device_lists"]["left"], json!(["@alice:localhost"]));
    let quiet = next(&world).await;
    assert_eq!(quiet["rooms"], json!({}));
}

#[tokio::test]
async fn a_long_poll_ends_when_its_device_is_logged_out() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let first = world.sync(&alice, &Request::default()).await;
    let request = Request {
        since: Some(since(&first)),
        timeout: Duration::from_mins(1),
        ..Request::default()
    };
    let (outcome, removed) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(30), world.sync.v3(&alice, &request)),
        world.sessions.remove_device(alice.user, &alice.device_id),
    );
    removed.unwrap();
    assert!(matches!(outcome.unwrap(), Err(SyncError::LoggedOut)));
}
