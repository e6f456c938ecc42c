//! The rules that look at the event and at what it cites, not at the state.

use crate::{
    auth::{Rejection, Rule, Subject, Verdict, select},
    content::{Authoriser, Content, Kind},
    ids::EventIx,
    room::{HAS_PREV_EVENTS, HAS_ROOM_ID, ROOM_IS_SENDERS, Room},
    tables::KEY_CREATE,
};

impl Room {
    /// Checks an event in the table by the rules that do not depend on the state: those for
    /// create events, those on the choice of auth events, and the signature of the server that
    /// let a user in.
    ///
    /// Once per received event is enough, as long as no auth event's rejection changes.
    ///
    /// # Errors
    /// The rule that rejects the event.
    ///
    /// # Panics
    /// If the number is not of this room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#authorisation-rules>, rules 1 and 2
    pub fn check_state_independent(&self, event: EventIx) -> Verdict {
        if self.get(event).kind == Kind::Create {
            return self.check_create(event);
        }
        self.check_selection(&self.subject(event), self.auth_events(event))?;
        self.check_authoriser(event)
    }

    /// "If type is `m.room.create`:"
    fn check_create(&self, ix: EventIx) -> Verdict {
        let rules = &self.rules().auth;
        let event = self.get(ix);
        // "If it has any `prev_events`, reject."
        if event.has(HAS_PREV_EVENTS) {
            return Err(Rule::CreateHasParents.into());
        }
        if rules.room_id_is_create_hash {
            // "If the event has a `room_id`, reject."
            if event.has(HAS_ROOM_ID) {
                return Err(Rule::CreateHasRoomId.into());
            }
        } else if !event.has(ROOM_IS_SENDERS) {
            // "If the domain of the `room_id` does not match the domain of the `sender`, reject."
            return Err(Rule::CreateRoomIdDomain.into());
        }
        let Content::Create(create) = self.content(ix) else {
            return Err(Rule::StateMalformed.into());
        };
        // "If `content.room_version` is present and is not a recognised version, reject."
        if !create.version_recognised {
            return Err(Rule::CreateUnknownVersion.into());
        }
        // "If `content` has no `creator` property, reject." (up to version 10)
        if !rules.creator_is_sender && !create.has_creator_property {
            return Err(Rule::CreateWithoutCreator.into());
        }
        // "If `additional_creators` is present in `content` and is not an array of strings where
        // each string passes the same user ID validation applied to `sender`, reject."
        if !create.additional_creators_valid {
            return Err(Rule::CreateAdditionalCreators.into());
        }
        // "Otherwise, allow."
        Ok(())
    }

    /// "Considering the event's `auth_events`:"
    pub(crate) fn check_selection(
        &self,
        subject: &Subject<'_>,
        auth_events: &[EventIx],
    ) -> Verdict {
        let rules = &self.rules().auth;
        // "If the event's `room_id` is not an event ID for an accepted (not rejected)
        // `m.room.create` event, with the sigil `!` instead of `$`, reject." (since version 12)
        if rules.room_id_is_create_hash {
            let create = self.create_event().ok_or(Rule::StateLacksCreate)?;
            if self.is_rejected(create) {
                return Err(Rejection::by(Rule::CreateNotAccepted, create));
            }
        }
        let expected = select::keys(self, subject)?;
        for (position, auth) in auth_events.iter().enumerate() {
            let key = self.key_of(*auth);
            // "If there are duplicate entries for a given `type` and `state_key` pair, reject."
            if auth_events[..position].iter().any(|earlier| self.key_of(*earlier) == key) {
                return Err(Rejection::by(Rule::AuthEventDuplicate, *auth));
            }
            // "If there are entries whose `type` and `state_key` don't match those specified by
            // the auth events selection algorithm described in the server specification, reject."
            if key.is_none_or(|key| !expected.contains(key)) {
                return Err(Rejection::by(Rule::AuthEventUnexpected, *auth));
            }
            // "If there are entries which were themselves rejected under the checks performed on
            // receipt of a PDU, reject."
            if self.is_rejected(*auth) {
                return Err(Rejection::by(Rule::AuthEventRejected, *auth));
            }
        }
        // "If there is no `m.room.create` event among the entries, reject." (up to version 11)
        let cites_create = auth_events.iter().any(|auth| self.key_of(*auth) == Some(KEY_CREATE));
        if !rules.room_id_is_create_hash && !cites_create {
            return Err(Rule::AuthEventsLackCreate.into());
        }
        // "If any event in `auth_events` has a `room_id` which does not match that of the event
        // being authorised, reject." The table holds events of one room only.
        Ok(())
    }

    /// "If `content` has a `join_authorised_via_users_server` key: If the event is not validly
    /// signed by the homeserver of the user ID denoted by the key, reject."
    fn check_authoriser(&self, ix: EventIx) -> Verdict {
        let Content::Member(member) = self.content(ix) else { return Ok(()) };
        if !self.rules().auth.restricted_join_rule {
            return Ok(());
        }
        let signed = match member.authoriser {
            Authoriser::Absent => true,
            Authoriser::Malformed => false,
            Authoriser::User(user) => {
                self.signatures.authorised_join(self.event_id(ix), self.tables.user_id(user))
            }
        };
        if signed { Ok(()) } else { Err(Rule::MemberAuthoriserSignature.into()) }
    }
}
