//! Rooms that grow at random, with forks, merges, fights and lost events.

use std::collections::BTreeMap;

use ruma_common::{OwnedEventId, RoomId, UserId};
use serde_json::{Value, json};
use state_resolution::{EventIx, KeyIx, NoSignatures, Room, RoomVersionRules, Scratch, StateMap};

use super::{Pdu, Random, pdu::event_id};

/// A state by names, which mean the same to everybody.
pub type Named = BTreeMap<(String, String), String>;

pub const USERS: [&str; 7] =
    ["@alice:a", "@bob:b", "@carol:a", "@dave:b", "@eve:c", "@frank:c", "@grace:b"];

/// What can go wrong in a room that grows, in percent.
#[derive(Debug, Clone, Copy)]
pub struct Chances {
    /// An event starts from an older part of the graph.
    pub fork: usize,
    /// An event merges several ends.
    pub merge: usize,
    /// An auth event is left out.
    pub lost_auth: usize,
    /// An event that its state forbids is counted as part of the state all the same.
    pub lies: usize,
}

impl Chances {
    pub const WILD: Self = Self { fork: 40, merge: 25, lost_auth: 6, lies: 15 };
    pub const TAME: Self = Self { fork: 30, merge: 30, lost_auth: 0, lies: 0 };
}

pub struct Sim {
    pub room: Room,
    pub pdus: Vec<Pdu>,
    /// After each event, by its number.
    pub after: Vec<StateMap>,
    pub random: Random,
    pub chances: Chances,
    pub scratch: Scratch,
    ends: Vec<EventIx>,
    clock: usize,
}

impl Sim {
    pub fn new(rules: RoomVersionRules, seed: u64, chances: Chances) -> Self {
        let mut random = Random::new(seed);
        let create_id = new_id(&mut random);
        let room_id = if rules.auth.room_id_is_create_hash {
            format!("!{}", &create_id.as_str()[1..])
        } else {
            "!room:a".to_owned()
        };
        let mut sim = Self {
            room: Room::new(rules, &room_id, NoSignatures),
            pdus: Vec::new(),
            after: Vec::new(),
            random,
            chances,
            scratch: Scratch::new(),
            ends: Vec::new(),
            clock: 0,
        };
        let mut content = json!({"creator": USERS[0], "room_version": rules.version});
        if rules.auth.privileged_creators && sim.random.percent(50) {
            content["additional_creators"] = json!([USERS[1]]);
        }
        let mut create = sim.draft("m.room.create", Some(""), USERS[0], content);
        create.event_id = create_id;
        if rules.auth.room_id_is_create_hash {
            create.room_id = None;
        }
        sim.push(create, StateMap::new(), true);
        let join = json!({"membership": "join"});
        sim.send("m.room.member", Some(USERS[0]), USERS[0], join);
        if sim.random.percent(90) {
            let mut levels = json!({"users": {USERS[1]: 50}});
            if !rules.auth.privileged_creators {
                levels["users"][USERS[0]] = 100.into();
            } else if sim.room.rules().auth.privileged_creators {
                levels = json!({"users": {USERS[2]: 50}});
            }
            sim.send("m.room.power_levels", Some(""), USERS[0], levels);
        }
        let rule = *sim.random.pick(&["public", "public", "public", "invite", "knock"]);
        sim.send("m.room.join_rules", Some(""), USERS[0], json!({"join_rule": rule}));
        sim
    }

    /// Grows the room by `events` attempts.
    pub fn grow(&mut self, events: usize) {
        for _ in 0..events {
            self.step();
        }
    }

    pub fn step(&mut self) {
        let parents = self.parents();
        let before = self.state_before(&parents);
        let (event_type, key, sender, content) = self.action(&before);
        let mut pdu = self.draft(&event_type, key.as_deref(), &sender, content);
        pdu.prev = parents.iter().map(|ix| self.pdus[ix.index()].event_id.clone()).collect();
        pdu.depth = 1 + parents.iter().map(|ix| self.pdus[ix.index()].depth).max().unwrap_or(0);
        let mut auth = self.room.auth_events_for(&pdu.input(), &before);
        if self.random.percent(self.chances.lost_auth) && auth.len() > 1 {
            auth.remove(1 + self.random.below(auth.len() - 1));
        }
        if self.random.percent(self.chances.lost_auth) {
            self.age(&mut auth);
        }
        self.random.shuffle(&mut auth);
        pdu.auth = auth.iter().map(|ix| self.pdus[ix.index()].event_id.clone()).collect();
        let ix = pdu.insert(&mut self.room);
        if ix.index() < self.pdus.len() {
            return;
        }
        let by_auth =
            self.room.check_state_independent(ix).and_then(|()| self.room.check_auth_events(ix));
        if by_auth.is_err() {
            self.room.retract(ix).unwrap();
            return;
        }
        let allowed = self.room.check(ix, &before).is_ok();
        if !allowed && !self.random.percent(self.chances.lies) {
            self.room.retract(ix).unwrap();
            return;
        }
        pdu.rejected = !allowed;
        self.room.set_rejected(ix, !allowed);
        // A server that was lied to has the event in its state, rejected or not.
        let in_state = allowed || self.random.percent(70);
        self.remember(ix, pdu, before, in_state);
        self.ends.retain(|end| !parents.contains(end));
        self.ends.push(ix);
    }

    /// The state before an event with these parents.
    pub fn state_before(&mut self, parents: &[EventIx]) -> StateMap {
        let states: Vec<&StateMap> = parents.iter().map(|ix| &self.after[ix.index()]).collect();
        self.room.resolve(&states, &mut self.scratch).unwrap().state
    }

    /// Some states of the room, the ends first.
    pub fn some_states(&mut self, count: usize) -> Vec<StateMap> {
        let mut picked: Vec<EventIx> = self.ends.iter().rev().take(count).copied().collect();
        while picked.len() < count {
            let all = u32::try_from(self.pdus.len()).unwrap();
            let low = all / 2;
            let within = usize::try_from(all - low).unwrap();
            picked.push(EventIx::new(low + u32::try_from(self.random.below(within)).unwrap()));
        }
        picked.iter().map(|ix| self.after[ix.index()].clone()).collect()
    }

    fn parents(&mut self) -> Vec<EventIx> {
        let newest = EventIx::new(u32::try_from(self.pdus.len() - 1).unwrap());
        if self.random.percent(self.chances.fork) {
            let low = self.pdus.len().saturating_sub(12);
            let at = low + self.random.below(self.pdus.len() - low);
            return vec![EventIx::new(u32::try_from(at.max(1)).unwrap())];
        }
        if self.random.percent(self.chances.merge) && self.ends.len() > 1 {
            let count = 2 + self.random.below(3);
            return self.ends.iter().rev().take(count).copied().collect();
        }
        vec![newest]
    }

    /// Puts an older event of the same key in an auth event's place.
    fn age(&mut self, auth: &mut [EventIx]) {
        let at = self.random.below(auth.len().max(1));
        let Some(event) = auth.get_mut(at) else { return };
        let key = self.room.key_of(*event);
        let older = (0..event.get())
            .map(EventIx::new)
            .filter(|older| self.room.key_of(*older) == key)
            .collect::<Vec<_>>();
        if !older.is_empty() {
            *event = older[self.random.below(older.len())];
        }
    }

    fn action(&mut self, before: &StateMap) -> (String, Option<String>, String, Value) {
        let random = &mut self.random;
        let sender = (*random.pick(&USERS[..])).to_owned();
        // Those in power do more.
        let sender = if random.percent(40) { USERS[random.below(3)].to_owned() } else { sender };
        let target = (*random.pick(&USERS[..])).to_owned();
        let member = |who: &str, membership: &str| {
            let content = json!({"membership": membership});
            ("m.room.member".to_owned(), Some(who.to_owned()), sender.clone(), content)
        };
        match random.below(100) {
            0..30 => member(&sender, "join"),
            30..36 => member(&sender, "leave"),
            36..42 => member(&target, "leave"),
            42..52 => member(&target, "ban"),
            52..58 => member(&target, "invite"),
            58..61 => member(&sender, "knock"),
            61..66 => {
                let content =
                    json!({"membership": "join", "join_authorised_via_users_server": target});
                ("m.room.member".to_owned(), Some(sender.clone()), sender, content)
            }
            66..82 => {
                let content = self.levels(before, &target);
                ("m.room.power_levels".to_owned(), Some(String::new()), sender, content)
            }
            82..90 => {
                let rules =
                    ["public", "public", "invite", "knock", "restricted", "knock_restricted"];
                let content = json!({"join_rule": random.pick(&rules)});
                ("m.room.join_rules".to_owned(), Some(String::new()), sender, content)
            }
            90..95 => {
                let content = json!({"topic": random.below(100)});
                ("m.room.topic".to_owned(), Some(String::new()), sender, content)
            }
            95..98 => {
                let key = ["", "x", &*sender][random.below(3)].to_owned();
                ("org.example.thing".to_owned(), Some(key), sender.clone(), json!({}))
            }
            _ => {
                let content =
                    json!({"display_name": "x", "key_validity_url": "x", "public_key": "x"});
                ("m.room.third_party_invite".to_owned(), Some("token".to_owned()), sender, content)
            }
        }
    }

    /// The current levels, with one of them changed.
    fn levels(&mut self, before: &StateMap, target: &str) -> Value {
        let current = self
            .room
            .key("m.room.power_levels", "")
            .and_then(|key| before.get(key))
            .map_or_else(|| json!({}), |ix| self.pdus[ix.index()].content.clone());
        let mut content = current;
        let random = &mut self.random;
        let level = Value::from(*random.pick(&[-1, 0, 0, 10, 50, 50, 75, 100]));
        let old_notation = !self.room.rules().auth.integer_power_levels && random.percent(20);
        let level = if old_notation { Value::from(level.to_string()) } else { level };
        match random.below(10) {
            0..6 => content["users"][target] = level,
            6 => content["events"]["m.room.topic"] = level,
            7 => content["notifications"]["room"] = level,
            8 => {
                let name =
                    random.pick(&["ban", "kick", "invite", "state_default", "users_default"]);
                content[*name] = level;
            }
            _ => {
                if let Some(users) = content.get_mut("users").and_then(Value::as_object_mut) {
                    users.remove(target);
                }
            }
        }
        content
    }

    fn draft(&mut self, event_type: &str, key: Option<&str>, sender: &str, content: Value) -> Pdu {
        self.clock += 1;
        let id = new_id(&mut self.random);
        // Clocks are coarse, so that ties are common, and not always right.
        let ts = (self.clock / 4 + self.random.below(6)) as u64;
        new_pdu(&self.room, id, event_type, key, sender, ts, content)
    }

    /// Sends an event that nobody objects to.
    fn send(&mut self, event_type: &str, key: Option<&str>, sender: &str, content: Value) {
        let mut pdu = self.draft(event_type, key, sender, content);
        let last = self.pdus.last().unwrap();
        pdu.prev = vec![last.event_id.clone()];
        pdu.depth = last.depth + 1;
        let before = self.after.last().unwrap().clone();
        let auth = self.room.auth_events_for(&pdu.input(), &before);
        pdu.auth = auth.iter().map(|ix| self.pdus[ix.index()].event_id.clone()).collect();
        self.push(pdu, before, true);
    }

    fn push(&mut self, pdu: Pdu, before: StateMap, in_state: bool) {
        let ix = pdu.insert(&mut self.room);
        assert_eq!(self.room.check_state_independent(ix), Ok(()));
        assert_eq!(self.room.check_auth_events(ix), Ok(()));
        self.remember(ix, pdu, before, in_state);
        self.ends = vec![ix];
    }

    fn remember(&mut self, ix: EventIx, pdu: Pdu, mut state: StateMap, in_state: bool) {
        assert_eq!(ix.index(), self.pdus.len());
        if let (true, Some(key)) = (in_state, self.room.key_of(ix)) {
            state.insert(key, ix);
        }
        self.pdus.push(pdu);
        self.after.push(state);
    }
}

pub fn new_id(random: &mut Random) -> OwnedEventId {
    event_id(&format!("${:016x}", random.number()))
}

pub fn new_pdu(
    room: &Room,
    event_id: OwnedEventId,
    event_type: &str,
    key: Option<&str>,
    sender: &str,
    ts: u64,
    content: Value,
) -> Pdu {
    Pdu {
        event_id,
        room_id: Some(RoomId::parse(room.room_id()).unwrap()),
        sender: UserId::parse(sender).unwrap(),
        ts,
        depth: 0,
        event_type: event_type.into(),
        type_name: event_type.to_owned(),
        state_key: key.map(str::to_owned),
        raw: serde_json::value::to_raw_value(&content).unwrap().into(),
        content,
        prev: Vec::new(),
        auth: Vec::new(),
        rejected: false,
    }
}

/// A state by names.
pub fn named(room: &Room, state: &StateMap) -> Named {
    state.iter().map(|(key, event)| (name(room, key), room.event_id(event).to_owned())).collect()
}

pub fn name(room: &Room, key: KeyIx) -> (String, String) {
    let (event_type, state_key) = room.key_name(key);
    (event_type.to_owned(), state_key.to_owned())
}

/// The state with these names in another table of the same room.
pub fn numbered(room: &Room, state: &Named) -> StateMap {
    state
        .iter()
        .map(|((event_type, key), id)| {
            (room.key(event_type, key).unwrap(), room.event(id).unwrap())
        })
        .collect()
}
