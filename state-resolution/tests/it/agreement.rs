//! Agreement with ruma-state-res, which was written by others from the same spec.
//!
//! Each room is compared at several sets of states. `STATE_RESOLUTION_ROOMS` says how many rooms,
//! `STATE_RESOLUTION_SEED` from which seed on.

use state_resolution::{AbsentJoinRule, NoSignatures, Room, RoomVersionRules, StateMap};

use crate::support::{Chances, Named, Sim, named, note, oracle};

pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The rules as ruma-state-res reads them.
fn as_ruma_reads(version: &str, includes_own: bool) -> RoomVersionRules {
    let mut rules = RoomVersionRules::for_version(version).unwrap();
    rules.auth.absent_join_rule = AbsentJoinRule::Closed;
    rules.resolution.chain_includes_state_events = includes_own;
    rules
}

/// Compares a room of this seed; returns how many of the results differed from all inputs.
fn compare(version: &str, seed: u64, includes_own: bool) -> usize {
    let rules = as_ruma_reads(version, includes_own);
    let chances = if seed.is_multiple_of(2) { Chances::WILD } else { Chances::TAME };
    let mut sim = Sim::new(rules, seed, chances);
    let mut interesting = 0;
    for count in [2, 3, 2, 5] {
        sim.grow(15);
        let states = sim.some_states(count);
        let refs: Vec<&StateMap> = states.iter().collect();
        let ours = sim.room.resolve(&refs, &mut sim.scratch).unwrap();
        let ours = named(&sim.room, &ours.state);
        let inputs: Vec<Named> = states.iter().map(|state| named(&sim.room, state)).collect();
        let pdus = oracle::by_id(&sim.pdus);
        let theirs = oracle::resolve(version, &pdus, &inputs, includes_own);
        assert_eq!(
            ours,
            theirs,
            "version {version}, seed {seed}, own events in chains: {includes_own}\n{}",
            sim.room.explain(&refs, &mut sim.scratch).unwrap().describe(&sim.room),
        );
        note(&sim.room, &refs, &mut sim.scratch);
        interesting += usize::from(inputs.iter().all(|input| *input != ours));
    }
    interesting
}

#[test]
fn random_rooms_resolve_as_by_an_independent_resolver() {
    let rooms = setting("STATE_RESOLUTION_ROOMS", 4_000);
    let first = setting("STATE_RESOLUTION_SEED", 1);
    let mut interesting = 0;
    for seed in first..first + rooms {
        let version = ["12", "11", "12", "10", "8", "7", "12", "6", "9", "12", "5", "2"]
            [(seed / 4 % 12) as usize];
        interesting += compare(version, seed, seed % 4 < 2);
    }
    // The rooms must be such that there is something to decide.
    assert!(interesting as u64 > rooms / 2, "only {interesting} of {rooms} rooms have conflicts");
}

/// A room, at one set of states, under both readings of "full auth chain".
fn both_readings(version: &str, seed: u64) -> [Named; 2] {
    [false, true].map(|includes_own| {
        // The room grows under one reading: the states are the same for both.
        let mut sim = Sim::new(as_ruma_reads(version, true), seed, Chances::WILD);
        sim.grow(60);
        let states = sim.some_states(3);
        let names: Vec<Named> = states.iter().map(|state| named(&sim.room, state)).collect();
        let mut room =
            Room::new(as_ruma_reads(version, includes_own), sim.room.room_id(), NoSignatures);
        for pdu in &sim.pdus {
            pdu.insert(&mut room);
        }
        let refs: Vec<&StateMap> = states.iter().collect();
        let ours = named(&room, &room.resolve(&refs, &mut sim.scratch).unwrap().state);
        let theirs = oracle::resolve(version, &oracle::by_id(&sim.pdus), &names, includes_own);
        assert_eq!(ours, theirs, "version {version}, seed {seed}");
        ours
    })
}

/// Rooms where what counts as part of the full auth chain decides: each reading agrees with the
/// independent resolver that is given the same.
#[test]
fn the_readings_of_the_full_auth_chain_differ_where_they_are_known_to() {
    for (version, seeds) in [("11", &[646, 739, 942, 953, 1786][..]), ("12", &[173, 1486, 3828])] {
        for seed in seeds {
            let [without_own, with_own] = both_readings(version, *seed);
            assert_ne!(without_own, with_own, "version {version}, seed {seed}");
        }
    }
}
