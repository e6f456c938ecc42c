//! What the fuzz targets do with their bytes. An ordinary test does the same with the corpus.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test harness"
)]

use std::collections::HashMap;

use serde_json::{Map, Value};
use state_resolution::{
    EventInput, EventIx, KeyIx, NoSignatures, Room, RoomVersionRules, Scratch, StateMap,
    snapshot::{Record, SnapshotId, Source, read_state},
};

const USERS: [&str; 6] = ["@a:a", "@b:b", "@c:c", "@d:a", "@e:b", "@f:c"];
const TYPES: [&str; 9] = [
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.create",
    "m.room.third_party_invite",
    "m.room.aliases",
    "m.room.redaction",
    "m.room.topic",
    "m.room.message",
];

fn room_for(version: u8) -> Room {
    let rules = RoomVersionRules::ALL[usize::from(version) % 12];
    let room_id = if rules.auth.room_id_is_create_hash { "!create" } else { "!room:a" };
    Room::new(rules, room_id, NoSignatures)
}

fn input<'a>(
    room_id: &'a str,
    event_id: &'a str,
    (event_type, state_key): (&'a str, Option<&'a str>),
    sender: &'a str,
    content: &'a Map<String, Value>,
) -> EventInput<'a> {
    let is_hashed_create = event_id == "$create" && room_id == "!create";
    EventInput {
        event_id,
        room_id: (!is_hashed_create).then_some(room_id),
        event_type,
        state_key,
        sender,
        origin_server_ts: 1,
        depth: 1,
        prev_events: vec![],
        auth_events: vec![],
        redacts: Some("$x:a"),
        content,
        rejected: false,
    }
}

/// A room whose events have arbitrary content: two bytes choose version, type and key, then each
/// line is the content of an event, the last of which is checked.
pub fn events(data: &[u8]) {
    let [version, choice, lines @ ..] = data else { return };
    let contents: Vec<Map<String, Value>> = lines
        .split(|byte| *byte == b'\n')
        .take(6)
        .map(|line| match serde_json::from_slice(line) {
            Ok(Value::Object(content)) => content,
            _ => Map::new(),
        })
        .collect();
    let mut room = room_for(*version);
    let room_id = room.room_id().to_owned();
    let mut state = StateMap::new();
    let empty = Map::new();
    let content = |at: usize| contents.get(at).unwrap_or(&empty);
    let keys = [
        ("m.room.create", "", USERS[0]),
        ("m.room.power_levels", "", USERS[0]),
        ("m.room.join_rules", "", USERS[0]),
        ("m.room.member", USERS[0], USERS[0]),
        ("m.room.member", USERS[1], USERS[1]),
    ];
    for (at, (event_type, key, sender)) in keys.into_iter().enumerate() {
        let id = if at == 0 { "$create".to_owned() } else { format!("$state{at}") };
        let mut input = input(&room_id, &id, (event_type, Some(key)), sender, content(at));
        let auth: Vec<_> = room
            .auth_events_for(&input, &state)
            .iter()
            .map(|ix| room.event_id(*ix).to_owned())
            .collect();
        input.auth_events = auth.iter().map(|id| &**id).collect();
        let ix = room.insert(&input).unwrap();
        let _ = room.check_state_independent(ix).and_then(|()| room.check_auth_events(ix));
        state.insert(room.key_of(ix).unwrap(), ix);
    }
    let choice = usize::from(*choice);
    let sender = USERS[choice % 2];
    let key = [None, Some(""), Some(USERS[0]), Some(USERS[1]), Some(USERS[2])][choice / 2 % 5];
    let event_type = TYPES[choice / 10 % 9];
    let mut draft = input(&room_id, "$draft", (event_type, key), sender, content(5));
    let auth: Vec<_> = room
        .auth_events_for(&draft, &state)
        .iter()
        .map(|ix| room.event_id(*ix).to_owned())
        .collect();
    draft.auth_events = auth.iter().map(|id| &**id).collect();
    let _ = room.check_message(&draft, &state);
    // Taken back and inserted again, an event is the same.
    let mut verdicts = Vec::new();
    for _ in 0..2 {
        if event_type == "m.room.create" && room_id == "!create" {
            assert!(room.insert(&draft).is_err());
            break;
        }
        let count = (room.len(), room.key_count());
        let ix = room.insert(&draft).unwrap();
        verdicts.push((
            room.check_state_independent(ix),
            room.check_auth_events(ix),
            room.check(ix, &state),
        ));
        room.retract(ix).unwrap();
        assert_eq!((room.len(), room.key_count()), count);
    }
    assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]));
    let _ = EventInput::from_pdu(room.rules(), "$pdu", content(5));
}

/// A graph of events that nobody checked, and what several states of it resolve to.
pub fn resolution(data: &[u8]) {
    let Some((version, data)) = data.split_first() else { return };
    let mut room = room_for(*version);
    let room_id = room.room_id().to_owned();
    let mut ids = Vec::new();
    let mut states = vec![StateMap::new(); 3];
    let mut create = Map::new();
    create.insert("creator".to_owned(), USERS[0].into());
    let ix = room
        .insert(&input(&room_id, "$create", ("m.room.create", Some("")), USERS[0], &create))
        .unwrap();
    ids.push("$create".to_owned());
    for state in &mut states {
        state.insert(room.key_of(ix).unwrap(), ix);
    }
    let mut edges = 0_u64;
    for chunk in data.chunks_exact(6).take(400) {
        let [kind, who, value, auth, back, place] = chunk else { continue };
        let (sender, target) = (USERS[usize::from(who % 6)], USERS[usize::from(who / 6 % 6)]);
        let (event_type, key) = match kind % 8 {
            0..4 => ("m.room.member", target),
            4 => ("m.room.power_levels", ""),
            5 => ("m.room.join_rules", ""),
            6 => ("m.room.topic", ""),
            _ => ("m.room.third_party_invite", ""),
        };
        let mut content = Map::new();
        let memberships = ["join", "leave", "ban", "invite", "knock", "?"];
        content.insert("membership".to_owned(), memberships[usize::from(value % 6)].into());
        let rules = ["public", "invite", "knock", "restricted", "?"];
        content.insert("join_rule".to_owned(), rules[usize::from(value % 5)].into());
        let mut users = Map::new();
        users.insert(target.to_owned(), (*value).into());
        users.insert(USERS[1].to_owned(), if value % 7 == 0 { Value::Null } else { 50.into() });
        content.insert("users".to_owned(), users.into());
        let id = format!("${:02x}{:x}", value ^ place, ids.len());
        let mut event = input(&room_id, &id, (event_type, Some(key)), sender, &content);
        event.origin_server_ts = i64::from(value % 4);
        event.depth = i64::from(back % 8);
        event.rejected = kind & 0x80 != 0;
        for bit in 0..8_usize {
            if auth & (1 << bit) != 0 {
                let distance = 1 + (bit * (1 + usize::from(back % 16))) % ids.len();
                event.auth_events.push(&ids[ids.len() - distance]);
            }
        }
        edges += event.auth_events.len() as u64;
        let ix = room.insert(&event).unwrap();
        for (number, state) in states.iter_mut().enumerate() {
            if place & (1 << number) != 0 {
                state.insert(room.key_of(ix).unwrap(), ix);
            }
        }
        ids.push(id);
    }
    let mut scratch = Scratch::new();
    let refs: Vec<&StateMap> = states.iter().collect();
    let resolved = room.resolve(&refs, &mut scratch).unwrap();
    let bound = 6 * (room.len() as u64 + edges) + 100;
    assert!(scratch.visited() <= bound, "{} of {bound}", scratch.visited());
    let backwards: Vec<&StateMap> = states.iter().rev().collect();
    let again = room.resolve(&backwards, &mut scratch).unwrap();
    assert_eq!(resolved.state, again.state);
    let explanation = room.explain(&refs, &mut scratch).unwrap();
    assert_eq!(explanation.resolved, resolved.state);
    let _ = explanation.describe(&room);
    for (key, event) in &resolved.state {
        assert_eq!(room.key_of(event), Some(key));
    }
}

struct Records(HashMap<SnapshotId, Vec<u8>>);

impl Source for Records {
    fn record(&self, id: SnapshotId) -> Option<Vec<u8>> {
        self.0.get(&id).cloned()
    }
}

/// A store of arbitrary records: each begins with its length.
pub fn snapshots(mut data: &[u8]) {
    let mut records = Records(HashMap::new());
    while let Some((length, rest)) = data.split_first() {
        let (record, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let id = SnapshotId(records.0.len() as u64);
        if let Ok(read) = Record::from_bytes(record) {
            assert_eq!(read.to_bytes(), record);
        }
        records.0.insert(id, record.to_vec());
        data = rest;
    }
    for id in 0..records.0.len() as u64 {
        if let Ok(state) = read_state(SnapshotId(id), &records) {
            let change = [(KeyIx::new(1), Some(EventIx::new(1)))];
            let _ = Record::after(SnapshotId(id), &change, &state, &records);
        }
    }
}
