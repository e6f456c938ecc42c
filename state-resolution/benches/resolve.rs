//! Resolution beside ruma-state-res, on the same rooms in the same run.
//!
//! ruma-state-res wants the full auth chains of the states as sets of IDs; a server has to make
//! them, so making them is measured with it.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench")]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{hint::black_box, time::Duration};

use criterion::{
    Criterion, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use ruma_common::OwnedEventId;
use state_resolution::{ConflictCache, EventInput, KeyIx, Room, Scratch, StateMap};
use support::{named, oracle, scenarios::Scenario};

/// The processor's time and not the clock's: benches share their machine with others.
struct CpuTime;

static WALL_TIME: WallTime = WallTime;

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time().saturating_sub(start)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_secs_f64() * 1e9
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WALL_TIME.formatter()
    }
}

fn compare(criterion: &mut Criterion<CpuTime>, name: &str, scenario: &Scenario, with_ruma: bool) {
    let version = scenario.room.rules().version;
    let mut group = criterion.benchmark_group(format!("{name} v{version}"));
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    let states: Vec<&StateMap> = scenario.states.iter().collect();
    let mut scratch = Scratch::new();
    let resolved = scenario.room.resolve(&states, &mut scratch).unwrap();
    println!(
        "{name} v{version}: {} events, {} keys in conflict, {} events in the full conflicted set, \
         {} kB of scratch",
        scenario.room.len(),
        resolved.stats.conflicted_keys,
        resolved.stats.full_conflicted_set,
        scratch.bytes() / 1024,
    );
    group.bench_function("here", |bencher| {
        bencher.iter(|| scenario.room.resolve(black_box(&states), &mut scratch).unwrap());
    });
    let mut cache = ConflictCache::with_limit(1 << 24);
    group.bench_function("here, again", |bencher| {
        bencher.iter(|| {
            scenario.room.resolve_cached(black_box(&states), &mut scratch, &mut cache).unwrap()
        });
    });
    if with_ruma {
        let pdus = oracle::by_id(&scenario.pdus);
        let maps: Vec<_> =
            states.iter().map(|state| oracle::to_ruma(&named(&scenario.room, state))).collect();
        let resolve = || {
            let chains = maps
                .iter()
                .map(|map| {
                    let mut chain = std::collections::HashSet::<OwnedEventId>::new();
                    let mut queue: Vec<_> = map.values().collect();
                    while let Some(id) = queue.pop() {
                        if chain.insert(id.clone()) {
                            queue.extend(&pdus[id].auth);
                        }
                    }
                    chain.into_iter().collect()
                })
                .collect();
            oracle::resolve_prepared(version, &pdus, &maps, chains)
        };
        // Same rooms, same reading, same result: otherwise the figures mean nothing.
        assert_eq!(named(&scenario.room, &resolved.state), resolve());
        group.bench_function("ruma-state-res", |bencher| bencher.iter(&resolve));
    }
    group.finish();
}

fn resolutions(criterion: &mut Criterion<CpuTime>) {
    for version in ["11", "12"] {
        compare(criterion, "a: 10,000 members, 2 forks of 100", &Scenario::members(version), true);
        compare(
            criterion,
            "b: 1,000 power levels, 3 forks",
            &Scenario::power_levels(version),
            true,
        );
        compare(criterion, "c: 50 ends, 5,000 members", &Scenario::extremities(version), true);
        let near = Scenario::storm(version, 100_000, 1_000);
        compare(criterion, "d: storm of 100,000, forks of 1,000", &near, true);
        drop(near);
        let far = Scenario::storm(version, 100_000, 25_000);
        compare(criterion, "d': storm of 100,000, forks of 25,000", &far, false);
        drop(far);
        compare(criterion, "e: one entry differs, 10,000 members", &Scenario::quiet(version), true);
    }
}

/// What nearly every event is: a message after one other event.
fn message(criterion: &mut Criterion<CpuTime>) {
    let scenario = Scenario::quiet("12");
    let (room, state): (&Room, _) = (&scenario.room, &scenario.states[0]);
    let content = serde_json::json!({"msgtype": "m.text", "body": "hello"});
    let mut input = EventInput {
        event_id: "$message",
        room_id: Some(room.room_id()),
        event_type: "m.room.message",
        state_key: None,
        sender: "@user77:server27",
        origin_server_ts: 1,
        depth: 1,
        prev_events: vec![],
        auth_events: vec![],
        redacts: None,
        content: content.as_object().unwrap(),
        rejected: false,
    };
    let mut scratch = Scratch::new();
    criterion.bench_function("e: message, one parent, 10,000 members", |bencher| {
        bencher.iter(|| {
            let before = room.resolve(black_box(&[state]), &mut scratch).unwrap().state;
            let auth = room.auth_events_for(&input, &before);
            room.check_message(&input, &before).unwrap();
            auth
        });
    });
    input.event_type = "m.room.topic";
    let key = room.key("m.room.power_levels", "").unwrap();
    assert!(state.get(key).is_some());
    criterion.bench_function("one look-up in a state of 10,000", |bencher| {
        bencher.iter(|| state.get(black_box(KeyIx::new(7_777))));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = resolutions, message
}
criterion_main!(benches);
