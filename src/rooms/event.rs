//! Making events: canonical JSON, content hash, signature, event ID.
//!
//! An event is written straight as text, key by key in canonical order, three times with different
//! parts left out; no tree of the whole event is built.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#signing-events>,
//! <https://spec.matrix.org/v1.19/rooms/v12/#event-format>

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, RoomId, ServerName, UserId,
    canonical_json::{redact_content_in_place, redact_in_place},
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{error::RoomError, keys::ServerKey};
use crate::clock::Random;

/// The most bytes of a whole event, signatures and all.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
pub(crate) const MAX_EVENT_BYTES: usize = 65_536;
/// The most bytes of `type`, `state_key`, `sender`, `room_id` and event IDs.
pub(crate) const MAX_FIELD_BYTES: usize = 255;

/// What the sender of an event decides.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// `type`
    pub(crate) event_type: String,
    /// `state_key`; none for an event that is no state event.
    pub(crate) state_key: Option<String>,
    /// `content`
    pub(crate) content: CanonicalJsonObject,
    /// The event to redact, for the room versions that keep it beside `content`.
    pub(crate) redacts: Option<OwnedEventId>,
}

impl Draft {
    /// A message event.
    pub(crate) fn message(event_type: &str, content: CanonicalJsonObject) -> Self {
        Self { event_type: event_type.to_owned(), state_key: None, content, redacts: None }
    }

    /// A state event.
    pub(crate) fn state(event_type: &str, state_key: &str, content: CanonicalJsonObject) -> Self {
        Self {
            event_type: event_type.to_owned(),
            state_key: Some(state_key.to_owned()),
            content,
            redacts: None,
        }
    }

    /// The limits on single fields.
    fn check_fields(&self) -> Result<(), RoomError> {
        let too_long = |text: &str| text.len() > MAX_FIELD_BYTES;
        if too_long(&self.event_type) {
            return Err(RoomError::TooLarge { what: "type", limit: MAX_FIELD_BYTES });
        }
        if self.state_key.as_deref().is_some_and(too_long) {
            return Err(RoomError::TooLarge { what: "state_key", limit: MAX_FIELD_BYTES });
        }
        // A key of the storage holds type and state key; escaped zeros would double their length.
        if self.event_type.is_empty() || self.event_type.contains('\0') {
            return Err(RoomError::BadEvent { why: "this is no event type".to_owned() });
        }
        Ok(())
    }
}

/// What an event says of another that it comes after, or is authorized by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reference {
    /// Its ID.
    pub(crate) id: OwnedEventId,
    /// Its reference hash, in unpadded base64, for room versions that write it down.
    pub(crate) hash: Option<String>,
}

impl From<OwnedEventId> for Reference {
    fn from(id: OwnedEventId) -> Self {
        Self { id, hash: None }
    }
}

/// Where an event stands: what the server decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// `event_id`, for room versions in which it is chosen.
    pub(crate) event_id: Option<&'a EventId>,
    /// `room_id`; none for the create event of a room version that names the room after it.
    pub(crate) room_id: Option<&'a RoomId>,
    /// `sender`
    pub(crate) sender: &'a UserId,
    /// `origin_server_ts`, ms since the Unix epoch.
    pub(crate) origin_server_ts: u64,
    /// `depth`
    pub(crate) depth: u64,
    /// `prev_events`
    pub(crate) prev_events: &'a [Reference],
    /// `auth_events`
    pub(crate) auth_events: &'a [Reference],
}

/// An event as it goes to other servers.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    /// Its ID.
    pub(crate) event_id: OwnedEventId,
    /// The canonical JSON with hash and signature.
    pub(crate) json: Box<str>,
    /// Where `content` is in it: first byte and length.
    pub(crate) content_at: (u32, u32),
}

impl Built {
    /// The JSON of `content`.
    #[cfg(test)]
    fn content(&self) -> &str {
        let (start, len) = (self.content_at.0 as usize, self.content_at.1 as usize);
        self.json.get(start..start + len).unwrap_or("{}")
    }
}

/// Hashes and signs an event. `content` is the draft's as canonical JSON.
///
/// # Errors
/// [`RoomError::TooLarge`] or [`RoomError::BadEvent`] if it breaks a limit.
pub(crate) fn build(
    draft: &Draft,
    content: &RawValue,
    place: Place<'_>,
    key: &ServerKey,
    rules: &RoomVersionRules,
) -> Result<Built, RoomError> {
    draft.check_fields()?;
    let content = content.get();
    if content.len() > MAX_EVENT_BYTES {
        return Err(RoomError::TooLarge { what: "event", limit: MAX_EVENT_BYTES });
    }
    // The content hash covers all but `unsigned`, `signatures` and `hashes`.
    let (unhashed, _) =
        write(draft, place, &Parts { content, redacts: true, hash: None, signature: None });
    let hash = BASE64_STANDARD_NO_PAD.encode(Sha256::digest(unhashed.as_bytes()));

    // Signature and reference hash cover the redacted event, with the content hash.
    let redacted_content = redacted_content(draft, rules);
    let (redacted, _) = write(
        draft,
        place,
        &Parts { content: &redacted_content, redacts: false, hash: Some(&hash), signature: None },
    );
    let signature = key.sign(redacted.as_bytes());
    let digest = Sha256::digest(redacted.as_bytes());
    let event_id = match (rules.event_id_format, place.event_id) {
        (EventIdFormatVersion::V1, Some(chosen)) => chosen.to_owned(),
        (EventIdFormatVersion::V2, _) => hash_id(&BASE64_STANDARD_NO_PAD.encode(digest))?,
        _ => hash_id(&BASE64_URL_SAFE_NO_PAD.encode(digest))?,
    };

    let signature =
        Signature { server: key.server_name().as_str(), key: key.key_id(), base64: signature };
    let (json, content_at) = write(
        draft,
        place,
        &Parts { content, redacts: true, hash: Some(&hash), signature: Some(&signature) },
    );
    if json.len() > MAX_EVENT_BYTES {
        return Err(RoomError::TooLarge { what: "event", limit: MAX_EVENT_BYTES });
    }
    Ok(Built { event_id, json: json.into(), content_at })
}

fn hash_id(hash: &str) -> Result<OwnedEventId, RoomError> {
    EventId::parse(format!("${hash}"))
        .map_err(|error| RoomError::BadEvent { why: error.to_string() })
}

/// An ID for a new event, for room versions in which it is chosen.
pub(crate) fn chosen_id(
    rules: &RoomVersionRules,
    random: &Random,
    server_name: &ServerName,
) -> Option<OwnedEventId> {
    if rules.event_id_format != EventIdFormatVersion::V1 {
        return None;
    }
    EventId::parse(format!("${}:{server_name}", random.token::<18>())).ok()
}

/// Hashes and signs an event that another server drew up.
///
/// # Errors
/// [`RoomError::BadEvent`] if it is none.
pub(crate) fn hash_and_sign(
    object: &mut CanonicalJsonObject,
    key: &ServerKey,
    rules: &RoomVersionRules,
) -> Result<(), RoomError> {
    for key in ["hashes", "signatures", "unsigned"] {
        object.remove(key);
    }
    let hash = BASE64_STANDARD_NO_PAD.encode(Sha256::digest(json(object).as_bytes()));
    let hashes = CanonicalJsonObject::from([("sha256".to_owned(), hash.into())]);
    object.insert("hashes".to_owned(), hashes.into());
    sign(object, key, rules)
}

/// Adds this server's signature to an event.
///
/// # Errors
/// [`RoomError::BadEvent`] if it is none.
pub(crate) fn sign(
    object: &mut CanonicalJsonObject,
    key: &ServerKey,
    rules: &RoomVersionRules,
) -> Result<(), RoomError> {
    let bad = |why: String| RoomError::BadEvent { why };
    let signature = CanonicalJsonValue::String(key.sign(signed_json(object, rules)?.as_bytes()));
    let signatures = object
        .entry("signatures".to_owned())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    let CanonicalJsonValue::Object(signatures) = signatures else {
        return Err(bad("its signatures are none".to_owned()));
    };
    let own = signatures
        .entry(key.server_name().to_string())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    let CanonicalJsonValue::Object(own) = own else {
        return Err(bad("its signatures are none".to_owned()));
    };
    own.insert(key.key_id().to_owned(), signature);
    Ok(())
}

/// What signatures of an event cover: its redacted form, as canonical JSON.
///
/// # Errors
/// [`RoomError::BadEvent`] if it is none.
pub(super) fn signed_json(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<String, RoomError> {
    let mut signed = object.clone();
    redact_in_place(&mut signed, &rules.redaction, None)
        .map_err(|why| RoomError::BadEvent { why: why.to_string() })?;
    signed.remove("signatures");
    signed.remove("unsigned");
    Ok(json(&signed))
}

/// The parts of an event that come and go while it is made.
struct Parts<'a> {
    content: &'a str,
    redacts: bool,
    hash: Option<&'a str>,
    signature: Option<&'a Signature<'a>>,
}

struct Signature<'a> {
    server: &'a str,
    key: &'a str,
    base64: String,
}

/// The canonical JSON of an event and the place of `content` in it.
fn write(draft: &Draft, place: Place<'_>, parts: &Parts<'_>) -> (String, (u32, u32)) {
    let mut out = String::with_capacity(parts.content.len() + 1_024);
    out.push_str("{\"auth_events\":");
    push_ids(&mut out, place.auth_events);
    out.push_str(",\"content\":");
    // Both fit: the content was measured, and what stands before it is a list of at most ten IDs.
    let content_at = (
        u32::try_from(out.len()).unwrap_or(u32::MAX),
        u32::try_from(parts.content.len()).unwrap_or(u32::MAX),
    );
    out.push_str(parts.content);
    out.push_str(",\"depth\":");
    out.push_str(&place.depth.to_string());
    if let Some(id) = place.event_id {
        out.push_str(",\"event_id\":");
        push_text(&mut out, id.as_str());
    }
    if let Some(hash) = parts.hash {
        out.push_str(",\"hashes\":{\"sha256\":\"");
        out.push_str(hash);
        out.push_str("\"}");
    }
    out.push_str(",\"origin_server_ts\":");
    out.push_str(&place.origin_server_ts.to_string());
    out.push_str(",\"prev_events\":");
    push_ids(&mut out, place.prev_events);
    if let Some(redacts) = draft.redacts.as_ref().filter(|_| parts.redacts) {
        out.push_str(",\"redacts\":");
        push_text(&mut out, redacts.as_str());
    }
    if let Some(room_id) = place.room_id {
        out.push_str(",\"room_id\":");
        push_text(&mut out, room_id.as_str());
    }
    out.push_str(",\"sender\":");
    push_text(&mut out, place.sender.as_str());
    if let Some(Signature { server, key, base64 }) = parts.signature {
        out.push_str(",\"signatures\":{");
        push_text(&mut out, server);
        out.push_str(":{");
        push_text(&mut out, key);
        out.push_str(":\"");
        out.push_str(base64);
        out.push_str("\"}}");
    }
    if let Some(state_key) = &draft.state_key {
        out.push_str(",\"state_key\":");
        push_text(&mut out, state_key);
    }
    out.push_str(",\"type\":");
    push_text(&mut out, &draft.event_type);
    out.push('}');
    (out, content_at)
}

/// What redaction leaves of the content: nothing at all, for most types.
fn redacted_content(draft: &Draft, rules: &RoomVersionRules) -> String {
    let keeps_nothing = !draft.event_type.starts_with("m.room.")
        || matches!(draft.event_type.as_str(), "m.room.message" | "m.room.encrypted");
    if keeps_nothing {
        return "{}".to_owned();
    }
    let mut content = draft.content.clone();
    redact_content_in_place(&mut content, &rules.redaction, &draft.event_type);
    json(&content)
}

/// Canonical JSON: the map is sorted, and numbers and escapes come out in the shortest form.
pub(crate) fn json(object: &CanonicalJsonObject) -> String {
    serde_json::to_string(object).expect("canonical JSON has string keys only")
}

/// Appends `text` as a JSON string.
pub(crate) fn push_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("text is always JSON"));
}

/// References as they stand in an event.
pub(crate) fn references_json(references: &[Reference]) -> CanonicalJsonValue {
    let mut out = String::new();
    push_ids(&mut out, references);
    serde_json::from_str(&out).expect("what was written is JSON")
}

fn push_ids(out: &mut String, references: &[Reference]) {
    out.push('[');
    for (index, reference) in references.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        if let Some(hash) = &reference.hash {
            out.push('[');
            push_text(out, reference.id.as_str());
            out.push_str(",{\"sha256\":");
            push_text(out, hash);
            out.push_str("}]");
        } else {
            push_text(out, reference.id.as_str());
        }
    }
    out.push(']');
}

/// The canonical JSON of a whole event, and where `content` is in it: first byte and length.
pub(crate) fn json_with_content(object: &CanonicalJsonObject) -> (String, (u32, u32)) {
    let mut out = "{".to_owned();
    let mut content_at = (0, 0);
    for (key, value) in object {
        if out.len() > 1 {
            out.push(',');
        }
        push_text(&mut out, key);
        out.push(':');
        let start = out.len();
        out.push_str(&value.to_string());
        if key == "content" {
            let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
            content_at = (number(start), number(out.len() - start));
        }
    }
    out.push('}');
    (out, content_at)
}

/// Reads the content that a client sent.
///
/// # Errors
/// [`RoomError::BadEvent`] if it is no canonical JSON: a number that is no integer, or one beyond
/// 2⁵³ − 1.
///
/// Spec: <https://spec.matrix.org/v1.19/appendices/#canonical-json>
pub(crate) fn content(json: &str) -> Result<CanonicalJsonObject, RoomError> {
    serde_json::from_str(json).map_err(|error| RoomError::BadEvent { why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ruma::{
        RoomVersionId, event_id, owned_event_id, room_id,
        serde::{Base64, base64::Standard},
        server_name,
        signatures::{PublicKeyMap, Verified, reference_hash, verify_event},
        user_id,
    };

    use super::*;
    use crate::{clock::Random, storage::Db};

    async fn key() -> ServerKey {
        let db = Db::in_memory().await;
        ServerKey::load(&db, &Random::seeded(1), server_name!("localhost")).await.unwrap()
    }

    fn raw(draft: &Draft) -> Box<RawValue> {
        RawValue::from_string(json(&draft.content)).unwrap()
    }

    fn public_keys(key: &ServerKey) -> PublicKeyMap {
        let public = Base64::<Standard>::parse(key.public_key()).unwrap();
        let keys = BTreeMap::from([(key.key_id().to_owned(), public)]);
        BTreeMap::from([(key.server_name().to_string(), keys)])
    }

    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
    #[tokio::test]
    async fn another_implementation_accepts_hash_signature_and_id() {
        let key = key().await;
        let member =
            content(r#"{"membership":"join","displayname":"A\"é\u0001","x":[1,{"b":1,"a":2}]}"#);
        let redaction = Draft {
            redacts: Some(owned_event_id!("$other")),
            ..Draft::message("m.room.redaction", content(r#"{"reason":"spam"}"#).unwrap())
        };
        let drafts = [
            Draft::state("m.room.member", "@alice:localhost", member.unwrap()),
            Draft::message(
                "m.room.message",
                content(r#"{"body":"hi","msgtype":"m.text"}"#).unwrap(),
            ),
            redaction,
        ];
        for version in crate::rooms::SUPPORTED_VERSIONS {
            let rules = version.rules().unwrap();
            let chosen = rules.event_id_format == EventIdFormatVersion::V1;
            let reference = |id: &str| Reference {
                id: id.try_into().unwrap(),
                hash: chosen.then(|| "aGFzaA".to_owned()),
            };
            for draft in &drafts {
                let place = Place {
                    event_id: chosen.then_some(event_id!("$chosen:localhost")),
                    room_id: Some(room_id!("!r:localhost")),
                    sender: user_id!("@alice:localhost"),
                    origin_server_ts: 1_700_000_000_000,
                    depth: 7,
                    prev_events: &[reference("$a"), reference("$b")],
                    auth_events: &[reference("$c")],
                };
                let built = build(draft, &raw(draft), place, &key, &rules).unwrap();
                let object: CanonicalJsonObject = serde_json::from_str(&built.json).unwrap();
                assert_eq!(json(&object), *built.json, "it is canonical");
                let verified = verify_event(&public_keys(&key), &object, &rules).unwrap();
                assert_eq!(verified, Verified::All);
                let expected = if chosen {
                    "$chosen:localhost".to_owned()
                } else {
                    format!("${}", reference_hash(&object, &rules).unwrap())
                };
                assert_eq!(built.event_id.as_str(), expected);
                assert_eq!(built.content(), json(&draft.content));
            }
        }
    }

    /// Spec: <https://spec.matrix.org/v1.19/appendices/#canonical-json>
    #[test]
    fn numbers_that_canonical_json_lacks_are_refused() {
        for bad in [r#"{"a":1.5}"#, r#"{"a":1e3}"#, r#"{"a":9007199254740992}"#, r#"{"a":-0}"#] {
            assert!(matches!(content(bad), Err(RoomError::BadEvent { .. })), "{bad}");
        }
        assert!(content(r#"{"a":9007199254740991}"#).is_ok());
    }

    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
    #[tokio::test]
    async fn an_event_above_65536_bytes_is_refused() {
        let key = key().await;
        let rules = RoomVersionId::V12.rules().unwrap();
        let sized = |len: usize| {
            let content = content(&format!(r#"{{"body":"{}"}}"#, "x".repeat(len))).unwrap();
            let place = Place {
                event_id: None,
                room_id: Some(room_id!("!r")),
                sender: user_id!("@alice:localhost"),
                origin_server_ts: 1,
                depth: 1,
                prev_events: &[],
                auth_events: &[],
            };
            let draft = Draft::message("m.room.message", content);
            build(&draft, &raw(&draft), place, &key, &rules)
        };
        let overhead = sized(0).unwrap().json.len();
        assert_eq!(sized(MAX_EVENT_BYTES - overhead).unwrap().json.len(), MAX_EVENT_BYTES);
        let over = sized(MAX_EVENT_BYTES - overhead + 1);
        assert!(matches!(over, Err(RoomError::TooLarge { what: "event", .. })));
    }
}
