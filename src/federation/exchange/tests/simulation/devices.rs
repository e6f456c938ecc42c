//! Messages between devices, and which devices there are: nothing lost, nothing twice, nothing
//! outdated.

use std::collections::BTreeMap;

use super::{super::encryption, *};

/// A message that one user's first device sent to another's.
pub(super) struct Written {
    from: usize,
    to: usize,
    number: u64,
}

/// What one user's first device has of its messages, and the user's other devices.
#[derive(Default)]
pub(super) struct Mail {
    since: String,
    /// Sender and number, in the order in which they came.
    came: Vec<(String, u64)>,
    others: Vec<TestUser>,
}

/// Nothing but what is for the device.
const FILTER: &str = "%7B%22room%22%3A%7B%22rooms%22%3A%5B%5D%7D%7D";

impl World {
    /// Sometimes a message, a look at what came, or another device.
    pub(super) async fn devices_step(&mut self) {
        match self.dice.roll(100) {
            0..25 => self.write().await,
            25..35 => {
                let at = self.roll(SERVERS);
                self.read(at).await;
            }
            35..40 => {
                let at = self.roll(SERVERS);
                self.log_in(at).await;
            }
            40..43 => {
                let at = self.roll(SERVERS);
                self.log_out(at).await;
            }
            43..46 => {
                // Whose keys are known here has to be kept up to date.
                let (at, of) = (self.roll(SERVERS), self.roll(SERVERS));
                self.devices(at, of).await;
            }
            _ => {}
        }
    }

    async fn write(&mut self) {
        let (from, to) = (self.roll(SERVERS), self.roll(SERVERS));
        self.sent += 1;
        let number = self.sent as u64;
        let (sender, target) = (self.user(from), self.user(to));
        let content = json!({ "number": number });
        let messages = json!({ &target.user_id: { &target.device_id: content } });
        let path = format!("/v3/sendToDevice/org.example.note/d{number}");
        // The client may not have got the answer.
        for _ in 0..=self.dice.roll(2) {
            let body = json!({ "messages": messages });
            let (status, answer) = self.server(from).put(&path, sender, body).await;
            assert_eq!(status, StatusCode::OK, "seed {}: {answer}", self.seed);
        }
        self.written.push(Written { from, to, number });
    }

    /// Takes what came; whether there was something.
    async fn read(&mut self, at: usize) -> bool {
        let since = &self.members.get(at).unwrap().mail.since;
        let mut path = format!("/v3/sync?timeout=0&filter={FILTER}");
        if !since.is_empty() {
            path = format!("{path}&since={since}");
        }
        let (status, answer) = self.server(at).get(&path, Some(self.user(at))).await;
        assert_eq!(status, StatusCode::OK, "seed {}: {answer}", self.seed);
        let mail = &mut self.members.get_mut(at).unwrap().mail;
        answer["next_batch"].as_str().unwrap().clone_into(&mut mail.since);
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        for event in &events {
            let sender = event["sender"].as_str().unwrap().to_owned();
            mail.came.push((sender, event["content"]["number"].as_u64().unwrap()));
        }
        !events.is_empty()
    }

    async fn log_in(&mut self, at: usize) {
        let body = json!({
            "type": "m.login.password", "password": "secret",
            "identifier": { "type": "m.id.user", "user": "user" },
        });
        let (status, answer) = self.server(at).post("/v3/login", None, body).await;
        assert_eq!(status, StatusCode::OK, "seed {}: {answer}", self.seed);
        let device = TestUser::from(&answer);
        self.sent += 1;
        let seed = u8::try_from(self.sent % 200).unwrap();
        encryption::upload(self.server(at), &device, seed, &[]).await;
        self.members.get_mut(at).unwrap().mail.others.push(device);
    }

    async fn log_out(&mut self, at: usize) {
        let Some(device) = self.members.get_mut(at).unwrap().mail.others.pop() else { return };
        let (status, answer) = self.server(at).post("/v3/logout", Some(&device), json!({})).await;
        assert_eq!(status, StatusCode::OK, "seed {}: {answer}", self.seed);
    }

    /// The keys of the devices of the user on `of`, as they are known on `at`.
    async fn devices(&self, at: usize, of: usize) -> BTreeMap<String, Value> {
        let user = &self.user(of).user_id;
        let answer = encryption::query(self.server(at), self.user(at), user).await;
        let devices = answer["device_keys"][user].as_object().cloned().unwrap_or_default();
        devices.into_iter().map(|(id, device)| (id, device["keys"].clone())).collect()
    }

    /// Every message came once and in the order in which it was sent, and everybody knows
    /// everybody's devices.
    pub(super) async fn check_devices(&mut self) {
        for at in 0..SERVERS {
            while self.read(at).await {}
        }
        let seed = self.seed;
        for (from, to) in (0..SERVERS).flat_map(|from| (0..SERVERS).map(move |to| (from, to))) {
            let sent = self.written.iter().filter(|one| (one.from, one.to) == (from, to));
            let sent: Vec<u64> = sent.map(|one| one.number).collect();
            let sender = &self.user(from).user_id;
            let came = self.members.get(to).unwrap().mail.came.iter();
            let came: Vec<u64> =
                came.filter(|(by, _)| by == sender).map(|(_, number)| *number).collect();
            assert_eq!(came, sent, "seed {seed}: from {sender} to {}", self.name(to));
            let (own, known) = (self.devices(from, from).await, self.devices(to, from).await);
            assert_eq!(known, own, "seed {seed}: devices of {sender} on {}", self.name(to));
        }
    }
}
