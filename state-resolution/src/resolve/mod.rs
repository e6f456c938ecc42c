//! State resolution: one state out of several.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#room-state-resolution>

mod cache;
mod explain;
mod frontier;
mod mainline;
mod power;
mod replay;
mod v1;
mod v2;

use crate::{
    Algorithm,
    graph::conflicted_keys,
    ids::{EventIx, KeyIx},
    room::Room,
    scratch::Scratch,
    state_map::StateMap,
};

pub use cache::ConflictCache;
pub use explain::{Attempt, Candidate, Decision, Explanation, Outcome, Phase};
pub use frontier::Frontier;

/// The outcome of a resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The resolved state. It shares all it can with the first of the states.
    pub state: StateMap,
    /// Which of the states the resolved one differs from in the fewest conflicted keys: the one
    /// to store it as a change of.
    pub closest: usize,
    /// How much there was to do.
    pub stats: ResolveStats,
}

/// How much there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResolveStats {
    /// Keys at which the states differ.
    pub conflicted_keys: usize,
    /// Events in the full conflicted set.
    pub full_conflicted_set: usize,
    /// Whether the conflict had been resolved before.
    pub cached: bool,
}

/// Why a resolution was not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A state has a number that the room never gave out, or an event at a key that is not its
    /// own: it belongs to another room.
    #[error("state {0} belongs to another room")]
    ForeignState(usize),
}

impl Room {
    /// Resolves `states`, which are the states after the parents of an event, or at the ends of
    /// the room's graph.
    ///
    /// The result does not depend on the order of the states, nor on the order in which events
    /// were inserted. No state at all resolves to the empty one, and equal states to themselves.
    ///
    /// # Errors
    /// [`ResolveError`] if a state is recognisably not one of this room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v1/#state-resolution>,
    /// <https://spec.matrix.org/v1.19/rooms/v11/#state-resolution>,
    /// <https://spec.matrix.org/v1.19/rooms/v12/#state-resolution>
    pub fn resolve(
        &self,
        states: &[&StateMap],
        scratch: &mut Scratch,
    ) -> Result<Resolved, ResolveError> {
        self.resolve_with(states, scratch, None)
    }

    /// As [`Room::resolve`], looking up in `cache` whether this conflict was resolved before.
    ///
    /// # Errors
    /// As [`Room::resolve`].
    pub fn resolve_cached(
        &self,
        states: &[&StateMap],
        scratch: &mut Scratch,
        cache: &mut ConflictCache,
    ) -> Result<Resolved, ResolveError> {
        self.resolve_with(states, scratch, Some(cache))
    }

    fn resolve_with(
        &self,
        states: &[&StateMap],
        scratch: &mut Scratch,
        cache: Option<&mut ConflictCache>,
    ) -> Result<Resolved, ResolveError> {
        self.check_bounds(states)?;
        let keys = conflicted_keys(states, scratch);
        self.resolve_conflict(states, &keys, scratch, cache)
    }

    /// Resolves states of which it is known at which keys they differ.
    pub(crate) fn resolve_conflict(
        &self,
        states: &[&StateMap],
        keys: &[KeyIx],
        scratch: &mut Scratch,
        cache: Option<&mut ConflictCache>,
    ) -> Result<Resolved, ResolveError> {
        let Some(first) = states.first() else { return Ok(Resolved::unchanged(StateMap::new())) };
        // The fast path: nothing differs.
        if keys.is_empty() {
            return Ok(Resolved::unchanged((*first).clone()));
        }
        self.check_keys(states, keys)?;
        scratch.reserve(self.len(), self.key_count());
        let mut done = ResolveStats { conflicted_keys: keys.len(), ..ResolveStats::default() };
        let accepted = match self.rules().resolution.algorithm {
            Algorithm::V1 => v1::resolve(self, states, keys, scratch),
            Algorithm::V2 | Algorithm::V2_1 => {
                let set = self.conflicted_set(states, keys, scratch);
                done.full_conflicted_set = set.len();
                let conflict = v2::Conflict { room: self, base: first, keys, set: &set };
                match cache {
                    None => conflict.resolve(scratch, None),
                    Some(cache) => {
                        let (accepted, cached) = cache.resolve(&conflict, scratch);
                        done.cached = cached;
                        accepted
                    }
                }
            }
        };
        let state = apply(first, keys, &accepted);
        let closest = closest(states, keys, &state);
        Ok(Resolved { state, closest, stats: done })
    }

    /// The full conflicted set of states that differ at `keys`, in ascending order.
    ///
    /// "The *full conflicted set* is the union of the conflicted state set, the conflicted state
    /// subgraph, and the auth difference." (the subgraph since version 12)
    pub(crate) fn conflicted_set(
        &self,
        states: &[&StateMap],
        keys: &[KeyIx],
        scratch: &mut Scratch,
    ) -> Vec<EventIx> {
        let mut set: Vec<EventIx> =
            keys.iter().flat_map(|key| states.iter().filter_map(|state| state.get(*key))).collect();
        set.sort_unstable();
        set.dedup();
        let subgraph = match self.rules().resolution.algorithm {
            Algorithm::V2_1 => self.conflicted_subgraph(&set, scratch),
            Algorithm::V1 | Algorithm::V2 => Vec::new(),
        };
        set.extend(subgraph);
        set.extend(self.difference(states, keys, scratch));
        set.sort_unstable();
        set.dedup();
        set
    }

    /// Numbers that were never given out must not get as far as the tables.
    pub(crate) fn check_bounds(&self, states: &[&StateMap]) -> Result<(), ResolveError> {
        let fits = |state: &StateMap| {
            state.event_bound().is_none_or(|event| event.index() < self.len())
                && state.key_bound().is_none_or(|key| key.index() < self.key_count())
        };
        match states.iter().position(|state| !fits(state)) {
            None => Ok(()),
            Some(foreign) => Err(ResolveError::ForeignState(foreign)),
        }
    }

    fn check_keys(&self, states: &[&StateMap], keys: &[KeyIx]) -> Result<(), ResolveError> {
        for (position, state) in states.iter().enumerate() {
            let fits = |key: &KeyIx| {
                state.get(*key).is_none_or(|event| self.get(event).key() == Some(*key))
            };
            if !keys.iter().all(fits) {
                return Err(ResolveError::ForeignState(position));
            }
        }
        Ok(())
    }
}

impl Resolved {
    fn unchanged(state: StateMap) -> Self {
        Self { state, closest: 0, stats: ResolveStats::default() }
    }
}

/// What replay accepted: the events at the keys it touched.
pub(crate) type Accepted = std::sync::Arc<[(KeyIx, EventIx)]>;

/// "Update the result by replacing any event with the event with the same key from the
/// *unconflicted state map*, if such an event exists, to get the final resolved state."
fn apply(first: &StateMap, keys: &[KeyIx], accepted: &Accepted) -> StateMap {
    let mut state = first.clone();
    let mut decided = Vec::with_capacity(accepted.len());
    for (key, event) in accepted.iter() {
        let conflicted = keys.binary_search(key).is_ok();
        if conflicted || first.get(*key).is_none() {
            if state.get(*key) != Some(*event) {
                state.insert(*key, *event);
            }
            if conflicted {
                decided.push(*key);
            }
        }
    }
    decided.sort_unstable();
    // A conflicted key for which every candidate failed has no event any more.
    for key in keys {
        if decided.binary_search(key).is_err() {
            state.remove(*key);
        }
    }
    state
}

fn closest(states: &[&StateMap], keys: &[KeyIx], resolved: &StateMap) -> usize {
    let distance = |state: &StateMap| {
        keys.iter().filter(|key| state.get(**key) != resolved.get(**key)).count()
    };
    let distances = states.iter().map(|state| distance(state));
    distances.enumerate().min_by_key(|(_, distance)| *distance).map_or(0, |(at, _)| at)
}
