//! What holds for every room: independence of order, idempotence, equality of all ways to the
//! same result.

use std::collections::{BTreeSet, HashMap};

use ruma_common::OwnedEventId;
use state_resolution::{
    Algorithm, ConflictCache, EventIx, Frontier, KeyIx, NoSignatures, Outcome, Room,
    RoomVersionRules, Scratch, StateMap,
};

use crate::{
    agreement::setting,
    support::{Chances, Named, Random, Sim, named, note, numbered, oracle},
};

fn rooms() -> impl Iterator<Item = (u64, Sim)> {
    let first = setting("STATE_RESOLUTION_SEED", 1) + 1_000_000;
    let count = setting("STATE_RESOLUTION_ROOMS", 600) / 2;
    (first..first + count).map(|seed| {
        let rules = RoomVersionRules::ALL[(seed % 12) as usize];
        let chances = if seed % 2 == 0 { Chances::WILD } else { Chances::TAME };
        let mut sim = Sim::new(rules, seed, chances);
        sim.grow(40);
        (seed, sim)
    })
}

fn refs(states: &[StateMap]) -> Vec<&StateMap> {
    states.iter().collect()
}

/// Another table of the same room, filled in another order that puts auth events first.
fn reordered(sim: &Sim, random: &mut Random) -> Room {
    let mut room = Room::new(*sim.room.rules(), sim.room.room_id(), NoSignatures);
    let mut waiting: Vec<_> = sim.pdus.iter().collect();
    random.shuffle(&mut waiting);
    // Which parent is the create event is looked up at insertion: that one comes first.
    sim.pdus[0].insert(&mut room);
    while !waiting.is_empty() {
        waiting.retain(|pdu| {
            if pdu.auth.iter().any(|id| room.event(id.as_str()).is_none()) {
                return true;
            }
            let mut pdu = (*pdu).clone();
            random.shuffle(&mut pdu.auth);
            pdu.insert(&mut room);
            false
        });
    }
    room
}

#[test]
fn the_order_of_states_events_and_auth_events_does_not_matter() {
    for (seed, mut sim) in rooms() {
        let mut states = sim.some_states(4);
        let resolved = sim.room.resolve(&refs(&states), &mut sim.scratch).unwrap();
        let expected = named(&sim.room, &resolved.state);

        let mut random = Random::new(seed);
        random.shuffle(&mut states);
        // A state more often than once is the same as once.
        states.push(states[0].clone());
        let shuffled = sim.room.resolve(&refs(&states), &mut sim.scratch).unwrap();
        assert_eq!(named(&sim.room, &shuffled.state), expected, "seed {seed}");

        let other = reordered(&sim, &mut random);
        let states: Vec<_> =
            states.iter().map(|state| numbered(&other, &named(&sim.room, state))).collect();
        let resolved = other.resolve(&refs(&states), &mut sim.scratch).unwrap();
        assert_eq!(named(&other, &resolved.state), expected, "seed {seed}");
        note(&other, &refs(&states), &mut sim.scratch);
    }
}

#[test]
fn equal_states_resolve_to_themselves() {
    for (seed, mut sim) in rooms() {
        let states = sim.some_states(3);
        for state in &states {
            for copies in 1..4 {
                let copies: Vec<_> = std::iter::repeat_n(state, copies).collect();
                let resolved = sim.room.resolve(&copies, &mut sim.scratch).unwrap();
                assert!(resolved.state.same_tree(state), "seed {seed}");
            }
        }
        let once = sim.room.resolve(&refs(&states), &mut sim.scratch).unwrap().state;
        let twice = sim.room.resolve(&[&once, &once.clone()], &mut sim.scratch).unwrap().state;
        assert_eq!(once, twice);
        assert!(sim.room.resolve(&[], &mut sim.scratch).unwrap().state.is_empty());
    }
}

#[test]
fn unconflicted_entries_survive_and_nothing_comes_from_nowhere() {
    for (seed, mut sim) in rooms() {
        let states = sim.some_states(3);
        let resolved = sim.room.resolve(&refs(&states), &mut sim.scratch).unwrap();
        for (key, event) in &states[0] {
            if states.iter().all(|state| state.get(key) == Some(event)) {
                assert_eq!(resolved.state.get(key), Some(event), "seed {seed}");
            }
        }
        let difference = sim.room.auth_difference(&refs(&states), &mut sim.scratch);
        for (key, event) in &resolved.state {
            assert_eq!(sim.room.key_of(event), Some(key));
            // The subgraph of 2.1 adds events of conflicted keys and of these chains only.
            let somewhere = states.iter().any(|state| state.get(key) == Some(event))
                || difference.contains(&event)
                || sim.room.rules().resolution.algorithm == Algorithm::V2_1;
            assert!(somewhere, "seed {seed}: {}", sim.room.event_id(event));
        }
        let distance = |state: &StateMap| {
            let mut count = 0;
            state.for_each_difference(&resolved.state, |_, _, _| count += 1);
            count
        };
        let best = states.iter().map(distance).min().unwrap();
        assert_eq!(distance(&states[resolved.closest]), best, "seed {seed}");
    }
}

#[test]
fn what_replay_accepted_passed_its_check_at_that_moment() {
    for (seed, mut sim) in rooms() {
        let states = sim.some_states(3);
        let refs = refs(&states);
        let explanation = sim.room.explain(&refs, &mut sim.scratch).unwrap();
        let resolved = sim.room.resolve(&refs, &mut sim.scratch).unwrap().state;
        assert_eq!(explanation.resolved, resolved);
        let mut state: HashMap<KeyIx, EventIx> = HashMap::new();
        if sim.room.rules().resolution.algorithm == Algorithm::V2 {
            let unconflicted = |(key, event): &(KeyIx, EventIx)| {
                refs.iter().all(|state| state.get(*key) == Some(*event))
            };
            state.extend(states[0].iter().filter(unconflicted));
        }
        for attempt in &explanation.attempts {
            let cited = sim.room.auth_events(attempt.event);
            let view = |key: KeyIx| {
                let usable = |event: &EventIx| !sim.room.is_rejected(*event);
                state.get(&key).copied().filter(usable).or_else(|| {
                    cited.iter().copied().find(|e| sim.room.key_of(*e) == Some(key) && usable(e))
                })
            };
            let verdict = sim.room.check(attempt.event, &view);
            assert_eq!(verdict.err(), attempt.rejection, "seed {seed}");
            if attempt.rejection.is_none() {
                state.insert(sim.room.key_of(attempt.event).unwrap(), attempt.event);
            }
        }
        for decision in &explanation.decisions {
            let event = match decision.outcome {
                Outcome::Accepted(event) | Outcome::Restored(event) => {
                    assert_eq!(state.get(&decision.key), Some(&event), "seed {seed}");
                    Some(event)
                }
                Outcome::ByDepth(event) | Outcome::Unconflicted(event) => Some(event),
                Outcome::Dropped | Outcome::StillAbsent => None,
            };
            assert_eq!(resolved.get(decision.key), event);
            assert!(!decision.candidates.is_empty());
        }
        assert!(!explanation.describe(&sim.room).is_empty() || refs.iter().all(|s| *s == refs[0]));
    }
}

#[test]
fn a_frontier_and_a_cache_give_the_same_result() {
    let mut hits = 0;
    for (seed, mut sim) in rooms() {
        let mut frontier = Frontier::new();
        let mut cache = ConflictCache::default();
        let mut random = Random::new(seed);
        let mut ends: Vec<(u64, StateMap)> = Vec::new();
        for step in 0..12 {
            sim.grow(2);
            let state = sim.some_states(3)[random.below(3)].clone();
            frontier.insert(step, state.clone());
            ends.push((step, state));
            if ends.len() > 2 && random.percent(50) {
                let (end, state) = ends.remove(random.below(ends.len()));
                assert_eq!(frontier.remove(&end), Some(state));
            }
            if random.percent(10) {
                let at = u32::try_from(random.below(sim.room.len())).unwrap();
                let event = EventIx::new(at);
                sim.room.set_rejected(event, !sim.room.is_rejected(event));
            }
            let states: Vec<_> = ends.iter().map(|(_, state)| state).collect();
            let expected = sim.room.resolve(&states, &mut sim.scratch).unwrap().state;
            let found = frontier.resolve(&sim.room, &mut sim.scratch).unwrap().state;
            assert_eq!(found, expected, "seed {seed}");
            let again = frontier.resolve(&sim.room, &mut sim.scratch).unwrap().state;
            assert!(again.same_tree(&found));
            // The same conflict over another unconflicted state.
            for _ in 0..2 {
                let cached = sim.room.resolve_cached(&states, &mut sim.scratch, &mut cache);
                let cached = cached.unwrap();
                hits += usize::from(cached.stats.cached);
                assert_eq!(cached.state, expected, "seed {seed}");
            }
        }
    }
    assert!(hits > 100, "only {hits} hits");
}

#[test]
fn the_cache_sees_through_to_the_conflict() {
    // Forks that differ, over a base that moves on where it does not matter.
    let mut sim = Sim::new(RoomVersionRules::V11, 3, Chances::TAME);
    sim.grow(60);
    let mut states = sim.some_states(2);
    let mut cache = ConflictCache::default();
    let first = sim.room.resolve_cached(&refs(&states), &mut sim.scratch, &mut cache).unwrap();
    assert!(first.stats.conflicted_keys > 0 && !first.stats.cached);
    let topic = sim.room.key("m.room.topic", "").unwrap();
    for state in &mut states {
        state.remove(topic);
    }
    let second = sim.room.resolve_cached(&refs(&states), &mut sim.scratch, &mut cache).unwrap();
    let expected = sim.room.resolve(&refs(&states), &mut sim.scratch).unwrap();
    assert_eq!(second.state, expected.state);
    // A rejection counts.
    let event = states[0].iter().next().unwrap().1;
    sim.room.set_rejected(event, true);
    let third = sim.room.resolve_cached(&refs(&states), &mut sim.scratch, &mut cache).unwrap();
    assert!(!third.stats.cached);
}

#[test]
fn sweeps_find_the_sets_of_the_definitions() {
    for (seed, mut sim) in rooms() {
        let count = [1, 2, 3, 64, 65, 130][(seed % 6) as usize];
        let states = sim.some_states(count);
        let pdus = oracle::by_id(&sim.pdus);
        let names: Vec<Named> = states.iter().map(|state| named(&sim.room, state)).collect();
        let ids = |events: &[EventIx]| -> BTreeSet<OwnedEventId> {
            events.iter().map(|ix| sim.pdus[ix.index()].event_id.clone()).collect()
        };
        for includes_own in [false, true] {
            let mut rules = *sim.room.rules();
            rules.resolution.chain_includes_state_events = includes_own;
            let mut room = Room::new(rules, sim.room.room_id(), NoSignatures);
            for pdu in &sim.pdus {
                pdu.insert(&mut room);
            }
            let found = room.auth_difference(&refs(&states), &mut sim.scratch);
            let expected = oracle::difference(&pdus, &names, includes_own);
            assert_eq!(ids(&found), expected, "seed {seed}, {count} states, {includes_own}");
        }
        let mut some: Vec<EventIx> = states.iter().flatten().map(|(_, event)| event).collect();
        some.truncate(6);
        let list: Vec<_> = ids(&some).into_iter().collect();
        let found = sim.room.conflicted_subgraph(&some, &mut sim.scratch);
        assert_eq!(ids(&found), oracle::subgraph(&pdus, &list), "seed {seed}");
        let found = sim.room.auth_chain(&some, &mut sim.scratch);
        assert_eq!(ids(&found), oracle::chain(&pdus, list.into_iter()), "seed {seed}");
        assert!(found.is_sorted());
    }
}

#[test]
fn states_of_other_rooms_are_refused() {
    let mut small = Sim::new(RoomVersionRules::V11, 1, Chances::TAME);
    let mut large = Sim::new(RoomVersionRules::V11, 2, Chances::TAME);
    large.grow(60);
    let here = small.some_states(1).remove(0);
    for there in large.some_states(5) {
        let mut scratch = Scratch::new();
        if there.iter().any(|(_, event)| event.index() >= small.room.len()) {
            assert!(small.room.resolve(&[&here, &there], &mut scratch).is_err());
            assert!(small.room.resolve(&[&there], &mut scratch).is_err());
        }
    }
    // Numbers in use, but an event at a key that is not its own.
    let mut twisted = here.clone();
    let (key, event) = here.iter().next().unwrap();
    twisted.insert(KeyIx::new(key.get() + 1), event);
    assert!(small.room.resolve(&[&here, &twisted], &mut Scratch::new()).is_err());
}
