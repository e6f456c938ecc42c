//! Which keys exist, told by `reference.toml`.

use toml::{Table, Value};

/// Tables whose keys are the operator's own.
const FREE: [&str; 1] = ["well_known.client_extra"];

/// `reference.toml` with lists of tables reduced to one entry that has the keys of all.
pub(super) fn table() -> Table {
    let mut table: Table =
        super::REFERENCE.parse().expect("reference.toml is part of the binary and tested");
    merge_entries(&mut table);
    table
}

fn merge_entries(table: &mut Table) {
    for (_, value) in table.iter_mut() {
        match value {
            Value::Table(inner) => merge_entries(inner),
            Value::Array(entries) if entries.iter().all(Value::is_table) => {
                let mut merged = Table::new();
                for entry in entries.drain(..) {
                    if let Value::Table(entry) = entry {
                        merged.extend(entry);
                    }
                }
                merge_entries(&mut merged);
                entries.push(Value::Table(merged));
            }
            _ => {}
        }
    }
}

/// One line for each key of `settings` that is not in `reference`.
pub(super) fn unknown_keys(settings: &Table, reference: &Table) -> Vec<String> {
    let mut problems = Vec::new();
    collect_unknown(settings, reference, "", "", &mut |path, place| {
        let nearest = nearest(place, reference);
        problems.push(format!("unknown key `{path}`; the nearest known one is `{nearest}`"));
    });
    problems
}

/// Calls `report` with the path as it is (`listener[1].adress`) and without indexes.
fn collect_unknown(
    settings: &Table,
    reference: &Table,
    path: &str,
    place: &str,
    report: &mut impl FnMut(&str, &str),
) {
    for (key, value) in settings {
        let path = join(path, key);
        let place = join(place, key);
        match (value, reference.get(key)) {
            (_, None) => report(&path, &place),
            _ if is_free(&place) => {}
            (Value::Table(inner), Some(Value::Table(known))) => {
                collect_unknown(inner, known, &path, &place, report);
            }
            (Value::Array(entries), Some(Value::Array(known))) => {
                let Some(Value::Table(known)) = known.first() else { continue };
                for (index, entry) in entries.iter().enumerate() {
                    if let Value::Table(entry) = entry {
                        collect_unknown(entry, known, &format!("{path}[{index}]"), &place, report);
                    }
                }
            }
            // A value of the wrong type: told when it is turned into the typed form.
            _ => {}
        }
    }
}

pub(super) fn is_free(place: &str) -> bool {
    FREE.contains(&place)
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The known key most like `place`: by its whole path, or by its last part, for a key that was
/// written into the wrong section.
pub(super) fn nearest(place: &str, reference: &Table) -> String {
    let mut best = (usize::MAX, String::new());
    every_key(reference, "", &mut |known| {
        let whole = strsim::damerau_levenshtein(place, known);
        let last = strsim::damerau_levenshtein(last_part(place), last_part(known)) + 1;
        let distance = whole.min(last);
        if distance < best.0 {
            best = (distance, known.to_owned());
        }
    });
    best.1
}

/// How many edits lie between `place` and the key [`nearest`] found.
pub(super) fn distance(place: &str, known: &str) -> usize {
    strsim::damerau_levenshtein(place, known)
}

fn last_part(place: &str) -> &str {
    place.rsplit('.').next().unwrap_or(place)
}

/// Sections and lists as well as single values, without indexes.
pub(super) fn every_key(table: &Table, place: &str, visit: &mut impl FnMut(&str)) {
    for (key, value) in table {
        let place = join(place, key);
        visit(&place);
        if is_free(&place) {
            continue;
        }
        match value {
            Value::Table(inner) => every_key(inner, &place, visit),
            Value::Array(entries) => {
                if let Some(Value::Table(entry)) = entries.first() {
                    every_key(entry, &place, visit);
                }
            }
            _ => {}
        }
    }
}
