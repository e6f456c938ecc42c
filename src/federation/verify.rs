//! Whether an event is from whom it says: signatures and content hash.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events>

use std::collections::BTreeMap;

use federation::Purpose;
use futures::{StreamExt as _, future::BoxFuture, stream};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ServerName,
    canonical_json::redact,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{
        PublicKeyMap, Verified, required_server_signatures_to_verify_event, verify_event,
    },
};

use super::Federation;
use crate::rooms::pdu::{Pdu, PduError};

/// The most bytes of an event's JSON, `unsigned` included.
const MAX_BYTES: usize = 256 * 1024;
/// The most signatures of one server that are looked at.
const MAX_SIGNATURES: usize = 8;
/// How many events are checked at the same time.
const AT_ONCE: usize = 16;

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
        let checks: Vec<BoxFuture<'_, Result<Pdu, BadPdu>>> = events
            .iter()
            .map(|json| Box::pin(self.verify(json.as_ref(), rules, helper)) as _)
            .collect();
        let checked: Vec<_> = stream::iter(checks).buffered(AT_ONCE).collect().await;
        let note = |error: &BadPdu| tracing::debug!(%error, "event not taken");
        checked.into_iter().filter_map(|checked| checked.inspect_err(note).ok()).collect()
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
        let purpose = if rules.enforce_key_validity {
            Purpose::Event { origin_server_ts }
        } else {
            Purpose::AnyEvent
        };
        let mut keys = PublicKeyMap::new();
        for server in needed {
            let signatures = object
                .get("signatures")
                .and_then(|signatures| signatures.as_object()?.get(server.as_str())?.as_object());
            let ids = signatures.into_iter().flat_map(CanonicalJsonObject::keys);
            let mut found = BTreeMap::new();
            let mut missing = "it has not signed it".to_owned();
            for id in ids.filter(|id| id.starts_with("ed25519:")).take(MAX_SIGNATURES) {
                match self.event_key(&server, id, purpose, helper).await {
                    Ok(key) => {
                        found.insert(id.clone(), Base64::new(key.as_bytes().to_vec()));
                    }
                    Err(error) => missing = error.to_string(),
                }
            }
            if found.is_empty() {
                return Err(BadPdu::Signature(format!("{server}: {missing}")));
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
