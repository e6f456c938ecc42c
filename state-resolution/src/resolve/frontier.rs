//! The states at the ends of a room's graph, resolved as they come and go.

use crate::{
    graph::conflicted_keys,
    ids::KeyIx,
    resolve::{ConflictCache, ResolveError, Resolved},
    room::Room,
    scratch::Scratch,
    state_map::StateMap,
};

/// The states after the forward extremities of a room, and what they resolve to.
///
/// Gives the same result as [`Room::resolve`] over the states, in every case; what it saves is
/// work: nothing is done while the set of states is the same, a state that joins is compared with
/// one other only, and conflicts that were resolved before are looked up.
///
/// `K` names an end: an event ID or number.
#[derive(Debug)]
pub struct Frontier<K> {
    states: Vec<(K, StateMap)>,
    /// Where the states differ from the first, if that is known.
    keys: Option<Vec<KeyIx>>,
    resolved: Option<(u64, Resolved)>,
    cache: ConflictCache,
}

impl<K> Default for Frontier<K> {
    fn default() -> Self {
        Self { states: Vec::new(), keys: None, resolved: None, cache: ConflictCache::default() }
    }
}

impl<K: PartialEq> Frontier<K> {
    /// The frontier of a room without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many ends there are.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there are no ends.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Adds an end with the state after it, or changes the state after it.
    pub fn insert(&mut self, end: K, state: StateMap) {
        if let Some((_, known)) = self.states.iter().find(|(known, _)| *known == end) {
            if *known == state {
                return;
            }
            self.remove(&end);
        }
        if let Some(keys) = &mut self.keys
            && let Some((_, first)) = self.states.first()
        {
            first.for_each_difference(&state, |key, _, _| keys.push(key));
            keys.sort_unstable();
            keys.dedup();
        }
        // The outcome depends on the set of states only.
        if !self.states.iter().any(|(_, known)| *known == state) {
            self.resolved = None;
        }
        self.states.push((end, state));
    }

    /// Removes an end, because an event was sent after it. Returns the state after it.
    pub fn remove(&mut self, end: &K) -> Option<StateMap> {
        let at = self.states.iter().position(|(known, _)| known == end)?;
        let (_, state) = self.states.remove(at);
        if !self.states.iter().any(|(_, known)| *known == state) {
            self.resolved = None;
            self.keys = None;
        }
        Some(state)
    }

    /// The ends and the states after them.
    pub fn states(&self) -> impl Iterator<Item = (&K, &StateMap)> {
        self.states.iter().map(|(end, state)| (end, state))
    }

    /// The current state of the room.
    ///
    /// # Errors
    /// As [`Room::resolve`].
    pub fn resolve(
        &mut self,
        room: &Room,
        scratch: &mut Scratch,
    ) -> Result<Resolved, ResolveError> {
        if let Some((epoch, resolved)) = &self.resolved
            && *epoch == room.rejection_epoch()
        {
            return Ok(resolved.clone());
        }
        let states: Vec<&StateMap> = self.states.iter().map(|(_, state)| state).collect();
        room.check_bounds(&states)?;
        let keys = self.keys.get_or_insert_with(|| conflicted_keys(&states, scratch));
        let resolved = room.resolve_conflict(&states, keys, scratch, Some(&mut self.cache))?;
        self.resolved = Some((room.rejection_epoch(), resolved.clone()));
        Ok(resolved)
    }
}
