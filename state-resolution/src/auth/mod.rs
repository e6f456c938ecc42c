//! The authorisation rules of all room versions.
//!
//! An event is checked several times, against different states:
//!
//! 1. [`Room::check_state_independent`] once, when it comes in. Fails: rejected.
//! 2. [`Room::check_auth_events`], against the state that its auth events make up. Fails:
//!    rejected.
//! 3. [`Room::check`] against the state before it. Fails: rejected.
//! 4. [`Room::check`] against the current state. Fails: soft-failed.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>

mod independent;
mod levels;
mod member;
mod powers;
mod rule;
mod select;
mod signatures;
#[cfg(test)]
mod tests;
mod view;

use crate::content::{Kind, Membership};
use crate::{
    content::Content,
    grammar::domain,
    ids::{EventIx, KeyIx},
    input::{EventInput, InsertError},
    power_levels::NamedLevel,
    room::{Event, FOREIGN_STATE_KEY, REDACTS_OWN_DOMAIN, Room},
};

pub use rule::{Rejection, Rule, Verdict};
pub(crate) use select::keys as select_keys;
pub use signatures::{NoSignatures, Signatures};
pub use view::Power;
pub(crate) use view::{AuthEvents, CitedEvents, View, power, required};

/// A state to check against: which event stands at a state key.
pub trait StateView {
    /// The event at `key`.
    fn get(&self, key: KeyIx) -> Option<EventIx>;
}

impl<F: Fn(KeyIx) -> Option<EventIx>> StateView for F {
    fn get(&self, key: KeyIx) -> Option<EventIx> {
        self(key)
    }
}

/// An event being checked, which need not be in the table.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) event: Event,
    /// Its number, if it is in the table.
    pub(crate) ix: Option<EventIx>,
    pub(crate) sender: &'a str,
    pub(crate) content: &'a Content,
}

impl Room {
    /// Checks an event in the table against `state`.
    ///
    /// # Errors
    /// The rule that rejects the event.
    ///
    /// # Panics
    /// If a number in `state` or `event` is not of this room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#authorisation-rules>
    pub fn check(&self, event: EventIx, state: &impl StateView) -> Verdict {
        check(self, &self.subject(event), state)
    }

    /// Checks an event in the table against the state that its own auth events make up; rejected
    /// ones are no part of it.
    ///
    /// # Errors
    /// The rule that rejects the event.
    ///
    /// # Panics
    /// If the number is not of this room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
    pub fn check_auth_events(&self, event: EventIx) -> Verdict {
        self.check(event, &AuthEvents { room: self, event })
    }

    /// Checks a message event, which has no state key and is not in the table, against `state`.
    ///
    /// # Errors
    /// The rule that rejects the event.
    ///
    /// # Panics
    /// If a number in `state` is not of this room.
    pub fn check_message(&self, input: &EventInput<'_>, state: &impl StateView) -> Verdict {
        let subject = Subject {
            event: self.message(input),
            ix: None,
            sender: input.sender,
            content: &Content::Plain,
        };
        check(self, &subject, state)
    }

    /// Checks a message event, which has no state key and is not in the table, by the rules on the
    /// choice of auth events, and against the state that they make up.
    ///
    /// # Errors
    /// [`InsertError::MissingAuth`] if events it cites are not in the table. Inside, the rule that
    /// rejects the event.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
    pub fn check_message_auth_events(
        &self,
        input: &EventInput<'_>,
    ) -> Result<Verdict, InsertError> {
        let subject = Subject {
            event: self.message(input),
            ix: None,
            sender: input.sender,
            content: &Content::Plain,
        };
        let kind = subject.event.kind;
        let cited = self.resolve_auth_events(kind, input)?;
        if kind == Kind::Create {
            // A create event is a state event; this one is none and comes after others.
            return Ok(Err(Rule::CreateHasParents.into()));
        }
        Ok(self
            .check_selection(&subject, &cited)
            .and_then(|()| check(self, &subject, &CitedEvents { room: self, cited: &cited })))
    }

    pub(crate) fn subject(&self, ix: EventIx) -> Subject<'_> {
        let event = *self.get(ix);
        Subject {
            event,
            ix: Some(ix),
            sender: self.tables.user_id(event.sender),
            content: self.content(ix),
        }
    }
}

/// The rules that depend on the state, in the order of the spec.
pub(crate) fn check(room: &Room, subject: &Subject<'_>, state: &impl StateView) -> Verdict {
    let event = &subject.event;
    // The rules for the create event look at nothing but the event.
    if event.kind == Kind::Create {
        return Ok(());
    }
    let rules = &room.rules().auth;
    let view = View::new(room, state)?;

    // "If the `content` of the `m.room.create` event in the room state has the property
    // `m.federate` set to `false`, and the `sender` domain of the event does not match the
    // `sender` domain of the create event, reject."
    if !view.create.federates && domain(subject.sender) != domain(view.create_sender()) {
        return Err(Rejection::by(Rule::NotFederated, view.create_event));
    }
    // "If type is `m.room.aliases`:" (up to version 5)
    if rules.special_case_aliases && event.kind == Kind::Aliases {
        return aliases(room, subject);
    }
    // "If type is `m.room.member`:"
    if event.kind == Kind::Member {
        return member::check(room, subject, &view);
    }
    // "If the `sender`'s current membership state is not `join`, reject."
    let (membership, decided_by) = view.membership(subject.event.sender)?;
    if membership != Membership::Join {
        return Err(Rejection::by(Rule::SenderNotJoined, decided_by));
    }
    let levels = view.power_levels()?;
    let power = view.power(levels, event.sender);
    let level = |name: NamedLevel| {
        Power::Level(levels.map_or(name.default_value(), |(_, l)| l.named_or_default(name)))
    };
    let levels_event = levels.map(|(event, _)| event);

    // "If type is `m.room.third_party_invite`: Allow if and only if `sender`'s current power
    // level is greater than or equal to the *invite level*."
    if event.kind == Kind::ThirdPartyInvite {
        return if power >= level(NamedLevel::Invite) {
            Ok(())
        } else {
            Err(Rejection::by(Rule::ThirdPartyInviteLevel, levels_event))
        };
    }
    // "If the event type's *required power level* is greater than the `sender`'s power level,
    // reject."
    if Power::Level(required(levels, event)) > power {
        return Err(Rejection::by(Rule::RequiredLevel, levels_event));
    }
    // "If the event has a `state_key` that starts with an `@` and does not match the `sender`,
    // reject."
    if event.has(FOREIGN_STATE_KEY) {
        return Err(Rule::ForeignStateKey.into());
    }
    // "If type is `m.room.power_levels`:"
    if event.kind == Kind::PowerLevels {
        return levels::check(subject, &view, levels, power);
    }
    // "If type is `m.room.redaction`:" (versions 1 and 2)
    if rules.special_case_redactions && event.kind == Kind::Redaction {
        // "If the `sender`'s power level is greater than or equal to the *redact level*, allow.
        // If the domain of the `event_id` of the event being redacted is the same as the domain
        // of the `event_id` of the `m.room.redaction`, allow. Otherwise, reject."
        return if power >= level(NamedLevel::Redact) || event.has(REDACTS_OWN_DOMAIN) {
            Ok(())
        } else {
            Err(Rejection::by(Rule::Redaction, levels_event))
        };
    }
    // "Otherwise, allow."
    Ok(())
}

fn aliases(room: &Room, subject: &Subject<'_>) -> Verdict {
    // "If event has no `state_key`, reject."
    let Some(key) = subject.event.key() else { return Err(Rule::AliasesStateKey.into()) };
    // "If sender's domain doesn't match `state_key`, reject."
    if domain(subject.sender) != Some(&*room.tables.key(key).name) {
        return Err(Rule::AliasesDomain.into());
    }
    // "Otherwise, allow."
    Ok(())
}
