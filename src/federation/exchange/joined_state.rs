//! The state of a room that is being joined: nothing of it is taken on trust. Where the keys of a
//! server can be had from nobody, neither from itself nor from the server the room is joined through
//! nor from a notary, a room is joined without what it sent, but not without the room's rules.

use std::collections::BTreeMap;

use ruma::{OwnedServerName, RoomId, ServerName, room_version_rules::RoomVersionRules};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Exchange, ExchangeError};
use crate::{
    federation::verify::BadPdu,
    rooms::{RoomError, pdu::Pdu},
};

/// How many servers whose keys are not to be had are named.
const MAX_NAMED: usize = 20;
/// What a room is no longer itself without.
const ESSENTIAL: [&str; 8] = [
    "m.room.create",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.server_acl",
    "m.room.third_party_invite",
    "m.room.encryption",
    "m.room.policy",
];

impl Exchange {
    /// Those of these events that are what they should be: the state of a room that is being joined,
    /// or its auth chain. What can't be checked is told to the log.
    ///
    /// # Errors
    /// [`RoomError::BadEvent`] if what can't be checked is among the room's rules.
    pub(super) async fn check_state(
        &self,
        events: &[Box<RawValue>],
        rules: &RoomVersionRules,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<Vec<Pdu>, ExchangeError> {
        #[derive(Deserialize)]
        struct Kind<'a> {
            #[serde(rename = "type", borrow)]
            event_type: std::borrow::Cow<'a, str>,
        }
        let texts: Vec<&str> = events.iter().map(|event| event.get()).collect();
        let mut pdus = Vec::with_capacity(texts.len());
        let mut keyless: BTreeMap<OwnedServerName, usize> = BTreeMap::new();
        let each = self.federation.verify_each(&texts, rules, Some(server)).await;
        for (text, event) in texts.into_iter().zip(each) {
            match event {
                Ok(pdu) if pdu.room_id() == room_id => pdus.push(pdu),
                Ok(_) => {}
                Err(BadPdu::NoKey(error)) => {
                    let kind: Option<Kind<'_>> = serde_json::from_str(text).ok();
                    if kind.is_none_or(|kind| ESSENTIAL.contains(&&*kind.event_type)) {
                        let why = format!("the room's rules can't be checked: {error}");
                        return Err(RoomError::BadEvent { why }.into());
                    }
                    *keyless.entry(error.server().to_owned()).or_default() += 1;
                }
                Err(error) => tracing::debug!(%error, "event not taken"),
            }
        }
        if !keyless.is_empty() {
            let (events, servers) = (keyless.values().sum::<usize>(), keyless.len());
            let first: Vec<_> = keyless.keys().take(MAX_NAMED).collect();
            tracing::warn!(
                room = %room_id, through = %server, events, servers, ?first,
                "a room is joined without the state that some servers sent: nobody has their keys"
            );
        }
        Ok(pdus)
    }
}
