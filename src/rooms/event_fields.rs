//! Which parts of an event a client asked for.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::event::push_text;

/// How many properties deep a path is followed. What a longer one names comes with all that is
/// beside it: a server may include more than was asked for.
const MAX_DEPTH: usize = 16;

/// The paths that a client named, as one tree.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct EventFields {
    /// By the name of a property: which parts of its value are wanted.
    wanted: BTreeMap<String, Part>,
}

/// What is wanted of a value.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Whole,
    Of(EventFields),
}

impl EventFields {
    /// What these paths name; none if there are no paths, which leave nothing out.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/appendices/#dot-separated-property-paths>
    pub(crate) fn new(paths: &[String]) -> Option<Self> {
        let mut fields = Self::default();
        for path in paths {
            fields.add(&split(path));
        }
        (!paths.is_empty()).then_some(fields)
    }

    fn add(&mut self, path: &[String]) {
        let Some((name, rest)) = path.split_first() else { return };
        let part = self.wanted.entry(name.clone());
        if rest.is_empty() {
            part.insert_entry(Part::Whole);
        } else if let Part::Of(fields) = part.or_insert_with(|| Part::Of(Self::default())) {
            fields.add(rest);
        }
    }

    /// The parts of a JSON object that are wanted, each as it is written there. Objects of which
    /// nothing is wanted are left out.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub(crate) fn of(&self, json: &str) -> serde_json::Result<String> {
        let mut out = String::with_capacity(json.len());
        let mut json = serde_json::Deserializer::from_str(json);
        json.deserialize_map(Picking { fields: self, out: &mut out })?;
        json.end()?;
        Ok(out)
    }
}

/// Writes what is wanted of the object that is read.
struct Picking<'a> {
    fields: &'a EventFields,
    out: &'a mut String,
}

impl<'de> Visitor<'de> for Picking<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut before = '{';
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            let value: &RawValue = map.next_value()?;
            let picked = match self.fields.wanted.get(&*name) {
                Some(Part::Whole) => Cow::Borrowed(value.get()),
                Some(Part::Of(fields)) if value.get().starts_with('{') => {
                    let part = fields.of(value.get()).map_err(serde::de::Error::custom)?;
                    if part == "{}" {
                        continue;
                    }
                    Cow::Owned(part)
                }
                _ => continue,
            };
            self.out.push(before);
            push_text(self.out, &name);
            self.out.push(':');
            self.out.push_str(&picked);
            before = ',';
        }
        if before == '{' {
            self.out.push('{');
        }
        self.out.push('}');
        Ok(())
    }
}

/// The name of a property, borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The names of which a path is made. A backslash takes its meaning from a dot and from another
/// backslash; before anything else it is one itself.
fn split(path: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '.' {
            if names.len() == MAX_DEPTH {
                break;
            }
            names.push(String::new());
            continue;
        }
        let escaped = characters.next_if(|next| character == '\\' && matches!(next, '.' | '\\'));
        if let Some(name) = names.last_mut() {
            name.push(escaped.unwrap_or(character));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn fields(paths: &[&str]) -> EventFields {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        EventFields::new(&paths).unwrap()
    }

    fn picked(paths: &[&str], event: &Value) -> Value {
        serde_json::from_str(&fields(paths).of(&event.to_string()).unwrap()).unwrap()
    }

    #[test]
    fn paths_name_parts_of_an_event() {
        let event = json!({
            "type": "m.room.message",
            "content": {
                "body": "hello",
                "m.relates_to": { "rel_type": "m.thread", "event_id": "$root" },
                "m\\foo": 1,
                "": { "": 2 },
            },
            "state_key": "",
            "unsigned": { "age": 5 },
        });
        for (paths, expected) in [
            (&["content.body"][..], json!({ "content": { "body": "hello" } })),
            (&["type", "state_key"], json!({ "type": "m.room.message", "state_key": "" })),
            (
                &[r"content.m\.relates_to.rel_type", r"content.m\\foo"],
                json!({ "content": { "m.relates_to": { "rel_type": "m.thread" }, "m\\foo": 1 } }),
            ),
            // Other escapes are none.
            (&[r"content.m\foo"], json!({ "content": { "m\\foo": 1 } })),
            (&["content.."], json!({ "content": { "": { "": 2 } } })),
            // The whole comes with its parts, in whichever order they are named.
            (&["unsigned.age", "unsigned"], json!({ "unsigned": { "age": 5 } })),
            (&["unsigned", "unsigned.none"], json!({ "unsigned": { "age": 5 } })),
            // What is not there is not made up.
            (&["content.none", "type.none", "none", "content.body.none", ""], json!({})),
            (&["content.m.relates_to"], json!({})),
        ] {
            assert_eq!(picked(paths, &event), expected, "{paths:?}");
        }
        assert_eq!(picked(&["content"], &event)["content"], event["content"]);
        assert_eq!(EventFields::new(&[]), None);
    }

    #[test]
    fn what_is_written_stays_as_it_was() {
        let json = r#"{"a\"b":1.0,"content":{"x":"\u00e9","y":1e3},"a.b":{}}"#;
        assert_eq!(fields(&["content.x", r"a\.b", "a\"b"]).of(json).unwrap(), {
            r#"{"a\"b":1.0,"content":{"x":"\u00e9"},"a.b":{}}"#
        });
        for no_object in ["", "[]", "{", "7", "{} {"] {
            assert!(fields(&["type"]).of(no_object).is_err(), "{no_object}");
        }
    }

    #[test]
    fn a_path_too_deep_brings_more() {
        let mut value = json!({ "end": 1, "beside": 2 });
        for _ in 0..30 {
            value = json!({ "a": value });
        }
        let path = format!("{}end", "a.".repeat(30));
        assert_eq!(picked(&[&path], &value), value);
    }

    /// Objects of few names, so that paths meet them.
    fn objects() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(1)), Just(json!("text")), Just(json!([{ "a": 1 }]))];
        let object = |inner| {
            prop::collection::btree_map(names(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        };
        object(leaf.prop_recursive(4, 24, 4, object).boxed())
    }

    fn names() -> impl Strategy<Value = String> {
        "[ab.\\\\]{0,2}"
    }

    fn path_of(names: &[String]) -> String {
        let escaped = names.iter().map(|name| name.replace('\\', r"\\").replace('.', r"\."));
        escaped.collect::<Vec<_>>().join(".")
    }

    fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
        path.iter().try_fold(value, |value, name| value.as_object()?.get(name))
    }

    fn is_part(part: &Value, whole: &Value) -> bool {
        match (part, whole) {
            (Value::Object(part), Value::Object(whole)) => part
                .iter()
                .all(|(name, part)| whole.get(name).is_some_and(|whole| is_part(part, whole))),
            _ => part == whole,
        }
    }

    /// The paths of all that is in an object and is no object itself, and of empty ones.
    fn leaves(object: &Map<String, Value>, path: &[String], found: &mut Vec<Vec<String>>) {
        for (name, value) in object {
            let path = [path, std::slice::from_ref(name)].concat();
            match value.as_object().filter(|object| !object.is_empty()) {
                Some(object) => leaves(object, &path, found),
                None => found.push(path),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_picked_is_a_part_with_all_that_was_named_and_nothing_else(
            event in objects(),
            paths in prop::collection::vec(prop::collection::vec(names(), 1..4), 1..4),
        ) {
            let written: Vec<String> = paths.iter().map(|path| path_of(path)).collect();
            let fields = EventFields::new(&written).unwrap();
            let picked = fields.of(&event.to_string()).unwrap();
            let picked: Value = serde_json::from_str(&picked).unwrap();
            prop_assert!(is_part(&picked, &event), "{picked} of {event}");
            for path in &paths {
                prop_assert_eq!(at(&picked, path), at(&event, path), "{:?}", path);
            }
            let mut found = Vec::new();
            leaves(picked.as_object().unwrap(), &[], &mut found);
            for leaf in found {
                prop_assert!(paths.iter().any(|path| leaf.starts_with(path)), "{leaf:?}");
            }
        }
    }
}
