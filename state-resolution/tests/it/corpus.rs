//! The corpus of the fuzz targets, replayed, and as many inputs made at random.

use std::{fs, path::Path};

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use crate::support::Random;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        run(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 10, "the corpus of {target} is gone");
    let mut random = Random::new(1);
    for _ in 0..2_000 {
        let length = random.below(400);
        let bytes: Vec<u8> = (0..length).map(|_| random.number().to_le_bytes()[1]).collect();
        run(&bytes);
    }
}

#[test]
fn events() {
    replay("events", fuzz::events);
}

#[test]
fn resolution() {
    replay("resolution", fuzz::resolution);
}

#[test]
fn snapshots() {
    replay("snapshots", fuzz::snapshots);
}
