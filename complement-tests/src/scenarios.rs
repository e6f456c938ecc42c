//! `SCENARIOS.md` names tests that exist.

use std::collections::BTreeSet;
use std::path::Path;

/// The tests in the Rust files below a folder: file and function.
fn tests_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("a source");
            let names = text.lines().filter_map(|line| line.split_once("fn ")?.1.split('(').next());
            found.extend(names.map(|name| format!("{file}::{name}")));
        }
    }
}

#[test]
fn every_test_that_a_scenario_names_exists() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for folder in ["tests", "../src"] {
        tests_below(&here.join(folder), &mut tests);
    }
    let table = std::fs::read_to_string(here.join("SCENARIOS.md")).expect("the table");
    let named: Vec<&str> =
        table.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
    assert!(named.len() > 100, "only {} are named", named.len());
    let gone: Vec<&&str> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(gone.is_empty(), "there are no such tests: {gone:?}");
}
