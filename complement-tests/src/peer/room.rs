//! A room as a peer sees it: one that it hosts, or one that it joined.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::event::NOW_MS;
use super::{Pdu, Peer, Received, Reply, lock};
use crate::Server;

/// A room of version 11. Clones are the same room.
#[derive(Clone)]
pub struct Room {
    /// Its ID.
    pub id: String,
    graph: Arc<Mutex<Graph>>,
}

#[derive(Clone, Default)]
struct Graph {
    /// Its events in the order in which they were added.
    events: Vec<Pdu>,
    /// The current state by type and key.
    state: BTreeMap<(String, String), Pdu>,
    /// The state before each event.
    before: BTreeMap<String, Vec<Pdu>>,
    /// The events that the next one is built on.
    tips: Vec<String>,
    depth: u64,
}

impl Room {
    pub(super) fn create(peer: &Peer, creator: &str, join_rule: &str) -> Self {
        let id = format!("!{}:{}", lock(&peer.inner.rooms).len(), peer.name());
        let room = Self { id, graph: Arc::default() };
        let version = json!({ "room_version": "11" });
        room.send(peer, creator, "m.room.create", Some(""), version);
        room.send(peer, creator, "m.room.member", Some(creator), json!({ "membership": "join" }));
        let levels = json!({ "users": { creator: 100 } });
        room.send(peer, creator, "m.room.power_levels", Some(""), levels);
        let rule = json!({ "join_rule": join_rule });
        room.send(peer, creator, "m.room.join_rules", Some(""), rule);
        room
    }

    /// Joins a room of the server.
    pub async fn join(peer: &Peer, server: &Server, id: &str, user: &str) -> Self {
        let path = format!("/_matrix/federation/v1/make_join/{id}/{user}?ver=11");
        let made = peer.get(server, &path).await.ok();
        let join = peer.sign(made["event"].clone());
        let path = format!("/_matrix/federation/v2/send_join/{id}/{}", join.id);
        let answer = peer.put(server, &path, &join.json).await.ok();
        let room = Self { id: id.to_owned(), graph: Arc::default() };
        for event in answer["state"].as_array().expect("a state") {
            let pdu = Pdu::of(event.clone());
            lock(&room.graph).state.insert(key_of(&pdu).expect("a state event"), pdu);
        }
        room.add(&join);
        room
    }

    /// An event after the last ones, neither hashed nor signed: a test may still change it.
    pub fn draft(&self, sender: &str, kind: &str, key: Option<&str>, content: Value) -> Value {
        let graph = lock(&self.graph);
        let mut wanted = vec![("m.room.power_levels", ""), ("m.room.member", sender)];
        // What each event is authorized by; the create event by nothing.
        if kind != "m.room.create" {
            wanted.push(("m.room.create", ""));
        }
        if kind == "m.room.member" {
            wanted.push(("m.room.join_rules", ""));
            wanted.extend(key.filter(|key| *key != sender).map(|key| ("m.room.member", key)));
        }
        let auth: Vec<&String> = wanted
            .into_iter()
            .filter_map(|(kind, key)| graph.state.get(&(kind.to_owned(), key.to_owned())))
            .map(|pdu| &pdu.id)
            .collect();
        let mut event = json!({
            "type": kind, "room_id": self.id, "sender": sender, "content": content,
            "origin_server_ts": NOW_MS, "depth": graph.depth + 1,
            "prev_events": graph.tips, "auth_events": auth,
        });
        if let Some(key) = key {
            event["state_key"] = key.into();
        }
        event
    }

    /// A message after the last events, not signed.
    pub fn message(&self, sender: &str, body: &str) -> Value {
        let content = json!({ "msgtype": "m.text", "body": body });
        self.draft(sender, "m.room.message", None, content)
    }

    /// Signs an event and adds it.
    pub fn send(
        &self,
        peer: &Peer,
        sender: &str,
        kind: &str,
        key: Option<&str>,
        content: Value,
    ) -> Pdu {
        let pdu = peer.sign(self.draft(sender, kind, key, content));
        self.add(&pdu);
        pdu
    }

    /// Adds an event: the next one is built on it.
    pub fn add(&self, pdu: &Pdu) {
        let mut graph = lock(&self.graph);
        let before = graph.state.values().cloned().collect();
        graph.before.insert(pdu.id.clone(), before);
        if let Some(key) = key_of(pdu) {
            graph.state.insert(key, pdu.clone());
        }
        graph.events.push(pdu.clone());
        graph.tips = vec![pdu.id.clone()];
        graph.depth = graph.depth.max(pdu.json["depth"].as_u64().unwrap_or_default());
    }

    /// The ID of the last event that was added.
    pub fn last(&self) -> String {
        lock(&self.graph).tips.first().cloned().unwrap_or_default()
    }

    /// An event of its current state.
    pub fn state(&self, kind: &str, key: &str) -> Option<Pdu> {
        lock(&self.graph).state.get(&(kind.to_owned(), key.to_owned())).cloned()
    }

    /// All of its current state.
    pub fn all_state(&self) -> Vec<Value> {
        lock(&self.graph).state.values().map(|pdu| pdu.json.clone()).collect()
    }

    /// Answers what another server asks of a room that its peer hosts.
    pub(super) fn serve(&self, peer: &Peer, request: &Received) -> Option<Reply> {
        let segments: Vec<&str> = request.path.split('/').collect();
        let [_, "_matrix", "federation", _, endpoint, rest @ ..] = &segments[..] else {
            return None;
        };
        let graph = lock(&self.graph).clone();
        let jsons =
            |pdus: &[Pdu]| -> Vec<Value> { pdus.iter().map(|pdu| pdu.json.clone()).collect() };
        if *endpoint == "event" {
            let wanted = graph.events.iter().find(|pdu| Some(&&*pdu.id) == rest.first())?;
            let (origin, pdus) = (peer.name(), [&wanted.json]);
            return Some((
                200,
                json!({ "origin": origin, "origin_server_ts": NOW_MS, "pdus": pdus }),
            ));
        }
        if rest.first() != Some(&&*self.id) {
            return None;
        }
        let query = |name: &str| {
            request.query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")))
        };
        let named = query("event_id").map(|id| id.replace("%24", "$"));
        let state = named.and_then(|id| graph.before.get(&id).cloned());
        let body = match (*endpoint, rest.get(1)) {
            ("make_join", Some(user)) => {
                let content = json!({ "membership": "join" });
                let event = self.draft(user, "m.room.member", Some(user), content);
                json!({ "room_version": "11", "event": event })
            }
            ("send_join", Some(_)) => {
                let state: Vec<Pdu> = graph.state.values().cloned().collect();
                self.add(&Pdu::of(request.body.clone()));
                json!({ "state": jsons(&state), "auth_chain": jsons(&state) })
            }
            ("state", None) => json!({ "pdus": jsons(&state?), "auth_chain": [] }),
            ("state_ids", None) => {
                let ids: Vec<String> = state?.into_iter().map(|pdu| pdu.id).collect();
                json!({ "pdu_ids": ids, "auth_chain_ids": [] })
            }
            ("event_auth", Some(_)) => json!({ "auth_chain": jsons(&graph.events) }),
            ("backfill", None) => {
                let mut pdus = jsons(&graph.events);
                pdus.reverse();
                json!({ "origin": peer.name(), "origin_server_ts": NOW_MS, "pdus": pdus })
            }
            ("get_missing_events", None) => json!({ "events": jsons(&graph.events) }),
            _ => return None,
        };
        Some((200, body))
    }
}

fn key_of(pdu: &Pdu) -> Option<(String, String)> {
    let text = |key: &str| pdu.json[key].as_str().map(str::to_owned);
    Some((text("type")?, text("state_key")?))
}
