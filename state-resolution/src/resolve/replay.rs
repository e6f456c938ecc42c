//! "Iterative auth checks."
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v11/#definitions>

use crate::{
    auth::{AuthEvents, Rejection, StateView, check},
    ids::{EventIx, KeyIx, some},
    resolve::{Attempt, Phase},
    room::{REJECTED, Room},
    scratch::{BitSet, Column, Scratch},
    state_map::StateMap,
};

/// The state being built: what was accepted, over what it started from.
pub(crate) struct Replay<'a> {
    room: &'a Room,
    /// The unconflicted state is this one without the conflicted keys; none for 2.1.
    base: Option<&'a StateMap>,
    overlay: &'a mut Column,
    conflicted_keys: &'a BitSet,
    visited: &'a mut u64,
    trace: Option<&'a mut Vec<Attempt>>,
}

/// The state as a check of one event sees it.
struct Seen<'a, 'r> {
    replay: &'r Replay<'a>,
    event: EventIx,
}

impl StateView for Seen<'_, '_> {
    /// "If a `(event_type, state_key)` key that is required for checking the authorisation rules
    /// is not present in the state, then the appropriate state event from the event's
    /// `auth_events` is used if the auth event is not rejected."
    fn get(&self, key: KeyIx) -> Option<EventIx> {
        let room = self.replay.room;
        // Rejected events count for nothing here even if they made it into the state.
        self.replay
            .state(key)
            .filter(|event| !room.get(*event).has(REJECTED))
            .or_else(|| AuthEvents { room, event: self.event }.get(key))
    }
}

impl<'a> Replay<'a> {
    pub(crate) fn new(
        room: &'a Room,
        base: Option<&'a StateMap>,
        scratch: &'a mut Scratch,
        trace: Option<&'a mut Vec<Attempt>>,
    ) -> Self {
        Self {
            room,
            base,
            overlay: &mut scratch.overlay,
            conflicted_keys: &scratch.conflicted_keys,
            visited: &mut scratch.visited,
            trace,
        }
    }

    /// The event at `key` so far.
    pub(crate) fn state(&self, key: KeyIx) -> Option<EventIx> {
        if let Some(event) = some(self.overlay.get(key.0)) {
            return Some(EventIx(event));
        }
        self.base.filter(|_| !self.conflicted_keys.contains(key.0))?.get(key)
    }

    /// "The *iterative auth checks algorithm* takes as input an initial room state and a sorted
    /// list of state events, and constructs a new room state by iterating through the event list
    /// and applying the state event to the room state if the state event is allowed by the
    /// authorisation rules. If the state event is not allowed by the authorisation rules, then
    /// the event is ignored."
    pub(crate) fn run(&mut self, events: &[EventIx], phase: Phase) {
        for event in events {
            *self.visited += 1;
            let subject = self.room.subject(*event);
            let Some(key) = subject.event.key() else { continue };
            let verdict = check(self.room, &subject, &Seen { replay: self, event: *event });
            if verdict.is_ok() {
                self.overlay.set(key.0, event.0);
            }
            self.note(*event, phase, verdict.err());
        }
    }

    fn note(&mut self, event: EventIx, phase: Phase, rejection: Option<Rejection>) {
        if let Some(trace) = &mut self.trace {
            trace.push(Attempt { event, phase, rejection });
        }
    }
}
