//! The state of a room that is being joined: nothing of it is taken on trust. Where the keys of a
//! server can be had from nobody, neither from itself nor from the server the room is joined through
//! nor from a notary, a room is joined without what it sent, but not without the room's rules.

use std::{borrow::Cow, collections::BTreeMap};

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Deserialize;

use crate::{
    federation::{lists::Checked, verify::BadPdu},
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

/// What of the state of a room that is being joined is what it should be.
pub(super) struct JoinedState {
    room_id: OwnedRoomId,
    server: OwnedServerName,
    /// The state, and its auth chain.
    lists: [Vec<Pdu>; 2],
    /// How many events can't be checked, by whose keys nobody has.
    keyless: BTreeMap<OwnedServerName, usize>,
}

impl JoinedState {
    /// Nothing yet of a room that is joined through `server`.
    pub(super) fn new(room_id: &RoomId, server: &ServerName) -> Self {
        Self {
            room_id: room_id.to_owned(),
            server: server.to_owned(),
            lists: Default::default(),
            keyless: BTreeMap::new(),
        }
    }

    /// Takes an event of the state (list 0) or of its auth chain (1), if it is what it should be.
    ///
    /// # Errors
    /// [`RoomError::BadEvent`] if it can't be checked and is among the room's rules.
    pub(super) fn take(&mut self, checked: Checked) -> Result<(), RoomError> {
        #[derive(Deserialize)]
        struct Kind<'a> {
            #[serde(rename = "type", borrow)]
            event_type: Cow<'a, str>,
        }
        let Checked { list, json, event } = checked;
        match event {
            Ok(pdu) if *pdu.room_id() == self.room_id => {
                if let Some(events) = self.lists.get_mut(list) {
                    events.push(pdu);
                }
            }
            Ok(_) => {}
            Err(BadPdu::NoKey(error)) => {
                let kind = json
                    .as_ref()
                    .and_then(|json| serde_json::from_str::<Kind<'_>>(json.get()).ok());
                if kind.is_none_or(|kind| ESSENTIAL.contains(&&*kind.event_type)) {
                    let why = format!("the room's rules can't be checked: {error}");
                    return Err(RoomError::BadEvent { why });
                }
                *self.keyless.entry(error.server().to_owned()).or_default() += 1;
            }
            Err(error) => tracing::debug!(%error, "event not taken"),
        }
        Ok(())
    }

    /// The state and its auth chain. What can't be checked is told to the log.
    pub(super) fn finish(self) -> (Vec<Pdu>, Vec<Pdu>) {
        if !self.keyless.is_empty() {
            let (events, servers) = (self.keyless.values().sum::<usize>(), self.keyless.len());
            let first: Vec<_> = self.keyless.keys().take(MAX_NAMED).collect();
            tracing::warn!(
                room = %self.room_id, through = %self.server, events, servers, ?first,
                "a room is joined without the state that some servers sent: nobody has their keys"
            );
        }
        let [state, auth_chain] = self.lists;
        (state, auth_chain)
    }
}
