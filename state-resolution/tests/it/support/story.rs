//! Rooms told step by step.

use serde_json::{Value, json};
use state_resolution::{EventIx, KeyIx, NoSignatures, Room, RoomVersionRules, Scratch, StateMap};

use super::{Pdu, event_id, named, new_pdu, note, oracle};

pub const ALICE: &str = "@alice:a";
pub const BOB: &str = "@bob:b";
pub const CAROL: &str = "@carol:c";

/// A room in which every event has a name, which is its ID, and a time.
pub struct Story {
    pub room: Room,
    pub pdus: Vec<Pdu>,
    pub now: u64,
}

impl Story {
    /// A public room of Alice, in which she has 100 (or is the creator) and Bob has 50.
    pub fn new(version: &str) -> (Self, StateMap) {
        let rules = RoomVersionRules::for_version(version).unwrap();
        let hashed = rules.auth.room_id_is_create_hash;
        let room_id = if hashed { "!create" } else { "!room:a" };
        let room = Room::new(rules, room_id, NoSignatures);
        let mut story = Self { room, pdus: Vec::new(), now: 0 };
        let mut state = StateMap::new();
        let content = json!({"creator": ALICE, "room_version": version});
        story.send("$create", ("m.room.create", ""), ALICE, content, &mut state);
        story.member("$alice", ALICE, ALICE, "join", &mut state);
        story.levels("$levels", ALICE, &[(BOB, 50)], &mut state);
        story.join_rule("$public", "public", &mut state);
        story.member("$bob", BOB, BOB, "join", &mut state);
        (story, state)
    }

    pub fn send(
        &mut self,
        name: &str,
        (event_type, key): (&str, &str),
        sender: &str,
        content: Value,
        state: &mut StateMap,
    ) -> EventIx {
        self.now += 1;
        let id = event_id(name);
        let mut pdu = new_pdu(&self.room, id, event_type, Some(key), sender, self.now, content);
        if event_type == "m.room.create" && self.room.rules().auth.room_id_is_create_hash {
            pdu.room_id = None;
        }
        pdu.depth = self.now;
        let auth = self.room.auth_events_for(&pdu.input(), state);
        pdu.auth = auth.iter().map(|ix| self.pdus[ix.index()].event_id.clone()).collect();
        pdu.prev = self.pdus.last().map(|last| last.event_id.clone()).into_iter().collect();
        let ix = pdu.insert(&mut self.room);
        self.pdus.push(pdu);
        state.insert(self.room.key_of(ix).unwrap(), ix);
        ix
    }

    /// As `send`, for an event that its auth events allow.
    fn send_allowed(
        &mut self,
        name: &str,
        key: (&str, &str),
        sender: &str,
        content: Value,
        state: &mut StateMap,
    ) -> EventIx {
        let ix = self.send(name, key, sender, content, state);
        assert_eq!(self.room.check_state_independent(ix), Ok(()), "{name}");
        assert_eq!(self.room.check_auth_events(ix), Ok(()), "{name}");
        ix
    }

    pub fn member(
        &mut self,
        name: &str,
        target: &str,
        sender: &str,
        membership: &str,
        state: &mut StateMap,
    ) -> EventIx {
        let content = json!({"membership": membership});
        self.send_allowed(name, ("m.room.member", target), sender, content, state)
    }

    pub fn levels(
        &mut self,
        name: &str,
        sender: &str,
        users: &[(&str, i64)],
        state: &mut StateMap,
    ) -> EventIx {
        let mut content = json!({"users": {}, "events": {"m.room.power_levels": 50}});
        if !self.room.rules().auth.privileged_creators {
            content["users"][ALICE] = 100.into();
        }
        for (user, level) in users {
            content["users"][user] = (*level).into();
        }
        self.send_allowed(name, ("m.room.power_levels", ""), sender, content, state)
    }

    pub fn join_rule(&mut self, name: &str, rule: &str, state: &mut StateMap) -> EventIx {
        let content = json!({"join_rule": rule});
        self.send_allowed(name, ("m.room.join_rules", ""), ALICE, content, state)
    }

    pub fn topic(&mut self, name: &str, sender: &str, state: &mut StateMap) -> EventIx {
        self.send_allowed(name, ("m.room.topic", ""), sender, json!({"topic": name}), state)
    }

    pub fn key(&self, event_type: &str, state_key: &str) -> KeyIx {
        self.room.key(event_type, state_key).unwrap()
    }

    /// Resolves, in both orders and beside the independent resolver where that knows the version.
    pub fn resolve(&self, states: [&StateMap; 2]) -> StateMap {
        let mut scratch = Scratch::new();
        let resolved = self.room.resolve(&states, &mut scratch).unwrap().state;
        let [a, b] = states;
        assert_eq!(self.room.resolve(&[b, a], &mut scratch).unwrap().state, resolved);
        let rules = self.room.rules();
        if rules.version != "1" {
            let names = states.map(|state| named(&self.room, state));
            let pdus = oracle::by_id(&self.pdus);
            let own = rules.resolution.chain_includes_state_events;
            let theirs = oracle::resolve(rules.version, &pdus, &names, own);
            assert_eq!(named(&self.room, &resolved), theirs);
        }
        note(&self.room, &states, &mut scratch);
        resolved
    }

    /// The name of the event at a key.
    pub fn at(&self, state: &StateMap, event_type: &str, state_key: &str) -> Option<&str> {
        state.get(self.key(event_type, state_key)).map(|event| self.room.event_id(event))
    }
}
