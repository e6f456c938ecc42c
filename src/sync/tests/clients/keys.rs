//! What clients know of others' devices. They fetch a list when they encrypt, and again only when a
//! sync says that it changed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::e2ee::testing::{device_keys, master_key};

/// The devices and keys of users, as they were fetched; none for lists that are to be fetched again.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    lists: BTreeMap<String, Option<Value>>,
    /// With whom a room was shared when the client had synced: it is told when that ends. Of others,
    /// whose lists were fetched between two syncs, it need not have heard at all.
    shared: BTreeSet<String>,
}

impl Tracked {
    /// Takes what a sync says of device lists.
    pub(super) fn told(&mut self, lists: &Value) {
        for user in list(&lists["changed"]) {
            if let Some(known) = self.lists.get_mut(&text(user)) {
                *known = None;
            }
        }
        for user in list(&lists["left"]) {
            self.lists.remove(&text(user));
            self.shared.remove(&text(user));
        }
    }

    /// All may have changed: what a client thinks that has lost its connection.
    pub(super) fn doubt(&mut self) {
        for known in self.lists.values_mut() {
            *known = None;
        }
        self.shared.clear();
    }

    /// Nobody is kept with whom no room is shared any more. The client has synced: these are the
    /// members of its rooms.
    pub(super) fn check_left(&mut self, members: BTreeSet<String>, at: &str) {
        let kept: Vec<&String> = self.shared.difference(&members).collect();
        assert!(kept.is_empty(), "{at}: nobody said that these left: {kept:?}");
        self.shared = members;
    }

    /// Fetches what is not known of those for whom a message is to be encrypted.
    pub(super) async fn encrypt(&mut self, server: &TestServer, device: &TestUser, room: &str) {
        for user in members(server, device, room).await {
            let known = self.lists.entry(user.clone()).or_default();
            if known.is_none() {
                *known = Some(fetched(server, device, &user).await);
            }
        }
    }

    /// Whatever is known of the members of a room is what they have. Says how much that is.
    pub(super) async fn check(
        &self,
        server: &TestServer,
        device: &TestUser,
        room: &str,
        at: &str,
    ) -> usize {
        let mut known = 0;
        for user in members(server, device, room).await {
            if let Some(Some(list)) = self.lists.get(&user) {
                assert_eq!(*list, fetched(server, device, &user).await, "{at}: keys of {user}");
                known += 1;
            }
        }
        known
    }
}

/// Those in a room, if the device's user is one of them.
pub(super) async fn members(server: &TestServer, device: &TestUser, room: &str) -> Vec<String> {
    let path = format!("/v3/rooms/{room}/joined_members");
    let (_, answer) = server.get(&path, Some(device)).await;
    entries(&answer["joined"]).map(|(user, _)| user.clone()).collect()
}

/// All that encryption for a user needs to know of them.
async fn fetched(server: &TestServer, device: &TestUser, user: &str) -> Value {
    let asked = json!({ "device_keys": { user: [] } });
    let (status, answer) = server.post("/v3/keys/query", Some(device), asked).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let mut devices = answer["device_keys"][user].clone();
    for device in devices.as_object_mut().into_iter().flat_map(|devices| devices.values_mut()) {
        device.as_object_mut().unwrap().remove("unsigned");
    }
    json!([devices, answer["master_keys"][user]])
}

impl Model {
    /// Something that is done to keys or with them, if anything.
    pub(super) async fn act_on_keys(&mut self) {
        let who = self.keys_random.random_range(0..self.clients.len());
        let device = self.clients[who].device.clone();
        let seed: u8 = self.keys_random.random();
        let server = self.server.as_ref().unwrap();
        match self.keys_random.random_range(0..20_u32) {
            0..2 => upload(server, &device, seed).await,
            2 => {
                let body = json!({
                    "master_key": master_key(&device.user_id, seed),
                    "auth": {
                        "type": "m.login.password", "password": "secret",
                        "identifier": { "type": "m.id.user", "user": device.user_id },
                    },
                });
                let path = "/v3/keys/device_signing/upload";
                let (status, answer) = server.post(path, Some(&device), body).await;
                assert_eq!(status, StatusCode::OK, "{answer}");
            }
            3 => {
                let other = log_in(server, &device.user_id).await;
                upload(server, &other, seed).await;
                self.other_devices.push(other);
            }
            4 if !self.other_devices.is_empty() => {
                let gone = self.keys_random.random_range(0..self.other_devices.len());
                let gone = self.other_devices.swap_remove(gone);
                let (status, answer) = server.post("/v3/logout", Some(&gone), json!({})).await;
                assert_eq!(status, StatusCode::OK, "{answer}");
            }
            // A list that was fetched before the first sync has nothing to follow from.
            5..12 if self.clients[who].since.is_some() => {
                let room = self.keys_random.random_range(0..self.rooms.len());
                let room = self.rooms[room].clone();
                self.clients[who].tracked.encrypt(server, &device, &room).await;
            }
            _ => {}
        }
    }
}

async fn upload(server: &TestServer, device: &TestUser, seed: u8) {
    let keys = device_keys(&device.user_id, &device.device_id, seed);
    let body = json!({ "device_keys": keys });
    let (status, answer) = server.post("/v3/keys/upload", Some(device), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}
