//! Comparing JSON with what a test expects of it.

use serde_json::Value;

/// Whether `actual` has everything that `expected` has.
///
/// An object may have more fields than expected, at every level; arrays and
/// plain values must be equal, element by element under the same rule.
pub fn includes(actual: &Value, expected: &Value) -> bool {
    difference(actual, expected, "").is_none()
}

/// Ends the test unless `actual` [`includes`] `expected`, and says where they part.
#[track_caller]
pub fn must_match(actual: &Value, expected: &Value) {
    if let Some(difference) = difference(actual, expected, "") {
        panic!("{difference}\nin {actual:#}");
    }
}

/// The text in the field at the JSON pointer `pointer`, such as `/user_id`.
#[track_caller]
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer).and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => panic!("no text at {pointer} in {value:#}"),
    }
}

fn difference(actual: &Value, expected: &Value, at: &str) -> Option<String> {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => {
            expected.iter().find_map(|(key, expected)| match actual.get(key) {
                Some(actual) => difference(actual, expected, &format!("{at}/{key}")),
                None => Some(format!("{at}/{key} is missing, expected {expected}")),
            })
        }
        (Value::Array(actual), Value::Array(expected)) if actual.len() == expected.len() => {
            actual.iter().zip(expected).enumerate().find_map(|(i, (actual, expected))| {
                difference(actual, expected, &format!("{at}/{i}"))
            })
        }
        _ if actual == expected => None,
        _ => {
            let at = if at.is_empty() { "the value" } else { at };
            Some(format!("{at} is {actual}, expected {expected}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn further_fields_are_allowed_and_missing_ones_are_named() {
        let actual = json!({ "a": { "b": 1, "c": [ { "d": 2, "e": 3 } ] } });
        assert!(includes(&actual, &json!({ "a": { "c": [ { "d": 2 } ] } })));
        assert!(!includes(&actual, &json!({ "a": { "c": [] } })));
        assert_eq!(
            difference(&actual, &json!({ "a": { "c": [ { "f": 2 } ] } }), "").unwrap(),
            "/a/c/0/f is missing, expected 2"
        );
        assert_eq!(
            difference(&actual, &json!({ "a": { "b": 2 } }), "").unwrap(),
            "/a/b is 1, expected 2"
        );
    }
}
