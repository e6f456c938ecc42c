//! `MYELIN_SECTION__KEY`: settings out of the environment.

use std::ffi::OsString;

use toml::{Table, Value};

use super::reference;

const PREFIX: &str = "MYELIN_";

/// Not a setting: where the configuration file is, read by the command line.
const CONFIG_FILE: &str = "MYELIN_CONFIG";

/// Misspelt names of one word are found up to this many edits from a key.
const NEAR: usize = 2;

/// Sets what the variable `name` stands for; `Err` says what is wrong with it.
///
/// A name with `__` must be a known key. One without is only taken for a setting if it is a key or
/// nearly one: other programs set such variables too (Kubernetes gives every container
/// `MYELIN_SERVICE_HOST` for a service named `myelin`).
pub(super) fn apply(
    settings: &mut Table,
    reference: &Table,
    name: &str,
    text: OsString,
) -> Result<(), String> {
    let Some(rest) = name.strip_prefix(PREFIX).filter(|_| name != CONFIG_FILE) else {
        return Ok(());
    };
    let segments: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    let place = segments
        .iter()
        .filter(|segment| index_of(segment).is_none())
        .fold(String::new(), |path, segment| reference::join(&path, segment));
    if let [single] = segments.as_slice()
        && !reference.contains_key(single)
    {
        let nearest = reference::nearest(single, reference);
        if reference::distance(single, &nearest) > NEAR {
            return Ok(());
        }
    }
    // Paths that are not text can't be written in TOML either.
    let text = text.into_string().map_err(|_| format!("{name}: not valid UTF-8"))?;
    set_in_table(settings, Some(reference), &segments, "", &text).map_err(|problem| match problem {
        Problem::Unknown => {
            let nearest = reference::nearest(&place, reference);
            let nearest = nearest.to_uppercase().replace('.', "__");
            format!("{name}: unknown key; the nearest known one is `{PREFIX}{nearest}`")
        }
        Problem::Value(message) => format!("{name}: {message}"),
    })
}

enum Problem {
    Unknown,
    Value(String),
}

fn index_of(segment: &str) -> Option<usize> {
    segment.parse().ok()
}

/// `known` is `None` below a table whose keys are the operator's own.
fn set_in_table(
    table: &mut Table,
    known: Option<&Table>,
    segments: &[String],
    place: &str,
    text: &str,
) -> Result<(), Problem> {
    let [key, rest @ ..] = segments else { return Err(Problem::Unknown) };
    let place = reference::join(place, key);
    let known = match known {
        Some(known) => Some(known.get(key).ok_or(Problem::Unknown)?),
        None => None,
    };
    if rest.is_empty() {
        table.insert(key.clone(), parse(text, known, &place)?);
        return Ok(());
    }
    match known {
        Some(Value::Array(known)) => {
            let entries = table.entry(key.as_str()).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(entries) = entries else { return Err(not_a("list", &place)) };
            set_in_list(entries, known.first(), rest, &place, text)
        }
        Some(Value::Table(_)) | None => {
            let inner = table.entry(key.as_str()).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = inner else { return Err(not_a("table", &place)) };
            let known = known.and_then(Value::as_table).filter(|_| !reference::is_free(&place));
            set_in_table(inner, known, rest, &place, text)
        }
        Some(_) => Err(Problem::Unknown),
    }
}

fn set_in_list(
    entries: &mut Vec<Value>,
    known: Option<&Value>,
    segments: &[String],
    place: &str,
    text: &str,
) -> Result<(), Problem> {
    let [index, rest @ ..] = segments else { return Err(Problem::Unknown) };
    let Some(index) = index_of(index) else {
        return Err(Problem::Value(format!(
            "`{place}` is a list: an index is expected where `{}` stands",
            index.to_uppercase()
        )));
    };
    if index > entries.len() {
        return Err(Problem::Value(format!(
            "`{place}` has {} entries, so the next one has the index {}",
            entries.len(),
            entries.len()
        )));
    }
    if rest.is_empty() {
        let value = parse(text, known, place)?;
        match entries.get_mut(index) {
            Some(entry) => *entry = value,
            None => entries.push(value),
        }
        return Ok(());
    }
    if index == entries.len() {
        entries.push(Value::Table(Table::new()));
    }
    match (entries.get_mut(index), known) {
        (Some(Value::Table(entry)), Some(Value::Table(known))) => {
            set_in_table(entry, Some(known), rest, place, text)
        }
        (_, Some(Value::Table(_))) => Err(not_a("list of tables", place)),
        _ => Err(Problem::Unknown),
    }
}

fn not_a(kind: &str, place: &str) -> Problem {
    Problem::Value(format!("`{place}` is no {kind} in the configuration file"))
}

/// Reads `text` as the type that the reference has at this place: text as it stands, everything
/// else as TOML. The operator's own keys are TOML where possible, else text.
fn parse(text: &str, known: Option<&Value>, place: &str) -> Result<Value, Problem> {
    let parsed = || format!("value = {text}").parse::<Table>().ok()?.remove("value");
    let expected = match known {
        Some(Value::String(_)) => return Ok(Value::String(text.to_owned())),
        None => return Ok(parsed().unwrap_or_else(|| Value::String(text.to_owned()))),
        Some(known) => known,
    };
    let value = parsed().filter(|value| value.same_type(expected));
    value.ok_or_else(|| {
        let kind = match expected {
            Value::Boolean(_) => "true or false",
            Value::Integer(_) => "a whole number",
            Value::Array(_) => "a list such as [\"a\", \"b\"]",
            Value::Table(_) => "a table such as { key = \"value\" }",
            _ => "another type of value",
        };
        // The text is not repeated: it may be a secret in the wrong variable.
        Problem::Value(format!("`{place}` must be {kind}"))
    })
}
