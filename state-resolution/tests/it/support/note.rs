//! Which steps of the algorithm tests went through.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use state_resolution::{Outcome, Phase, Room, Scratch, StateMap};

/// Writes the steps of a resolution down whose result was compared, for a table of which were seen
/// in which room version: with the variable `COVERAGE_DIR`, into a file in that directory.
pub fn note(room: &Room, states: &[&StateMap], scratch: &mut Scratch) {
    let Some(directory) = std::env::var_os("COVERAGE_DIR") else { return };
    let explained = room.explain(states, scratch).unwrap();
    let attempts = explained.attempts.iter().map(|attempt| {
        match (attempt.phase, attempt.rejection.is_none()) {
            (Phase::Power, true) => "power-accepted",
            (Phase::Power, false) => "power-rejected",
            (Phase::Mainline, true) => "mainline-accepted",
            (Phase::Mainline, false) => "mainline-rejected",
        }
    });
    let outcomes = explained.decisions.iter().map(|decision| match decision.outcome {
        Outcome::Accepted(_) => "accepted",
        Outcome::ByDepth(_) => "by-depth",
        Outcome::Dropped => "dropped",
        Outcome::Unconflicted(_) => "unconflicted",
        Outcome::Restored(_) => "restored",
        Outcome::StillAbsent => "still-absent",
    });
    let steps: BTreeSet<&str> = attempts.chain(outcomes).collect();
    let version = room.rules().version;
    let mut lines = String::new();
    for step in steps {
        lines.extend([version, "\t", step, "\n"]);
    }
    let path = Path::new(&directory).join(format!("resolution-{}.tsv", std::process::id()));
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.unwrap().write_all(lines.as_bytes()).unwrap();
}
