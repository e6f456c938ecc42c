//! Which events of the state an event must cite.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection>

use serde_json::{Map, Value};

use crate::{
    auth::{Rejection, Rule, StateView, Subject},
    content::{Authoriser, Content, Kind, Membership, ThirdParty},
    ids::{EventIx, KeyIx},
    input::EventInput,
    room::Room,
    tables::{KEY_CREATE, KEY_JOIN_RULES, KEY_POWER_LEVELS, TYPE_MEMBER, TYPE_THIRD_PARTY_INVITE},
};

/// A handful of keys, without duplicates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys {
    keys: [KeyIx; 7],
    len: usize,
}

impl Keys {
    fn new() -> Self {
        Self { keys: [KEY_CREATE; 7], len: 0 }
    }

    fn add(&mut self, key: Option<KeyIx>) {
        if let Some(key) = key
            && !self.contains(key)
            && self.len < self.keys.len()
        {
            self.keys[self.len] = key;
            self.len += 1;
        }
    }

    pub(crate) fn contains(&self, key: KeyIx) -> bool {
        self.as_slice().contains(&key)
    }

    pub(crate) fn as_slice(&self) -> &[KeyIx] {
        &self.keys[..self.len]
    }
}

/// The keys to be selected for an event in the table. Keys that no event has are left out.
///
/// # Errors
/// For a membership whose content is too malformed to select by: the rule that rejects it.
pub(crate) fn keys(room: &Room, subject: &Subject<'_>) -> Result<Keys, Rejection> {
    let rules = &room.rules().auth;
    let event = &subject.event;
    let mut keys = Keys::new();
    // "The `auth_events` for the `m.room.create` event in a room is empty"
    if event.kind == Kind::Create {
        return Ok(keys);
    }
    // "Depending on the room version, the `m.room.create` event."
    if !rules.room_id_is_create_hash {
        keys.add(Some(KEY_CREATE));
    }
    // "The current `m.room.power_levels` event, if any."
    keys.add(Some(KEY_POWER_LEVELS));
    // "The sender's current `m.room.member` event, if any."
    keys.add(room.tables.member_key(event.sender));
    if event.kind != Kind::Member {
        return Ok(keys);
    }
    // "If type is `m.room.member`: The target's current `m.room.member` event, if any."
    keys.add(Some(event.key().ok_or(Rule::MemberIncomplete)?));
    let membership = event.membership;
    if membership == Membership::Malformed {
        return Err(Rule::MemberIncomplete.into());
    }
    // "If `membership` is `join`, `invite` or `knock`, the current `m.room.join_rules` event, if
    // any."
    if matches!(membership, Membership::Join | Membership::Invite | Membership::Knock) {
        keys.add(Some(KEY_JOIN_RULES));
    }
    let Content::Member(member) = subject.content else { return Ok(keys) };
    // "If membership is `invite` and `content` contains a `third_party_invite` property, the
    // current `m.room.third_party_invite` event with `state_key` matching
    // `content.third_party_invite.signed.token`, if any."
    if membership == Membership::Invite {
        match member.third_party.as_deref() {
            None => {}
            Some(ThirdParty::Signed { token, .. }) => keys.add(Some(*token)),
            Some(ThirdParty::Unsigned) => return Err(Rule::ThirdPartyUnsigned.into()),
            Some(ThirdParty::Incomplete) => return Err(Rule::ThirdPartyIncomplete.into()),
        }
    }
    // "If `membership` is `join`, `content.join_authorised_via_users_server` is present, and the
    // room version supports restricted rooms, then the `m.room.member` event with `state_key`
    // matching `content.join_authorised_via_users_server`."
    if membership == Membership::Join && rules.restricted_join_rule {
        match member.authoriser {
            Authoriser::Absent => {}
            Authoriser::User(user) => keys.add(room.tables.member_key(user)),
            Authoriser::Malformed => return Err(Rule::MemberAuthoriserSignature.into()),
        }
    }
    Ok(keys)
}

impl Room {
    /// The events of `state` that an event made here must cite, in the order of the spec. Of the
    /// draft, only type, state key, sender and content are looked at.
    ///
    /// Events that were rejected are left out: citing them would get the new event rejected.
    ///
    /// # Panics
    /// If a number in `state` is not of this room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection>
    pub fn auth_events_for(&self, draft: &EventInput<'_>, state: &impl StateView) -> Vec<EventIx> {
        let mut keys = Keys::new();
        let kind = Kind::of(draft.event_type);
        if kind != Kind::Create {
            if !self.rules().auth.room_id_is_create_hash {
                keys.add(Some(KEY_CREATE));
            }
            keys.add(Some(KEY_POWER_LEVELS));
            keys.add(self.tables.key_in(TYPE_MEMBER, draft.sender));
        }
        if kind == Kind::Member {
            self.add_member_keys(draft, &mut keys);
        }
        let selected = keys.as_slice().iter().filter_map(|key| state.get(*key));
        selected.filter(|event| !self.is_rejected(*event)).collect()
    }

    fn add_member_keys(&self, draft: &EventInput<'_>, keys: &mut Keys) {
        let text = |object: &Map<String, Value>, name: &str| -> Option<String> {
            object.get(name).and_then(Value::as_str).map(Into::into)
        };
        let content = draft.content;
        let membership = text(content, "membership").unwrap_or_default();
        keys.add(draft.state_key.and_then(|key| self.tables.key_in(TYPE_MEMBER, key)));
        if ["join", "invite", "knock"].contains(&&*membership) {
            keys.add(Some(KEY_JOIN_RULES));
        }
        if membership == "invite" {
            let signed = content.get("third_party_invite").and_then(|invite| invite.get("signed"));
            let token = signed.and_then(Value::as_object).and_then(|signed| text(signed, "token"));
            keys.add(token.and_then(|token| self.tables.key_in(TYPE_THIRD_PARTY_INVITE, &token)));
        }
        if membership == "join" && self.rules().auth.restricted_join_rule {
            let user = text(content, "join_authorised_via_users_server");
            keys.add(user.and_then(|user| self.tables.key_in(TYPE_MEMBER, &user)));
        }
    }
}
