//! A door for `benches/events.rs`: a message, made and checked.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId,
    owned_event_id, owned_room_id, owned_server_name, owned_user_id,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{PublicKeyMap, Verified, verify_event},
};
use serde_json::{json, value::RawValue};

use super::{
    event::{self, Draft, Place, Reference, content},
    keys::ServerKey,
    pdu::Pdu,
};

/// A sender in a room of version 12.
pub struct Bench {
    key: ServerKey,
    known: PublicKeyMap,
    server: OwnedServerName,
    room: OwnedRoomId,
    sender: OwnedUserId,
    previous: Vec<Reference>,
    authorizing: Vec<Reference>,
    rules: RoomVersionRules,
}

impl Default for Bench {
    fn default() -> Self {
        let server = owned_server_name!("bench.example");
        let key = ServerKey::of_seed(&server, [7; 32]);
        let public = Base64::new(key.verifying_key().as_bytes().to_vec());
        let keys = BTreeMap::from([(key.key_id().to_owned(), public)]);
        let reference = |id: OwnedEventId| Reference::from(id);
        Self {
            known: PublicKeyMap::from([(server.to_string(), keys)]),
            key,
            server,
            room: owned_room_id!("!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"),
            sender: owned_user_id!("@alice:bench.example"),
            previous: vec![reference(owned_event_id!(
                "$HmSV1T0xVhxKPtMKtDYOMhXCHEVFcOZ1wvPQ7QQ0bG0"
            ))],
            authorizing: vec![
                reference(owned_event_id!("$rDhAzGDYfiXx8XC6YCfA2AMVSNcfnsRyQg7n4LUbFFM")),
                reference(owned_event_id!("$1ut1nLLdHMu7VdKtnKVMaYFHwEHCYSTbFCbKc-6oqwU")),
            ],
            rules: RoomVersionId::V12.rules().expect("version 12 is known"),
        }
    }
}

impl Bench {
    /// Takes the content of a message as a client sends it, and brings it into canonical form.
    ///
    /// # Panics
    /// If it has none.
    pub fn canonical(&self, number: usize) -> String {
        let body = format!("message {number}: shall we meet at the usual place at noon?");
        let html = format!("<p>message <em>{number}</em>: shall we meet at the usual place?</p>");
        let sent = json!({
            "msgtype": "m.text",
            "format": "org.matrix.custom.html",
            "formatted_body": html,
            "body": body,
            "m.mentions": { "user_ids": ["@bob:bench.example"] },
        });
        event::json(&content(&sent.to_string()).expect("canonical JSON"))
    }

    /// Makes the event of a message: content hash, signature, ID. Returns its JSON.
    ///
    /// # Panics
    /// If `canonical` is no content.
    pub fn build(&self, canonical: &str) -> Box<str> {
        let draft = Draft::message("m.room.message", content(canonical).expect("canonical JSON"));
        let raw: &RawValue = serde_json::from_str(canonical).expect("JSON");
        let place = Place {
            event_id: None,
            room_id: Some(&self.room),
            sender: &self.sender,
            origin_server_ts: 1_700_000_000_000,
            depth: 100,
            prev_events: &self.previous,
            auth_events: &self.authorizing,
        };
        event::build(&draft, raw, place, &self.key, &self.rules).expect("a sound event").json
    }

    /// Reads an event that another server sent and checks form, hash and signature.
    ///
    /// # Panics
    /// If it is not as [`Bench::build`] made it.
    pub fn verify(&self, json: &str) {
        let object: CanonicalJsonObject = serde_json::from_str(json).expect("canonical JSON");
        let pdu = Pdu::parse(object.clone(), &self.rules).expect("a sound event");
        assert_eq!(pdu.sender().server_name(), &*self.server);
        let verified = verify_event(&self.known, &object, &self.rules).expect("it is signed");
        assert!(matches!(verified, Verified::All), "its content is what was hashed");
    }
}
