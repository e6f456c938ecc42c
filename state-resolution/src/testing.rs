//! A small room for unit tests of the rules.

use std::{collections::HashMap, io::Write as _};

use serde_json::{Map, Value, json};

use crate::{EventInput, EventIx, InsertError, KeyIx, Room, RoomVersionRules, Rule, Signatures};

pub(crate) const CREATOR: &str = "@creator:a";

/// Third-party invites are signed if a key is `good`, joins authorised unless by `@liar:x`.
#[derive(Debug)]
pub(crate) struct TestSignatures;

impl Signatures for TestSignatures {
    fn third_party_invite(&self, signed: &Map<String, Value>, keys: &[Box<str>]) -> bool {
        signed.contains_key("signatures") && keys.iter().any(|key| **key == *"good")
    }

    fn authorised_join(&self, _event_id: &str, user_id: &str) -> bool {
        user_id != "@liar:x"
    }
}

/// A room that grows in a line, with its current state.
pub(crate) struct Sim {
    pub(crate) room: Room,
    pub(crate) state: HashMap<KeyIx, EventIx>,
    last: Vec<String>,
    count: usize,
}

/// A draft: type, state key, sender, content.
pub(crate) type Draft<'a> = (&'a str, Option<&'a str>, &'a str, Value);

impl Sim {
    pub(crate) fn empty(rules: RoomVersionRules) -> Self {
        let room_id = if rules.auth.room_id_is_create_hash { "!create" } else { "!room:a" };
        let room = Room::new(rules, room_id, TestSignatures);
        Self { room, state: HashMap::new(), last: Vec::new(), count: 0 }
    }

    /// A room with nothing but the create event, by `@creator:a`.
    pub(crate) fn created(version: usize) -> Self {
        Self::created_with(version, json!({}))
    }

    pub(crate) fn created_with(version: usize, mut content: Value) -> Self {
        let rules = RoomVersionRules::ALL[version - 1];
        content["room_version"] = rules.version.into();
        if !rules.auth.creator_is_sender && content.get("creator").is_none() {
            content["creator"] = CREATOR.into();
        }
        let mut sim = Self::empty(rules);
        sim.add(("m.room.create", Some(""), CREATOR, content));
        sim
    }

    /// A room whose creator is in it.
    pub(crate) fn new(version: usize) -> Self {
        let mut sim = Self::created(version);
        sim.member(CREATOR, "join");
        sim
    }

    /// A room with the given power levels.
    pub(crate) fn with_levels(version: usize, levels: Value) -> Self {
        let mut sim = Self::new(version);
        sim.add(("m.room.power_levels", Some(""), CREATOR, levels));
        sim
    }

    /// Sets somebody's membership, whatever the rules say.
    pub(crate) fn member(&mut self, user: &str, membership: &str) -> EventIx {
        self.add(("m.room.member", Some(user), user, json!({"membership": membership})))
    }

    pub(crate) fn join_rule(&mut self, rule: &str) -> EventIx {
        self.add(("m.room.join_rules", Some(""), CREATOR, json!({"join_rule": rule})))
    }

    /// Puts an event into the room and its state, whatever the rules say.
    pub(crate) fn add(&mut self, draft: Draft<'_>) -> EventIx {
        let ix = self.insert(draft, None).unwrap();
        self.last = vec![self.room.event_id(ix).to_owned()];
        if let Some(key) = self.room.key_of(ix) {
            self.state.insert(key, ix);
        }
        ix
    }

    /// What the rules say about an event; `None` if they allow it.
    pub(crate) fn verdict(&mut self, draft: Draft<'_>) -> Option<Rule> {
        self.verdict_citing(draft, None)
    }

    pub(crate) fn verdict_citing(
        &mut self,
        draft: Draft<'_>,
        auth: Option<&[EventIx]>,
    ) -> Option<Rule> {
        let ix = self.insert(draft, auth).unwrap();
        let state = |key: KeyIx| self.state.get(&key).copied();
        let verdict =
            self.room.check_state_independent(ix).and_then(|()| self.room.check(ix, &state));
        self.room.retract(ix).unwrap();
        let rule = verdict.err().map(|rejection| rejection.rule);
        note(self.room.rules(), rule);
        rule
    }

    /// Sets the parents of the next event.
    pub(crate) fn after(&mut self, parents: &[EventIx]) {
        self.last = parents.iter().map(|ix| self.room.event_id(*ix).to_owned()).collect();
    }

    pub(crate) fn insert(
        &mut self,
        (event_type, state_key, sender, content): Draft<'_>,
        auth: Option<&[EventIx]>,
    ) -> Result<EventIx, InsertError> {
        self.count += 1;
        let is_create = event_type == "m.room.create";
        let event_id = match (is_create, self.room.rules().event_id_format) {
            (true, _) if self.room.is_empty() => "$create".to_owned(),
            (_, crate::EventIdFormat::Chosen) => {
                format!("$e{}:{}", self.count, crate::grammar::domain(sender).unwrap_or(""))
            }
            _ => format!("$e{}", self.count),
        };
        let hashed = self.room.rules().auth.room_id_is_create_hash;
        let redacts = content.get("test.redacts").and_then(Value::as_str).map(str::to_owned);
        let room_id = self.room.room_id().to_owned();
        let content = content.as_object().unwrap();
        let mut input = EventInput {
            event_id: &event_id,
            room_id: (!is_create || !hashed).then_some(&*room_id),
            event_type,
            state_key,
            sender,
            origin_server_ts: i64::try_from(self.count).unwrap(),
            depth: i64::try_from(self.count).unwrap(),
            prev_events: self.last.iter().map(|id| &**id).collect(),
            auth_events: Vec::new(),
            redacts: redacts.as_deref(),
            content,
            rejected: false,
        };
        let state = |key: KeyIx| self.state.get(&key).copied();
        let auth = auth.map_or_else(|| self.room.auth_events_for(&input, &state), <[_]>::to_vec);
        let auth: Vec<_> = auth.iter().map(|ix| self.room.event_id(*ix).to_owned()).collect();
        input.auth_events = auth.iter().map(|id| &**id).collect();
        self.room.insert(&input)
    }
}

/// Writes a verdict down, for a table of which rules were seen to reject in which room version:
/// with the variable `COVERAGE_DIR`, into a file in that directory.
pub(crate) fn note(rules: &RoomVersionRules, rule: Option<Rule>) {
    let Some(directory) = std::env::var_os("COVERAGE_DIR") else { return };
    let name = format!("rules-{}.tsv", std::process::id());
    let path = std::path::Path::new(&directory).join(name);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let rule = rule.map_or_else(|| "allowed".to_owned(), |rule| format!("{rule:?}"));
    // The rule without the level that it is about.
    let rule = rule.split('(').next().unwrap();
    // In one piece: other tests write at the same time.
    let line = format!("{}\t{rule}\n", rules.version);
    file.unwrap().write_all(line.as_bytes()).unwrap();
}
