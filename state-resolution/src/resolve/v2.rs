//! The algorithm of room versions 2 to 11, and its revision in 12.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v11/#algorithm>,
//! <https://spec.matrix.org/v1.19/rooms/v12/#algorithm>

use crate::{
    Algorithm,
    ids::{EventIx, KeyIx},
    resolve::{
        Accepted, Attempt, Phase, mainline::mainline_sort, power::power_order, replay::Replay,
    },
    room::Room,
    scratch::Scratch,
    state_map::StateMap,
    tables::KEY_POWER_LEVELS,
};

/// A conflict, taken apart.
pub(crate) struct Conflict<'a> {
    pub(crate) room: &'a Room,
    /// Any of the states: outside `keys` they are all the same.
    pub(crate) base: &'a StateMap,
    /// The keys at which the states differ, in ascending order.
    pub(crate) keys: &'a [KeyIx],
    /// The full conflicted set, in ascending order.
    pub(crate) set: &'a [EventIx],
}

impl<'a> Conflict<'a> {
    /// The state that iterative auth checks start from: "the *unconflicted state map*", but
    /// since version 12 "an *empty* state map".
    pub(crate) fn start(&self) -> Option<&'a StateMap> {
        (self.room.rules().resolution.algorithm != Algorithm::V2_1).then_some(self.base)
    }

    /// Steps 1 to 4; returns what they decided, which step 5 then holds against the unconflicted
    /// state.
    pub(crate) fn resolve(
        &self,
        scratch: &mut Scratch,
        mut trace: Option<&mut Vec<Attempt>>,
    ) -> Accepted {
        for key in self.keys {
            scratch.conflicted_keys.insert(key.0);
        }
        // "1. Select the set *X* of all *power events* … Sort *X* into a list using the *reverse
        // topological power ordering*."
        let (powers, mut rest) = power_order(self.room, self.set, scratch);
        // "2. Apply the *iterative auth checks algorithm* … to the list of events from the
        // previous step to get a partially resolved state."
        let mut replay = Replay::new(self.room, self.start(), scratch, trace.as_deref_mut());
        replay.run(&powers, Phase::Power);
        let levels = replay.state(KEY_POWER_LEVELS);
        // "3. Take all remaining events that weren't picked in step 1 and order them by the
        // mainline ordering based on the power level in the partially resolved state obtained in
        // step 2."
        mainline_sort(self.room, &mut rest, levels, scratch);
        // "4. Apply the *iterative auth checks algorithm* on the partial resolved state and the
        // list of events from the previous step."
        Replay::new(self.room, self.start(), scratch, trace).run(&rest, Phase::Mainline);

        let accepted = scratch
            .overlay
            .places()
            .iter()
            .map(|key| (KeyIx(*key), EventIx(scratch.overlay.get(*key))))
            .collect();
        scratch.overlay.clear();
        scratch.conflicted_keys.clear_all(self.keys.iter().map(|key| key.0));
        accepted
    }
}
