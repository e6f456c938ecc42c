//! How much work is done, counted in events and edges looked at: the same on every machine.

use ruma_common::EventId;
use serde_json::json;
use state_resolution::{EventIx, RoomVersionRules, Scratch, StateMap};

use crate::support::{Chances, Random, Sim, Story, new_id, new_pdu, scenarios::Scenario};

fn refs(states: &[StateMap]) -> Vec<&StateMap> {
    states.iter().collect()
}

/// The work of a resolution, and the events in its full conflicted set.
fn work(scenario: &Scenario) -> (u64, usize) {
    let mut scratch = Scratch::new();
    let resolved = scenario.room.resolve(&refs(&scenario.states), &mut scratch).unwrap();
    (scratch.visited(), resolved.stats.full_conflicted_set)
}

/// Each event and each of its edges is looked at a fixed number of times at most.
#[test]
fn work_is_linear_in_the_room() {
    for version in ["11", "12"] {
        for scenario in [
            Scenario::members(version),
            Scenario::power_levels(version),
            Scenario::extremities(version),
            Scenario::storm(version, 20_000, 500),
            Scenario::storm(version, 20_000, 9_000),
        ] {
            let events = scenario.room.len() as u64;
            let edges: u64 = (0..scenario.room.len())
                .map(|at| EventIx::new(u32::try_from(at).unwrap()))
                .map(|event| scenario.room.auth_events(event).len() as u64)
                .sum();
            let (visited, _) = work(&scenario);
            assert!(visited <= 6 * (events + edges), "{visited} of {events} and {edges}");
        }
    }
}

/// A fork at the end of a long history does not cost what the history does.
#[test]
fn a_near_fork_is_cheaper_than_the_room() {
    for version in ["11", "12"] {
        let (visited, set) = work(&Scenario::storm(version, 40_000, 200));
        assert!(visited < 40_000, "{visited} for {set} events");
    }
}

#[test]
fn a_quiet_room_costs_nearly_nothing() {
    for version in ["11", "12"] {
        let (visited, set) = work(&Scenario::quiet(version));
        assert_eq!(set, 1);
        assert!(visited < 40, "{visited}");
    }
}

/// Every event cites two that cite the same two: 2^30 paths.
#[test]
fn a_ladder_of_auth_events_is_climbed_once() {
    let (mut story, mut state) = Story::new("12");
    let rung = |story: &mut Story, name: &str, auth: Vec<EventIx>, state: &mut StateMap| {
        let mut pdu = new_pdu(
            &story.room,
            EventId::parse(name).unwrap(),
            "m.room.power_levels",
            Some(""),
            "@alice:a",
            1,
            json!({}),
        );
        pdu.auth = auth.iter().map(|ix| story.pdus[ix.index()].event_id.clone()).collect();
        let ix = pdu.insert(&mut story.room);
        story.pdus.push(pdu);
        state.insert(story.room.key_of(ix).unwrap(), ix);
        ix
    };
    let first = rung(&mut story, "$first", vec![], &mut state);
    let low = state.clone();
    let mut last = vec![first];
    for step in 0..60 {
        let left = rung(&mut story, &format!("$left{step}"), last.clone(), &mut state);
        let right = rung(&mut story, &format!("$right{step}"), last.clone(), &mut state);
        last = vec![left, right];
    }
    let mut scratch = Scratch::new();
    let subgraph = story.room.conflicted_subgraph(&[first, last[0]], &mut scratch);
    assert_eq!(subgraph.len(), 120);
    story.room.resolve(&[&low, &state], &mut scratch).unwrap();
    assert!(scratch.visited() < 3_000, "{}", scratch.visited());
}

#[test]
fn thousands_of_states_cost_what_they_differ_by() {
    let mut scenario = Scenario::extremities("11");
    let states = std::mem::take(&mut scenario.states);
    let mut random = Random::new(1);
    let topic = scenario.room.key("m.room.topic", "").unwrap();
    let many: Vec<StateMap> = (0..2_000)
        .map(|_| {
            let mut state = states[random.below(states.len())].clone();
            state.insert(topic, random.pick(&states).get(topic).unwrap());
            state
        })
        .collect();
    let mut scratch = Scratch::new();
    let resolved = scenario.room.resolve(&refs(&many), &mut scratch).unwrap();
    assert!(resolved.stats.conflicted_keys > 400);
    // 32 sweeps, as 64 states go into one.
    let each = scratch.visited() / 32;
    assert!(each < 100_000, "{each}");
}

#[test]
fn huge_power_levels_are_compared_once_per_event() {
    let (mut story, base) = Story::new("12");
    let users: serde_json::Map<_, _> =
        (0..50_000).map(|number| (format!("@user{number}:x"), json!(number % 50))).collect();
    let mut states = Vec::new();
    for (name, user) in [("$one", "@user7:x"), ("$two", "@user8:x")] {
        let mut state = base.clone();
        let mut users = users.clone();
        users.insert(user.to_owned(), json!(49));
        let content = json!({"users": users});
        story.send(name, ("m.room.power_levels", ""), "@alice:a", content, &mut state);
        states.push(state);
    }
    let resolved = story.resolve([&states[0], &states[1]]);
    assert_eq!(story.at(&resolved, "m.room.power_levels", ""), Some("$two"));
}

/// Scratch memory is the same before and after, and serves rooms of all sizes in turn.
#[test]
fn scratch_is_left_clean() {
    let mut scratch = Scratch::new();
    for seed in 0..40 {
        let rules = RoomVersionRules::ALL[seed % 12];
        let mut sim = Sim::new(rules, seed as u64, Chances::WILD);
        sim.grow(40 + (seed * 37) % 60);
        let states = sim.some_states(3);
        let shared = sim.room.resolve(&refs(&states), &mut scratch).unwrap();
        let fresh = sim.room.resolve(&refs(&states), &mut Scratch::new()).unwrap();
        assert_eq!(shared, fresh);
    }
    let storm = Scenario::storm("12", 100_000, 1_000);
    storm.room.resolve(&refs(&storm.states), &mut scratch).unwrap();
    assert!(scratch.bytes() < 2_000_000, "{}", scratch.bytes());
    let mut random = Random::new(3);
    assert_ne!(new_id(&mut random), new_id(&mut random));
}
