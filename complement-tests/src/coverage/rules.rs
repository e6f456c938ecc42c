//! The authorization rules and the steps of state resolution, by room version.
//!
//! The tests of the crate `state-resolution` note what they saw, beside the records of requests.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The room versions.
const VERSIONS: std::ops::RangeInclusive<u8> = 1..=12;

/// What was noted in files whose name begins with `beginning`: room version and name.
///
/// # Errors
/// If the directory cannot be read.
pub fn read_verdicts(directory: &Path, beginning: &str) -> std::io::Result<BTreeSet<(u8, String)>> {
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(beginning) {
            let file = fs::read_to_string(&path)?;
            let pairs = file.lines().filter_map(|line| line.split_once('\t'));
            seen.extend(
                pairs.filter_map(|(version, what)| Some((version.parse().ok()?, what.to_owned()))),
            );
        }
    }
    Ok(seen)
}

/// A table of the rules, or steps, in `list` (name, first and last version, text), in Markdown; and
/// in which room versions a rule was not seen where it is, or seen where it is not.
///
/// # Panics
/// If the list is none.
pub fn rules_table(list: &str, seen: &BTreeSet<(u8, String)>) -> (String, Vec<(String, String)>) {
    let mut wrong = Vec::new();
    let mut text = String::from("| | |");
    let mut line = String::from("|---|---|");
    for version in VERSIONS {
        let _ = write!(text, " {version} |");
        line.push_str("---|");
    }
    text = format!("{text}\n{line}\n");
    for row in list.lines().filter(|row| !row.starts_with('#')).skip(1) {
        let fields: [&str; 4] =
            row.split('\t').collect::<Vec<_>>().try_into().expect("four columns");
        let [name, since, until, demand] = fields;
        let bounds = [since, until].map(|bound| bound.parse::<u8>().expect("a version"));
        let _ = write!(text, "| {name} | {demand} |");
        for version in VERSIONS {
            let exists = (bounds[0]..=bounds[1]).contains(&version);
            let is_seen = seen.contains(&(version, name.to_owned()));
            text.push_str(match (exists, is_seen) {
                (true, true) => " ✓ |",
                (true, false) => "  |",
                (false, _) => " – |",
            });
            if exists != is_seen {
                wrong.push((name.to_owned(), format!("room version {version}")));
            }
        }
        text.push('\n');
    }
    (text, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_seen_in_each_version_that_has_it_and_in_no_other() {
        let list = "rule\tsince\tuntil\tdemand\nOne\t2\t3\tsomething\n";
        let seen = |versions: &[u8]| -> BTreeSet<(u8, String)> {
            versions.iter().map(|version| (*version, "One".to_owned())).collect()
        };
        let (text, wrong) = rules_table(list, &seen(&[2, 3]));
        assert!(text.contains("| One | something | – | ✓ | ✓ | – |"), "{text}");
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(rules_table(list, &seen(&[2])).1.len(), 1);
        assert_eq!(rules_table(list, &seen(&[1, 2, 3])).1.len(), 1);
    }
}
