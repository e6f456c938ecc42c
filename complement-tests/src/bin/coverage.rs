//! Makes the table of what the tests cover out of what they recorded.
//!
//! `coverage RECORDS` says what is not tested and has no reason in `coverage/gaps.tsv`; that is a
//! failure. `coverage RECORDS --write` writes `coverage/coverage.md` anew besides.

use std::path::Path;
use std::process::ExitCode;

use complement_tests::coverage::{Gap, Table, read, read_verdicts, rules_table};

const HEAD: &str = "\
# What the tests cover

Made by `make coverage` out of the requests that the tests really made and the answers that they
got; the list of endpoints is that of version 1.19 of the specification. A test that fails fails
the whole, so what stands here was answered as its test wanted.

- *good*: in how many tests it was answered with a success. *Asked of others*: in how many the
  server asked it of a homeserver of the test.
- *credentials*: refused without, or with wrong ones (401); for what the server calls: it sent its
  token.
- *permission*: refused to somebody who is known, but may not (403).
- *errors*: other refusals. The codes that the specification names for an endpoint must all be
  there. Rate limits are left out: they hold for all endpoints alike.
- *not yet*: what of this no test shows, with the reason. `coverage/gaps.tsv` has the list; whatever
  is missing and not on it fails `make test`.

`–` means that there is nothing to be seen: everybody may do it, or nothing can be wrong.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (records, write) = match &arguments[..] {
        [records] => (records, false),
        [records, write] if write == "--write" => (records, true),
        _ => {
            eprintln!("usage: coverage RECORDS [--write]");
            return ExitCode::from(2);
        }
    };
    match report(Path::new(records), write) {
        Ok(worse) if worse.is_empty() => ExitCode::SUCCESS,
        Ok(worse) => {
            eprintln!("No test shows this any more, and coverage/gaps.tsv gives no reason:");
            for gap in worse {
                eprintln!("  {gap}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cannot read the records in {records}: {error}");
            ExitCode::from(2)
        }
    }
}

fn report(records: &Path, write: bool) -> std::io::Result<Vec<String>> {
    let gaps =
        Gap::parse(include_str!("../../coverage/gaps.tsv")).map_err(std::io::Error::other)?;
    let table = Table::of(&read(records)?);
    let mut missing: Vec<(String, String)> = table.missing().collect();
    let mut text = HEAD.to_owned() + &table.markdown(&gaps);
    for (title, list, beginning) in [
        (
            "Authorization rules that were seen to reject, by room version",
            include_str!("../../coverage/rules.tsv"),
            "rules-",
        ),
        (
            "Steps of state resolution that were seen, by room version",
            include_str!("../../coverage/steps.tsv"),
            "resolution-",
        ),
    ] {
        let (rows, wrong) = rules_table(list, &read_verdicts(records, beginning)?);
        text.extend(["\n## ", title, "\n\n", &rows]);
        missing.extend(wrong);
    }
    if write {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("coverage/coverage.md");
        std::fs::write(&file, &text)?;
    }
    let [worse, closed] = Gap::compare(&gaps, missing);
    let left = gaps.len() - closed.len();
    println!("Coverage: {left} gaps are left, each for the reason in coverage/gaps.tsv");
    for gap in closed {
        println!("  no gap any more, to be taken out: {gap}");
    }
    Ok(worse)
}
