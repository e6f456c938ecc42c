//! Large rooms of known shapes, for benches and for tests that count work.

use serde_json::{Value, json};
use state_resolution::{EventIx, NoSignatures, Room, RoomVersionRules, StateMap};

use super::{Pdu, Random, new_id, new_pdu};

const CREATOR: &str = "@creator:a";

/// A room and the states to resolve.
pub struct Scenario {
    pub room: Room,
    pub pdus: Vec<Pdu>,
    pub states: Vec<StateMap>,
    random: Random,
    moderators: usize,
}

fn user(number: usize) -> String {
    format!("@user{number}:server{}", number % 50)
}

impl Scenario {
    fn new(version: &str, moderators: usize) -> Self {
        let rules = RoomVersionRules::for_version(version).unwrap();
        Self::with_rules(rules, moderators)
    }

    /// A public room with this many moderators, by name: `user(0)` and up.
    fn with_rules(rules: RoomVersionRules, moderators: usize) -> Self {
        let mut random = Random::new(7);
        let create_id = new_id(&mut random);
        let hashed = rules.auth.room_id_is_create_hash;
        let room_id =
            if hashed { format!("!{}", &create_id.as_str()[1..]) } else { "!room:a".to_owned() };
        let room = Room::new(rules, &room_id, NoSignatures);
        let mut scenario = Self { room, pdus: Vec::new(), states: Vec::new(), random, moderators };
        let content = json!({"creator": CREATOR, "room_version": rules.version});
        let mut create =
            new_pdu(&scenario.room, create_id, "m.room.create", Some(""), CREATOR, 1, content);
        if hashed {
            create.room_id = None;
        }
        let mut state = StateMap::new();
        scenario.insert(&mut state, create);
        scenario.add(&mut state, "m.room.member", CREATOR, CREATOR, json!({"membership": "join"}));
        let levels = scenario.levels(0);
        scenario.add(&mut state, "m.room.power_levels", "", CREATOR, levels);
        scenario.add(&mut state, "m.room.join_rules", "", CREATOR, json!({"join_rule": "public"}));
        for moderator in 0..moderators {
            scenario.member(&mut state, moderator, &user(moderator), "join");
        }
        scenario.states.push(state);
        scenario
    }

    fn levels(&self, number: usize) -> Value {
        let mut users: serde_json::Map<String, Value> =
            (0..self.moderators).map(|moderator| (user(moderator), 50.into())).collect();
        if !self.room.rules().auth.privileged_creators {
            users.insert(CREATOR.to_owned(), 100.into());
        }
        users.insert(user(100_000 + number % 20), (number % 40).into());
        json!({"users": users, "events": {"m.room.power_levels": 50}})
    }

    fn member(&mut self, state: &mut StateMap, target: usize, sender: &str, membership: &str) {
        let content = json!({"membership": membership});
        self.add(state, "m.room.member", &user(target), sender, content);
    }

    fn add(
        &mut self,
        state: &mut StateMap,
        event_type: &str,
        key: &str,
        sender: &str,
        content: Value,
    ) -> EventIx {
        let id = new_id(&mut self.random);
        let ts = self.pdus.len() as u64 / 2 + self.random.number() % 50;
        let mut pdu = new_pdu(&self.room, id, event_type, Some(key), sender, ts, content);
        let auth = self.room.auth_events_for(&pdu.input(), state);
        pdu.auth = auth.iter().map(|ix| self.pdus[ix.index()].event_id.clone()).collect();
        self.insert(state, pdu)
    }

    fn insert(&mut self, state: &mut StateMap, pdu: Pdu) -> EventIx {
        let ix = pdu.insert(&mut self.room);
        state.insert(self.room.key_of(ix).unwrap(), ix);
        self.pdus.push(pdu);
        ix
    }

    fn join_members(&mut self, members: usize) {
        let mut state = self.states[0].clone();
        for number in self.moderators..members {
            self.member(&mut state, number, &user(number), "join");
        }
        self.states[0] = state;
    }

    /// (a) 10,000 members, two forks with 100 conflicted keys.
    pub fn members(version: &str) -> Self {
        let mut scenario = Self::new(version, 20);
        scenario.join_members(10_000);
        let base = scenario.states.remove(0);
        for fork in 0..2 {
            let mut state = base.clone();
            for step in 0..100 {
                let target = 1_000 + step * 80;
                let moderator = user(step % 20);
                match (step % 10, fork) {
                    (0, _) => {
                        let levels = scenario.levels(step + fork);
                        scenario.add(&mut state, "m.room.power_levels", "", &moderator, levels);
                    }
                    (1..5, 0) => scenario.member(&mut state, target, &moderator, "ban"),
                    (5..8, 0) => scenario.member(&mut state, target, &moderator, "leave"),
                    (8, _) => {
                        let content = json!({"topic": step});
                        scenario.add(&mut state, "m.room.topic", "", &moderator, content);
                    }
                    _ => scenario.member(&mut state, target, &user(target), "join"),
                }
            }
            scenario.states.push(state);
        }
        scenario
    }

    /// (b) 1,000 changes of power levels, three forks from the last third on.
    pub fn power_levels(version: &str) -> Self {
        let mut scenario = Self::new(version, 10);
        let mut base = scenario.states.remove(0);
        for number in 0..340 {
            let levels = scenario.levels(number);
            scenario.add(&mut base, "m.room.power_levels", "", &user(number % 10), levels);
        }
        for fork in 0..3 {
            let mut state = base.clone();
            for number in 0..220 {
                let levels = scenario.levels(number * 3 + fork);
                scenario.add(&mut state, "m.room.power_levels", "", &user(number % 10), levels);
            }
            scenario.states.push(state);
        }
        scenario
    }

    /// (c) 5,000 members, 50 ends of the graph.
    pub fn extremities(version: &str) -> Self {
        let mut scenario = Self::new(version, 50);
        scenario.join_members(5_000);
        let base = scenario.states.remove(0);
        for end in 0..50 {
            let mut state = base.clone();
            let moderator = user(end);
            for step in 0..10 {
                let target = 100 + end * 90 + step;
                let membership = if step % 3 == 0 { "ban" } else { "leave" };
                scenario.member(&mut state, target, &moderator, membership);
            }
            let levels = scenario.levels(end);
            scenario.add(&mut state, "m.room.power_levels", "", &moderator, levels);
            scenario.add(&mut state, "m.room.topic", "", &moderator, json!({"topic": end}));
            scenario.states.push(state);
        }
        scenario
    }

    /// (d) 100,000 events of bans, kicks and rejoins, then two forks of `fork_events` each.
    pub fn storm(version: &str, events: usize, fork_events: usize) -> Self {
        let mut scenario = Self::new(version, 20);
        scenario.join_members(500);
        let mut base = scenario.states.remove(0);
        for step in 0..events - 2 * fork_events {
            scenario.storm_step(&mut base, step);
        }
        for fork in 0..2 {
            let mut state = base.clone();
            for step in 0..fork_events {
                scenario.storm_step(&mut state, step * 2 + fork);
            }
            scenario.states.push(state);
        }
        scenario
    }

    fn storm_step(&mut self, state: &mut StateMap, step: usize) {
        let target = 20 + self.random.below(480);
        let moderator = user(self.random.below(20));
        if step % 200 == 199 {
            let levels = self.levels(step);
            self.add(state, "m.room.power_levels", "", &moderator, levels);
            return;
        }
        let key = self.room.key("m.room.member", &user(target)).unwrap();
        let current = state.get(key).map(|event| self.room.membership_of(event));
        match current {
            Some(state_resolution::Membership::Join) => {
                let membership = if self.random.percent(50) { "ban" } else { "leave" };
                self.member(state, target, &moderator, membership);
            }
            Some(state_resolution::Membership::Ban) => {
                self.member(state, target, &moderator, "leave");
            }
            _ => self.member(state, target, &user(target), "join"),
        }
    }

    /// (e) 10,000 members, and two states that differ in the topic only.
    pub fn quiet(version: &str) -> Self {
        let mut scenario = Self::new(version, 20);
        scenario.join_members(10_000);
        let mut state = scenario.states[0].clone();
        scenario.add(&mut state, "m.room.topic", "", &user(3), json!({"topic": "new"}));
        scenario.states.push(state);
        scenario
    }
}
