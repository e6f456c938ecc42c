//! What is read in pieces is what is read as a whole.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LISTS: &[&str] = &["state", "auth_chain"];
const MEMBERS: &[&str] = &["origin", "servers"];

/// What comes of a text in pieces: the elements of the lists, and the members; too large ones as
/// null.
fn read(text: &[u8], piece: usize, max: usize) -> Result<([Vec<Value>; 2], Value), BadLists> {
    let mut lists = Lists::new((LISTS, max), (MEMBERS, 4 * max));
    let mut found = Vec::new();
    for piece in text.chunks(piece) {
        lists.read(piece, &mut found)?;
    }
    lists.end()?;
    let (mut elements, mut members) = ([Vec::new(), Vec::new()], json!({}));
    for item in found {
        let parsed = |json: Box<RawValue>| serde_json::from_str(json.get()).unwrap();
        match item {
            Item::Element(list, json) => elements[list].push(parsed(json)),
            Item::TooLarge(list) => elements[list].push(Value::Null),
            Item::Member(member, json) => members[MEMBERS[member]] = parsed(json),
        }
    }
    Ok((elements, members))
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[\"\\\\\\[\\]{},: a\u{e9}\u{0}\u{1f600}]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[\"\\\\a\\]}]{0,4}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever the pieces, what is read is what serde reads of the whole.
    #[test]
    fn pieces_make_up_the_whole(
        state in prop::collection::vec(any_json(), 0..6),
        chain in prop::collection::vec(any_json(), 0..6),
        (origin, other) in (any_json(), any_json()),
        (piece, pretty) in (1..40_usize, any::<bool>()),
    ) {
        let whole = json!({
            "other": other, "auth_chain": chain, "origin": origin, "state": state,
        });
        let text = if pretty {
            serde_json::to_vec_pretty(&whole).unwrap()
        } else {
            serde_json::to_vec(&whole).unwrap()
        };
        let (elements, members) = read(&text, piece, 1 << 20).unwrap();
        prop_assert_eq!(elements, [state, chain]);
        prop_assert_eq!(members, json!({ "origin": origin }));
    }

    /// Nothing makes it panic, and what serde does not take it does not take either, but for
    /// what nobody wants.
    #[test]
    fn garbage_is_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        piece in 1..40_usize,
    ) {
        let mut text = br#"{"origin":"a","state":[{"a":[1,"x"]},2],"auth_chain":[]}"#.to_vec();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok((elements, members)) = read(&text, piece, 1 << 20) {
            let whole: Value = serde_json::from_slice(&text).unwrap();
            let list = |name: &str| whole[name].as_array().cloned().unwrap_or_default();
            prop_assert_eq!(elements, [list("state"), list("auth_chain")]);
            prop_assert_eq!(members.get("origin"), whole.get("origin"));
        }
    }

    /// What breaks off is noticed.
    #[test]
    fn what_breaks_off_is_noticed(end in any::<prop::sample::Index>(), piece in 1..40_usize) {
        let text = br#"{"origin":"a","state":[{"a":[1,"x"]},2],"auth_chain":[true]}"#;
        let end = end.index(text.len());
        prop_assert_eq!(read(&text[..end], piece, 1 << 20), Err(BadLists::CutOff));
    }
}

#[test]
fn a_large_element_is_left_out_and_a_large_member_refused() {
    let large = "x".repeat(1_000);
    let text = json!({ "state": [1, large, 2], "other": large.repeat(9), "auth_chain": [] });
    let text = text.to_string();
    for piece in [1, 7, 100, 100_000] {
        let (elements, _) = read(text.as_bytes(), piece, 100).unwrap();
        assert_eq!(elements[0], [json!(1), Value::Null, json!(2)], "pieces of {piece}");
    }
    let text = json!({ "origin": large }).to_string();
    assert_eq!(read(text.as_bytes(), 7, 100), Err(BadLists::TooLarge));
    let text = json!({ large.repeat(2): 1 }).to_string();
    assert_eq!(read(text.as_bytes(), 7, 100), Err(BadLists::TooLarge));
}

#[test]
fn an_object_without_the_lists_is_refused() {
    for text in ["{}", "{\"state\":[1]}", "{\"state\":[],\"auth\":[]}"] {
        assert_eq!(read(text.as_bytes(), 3, 100), Err(BadLists::Malformed), "{text}");
    }
    let text = "{\"state\":[],\"auth_chain\":[]}";
    assert_eq!(read(text.as_bytes(), 3, 100), Ok((<[Vec<Value>; 2]>::default(), json!({}))));
}

#[test]
fn what_is_no_object_with_lists_is_refused() {
    let refused = [
        "[]",
        "1",
        "{}{}",
        "{\"state\":{}}",
        "{\"state\":[1 2]}",
        "{\"state\":[,]}",
        "{\"state\":[1,]}",
        "{\"state\":[1}",
        "{\"state\":[1]]",
        "{state:[]}",
        "{\"state\" []}",
        "{\"origin\":}",
        "{\"origin\":1,}",
        "{,}",
        "{\"origin\":1]",
        "{\"origin\":nul}",
        "{\"state\":[{]}]}",
        "{\"state\":[\"\\x\"]}",
        "{\"state\":[1.]}",
        "{\"state\":null}",
    ];
    for text in refused {
        for piece in [1, 100] {
            assert_eq!(read(text.as_bytes(), piece, 100), Err(BadLists::Malformed), "{text}");
        }
    }
}
