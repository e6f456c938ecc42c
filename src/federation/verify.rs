//! Whether an event is from whom it says: signatures and content hash.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events>

use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;
use federation::{KeyRingError, Purpose};
use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesOrdered},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId, ServerName,
    canonical_json::redact,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{
        PublicKeyMap, Verified, required_server_signatures_to_verify_event, verify_event,
    },
};
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::Federation;
use crate::rooms::pdu::{Pdu, PduError};

/// The most bytes of an event's JSON, `unsigned` included.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// The most signatures of one server that are looked at.
const MAX_SIGNATURES: usize = 8;
/// How many events one task checks.
const TOGETHER: usize = 32;
/// How many tasks there are at the same time.
const AT_ONCE: usize = 16;
/// How many keys are fetched at the same time.
const KEYS_AT_ONCE: usize = 64;

/// Why something is not taken as an event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadPdu {
    /// It is no JSON that can be signed.
    #[error("the event is not canonical JSON")]
    Json,
    /// It is not of the form its room version wants.
    #[error(transparent)]
    Format(#[from] PduError),
    /// A signature that it needs is missing, wrong, or made with a key that does not count.
    #[error("the event is not signed as it must be: {0}")]
    Signature(String),
    /// The key that signed it is not to be had: it may be true, and nobody can tell.
    #[error("the event can't be checked: {0}")]
    NoKey(#[from] KeyRingError),
}

impl Federation {
    /// Reads and checks an event. If its content is not what was hashed, it is taken without.
    /// `helper` may know keys of servers that are gone.
    ///
    /// # Errors
    /// [`BadPdu`].
    pub(crate) async fn verify(
        &self,
        json: &str,
        rules: &RoomVersionRules,
        helper: Option<&ServerName>,
    ) -> Result<Pdu, BadPdu> {
        if json.len() > MAX_BYTES {
            return Err(PduError::TooLarge.into());
        }
        let object: CanonicalJsonObject = serde_json::from_str(json).map_err(|_| BadPdu::Json)?;
        // First what costs nothing: nobody has keys fetched for what is no event.
        let pdu = Pdu::parse(object.clone(), rules)?;
        match self.check_signatures(&object, rules, pdu.origin_server_ts(), helper).await? {
            Verified::All => Ok(pdu),
            Verified::Signatures => {
                let redacted = redact(object, &rules.redaction, None);
                let redacted = redacted.map_err(|_| BadPdu::Format(PduError::Field("content")))?;
                Ok(Pdu::parse(redacted, rules)?)
            }
        }
    }

    /// Those of these events that are what they should be, in their order.
    pub(crate) async fn verify_all(
        &self,
        events: &[impl AsRef<str> + Sync],
        rules: &RoomVersionRules,
        helper: Option<&ServerName>,
    ) -> Vec<Pdu> {
        let checked = self.verify_each(events, rules, helper).await;
        let note = |error: &BadPdu| tracing::debug!(%error, "event not taken");
        checked.into_iter().filter_map(|checked| checked.inspect_err(note).ok()).collect()
    }

    /// What each of these events is, in their order. Many are checked on several threads, after the
    /// keys of their servers were fetched, so that servers that are gone hold up each other alone.
    pub(crate) async fn verify_each(
        &self,
        events: &[impl AsRef<str> + Sync],
        rules: &RoomVersionRules,
        helper: Option<&ServerName>,
    ) -> Vec<Result<Pdu, BadPdu>> {
        if events.len() > TOGETHER {
            self.fetch_keys(events, rules, helper).await;
        }
        let mut parts = events.chunks(TOGETHER);
        let mut running = FuturesOrdered::new();
        let mut checked = Vec::with_capacity(events.len());
        loop {
            while running.len() < AT_ONCE
                && let Some(part) = parts.next()
            {
                let count = part.len();
                let part = part.iter().map(|json| json.as_ref().to_owned()).collect();
                let task = self.check_part(part, rules.clone(), helper);
                // What a task that broke off had to check is not taken.
                let nothing = move |_| (0..count).map(|_| Err(BadPdu::Json)).collect::<Vec<_>>();
                running.push_back(async move { task.await.unwrap_or_else(nothing) });
            }
            match running.next().await {
                Some(part) => checked.extend(part),
                None => return checked,
            }
        }
    }

    fn check_part(
        &self,
        events: Vec<String>,
        rules: RoomVersionRules,
        helper: Option<&ServerName>,
    ) -> JoinHandle<Vec<Result<Pdu, BadPdu>>> {
        let (federation, helper) = (self.clone(), helper.map(ToOwned::to_owned));
        tokio::spawn(async move {
            let mut checked = Vec::with_capacity(events.len());
            for json in &events {
                checked.push(federation.verify(json, &rules, helper.as_deref()).await);
            }
            checked
        })
    }

    /// Has the keys at hand with which these events are signed by the servers of their senders.
    async fn fetch_keys(
        &self,
        events: &[impl AsRef<str> + Sync],
        rules: &RoomVersionRules,
        helper: Option<&ServerName>,
    ) {
        #[derive(Deserialize)]
        struct Signed {
            sender: OwnedUserId,
            origin_server_ts: u64,
            signatures: BTreeMap<String, BTreeMap<String, String>>,
        }
        let mut wanted: BTreeMap<(OwnedServerName, String), Purpose> = BTreeMap::new();
        for json in events {
            let Ok(signed) = serde_json::from_str::<Signed>(json.as_ref()) else { continue };
            let server = signed.sender.server_name();
            let keys = signed.signatures.get(server.as_str()).into_iter().flat_map(BTreeMap::keys);
            for id in keys.take(MAX_SIGNATURES) {
                let purpose = purpose_of(rules, signed.origin_server_ts);
                wanted.entry((server.to_owned(), id.clone())).or_insert(purpose);
            }
        }
        let questions = wanted.iter().map(|((server, id), purpose)| {
            Box::pin(self.event_key(server, id, *purpose, helper)) as _
        });
        let questions: Vec<BoxFuture<'_, Result<VerifyingKey, KeyRingError>>> = questions.collect();
        let fetched: Vec<_> =
            stream::iter(questions).buffer_unordered(KEYS_AT_ONCE).collect().await;
        let missing = fetched.iter().filter(|key| key.is_err()).count();
        tracing::debug!(keys = fetched.len(), missing, "keys for many events");
    }

    async fn check_signatures(
        &self,
        object: &CanonicalJsonObject,
        rules: &RoomVersionRules,
        origin_server_ts: u64,
        helper: Option<&ServerName>,
    ) -> Result<Verified, BadPdu> {
        let bad = |error: &dyn std::fmt::Display| BadPdu::Signature(error.to_string());
        let needed = required_server_signatures_to_verify_event(object, &rules.signatures)
            .map_err(|error| bad(&error))?;
        let purpose = purpose_of(rules, origin_server_ts);
        let mut keys = PublicKeyMap::new();
        for server in needed {
            let signatures = object
                .get("signatures")
                .and_then(|signatures| signatures.as_object()?.get(server.as_str())?.as_object());
            let ids = signatures.into_iter().flat_map(CanonicalJsonObject::keys);
            let mut found = BTreeMap::new();
            let mut missing = None;
            for id in ids.filter(|id| id.starts_with("ed25519:")).take(MAX_SIGNATURES) {
                match self.event_key(&server, id, purpose, helper).await {
                    Ok(key) => {
                        found.insert(id.clone(), Base64::new(key.as_bytes().to_vec()));
                    }
                    Err(error) => missing = Some(error),
                }
            }
            if found.is_empty() {
                return Err(match missing {
                    Some(error) => error.into(),
                    None => BadPdu::Signature(format!("{server} has not signed it")),
                });
            }
            keys.insert(server.to_string(), found);
        }
        // A signature by a key that could not be had must not stand against one by a key that
        // could.
        let mut object = object.clone();
        if let Some(CanonicalJsonValue::Object(signatures)) = object.get_mut("signatures") {
            for (server, signatures) in signatures.iter_mut() {
                if let (Some(keys), CanonicalJsonValue::Object(signatures)) =
                    (keys.get(server), signatures)
                {
                    signatures.retain(|id, _| keys.contains_key(id));
                }
            }
        }
        verify_event(&keys, &object, rules).map_err(|error| bad(&error))
    }
}

fn purpose_of(rules: &RoomVersionRules, origin_server_ts: u64) -> Purpose {
    if rules.enforce_key_validity { Purpose::Event { origin_server_ts } } else { Purpose::AnyEvent }
}
