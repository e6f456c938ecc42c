//! Sweeps over the auth graph.
//!
//! Auth edges lead to smaller numbers, so going through the numbers downwards meets every event
//! before whatever it cites: one pass is enough where a walk would need a queue and a set, and no
//! chain has to be stored. However many paths there are, every event and edge is looked at once.

use crate::{
    ids::{EventIx, KeyIx, some},
    room::Room,
    scratch::Scratch,
    state_map::StateMap,
};

/// How many states one sweep tells apart.
const GROUP: usize = 64;

/// The events of conflicted keys, in descending order, with the states that have them.
pub(crate) type Masked = Vec<(EventIx, u64)>;

impl Room {
    /// The events that `events` cite, that those cite, and so on, in ascending order: every event
    /// after all that it cites. `events` themselves are included only if others cite them.
    ///
    /// # Panics
    /// If a number is not of this room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#definitions>, "auth chain"
    pub fn auth_chain(&self, events: &[EventIx], scratch: &mut Scratch) -> Vec<EventIx> {
        scratch.reserve(self.len(), self.key_count());
        let mut chain = Vec::new();
        let enter = |event: EventIx, scratch: &mut Scratch| {
            for auth in self.auth_events(event) {
                scratch.first.insert(auth.0);
                scratch.visited += 1;
            }
        };
        for event in events {
            enter(*event, scratch);
        }
        let mut end = u32::try_from(self.len()).unwrap_or(u32::MAX);
        while let Some(event) = scratch.first.last_below(end) {
            scratch.first.remove(event);
            end = event;
            chain.push(EventIx(event));
            enter(EventIx(event), scratch);
        }
        chain.reverse();
        chain
    }

    /// The events that are in the full auth chains of some of the states but not of all, in
    /// ascending order. Whether a state's own events count is a rule of the room version.
    ///
    /// # Panics
    /// If a number in the states is not of this room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#definitions>, "auth difference"
    pub fn auth_difference(&self, states: &[&StateMap], scratch: &mut Scratch) -> Vec<EventIx> {
        scratch.reserve(self.len(), self.key_count());
        let keys = conflicted_keys(states, scratch);
        self.difference(states, &keys, scratch)
    }

    pub(crate) fn difference(
        &self,
        states: &[&StateMap],
        conflicted_keys: &[KeyIx],
        scratch: &mut Scratch,
    ) -> Vec<EventIx> {
        let Some((first, others)) = states.split_first() else { return Vec::new() };
        let mut difference = Vec::new();
        for key in conflicted_keys {
            scratch.conflicted_keys.insert(key.0);
        }
        // An event is in some chains but not in all exactly if some chain differs from the first
        // state's in having it. So each group is compared with the first state.
        for group in others.chunks(GROUP - 1) {
            let group: Vec<&StateMap> = [*first].into_iter().chain(group.iter().copied()).collect();
            let masked = mask_conflicts(&group, conflicted_keys);
            self.sweep_difference(&group, &masked, scratch, &mut difference);
        }
        scratch.conflicted_keys.clear_all(conflicted_keys.iter().map(|key| key.0));
        difference.sort_unstable();
        difference.dedup();
        difference
    }

    /// Appends the auth difference of at most 64 states.
    ///
    /// Goes down from the newest event. Conflicted events bring the bits of the states that have
    /// them; unconflicted ones, recognised when the sweep gets to them, bring all bits; both hand
    /// on what they have to what they cite. Once no event waits that lacks a bit, everything
    /// below is in all chains or in none.
    fn sweep_difference(
        &self,
        states: &[&StateMap],
        masked: &Masked,
        scratch: &mut Scratch,
        difference: &mut Vec<EventIx>,
    ) {
        let full = u64::MAX >> (64 - states.len());
        let includes_own = self.rules().resolution.chain_includes_state_events;
        for (event, _) in masked {
            scratch.conflicted.insert(event.0);
        }
        // Events known to be in some chain that no chain path has shown to be in all of them.
        let mut open = masked.len();
        let mut own_masks = masked.iter().peekable();
        let top = states.iter().filter_map(|state| state.event_bound()).max();
        let Some(top) = top else { return };
        for number in (0..=top.0).rev() {
            if open == 0 {
                break;
            }
            scratch.visited += 1;
            let event = EventIx(number);
            let own = match own_masks.next_if(|(conflicted, _)| *conflicted == event) {
                Some((_, mask)) => *mask,
                None if self.is_unconflicted(event, states[0], scratch) => full,
                None => 0,
            };
            let reached = scratch.masks[event.index()];
            if reached | own == 0 {
                continue;
            }
            let is_open = |mask: u64, conflicted: bool| mask != full && (mask != 0 || conflicted);
            if is_open(reached, scratch.conflicted.contains(number)) {
                open -= 1;
            }
            let member = if includes_own { reached | own } else { reached };
            if member != 0 && member != full {
                difference.push(event);
            }
            for auth in self.auth_events(event) {
                scratch.visited += 1;
                let mut bits = reached | own;
                let conflicted = scratch.conflicted.contains(auth.0);
                // Where own events count, an unconflicted one is in all chains, and there is
                // nothing left to find out about it. In a quiet room this ends the sweep at once.
                if includes_own
                    && bits != full
                    && scratch.masks[auth.index()] == 0
                    && !conflicted
                    && self.is_unconflicted(*auth, states[0], scratch)
                {
                    bits = full;
                }
                let (before, after) = scratch.mask(*auth, bits);
                match (is_open(before, conflicted), is_open(after, conflicted)) {
                    (false, true) => open += 1,
                    (true, false) => open -= 1,
                    _ => {}
                }
            }
        }
        scratch.clear_masks();
        scratch.conflicted.clear_all(masked.iter().map(|(event, _)| event.0));
    }

    fn is_unconflicted(&self, event: EventIx, state: &StateMap, scratch: &Scratch) -> bool {
        some(self.get(event).key).is_some_and(|key| {
            !scratch.conflicted_keys.contains(key) && state.get(KeyIx(key)) == Some(event)
        })
    }

    /// The events on paths of auth edges from one event of `conflicted` to another, these
    /// included, in ascending order.
    ///
    /// # Panics
    /// If a number is not of this room.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#definitions>, "conflicted state subgraph"
    pub fn conflicted_subgraph(
        &self,
        conflicted: &[EventIx],
        scratch: &mut Scratch,
    ) -> Vec<EventIx> {
        scratch.reserve(self.len(), self.key_count());
        let (Some(low), Some(high)) = (conflicted.iter().min(), conflicted.iter().max()) else {
            return Vec::new();
        };
        // Down: what conflicted events lead to, as far as the lowest of them.
        for event in conflicted {
            scratch.first.insert(event.0);
            scratch.conflicted.insert(event.0);
        }
        let mut reachable = Vec::new();
        let mut end = high.0 + 1;
        while let Some(event) = scratch.first.last_below(end) {
            scratch.first.remove(event);
            end = event;
            reachable.push(event);
            for auth in self.auth_events(EventIx(event)) {
                scratch.visited += 1;
                if auth >= low {
                    scratch.first.insert(auth.0);
                }
            }
        }
        // Up: of these, what leads to a conflicted event.
        let mut subgraph = Vec::new();
        for event in reachable.iter().rev() {
            let leads = |auth: &EventIx| scratch.second.contains(auth.0);
            let auth_events = self.auth_events(EventIx(*event));
            scratch.visited += auth_events.len() as u64;
            if scratch.conflicted.contains(*event) || auth_events.iter().any(leads) {
                scratch.second.insert(*event);
                subgraph.push(EventIx(*event));
            }
        }
        scratch.second.clear_all(subgraph.iter().map(|event| event.0));
        scratch.conflicted.clear_all(conflicted.iter().map(|event| event.0));
        subgraph
    }
}

/// The keys that do not have the same event in every state, in ascending order.
pub(crate) fn conflicted_keys(states: &[&StateMap], scratch: &mut Scratch) -> Vec<KeyIx> {
    let Some((first, others)) = states.split_first() else { return Vec::new() };
    let mut keys = Vec::new();
    for other in others {
        let visited = first.for_each_difference(other, |key, _, _| keys.push(key));
        scratch.visited += visited as u64;
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The events at the conflicted keys, with a bit for each state that has them.
pub(crate) fn mask_conflicts(states: &[&StateMap], conflicted_keys: &[KeyIx]) -> Masked {
    let mut masked = Masked::new();
    for key in conflicted_keys {
        let start = masked.len();
        for (bit, state) in states.iter().enumerate() {
            let Some(event) = state.get(*key) else { continue };
            match masked[start..].iter_mut().find(|(known, _)| *known == event) {
                Some((_, mask)) => *mask |= 1 << bit,
                None => masked.push((event, 1 << bit)),
            }
        }
    }
    masked.sort_unstable_by_key(|(event, _)| std::cmp::Reverse(*event));
    masked
}
