//! Which state of a room a client requires.

use std::collections::BTreeSet;

use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::{Form, SlidingError, room::Reader};
use crate::rooms::{Room, StateChanges, record::SharedEvent};

const MEMBER: &str = "m.room.member";

/// Whatever one of the parts includes and does not exclude.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Required {
    parts: BTreeSet<Part>,
    lazy_members: bool,
}

/// What one list or subscription wants.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Part {
    pub(super) include: BTreeSet<Pattern>,
    pub(super) exclude: BTreeSet<Pattern>,
}

/// Some types and state keys.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Pattern {
    /// None: all.
    pub(super) event_type: Option<String>,
    pub(super) state_key: Key,
}

/// Some state keys.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    /// All.
    Any,
    /// The user's ID.
    Me,
    /// This one.
    Is(String),
}

/// What happened in a room, as far as its state is concerned.
pub(super) struct News<'a> {
    /// What the client wanted of it before, if it has got the room.
    pub(super) before: Option<&'a Required>,
    pub(super) wanted: &'a Required,
    /// What it did not want before.
    pub(super) added: &'a Required,
    pub(super) changes: StateChanges,
    pub(super) timeline: &'a [SharedEvent],
    pub(super) limited: bool,
    pub(super) upto: u64,
}

impl Pattern {
    fn matches(&self, event_type: &str, state_key: &str, me: &str) -> bool {
        self.event_type.as_ref().is_none_or(|wanted| wanted == event_type)
            && match &self.state_key {
                Key::Any => true,
                Key::Me => state_key == me,
                Key::Is(wanted) => wanted == state_key,
            }
    }
}

impl Required {
    /// What these parts want, and members when they matter, if asked for.
    pub(super) fn new(parts: impl IntoIterator<Item = Part>, lazy_members: bool) -> Self {
        let parts = parts.into_iter().filter(|part| !part.include.is_empty()).collect();
        Self { parts, lazy_members }
    }

    /// Whether members are sent when they matter.
    #[cfg(test)]
    pub(super) fn lazy_members(&self) -> bool {
        self.lazy_members
    }

    /// How much it takes to look at it.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.include.len() + part.exclude.len()).sum()
    }

    /// Whether nothing is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && !self.lazy_members
    }

    /// Both together: what either wants.
    pub(super) fn add(&mut self, other: &Self) {
        self.parts.extend(other.parts.iter().cloned());
        self.lazy_members |= other.lazy_members;
    }

    /// The parts that are not in `sent`.
    pub(super) fn beyond(&self, sent: &Self) -> Self {
        let parts = self.parts.difference(&sent.parts).cloned().collect();
        Self { parts, lazy_members: self.lazy_members && !sent.lazy_members }
    }

    /// Whether a state event is required, lazily loaded members aside.
    pub(super) fn requires(&self, event_type: &str, state_key: &str, me: &str) -> bool {
        let matches = |pattern: &Pattern| pattern.matches(event_type, state_key, me);
        let wants =
            |part: &Part| part.include.iter().any(matches) && !part.exclude.iter().any(matches);
        self.parts.iter().any(wants)
    }

    /// Whether members are wanted who are neither loaded lazily, nor named, nor the user.
    pub(super) fn wants_all_members(&self) -> bool {
        // No user has such an ID.
        self.requires(MEMBER, "*", "")
    }

    /// The types and state keys it names, unless it wants all of some.
    fn named<'a>(&'a self, me: &'a str) -> Option<BTreeSet<(&'a str, &'a str)>> {
        let patterns = self.parts.iter().flat_map(|part| &part.include);
        patterns
            .map(|pattern| {
                let key = match &pattern.state_key {
                    Key::Any => return None,
                    Key::Me => me,
                    Key::Is(key) => key,
                };
                Some((pattern.event_type.as_deref()?, key))
            })
            .collect()
    }
}

impl Reader<'_> {
    /// All state that is required, as it was at `upto`; of lazily loaded members none.
    pub(super) async fn required_state(
        &self,
        room: &Room,
        required: &Required,
        upto: u64,
    ) -> Result<Vec<SharedEvent>, SlidingError> {
        let rooms = &self.sync.rooms;
        let me = self.session.user_id.as_str();
        let Some(named) = required.named(me) else {
            let state = rooms.state_at(self.at, room, upto).await?;
            return Ok(state
                .into_iter()
                .map(|(_, event)| event)
                .filter(|event| {
                    let key = event.state_key.as_deref().unwrap_or_default();
                    required.requires(&event.event_type, key, me)
                })
                .collect());
        };
        let mut found = Vec::new();
        for (event_type, key) in named {
            if required.requires(event_type, key, me) {
                found.extend(rooms.state_event_at(self.at, room, event_type, key, upto).await?);
            }
        }
        Ok(found)
    }

    /// The state that the client is to have and has not, and stubs of what there is no longer.
    pub(super) async fn state_to_send(
        &self,
        room: &Room,
        news: News<'_>,
        members: &mut BTreeSet<String>,
    ) -> Result<(Vec<SharedEvent>, Vec<Box<RawValue>>), SlidingError> {
        let News { before, wanted, added, changes, timeline, limited, upto } = news;
        let me = self.session.user_id.as_str();
        let merged = self.form == Form::Merged;
        let mut state = self.required_state(room, added, upto).await?;
        if let Some(before) = before {
            state.retain(|event| !before.requires(&event.event_type, key_of(event), me));
        }
        if merged && limited {
            // "clients must flush any "membership" cache when `limited` is true"
            members.clear();
        }
        for event in changes.events {
            let key = key_of(&event);
            // "All membership updates since the last sync when `limited` is false"
            let known = wanted.lazy_members
                && event.event_type == MEMBER
                && (merged && !limited || members.contains(key));
            let there = state.iter().any(|other| other.event_id == event.event_id);
            if !there && (known || wanted.requires(&event.event_type, key, me)) {
                state.push(event);
            }
        }
        if wanted.lazy_members {
            self.add_members(room, timeline, upto, &mut state, members).await?;
        }
        let removed =
            changes.removed.iter().filter(|(of, key)| merged && wanted.requires(of, key, me));
        let stubs = removed.map(|(event_type, key)| {
            let stub = json!({ "type": event_type, "state_key": key });
            to_raw_value(&stub).expect("a JSON value has string keys only")
        });
        Ok((state, stubs.collect()))
    }

    /// Adds the member events of senders that the client has not got; and, in the form that wants
    /// them, of those whose membership the timeline changes.
    async fn add_members(
        &self,
        room: &Room,
        timeline: &[SharedEvent],
        upto: u64,
        state: &mut Vec<SharedEvent>,
        members: &mut BTreeSet<String>,
    ) -> Result<(), SlidingError> {
        let is_member = |event: &&SharedEvent| event.event_type == MEMBER;
        let there: BTreeSet<String> =
            state.iter().filter(is_member).filter_map(|event| event.state_key.clone()).collect();
        members.extend(there);
        let senders = timeline.iter().map(|event| event.sender_id.as_str());
        let targets = timeline
            .iter()
            .filter(|event| self.form == Form::Merged && is_member(event))
            .filter_map(|event| event.state_key.as_deref());
        for member in senders.chain(targets) {
            if !members.insert(member.to_owned()) {
                continue;
            }
            let rooms = &self.sync.rooms;
            state.extend(rooms.state_event_at(self.at, room, MEMBER, member, upto).await?);
        }
        Ok(())
    }
}

fn key_of(event: &SharedEvent) -> &str {
    event.state_key.as_deref().unwrap_or_default()
}
