//! What the authorization rules look at in an event, and how it is written as bytes.
//!
//! These rows are read all at once when a room is first written to, so they are small, and hold
//! nothing that would have to be looked up. They say what an event was when it came in: what a
//! redaction takes away later does not change what was decided by it.

use std::sync::LazyLock;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma::OwnedEventId;
use serde_json::{Map, Value as JsonValue};

use super::record::EventNumber;
use crate::storage::{
    key::{Key, number, take},
    value::Value,
};

number! {
    /// A snapshot of a room's state: 1, 2, … within the room.
    SnapshotNumber
}

/// One event of a room's table of state events and of what authorizes them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AuthRecord {
    /// Where the event is kept.
    pub(crate) number: EventNumber,
    /// Its ID.
    pub(crate) event_id: OwnedEventId,
    /// `type`
    pub(crate) event_type: String,
    /// `state_key`
    pub(crate) state_key: Option<String>,
    /// `sender`
    pub(crate) sender: String,
    /// `origin_server_ts`
    pub(crate) origin_server_ts: u64,
    /// `depth`
    pub(crate) depth: u64,
    /// The places of its auth events in the table; all come before its own.
    pub(crate) auth: Vec<u32>,
    /// It failed the rules.
    pub(crate) rejected: bool,
    /// Its only parent is the create event.
    pub(crate) follows_create: bool,
    /// It has parents.
    pub(crate) has_parents: bool,
    /// The part of its content that the rules and history visibility look at.
    pub(crate) content: Map<String, JsonValue>,
}

/// The keys of the content that matter, by type; none of them for all other types.
fn keys(event_type: &str) -> &'static [&'static str] {
    match event_type {
        "m.room.create" => &["creator", "additional_creators", "m.federate", "room_version"],
        "m.room.member" => {
            &["membership", "join_authorised_via_users_server", "third_party_invite"]
        }
        "m.room.power_levels" => &[
            "ban",
            "events",
            "events_default",
            "invite",
            "kick",
            "notifications",
            "redact",
            "state_default",
            "users",
            "users_default",
        ],
        "m.room.join_rules" => &["join_rule"],
        "m.room.third_party_invite" => &["public_key", "public_keys"],
        "m.room.history_visibility" => &["history_visibility"],
        _ => &[],
    }
}

/// What of an event's content is kept here.
pub(crate) fn relevant_content(event_type: &str, json: &str) -> Map<String, JsonValue> {
    let keys = keys(event_type);
    if keys.is_empty() {
        return Map::new();
    }
    let mut content: Map<String, JsonValue> = serde_json::from_str(json).unwrap_or_default();
    content.retain(|key, _| keys.contains(&key.as_str()));
    content
}

const REJECTED: u8 = 1;
const FOLLOWS_CREATE: u8 = 1 << 1;
const HAS_PARENTS: u8 = 1 << 2;
const STATE: u8 = 1 << 3;
/// The ID is a hash in the URL-safe alphabet.
const HASH_ID: u8 = 1 << 4;
/// The sender is the state key.
const OWN: u8 = 1 << 5;

/// Types that take one byte; others are spelled out after a zero.
const TYPES: [&str; 6] = [
    "m.room.member",
    "m.room.power_levels",
    "m.room.create",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.third_party_invite",
];

/// The contents of nearly all member events, by one byte.
const MEMBERSHIPS: [&str; 5] = ["join", "invite", "leave", "ban", "knock"];
const EMPTY: u8 = 0;
const JSON: u8 = 255;

static PLAIN: LazyLock<Vec<Map<String, JsonValue>>> = LazyLock::new(|| {
    let plain = |membership: &&str| {
        [("membership".to_owned(), JsonValue::from(*membership))].into_iter().collect()
    };
    MEMBERSHIPS.iter().map(plain).collect()
});

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7F) as u8);
}

fn take_number(input: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = u8::decode(input)?;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn take_text<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    let len = take_number(input)?.try_into().ok()?;
    std::str::from_utf8(take(input, len)?).ok()
}

fn hash_of(event_id: &OwnedEventId) -> Option<[u8; 32]> {
    let hash = event_id.as_str().strip_prefix('$')?;
    BASE64_URL_SAFE_NO_PAD.decode(hash).ok()?.try_into().ok()
}

impl Value for AuthRecord {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let hash = hash_of(&self.event_id);
        let own = self.state_key.as_deref() == Some(self.sender.as_str());
        out.push(
            flag(self.rejected, REJECTED)
                | flag(self.follows_create, FOLLOWS_CREATE)
                | flag(self.has_parents, HAS_PARENTS)
                | flag(self.state_key.is_some(), STATE)
                | flag(hash.is_some(), HASH_ID)
                | flag(own, OWN),
        );
        put(out, self.number.0);
        match hash {
            Some(hash) => out.extend_from_slice(&hash),
            None => put_text(out, self.event_id.as_str()),
        }
        if let Some(at) = TYPES.iter().position(|known| *known == self.event_type) {
            put(out, at as u64 + 1);
        } else {
            out.push(0);
            put_text(out, &self.event_type);
        }
        if let Some(state_key) = &self.state_key {
            put_text(out, state_key);
        }
        if !own {
            put_text(out, &self.sender);
        }
        put(out, self.origin_server_ts);
        put(out, self.depth);
        put(out, self.auth.len() as u64);
        for auth in &self.auth {
            put(out, u64::from(*auth));
        }
        if self.content.is_empty() {
            out.push(EMPTY);
        } else if let Some(at) = PLAIN.iter().position(|plain| *plain == self.content) {
            put(out, at as u64 + 1);
        } else {
            out.push(JSON);
            let json = serde_json::to_vec(&self.content);
            out.extend_from_slice(&json.expect("a map of JSON values has string keys only"));
        }
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        let flags = u8::decode(input)?;
        let number = EventNumber(take_number(input)?);
        let event_id = if flags & HASH_ID == 0 {
            take_text(input)?.try_into().ok()?
        } else {
            let hash = BASE64_URL_SAFE_NO_PAD.encode(take(input, 32)?);
            OwnedEventId::try_from(format!("${hash}")).ok()?
        };
        let event_type = match take_number(input)? {
            0 => take_text(input)?.to_owned(),
            at => (*TYPES.get(usize::try_from(at).ok()? - 1)?).to_owned(),
        };
        let state_key = if flags & STATE == 0 { None } else { Some(take_text(input)?.to_owned()) };
        let sender =
            if flags & OWN == 0 { take_text(input)?.to_owned() } else { state_key.clone()? };
        let (origin_server_ts, depth) = (take_number(input)?, take_number(input)?);
        let count = take_number(input)?;
        let auth = (0..count)
            .map(|_| take_number(input).and_then(|auth| u32::try_from(auth).ok()))
            .collect::<Option<Vec<u32>>>()?;
        let content = match u8::decode(input)? {
            EMPTY => Map::new(),
            JSON => serde_json::from_slice(input).ok()?,
            at => PLAIN.get(usize::from(at) - 1)?.clone(),
        };
        Some(Self {
            number,
            event_id,
            event_type,
            state_key,
            sender,
            origin_server_ts,
            depth,
            auth,
            rejected: flags & REJECTED != 0,
            follows_create: flags & FOLLOWS_CREATE != 0,
            has_parents: flags & HAS_PARENTS != 0,
            content,
        })
    }
}

/// The states around an event; see [`crate::storage::schema::EVENT_STATES`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct EventState {
    /// What it was sent in.
    pub(crate) before: SnapshotNumber,
    /// What it led to.
    pub(crate) after: SnapshotNumber,
}

impl Value for EventState {
    fn to_bytes(&self, out: &mut Vec<u8>) {
        put(out, self.before.0);
        put(out, self.after.0);
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        let before = SnapshotNumber(take_number(input)?);
        let after = SnapshotNumber(take_number(input)?);
        input.is_empty().then_some(Self { before, after })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn bytes(record: &AuthRecord) -> Vec<u8> {
        let mut out = Vec::new();
        record.to_bytes(&mut out);
        out
    }

    fn member() -> AuthRecord {
        AuthRecord {
            number: EventNumber(77),
            event_id: "$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE".try_into().unwrap(),
            event_type: "m.room.member".to_owned(),
            state_key: Some("@alice:localhost".to_owned()),
            sender: "@alice:localhost".to_owned(),
            origin_server_ts: 1_700_000_000_000,
            depth: 12,
            auth: vec![0, 5, 300],
            rejected: false,
            follows_create: true,
            has_parents: true,
            content: relevant_content(
                "m.room.member",
                r#"{"membership":"join","displayname":"A"}"#,
            ),
        }
    }

    #[test]
    fn a_member_takes_few_bytes_and_comes_back() {
        let record = member();
        assert_eq!(AuthRecord::from_bytes(&bytes(&record)).as_ref(), Some(&record));
        assert!(bytes(&record).len() < 75, "{}", bytes(&record).len());
    }

    #[test]
    fn what_the_rules_look_at_comes_back_whatever_it_is() {
        let levels = r#"{"users":{"@a:b":"5"},"org.example":1,"ban":null}"#;
        for (event_type, state_key, content) in [
            ("m.room.power_levels", Some(""), relevant_content("m.room.power_levels", levels)),
            ("org.example.type", Some("x"), Map::new()),
            ("m.room.member", None, relevant_content("m.room.member", r#"{"membership":5}"#)),
        ] {
            let record = AuthRecord {
                event_id: "$chosen:a.example".try_into().unwrap(),
                event_type: event_type.to_owned(),
                state_key: state_key.map(str::to_owned),
                content,
                rejected: true,
                ..member()
            };
            assert_eq!(AuthRecord::from_bytes(&bytes(&record)), Some(record));
        }
        let kept = relevant_content("m.room.power_levels", levels);
        assert_eq!(JsonValue::from(kept), json!({"users": {"@a:b": "5"}, "ban": null}));
    }

    proptest! {
        #[test]
        fn rubbish_is_no_record(rubbish: Vec<u8>) {
            let _ = AuthRecord::from_bytes(&rubbish);
            let _ = EventState::from_bytes(&rubbish);
        }
    }
}
