//! A room that the other server hosts, made by hand.

use std::sync::Arc;

use complement_tests::peer::{Pdu, Peer, Received};
use serde_json::{Value, json};

use super::{IN_ONE, VERSION};

/// A room with its state, and messages after it, one after the other.
pub(super) struct Large {
    pub(super) id: String,
    pub(super) state: Vec<Value>,
    /// What authorizes events: the create event, the power levels, the join rules.
    pub(super) rules: [String; 3],
    pub(super) messages: Vec<Pdu>,
    pub(super) eve: String,
    pub(super) eve_joined: String,
}

impl Large {
    /// A room with these members, each made by its server.
    pub(super) fn new(peer: &Peer, members: &[String], messages: usize) -> Self {
        let (eve, id) = (peer.user("eve"), format!("!large:{}", peer.name()));
        let mut all: Vec<Pdu> = Vec::with_capacity(members.len() + messages + 4);
        let mut add = |sender: &str,
                       kind: &str,
                       key: Option<&str>,
                       content: Value,
                       auth: &[&str]| {
            let mut draft = json!({
                "type": kind, "room_id": id, "sender": sender, "content": content,
                "origin_server_ts": 1_700_000_000_000_u64, "depth": all.len() + 1,
                "prev_events": all.last().map(|pdu| pdu.id.clone()).into_iter().collect::<Vec<_>>(),
                "auth_events": auth,
            });
            if let Some(key) = key {
                draft["state_key"] = key.into();
            }
            let host = sender.split_once(':').unwrap().1;
            let own = host == peer.name();
            let pdu = if own { peer.sign(draft) } else { Peer::sign_as(host, draft) };
            all.push(pdu.clone());
            pdu.id
        };
        let join = json!({ "membership": "join" });
        let version = json!({ "room_version": VERSION });
        let create = add(&eve, "m.room.create", Some(""), version, &[]);
        let joined = add(&eve, "m.room.member", Some(&eve), join.clone(), &[&create]);
        let levels = json!({ "users": { &eve: 100 } });
        let auth = [&*create, &*joined];
        let levels = add(&eve, "m.room.power_levels", Some(""), levels, &auth);
        let rule = json!({ "join_rule": "public" });
        let auth = [&*create, &*joined, &*levels];
        let rule = add(&eve, "m.room.join_rules", Some(""), rule, &auth);
        for member in members {
            let auth = [&*create, &*levels, &*rule];
            add(member, "m.room.member", Some(member), join.clone(), &auth);
        }
        for number in 0..messages {
            let content = json!({ "msgtype": "m.text", "body": format!("message {number}") });
            add(&eve, "m.room.message", None, content, &[&create, &levels, &joined]);
        }
        let messages = all.split_off(members.len() + 4);
        let state = all.into_iter().map(|pdu| pdu.json).collect();
        Self { id, state, rules: [create, levels, rule], messages, eve, eve_joined: joined }
    }

    /// Has the peer answer those who join it after the messages.
    pub(super) fn served(self, peer: &Peer) -> Arc<Self> {
        let (large, host) = (Arc::new(self), peer.name().to_owned());
        let serving = Arc::clone(&large);
        peer.on(move |request| serving.answer(&host, request));
        large
    }

    fn answer(&self, host: &str, request: &Received) -> Option<(u16, Value)> {
        if request.path == "/_matrix/key/v2/query" {
            let servers = request.body["server_keys"].as_object()?.keys();
            let keys: Vec<Value> = servers.map(|server| Peer::keys_of(server)).collect();
            return Some((200, json!({ "server_keys": keys })));
        }
        let place = |id: &Value| self.messages.iter().position(|pdu| *id == pdu.id);
        let jsons =
            |pdus: &[Pdu]| -> Vec<Value> { pdus.iter().map(|pdu| pdu.json.clone()).collect() };
        let mut segments = request.path.split('/').skip(4);
        let body = match segments.next()? {
            "make_join" => {
                let user = segments.nth(1)?;
                let last = self.messages.last().map_or(&self.rules[2], |pdu| &pdu.id);
                let event = json!({
                    "type": "m.room.member", "room_id": self.id, "sender": user,
                    "state_key": user, "content": { "membership": "join" },
                    "origin_server_ts": 1_700_000_000_000_u64,
                    "depth": self.state.len() + self.messages.len() + 1,
                    "prev_events": [last], "auth_events": self.rules,
                });
                json!({ "room_version": VERSION, "event": event })
            }
            "send_join" if request.query.contains("omit_members=true") => json!({
                "origin": host, "state": self.state[..4].to_vec(), "auth_chain": [],
                "members_omitted": true, "servers_in_room": [host],
            }),
            "send_join" => json!({
                "origin": host, "state": self.state, "auth_chain": self.state[..4].to_vec(),
            }),
            "get_missing_events" => {
                let end = place(&request.body["latest_events"][0])?;
                json!({ "events": jsons(&self.messages[end.saturating_sub(IN_ONE)..end]) })
            }
            "backfill" => {
                let from = request.query.split(['&', '=']).find(|part| part.starts_with("%24"))?;
                let end = place(&json!(from.replacen("%24", "$", 1)))? + 1;
                let mut pdus = jsons(&self.messages[end.saturating_sub(100)..end]);
                pdus.reverse();
                json!({ "origin": host, "origin_server_ts": 1, "pdus": pdus })
            }
            "state_ids" => {
                let id = |event: &Value| Pdu::of(event.clone()).id;
                let ids: Vec<String> = self.state.iter().map(id).collect();
                json!({ "pdu_ids": ids, "auth_chain_ids": self.rules })
            }
            "state" => json!({ "pdus": self.state, "auth_chain": self.state[..4].to_vec() }),
            _ => return None,
        };
        Some((200, body))
    }

    /// One more message, after these.
    pub(super) fn after(&self, peer: &Peer, parents: &[&str], depth: usize) -> Pdu {
        let [create, levels, _] = &self.rules;
        peer.sign(json!({
            "type": "m.room.message", "room_id": self.id, "sender": self.eve,
            "content": { "msgtype": "m.text", "body": "the last" },
            "origin_server_ts": 1_700_000_000_000_u64, "depth": depth,
            "prev_events": parents, "auth_events": [create, levels, self.eve_joined],
        }))
    }
}
