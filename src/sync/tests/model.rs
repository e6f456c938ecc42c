//! Devices that sync at random moments, before and after the server crashes, end up with what the server holds: account data, receipts,
//! unread counts, who types, whose keys to fetch again, and each message sent to them once.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ruma::{OwnedEventId, OwnedRoomId, events::receipt::ReceiptType, user_id};
use serde_json::{Value, json};

use super::{Request, World, filter, since};
use crate::{
    e2ee::{Target, queue_change},
    rooms::{Change, receipts::ReadUpTo},
    storage::Batch,
    sync::token::SyncToken,
    users::{AccountData, GLOBAL, session::Session},
};

type Receipts = BTreeMap<(String, String, String), String>;

/// What a device was told, each the last word on it.
#[derive(Debug, Default, PartialEq)]
struct View {
    account_data: BTreeMap<(String, String), Value>,
    receipts: BTreeMap<String, Receipts>,
    counts: BTreeMap<String, Value>,
    typing: BTreeMap<String, BTreeSet<String>>,
}

impl View {
    fn take(&mut self, response: &Value) {
        let none = Vec::new();
        let events = |at: &Value| at["events"].as_array().unwrap_or(&none).clone();
        for event in events(&response["account_data"]) {
            let key = (String::new(), text(&event["type"]));
            self.account_data.insert(key, event["content"].clone());
        }
        for room_id in response["rooms"]["leave"].as_object().into_iter().flatten() {
            let room_id = room_id.0;
            self.receipts.remove(room_id);
            self.counts.remove(room_id);
            self.typing.remove(room_id);
            self.account_data.retain(|(room, _), _| room != room_id);
        }
        for (room_id, room) in response["rooms"]["join"].as_object().into_iter().flatten() {
            for event in events(&room["account_data"]) {
                let key = (room_id.clone(), text(&event["type"]));
                self.account_data.insert(key, event["content"].clone());
            }
            if let Some(counts) = room.get("unread_notifications") {
                self.counts.insert(room_id.clone(), counts.clone());
            }
            for event in events(&room["ephemeral"]) {
                if event["type"] == "m.typing" {
                    let users = event["content"]["user_ids"].as_array().unwrap();
                    let users = users.iter().map(text).collect();
                    self.typing.insert(room_id.clone(), users);
                } else {
                    let receipts = self.receipts.entry(room_id.clone()).or_default();
                    take_receipts(receipts, &event["content"]);
                }
            }
        }
        self.typing.retain(|_, users| !users.is_empty());
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn take_receipts(receipts: &mut Receipts, content: &Value) {
    for (event_id, kinds) in content.as_object().unwrap() {
        for (kind, users) in kinds.as_object().unwrap() {
            for (user, receipt) in users.as_object().unwrap() {
                let thread = receipt["thread_id"].as_str().unwrap_or_default().to_owned();
                receipts.insert((user.clone(), kind.clone(), thread), event_id.clone());
            }
        }
    }
}

/// One device, and what the server should have told it.
struct Device {
    session: Session,
    since: Option<SyncToken>,
    view: View,
    /// Which edition of each user's keys it has, as it fetches them when it is told to.
    keys: BTreeMap<String, u64>,
    messages: Vec<u64>,
    sent: Vec<u64>,
}

/// The server with what is random about it.
struct Model {
    world: World,
    random: StdRng,
    data: AccountData,
    devices: Vec<Device>,
    rooms: Vec<OwnedRoomId>,
    members: BTreeSet<(usize, OwnedRoomId)>,
    editions: BTreeMap<String, u64>,
    number: u64,
}

impl Model {
    async fn new(seed: u64) -> Self {
        let world = World::new().await;
        let mut devices = Vec::new();
        for (user, name) in [
            (user_id!("@alice:localhost"), "A1"),
            (user_id!("@alice:localhost"), "A2"),
            (user_id!("@bob:localhost"), "B1"),
            (user_id!("@carol:localhost"), "C1"),
        ] {
            let session = world.session_of(user, name).await;
            devices.push(Device {
                session,
                since: None,
                view: View::default(),
                keys: BTreeMap::new(),
                messages: Vec::new(),
                sent: Vec::new(),
            });
        }
        let mut rooms = Vec::new();
        let mut members = BTreeSet::new();
        for _ in 0..3 {
            let room = world.public_room(&devices[0].session).await;
            members.insert((0, room.clone()));
            rooms.push(room);
        }
        let data = AccountData::new(world.db.clone());
        let random = StdRng::seed_from_u64(seed);
        let (editions, number) = (BTreeMap::new(), 0);
        Self { world, random, data, devices, rooms, members, editions, number }
    }

    /// The device whose user acts: the first one of each.
    fn somebody(&mut self) -> usize {
        [0, 2, 3][self.random.random_range(0..3_usize)]
    }

    async fn act(&mut self) {
        self.number += 1;
        let number = self.number;
        let who = self.somebody();
        let session = self.devices[who].session.clone();
        let room_id = self.rooms[self.random.random_range(0..self.rooms.len())].clone();
        let is_in = self.members.contains(&(who, room_id.clone()));
        match self.random.random_range(0..14_u32) {
            0..=2 if is_in => {
                self.world.send(&session, &room_id, &format!("message {number}")).await;
            }
            3 if is_in => self.read(&session, &room_id).await,
            4 if is_in => {
                let room = self.world.rooms.joined(&session, &room_id).await.unwrap();
                let timeout =
                    (number.is_multiple_of(2)).then_some(std::time::Duration::from_mins(1));
                let members = room.local_members();
                self.world.typing.set(room.number, session.user, timeout, members).await.unwrap();
            }
            5 => {
                let mut place = GLOBAL;
                if number.is_multiple_of(2) && is_in {
                    place = self.world.rooms.joined(&session, &room_id).await.unwrap().number;
                }
                let kind = format!("org.example.{}", number % 3);
                let content = serde_json::value::to_raw_value(&json!({ "n": number })).unwrap();
                self.data.set(session.user, place, &kind, &content).await.unwrap();
            }
            6 if who != 0 && !is_in => {
                self.world.change(&session, &room_id, Change::Join).await;
                self.members.insert((who, room_id));
            }
            7 if who != 0 && is_in && number.is_multiple_of(3) => {
                self.world.change(&session, &room_id, Change::Leave).await;
                self.members.remove(&(who, room_id));
            }
            8 => {
                let mut batch = Batch::new();
                queue_change(&self.world.db, &mut batch, session.user, &[]).await.unwrap();
                self.world.db.commit(batch).await.unwrap();
                self.editions.insert(session.user_id.to_string(), number);
            }
            9 => {
                let content = serde_json::value::to_raw_value(&json!({ "n": number })).unwrap();
                let target = self.random.random_range(0..self.devices.len());
                let to = &mut self.devices[target];
                to.sent.push(number);
                let device = Target::Device(to.session.device_id.clone());
                let messages = BTreeMap::from([(device, content)]);
                let delivery = BTreeMap::from([(to.session.user_id.clone(), messages)]);
                let transaction = number.to_string();
                let transaction = transaction.as_str().into();
                let to_device = &self.world.sync.e2ee.to_device;
                to_device.send(&session, "m.x", transaction, &delivery).await.unwrap();
            }
            11 if number.is_multiple_of(3) => self.restart().await,
            10 if who == 0 => {
                self.world.topic(&session, &room_id, &format!("topic {number}")).await;
            }
            _ => {
                let device = self.random.random_range(0..self.devices.len());
                self.sync(device).await;
            }
        }
    }

    /// The server stops in the middle of everything, and goes on from what is on its disk. Who typed
    /// is forgotten.
    async fn restart(&mut self) {
        let old = std::mem::replace(&mut self.world, World::new().await);
        self.world = old.restarted().await;
        self.data = AccountData::new(self.world.db.clone());
        for device in &mut self.devices {
            device.view.typing.clear();
        }
    }

    /// Reads up to the latest message.
    async fn read(&self, session: &Session, room_id: &OwnedRoomId) {
        let (timeline, _) = super::gaps::truth(&self.world, session, room_id).await;
        let room = self.world.rooms.joined(session, room_id).await.unwrap();
        let event_id: OwnedEventId = timeline.last().unwrap().as_str().try_into().unwrap();
        let position = self.world.rooms.position_of(session, &room, &event_id).await.unwrap();
        let up_to = ReadUpTo { event_id, position };
        let members = room.local_members();
        let receipts = &self.world.sync.receipts;
        let kind = ReceiptType::Read;
        receipts.set(room.number, session.user, &kind, "", &up_to, &members).await.unwrap();
    }

    async fn sync(&mut self, index: usize) -> Value {
        let device = &mut self.devices[index];
        let request = Request { since: device.since, filter: filter(50), ..Request::default() };
        let response = self.world.sync(&device.session, &request).await;
        device.since = Some(since(&response));
        device.view.take(&response);
        if request.since.is_none() {
            // Clients ask for the keys of all they share a room with when they begin.
            device.keys.clone_from(&self.editions);
        }
        for user in response["device_lists"]["changed"].as_array().into_iter().flatten() {
            let user = text(user);
            if let Some(edition) = self.editions.get(&user) {
                device.keys.insert(user, *edition);
            }
        }
        for message in response["to_device"]["events"].as_array().into_iter().flatten() {
            device.messages.push(message["content"]["n"].as_u64().unwrap());
        }
        response
    }

    /// Those who share a room with the user of a device.
    fn sharing(&self, index: usize) -> BTreeSet<String> {
        let of = |index: usize| if index == 1 { 0 } else { index };
        let rooms = |who: usize| {
            let rooms = self.members.iter().filter(move |(member, _)| *member == who);
            rooms.map(|(_, room)| room).collect::<BTreeSet<_>>()
        };
        let own = rooms(of(index));
        let shared = self.devices.iter().enumerate().filter(|(other, device)| {
            device.session.user == self.devices[index].session.user
                || !rooms(of(*other)).is_disjoint(&own)
        });
        shared.map(|(_, device)| device.session.user_id.to_string()).collect()
    }

    async fn check(&mut self, seed: u64) {
        for index in 0..self.devices.len() {
            self.sync(index).await;
            // Messages to a device come in parts.
            self.sync(index).await;
            let session = self.devices[index].session.clone();
            let mut truth = View::default();
            let request = Request { filter: filter(50), ..Request::default() };
            truth.take(&self.world.sync(&session, &request).await);
            let sharing = self.sharing(index);
            let device = &self.devices[index];
            assert_eq!(device.view, truth, "seed {seed}, {}", session.device_id);
            assert_eq!(device.messages, device.sent, "seed {seed}, {}", session.device_id);
            for user in sharing {
                let (has, is) = (device.keys.get(&user), self.editions.get(&user));
                assert_eq!(has, is, "seed {seed}: the keys of {user} at {}", session.device_id);
            }
        }
    }
}

#[tokio::test]
async fn devices_that_sync_at_any_time_have_what_the_server_holds() {
    for seed in 0..20 {
        let mut model = Model::new(seed).await;
        for _ in 0..4 {
            for _ in 0..60 {
                model.act().await;
            }
            model.check(seed).await;
        }
    }
}
