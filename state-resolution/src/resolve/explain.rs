//! Why a resolution came out as it did.

use std::fmt::Write as _;

use crate::{
    Algorithm,
    auth::Rejection,
    graph::conflicted_keys,
    ids::{EventIx, KeyIx},
    resolve::{ResolveError, v2::Conflict},
    room::Room,
    scratch::Scratch,
    state_map::StateMap,
};

/// In which list replay met an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Among the power events and what they cite, by power.
    Power,
    /// Among the rest, by mainline.
    Mainline,
}

/// One check during replay. Attempts stand in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The event.
    pub event: EventIx,
    /// In which list it was.
    pub phase: Phase,
    /// Why it was passed over, or `None` if it was accepted.
    pub rejection: Option<Rejection>,
}

/// An event that could have come to stand at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The event.
    pub event: EventIx,
    /// Which of the states have it; none if it comes from their auth chains.
    pub in_states: Vec<usize>,
    /// Its place among the attempts, for algorithms that replay.
    pub attempt: Option<usize>,
}

/// What was decided about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The states differ; this event was the last that replay accepted.
    Accepted(EventIx),
    /// The states differ; this one won by depth (room version 1).
    ByDepth(EventIx),
    /// The states differ, and no candidate is allowed.
    Dropped,
    /// The states agree; what replay said about the key does not count.
    Unconflicted(EventIx),
    /// No state has the key; replay brought it back from the auth chains.
    Restored(EventIx),
    /// No state has the key, and replay accepted nothing for it.
    StillAbsent,
}

/// What was decided about a key, and out of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The state key.
    pub key: KeyIx,
    /// What stands there now, and why.
    pub outcome: Outcome,
    /// What could have stood there, in the order in which it was tried.
    pub candidates: Vec<Candidate>,
}

/// Why a resolution came out as it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The resolved state.
    pub resolved: StateMap,
    /// The checks that were made, in their order.
    pub attempts: Vec<Attempt>,
    /// Every key that the states differ in or that an event of their auth chains has. All other
    /// keys have the same event in each state, and in the result.
    pub decisions: Vec<Decision>,
}

impl Room {
    /// Resolves `states` again and says why each key was decided so.
    ///
    /// # Errors
    /// As [`Room::resolve`].
    pub fn explain(
        &self,
        states: &[&StateMap],
        scratch: &mut Scratch,
    ) -> Result<Explanation, ResolveError> {
        let resolved = self.resolve(states, scratch)?.state;
        let keys = conflicted_keys(states, scratch);
        let replays = self.rules().resolution.algorithm != Algorithm::V1;
        let mut attempts = Vec::new();
        if let (true, false, Some(base)) = (replays, keys.is_empty(), states.first()) {
            let set = self.conflicted_set(states, &keys, scratch);
            let conflict = Conflict { room: self, base, keys: &keys, set: &set };
            conflict.resolve(scratch, Some(&mut attempts));
        }
        let mut all = keys.clone();
        all.extend(attempts.iter().filter_map(|attempt| self.key_of(attempt.event)));
        all.sort_unstable();
        all.dedup();
        let decisions = all
            .into_iter()
            .map(|key| {
                let conflicted = keys.binary_search(&key).is_ok();
                let outcome = match (resolved.get(key), conflicted) {
                    (Some(event), true) if replays => Outcome::Accepted(event),
                    (Some(event), true) => Outcome::ByDepth(event),
                    (None, true) => Outcome::Dropped,
                    (None, false) => Outcome::StillAbsent,
                    (Some(event), false) if states[0].get(key).is_none() => {
                        Outcome::Restored(event)
                    }
                    (Some(event), false) => Outcome::Unconflicted(event),
                };
                let candidates = self.candidates(key, states, &attempts);
                Decision { key, outcome, candidates }
            })
            .collect();
        Ok(Explanation { resolved, attempts, decisions })
    }

    fn candidates(&self, key: KeyIx, states: &[&StateMap], attempts: &[Attempt]) -> Vec<Candidate> {
        let tried = attempts.iter().enumerate();
        let mut candidates: Vec<Candidate> = tried
            .filter(|(_, attempt)| self.key_of(attempt.event) == Some(key))
            .map(|(place, attempt)| Candidate {
                event: attempt.event,
                in_states: Vec::new(),
                attempt: Some(place),
            })
            .collect();
        for (number, state) in states.iter().enumerate() {
            let Some(event) = state.get(key) else { continue };
            match candidates.iter_mut().find(|candidate| candidate.event == event) {
                Some(candidate) => candidate.in_states.push(number),
                None => {
                    candidates.push(Candidate { event, in_states: vec![number], attempt: None });
                }
            }
        }
        candidates
    }
}

impl Explanation {
    /// The decision about a key; `None` if all states agree on it.
    pub fn decision(&self, key: KeyIx) -> Option<&Decision> {
        let at = self.decisions.binary_search_by_key(&key, |decision| decision.key).ok()?;
        self.decisions.get(at)
    }

    /// The explanation in words, for operators: a line per key, one per candidate below it.
    pub fn describe(&self, room: &Room) -> String {
        let mut text = String::new();
        let id = |event: EventIx| room.event_id(event);
        for decision in &self.decisions {
            let (event_type, state_key) = room.key_name(decision.key);
            let outcome = match decision.outcome {
                Outcome::Accepted(event) => format!("{} was accepted last", id(event)),
                Outcome::ByDepth(event) => format!("{} won by depth", id(event)),
                Outcome::Dropped => "no candidate is allowed".to_owned(),
                Outcome::Unconflicted(event) => format!("all states have {}", id(event)),
                Outcome::Restored(event) => format!("{} is back from the auth chains", id(event)),
                Outcome::StillAbsent => "no state has it".to_owned(),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{event_type} {state_key:?}: {outcome}");
            for candidate in &decision.candidates {
                let _ = write!(text, "  {}", id(candidate.event));
                match &candidate.in_states[..] {
                    [] => text.push_str(" (from the auth chains)"),
                    states => {
                        let _ = write!(text, " (in states {states:?})");
                    }
                }
                let attempt = candidate.attempt.and_then(|place| self.attempts.get(place));
                match attempt.map(|attempt| attempt.rejection) {
                    None => {}
                    Some(None) => text.push_str(": accepted"),
                    Some(Some(Rejection { rule, decided_by })) => {
                        let _ = write!(text, ": not allowed, {rule}");
                        if let Some(event) = decided_by {
                            let _ = write!(text, " (see {})", id(event));
                        }
                    }
                }
                text.push('\n');
            }
        }
        text
    }
}
