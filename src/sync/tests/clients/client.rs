//! One client, and what it knows.

use std::collections::{BTreeMap, BTreeSet};

use super::{keys::Tracked, *};

/// How a client syncs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
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
pub(super) const UNWANTED: &str = "m.room.topic";

#[derive(Debug, Default)]
pub(super) struct RoomView {
    pub(super) events: BTreeSet<String>,
    /// The event of each state key.
    pub(super) state: BTreeMap<(String, String), String>,
    /// By user and kind.
    pub(super) receipts: BTreeMap<(String, String), String>,
    pub(super) counts: Option<(u64, u64)>,
}

pub(super) struct Client {
    pub(super) kind: Kind,
    pub(super) device: TestUser,
    pub(super) since: Option<String>,
    pub(super) rooms: BTreeMap<String, RoomView>,
    pub(super) tracked: Tracked,
}

impl RoomView {
    pub(super) fn apply(&mut self, events: &[Value]) {
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
    pub(super) fn new(kind: Kind, device: TestUser) -> Self {
        Self { kind, device, since: None, rooms: BTreeMap::new(), tracked: Tracked::default() }
    }

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
    pub(super) async fn sync(&mut self, server: &TestServer) {
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
        self.tracked.told(&answer["device_lists"]);
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
            "extensions": { "receipts": { "enabled": true }, "e2ee": { "enabled": true } },
        });
        let (mut status, mut answer) = server.post(&path, Some(&self.device), ask.clone()).await;
        if answer["errcode"] == "M_UNKNOWN_POS" {
            // The server does not know the connection since it crashed: clients begin again.
            self.rooms.clear();
            self.tracked.doubt();
            let path = "/unstable/org.matrix.simplified_msc3575/sync";
            (status, answer) = server.post(path, Some(&self.device), ask).await;
        }
        assert_eq!(status, StatusCode::OK, "{answer}");
        self.since = Some(text(&answer["pos"]));
        self.tracked.told(&answer["extensions"]["e2ee"]["device_lists"]);
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
