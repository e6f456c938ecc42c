//! Policy servers: a room may name a server that is asked about each event before it is sent, and
//! whose signature says that it may be.
//!
//! What this server sends there is built and signed under the room's lock, asked about without it,
//! and then taken in like an event from elsewhere: the room may have changed meanwhile.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#policy-servers>

use ed25519_dalek::{Signature, VerifyingKey};
use futures::future::BoxFuture;
use http::StatusCode;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    api::error::ErrorKind,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    Rooms,
    error::RoomError,
    event::{self, Draft},
    ingest::{Ingested, Verdict},
    pdu::Pdu,
    record::EventNumber,
    room::Room,
    writer::{RoomWriter, Sender, Shown},
};
use crate::storage::intern::{RoomNumber, UserNumber};
use ruma::{OwnedEventId, events::room::policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID as KEY_ID};

/// The state event that names a policy server. It is the only one that needs no signature.
const EVENT_TYPE: &str = "m.room.policy";

/// Asks a policy server to sign an event, which is given as JSON: its signature in base64.
pub(crate) type AskPolicyServer = Box<
    dyn Fn(OwnedServerName, Box<str>) -> BoxFuture<'static, Result<String, PolicyError>>
        + Send
        + Sync,
>;

/// Why an event has no signature of the room's policy server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    /// It will not sign it. (Its own status and errcode)
    #[error("{message}")]
    Refused {
        /// The status of its answer.
        status: StatusCode,
        /// Its errcode.
        kind: Box<ErrorKind>,
        /// What it says about it.
        message: String,
    },
    /// It can't be asked, or its answer makes no sense. (`M_UNKNOWN`, 502)
    #[error("{server}, which decides what may be sent in this room, can't be asked: {why}")]
    NoAnswer {
        /// Which.
        server: OwnedServerName,
        /// Why.
        why: String,
    },
    /// It signed, but not with the key that the room names. (`M_UNKNOWN`, 502)
    #[error("{server} decides what may be sent in this room, and signs with another key than that")]
    WrongKey {
        /// Which.
        server: OwnedServerName,
    },
}

/// The policy server of a room.
#[derive(Clone, Debug)]
pub(crate) struct PolicyServer {
    /// Its name.
    pub(crate) via: OwnedServerName,
    key: VerifyingKey,
}

/// An event of this server that is asked about. What it was made of finds it when it is signed.
#[derive(Debug)]
pub(crate) struct Asked {
    server: PolicyServer,
    json: Box<str>,
    made_of: MadeOf,
}

/// A room, a sender, and the hash of what they want to send.
pub(super) type MadeOf = (RoomNumber, UserNumber, [u8; 32]);

impl PolicyServer {
    /// The one that this content names; none if it makes no sense.
    fn named(content: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: OwnedServerName,
            public_keys: Keys,
        }
        #[derive(Deserialize)]
        struct Keys {
            ed25519: String,
        }
        let content: Content = serde_json::from_str(content).ok()?;
        let key = Base64::<Standard>::parse(content.public_keys.ed25519).ok()?;
        let key = VerifyingKey::from_bytes(key.as_bytes().try_into().ok()?).ok()?;
        Some(Self { via: content.via, key })
    }

    /// Whether it has signed this event.
    fn has_signed(&self, json: &str, rules: &RoomVersionRules) -> bool {
        let Ok(object) = serde_json::from_str::<CanonicalJsonObject>(json) else { return false };
        let signature = object.get("signatures").and_then(|signatures| {
            signatures.as_object()?.get(self.via.as_str())?.as_object()?.get(KEY_ID)?.as_str()
        });
        let signature = signature
            .and_then(|signature| Base64::<Standard>::parse(signature).ok())
            .and_then(|bytes| Signature::from_slice(bytes.as_bytes()).ok());
        match (signature, event::signed_json(&object, rules)) {
            (Some(signature), Ok(signed)) => {
                self.key.verify_strict(signed.as_bytes(), &signature).is_ok()
            }
            _ => false,
        }
    }
}

/// Whether the policy server is not asked about such events.
fn is_exempt(event_type: &str, state_key: Option<&str>) -> bool {
    event_type == EVENT_TYPE && state_key == Some("")
}

/// The event with one more signature.
fn with_signature(
    json: &str,
    server: &ServerName,
    signature: String,
    rules: &RoomVersionRules,
) -> Option<Pdu> {
    let mut object: CanonicalJsonObject = serde_json::from_str(json).ok()?;
    let signatures = object.get_mut("signatures")?;
    let CanonicalJsonValue::Object(signatures) = signatures else { return None };
    let own = signatures.entry(server.to_string());
    let own = own.or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    let CanonicalJsonValue::Object(own) = own else { return None };
    own.insert(KEY_ID.to_owned(), signature.into());
    Pdu::parse(object, rules).ok()
}

impl Rooms {
    /// Has `ask` ask policy servers. Set once, when the server is put together.
    pub(crate) fn ask_policy_servers(&self, ask: AskPolicyServer) {
        self.shared.ask_policy.get_or_init(|| ask);
    }

    /// The room's policy server, where it has not signed an event that needs it.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn lacks_policy_signature(
        &self,
        room: &Room,
        pdu: &Pdu,
    ) -> Result<Option<PolicyServer>, RoomError> {
        if is_exempt(&pdu.event_type, pdu.state_key.as_deref()) {
            return Ok(None);
        }
        let named = room.stored_state(self.db(), EVENT_TYPE, "").await?;
        let server = named.and_then(|event| PolicyServer::named(event.content.get()));
        let server = server.filter(|server| room.servers().contains(&server.via));
        Ok(server.filter(|server| !server.has_signed(&pdu.json, &room.rules)))
    }

    /// An event with the signature of the room's policy server, which is asked for it.
    ///
    /// # Errors
    /// [`PolicyError`] if it does not sign.
    pub(crate) async fn with_policy_signature(
        &self,
        room: &Room,
        server: &PolicyServer,
        json: &str,
    ) -> Result<Pdu, PolicyError> {
        let via = &server.via;
        let none = || PolicyError::NoAnswer {
            server: via.clone(),
            why: "this server asks no others".to_owned(),
        };
        let ask = self.shared.ask_policy.get().ok_or_else(none)?;
        let signature = ask(via.clone(), json.into()).await?;
        with_signature(json, via, signature, &room.rules)
            .filter(|pdu| server.has_signed(&pdu.json, &room.rules))
            .ok_or_else(|| PolicyError::WrongKey { server: via.clone() })
    }

    /// Asks about an event of this server; when its draft is appended again, it is this event.
    pub(super) async fn ask_about(&self, asked: Asked) -> Result<(), RoomError> {
        let Asked { server, json, made_of } = asked;
        let room = self.numbered(made_of.0).await?;
        let signed = self.with_policy_signature(&room, &server, &json).await?;
        self.shared.approved.insert(made_of, signed);
        Ok(())
    }
}

impl RoomWriter {
    /// The policy server of the room as it is now.
    pub(super) async fn policy_server(&mut self) -> Result<Option<PolicyServer>, RoomError> {
        let Some(event) = self.state(EVENT_TYPE, "").await? else { return Ok(None) };
        let server = PolicyServer::named(event.content.get());
        Ok(server.filter(|server| self.room.servers().contains(&server.via)))
    }

    /// Whether an event lacks the signature of the room's policy server.
    pub(super) async fn is_unapproved(&mut self, pdu: &Pdu) -> Result<bool, RoomError> {
        if is_exempt(&pdu.event_type, pdu.state_key.as_deref()) {
            return Ok(false);
        }
        let server = self.policy_server().await?;
        Ok(server.is_some_and(|server| !server.has_signed(&pdu.json, &self.room.rules)))
    }

    /// What finds an event of this draft again.
    pub(super) fn made_of(&self, sender: Sender<'_>, draft: &Draft) -> MadeOf {
        let mut hash = Sha256::new();
        let state_key = draft.state_key.as_deref();
        let redacts = draft.redacts.as_ref().map(|id| id.as_str());
        for part in [Some(draft.event_type.as_str()), state_key, redacts] {
            // No part goes on where another ends.
            hash.update(part.map_or(0, |part| part.len() as u64 + 1).to_be_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.update(event::json(&draft.content));
        (self.room.number, sender.number, hash.finalize().into())
    }

    /// The event of this draft that the policy server has signed.
    pub(super) fn approved(&self, sender: Sender<'_>, draft: &Draft) -> Option<Pdu> {
        self.rooms.shared.approved.remove(&self.made_of(sender, draft))
    }

    /// The error with which an event that was built is asked about, where the room has a policy
    /// server: see [`Rooms::ask_about`].
    pub(super) async fn require_approval(
        &mut self,
        sender: Sender<'_>,
        draft: &Draft,
        json: &str,
    ) -> Result<(), RoomError> {
        if is_exempt(&draft.event_type, draft.state_key.as_deref()) {
            return Ok(());
        }
        let Some(server) = self.policy_server().await? else { return Ok(()) };
        let made_of = self.made_of(sender, draft);
        Err(RoomError::Unapproved(Box::new(Asked { server, json: json.into(), made_of })))
    }

    /// Adds an event of this server that the policy server has signed, if the rules still let it be
    /// sent.
    pub(super) async fn append_approved(
        &mut self,
        pdu: &Pdu,
    ) -> Result<(EventNumber, OwnedEventId), RoomError> {
        let forbidden = |why: Option<String>| RoomError::Forbidden {
            why: why.unwrap_or_else(|| "the room has changed".to_owned()),
        };
        match self.ingest(pdu, None, Shown::Live).await? {
            Ingested::New { verdict: Verdict::Accepted, .. } => {}
            Ingested::New { why, .. } => return Err(forbidden(why)),
            Ingested::Known(_) | Ingested::Missing { .. } => return Err(forbidden(None)),
        }
        let added = self.added.last_mut().ok_or_else(|| forbidden(None))?;
        added.outbox = true;
        Ok((added.number, added.record.event_id.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_server_or_no_key_names_no_policy_server() {
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let content = |via: &str, keys: &str| format!(r#"{{"via":{via},"public_keys":{keys}}}"#);
        let named = PolicyServer::named(&content(
            r#""p.example""#,
            &format!(r#"{{"ed25519":"{key}","other":7}}"#),
        ));
        assert_eq!(named.unwrap().via, "p.example");
        for (via, keys) in [
            ("7", format!(r#"{{"ed25519":"{key}"}}"#)),
            (r#""""#, format!(r#"{{"ed25519":"{key}"}}"#)),
            (r#""p.example""#, "{}".to_owned()),
            (r#""p.example""#, r#"{"ed25519":"AAAA"}"#.to_owned()),
            (r#""p.example""#, r#"{"ed25519":7}"#.to_owned()),
            (r#""p.example""#, "[]".to_owned()),
        ] {
            assert!(PolicyServer::named(&content(via, &keys)).is_none(), "{via} {keys}");
        }
        assert!(PolicyServer::named("{}").is_none());
    }
}
