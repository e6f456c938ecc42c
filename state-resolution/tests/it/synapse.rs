//! Agreement with Synapse's resolver for version 1, which ruma-state-res does not have.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use state_resolution::{RoomVersionRules, StateMap};

use crate::{
    agreement::setting,
    support::{Chances, Named, Pdu, Sim, named},
};

fn pdu(pdu: &Pdu) -> Value {
    let references = |ids: &[ruma_common::OwnedEventId]| -> Value {
        ids.iter().map(|id| json!([id, {}])).collect()
    };
    json!({
        "event_id": pdu.event_id,
        "room_id": pdu.room_id,
        "sender": pdu.sender,
        "type": pdu.type_name,
        "state_key": pdu.state_key,
        "content": pdu.content,
        "origin_server_ts": pdu.ts,
        "depth": pdu.depth,
        "prev_events": references(&pdu.prev),
        "auth_events": references(&pdu.auth),
        "hashes": {},
        "signatures": {},
    })
}

fn list(state: &Named) -> Vec<[&str; 3]> {
    state.iter().map(|((event_type, key), id)| [&**event_type, &**key, &**id]).collect()
}

/// Where a Python with Synapse is; installs it if need be.
fn python() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/synapse.sh");
    let output = Command::new("sh").arg(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "installs Synapse"]
fn random_rooms_of_version_1_resolve_as_by_synapse() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/synapse_v1.py");
    let rooms = setting("STATE_RESOLUTION_ROOMS", 500);
    let first = setting("STATE_RESOLUTION_SEED", 1);
    let (mut input, mut expected) = (String::new(), Vec::new());
    let mut interesting = 0;
    for seed in first..first + rooms {
        let chances = if seed % 2 == 0 { Chances::WILD } else { Chances::TAME };
        let mut sim = Sim::new(RoomVersionRules::V1, seed, chances);
        sim.grow(50);
        let states = sim.some_states(2 + usize::try_from(seed % 3).unwrap());
        let refs: Vec<&StateMap> = states.iter().collect();
        let resolved = sim.room.resolve(&refs, &mut sim.scratch).unwrap().state;
        interesting += usize::from(!states.contains(&resolved));
        let names: Vec<Named> = states.iter().map(|state| named(&sim.room, state)).collect();
        let events: Vec<Value> = sim.pdus.iter().map(pdu).collect();
        let states: Vec<_> = names.iter().map(list).collect();
        let room = json!({"room_id": sim.room.room_id(), "events": events, "states": states});
        input += &room.to_string();
        input.push('\n');
        expected.push(named(&sim.room, &resolved));
    }
    let mut child = Command::new(python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.lines().count(), expected.len());
    for ((seed, ours), theirs) in (first..).zip(&expected).zip(output.lines()) {
        let theirs: Vec<[String; 3]> = serde_json::from_str(theirs).unwrap();
        let ours: Vec<[String; 3]> =
            list(ours).into_iter().map(|entry| entry.map(str::to_owned)).collect();
        assert_eq!(ours, theirs, "seed {seed}");
    }
    assert!(interesting as u64 > rooms / 4, "only {interesting} of {rooms} rooms have conflicts");
}
