//! The algorithm of room version 1.
//!
//! Where the spec leaves something open, this does what Synapse does, with which all rooms of
//! version 1 are shared: the members that are in conflict are decided independently of each
//! other, and if no candidate of another kind passes, the last one tried is taken.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v1/#state-resolution>

use sha1::{Digest, Sha1};

use crate::{
    ids::{EventIx, KeyIx, some},
    resolve::Accepted,
    room::Room,
    scratch::Scratch,
    state_map::StateMap,
    tables::{KEY_POWER_LEVELS, TYPE_JOIN_RULES, TYPE_MEMBER},
};

/// A key with several candidates, in the order of preference for other events: "the highest depth
/// and lowest `sha1(event_id)`" first.
struct Contest {
    key: KeyIx,
    candidates: Vec<EventIx>,
}

/// Decides the keys at which the states differ.
pub(crate) fn resolve(
    room: &Room,
    states: &[&StateMap],
    keys: &[KeyIx],
    scratch: &mut Scratch,
) -> Accepted {
    for key in keys {
        scratch.conflicted_keys.insert(key.0);
    }
    // "Start by setting *R* to the union of the states to be resolved, excluding any
    // *conflicting* events." A *conflict* is between different events; one that some states have
    // and others lack is no conflict.
    let mut contests = Vec::new();
    for key in keys {
        let mut candidates: Vec<_> = states.iter().filter_map(|state| state.get(*key)).collect();
        candidates.sort_unstable();
        candidates.dedup();
        match candidates[..] {
            [] => {}
            [only] => scratch.overlay.set(key.0, only.0),
            _ => contests.push(Contest { key: *key, candidates: ordered(room, candidates) }),
        }
    }
    let stage = |contest: &Contest| {
        if contest.key == KEY_POWER_LEVELS {
            return 0;
        }
        match room.tables.key(contest.key).event_type {
            TYPE_JOIN_RULES => 1,
            TYPE_MEMBER => 2,
            _ => 3,
        }
    };
    // "First we resolve conflicts between `m.room.power_levels` events. … Repeat the above
    // process for conflicts between `m.room.join_rules` events. Repeat the above process for
    // conflicts between `m.room.member` events."
    let base = states.first().copied();
    for number in 0..3 {
        let decided: Vec<_> = contests
            .iter()
            .filter(|contest| stage(contest) == number)
            .map(|contest| (contest.key, advance(room, base, contest, scratch)))
            .collect();
        for (key, event) in decided {
            scratch.overlay.set(key.0, event.0);
        }
    }
    // "No other events affect the authorisation rules, so for all other conflicts, just pick the
    // event with the highest depth and lowest `sha1(event_id)` that passes authentication in *R*
    // and add it to *R*."
    let others = contests.iter().filter(|contest| stage(contest) == 3);
    let picked: Vec<_> = others
        .filter_map(|contest| {
            let passes = |event: &&EventIx| allowed(room, base, None, **event, scratch);
            let event = contest.candidates.iter().find(passes).or(contest.candidates.last())?;
            Some((contest.key, *event))
        })
        .collect();
    for (key, event) in picked {
        scratch.overlay.set(key.0, event.0);
    }
    let accepted = scratch
        .overlay
        .places()
        .iter()
        .map(|key| (KeyIx(*key), EventIx(scratch.overlay.get(*key))))
        .collect();
    scratch.overlay.clear();
    scratch.conflicted_keys.clear_all(keys.iter().map(|key| key.0));
    accepted
}

/// "Sort the list by ascending `depth` then descending `sha1(event_id)`. Add the first event in
/// the list to *R*. For each subsequent event in the list, check that the event would be allowed
/// by the authorisation rules for a room in state *R*. If the event would be allowed, then update
/// *R* with the event and continue with the next event in the list. If it would not be allowed,
/// stop".
fn advance(room: &Room, base: Option<&StateMap>, contest: &Contest, scratch: &Scratch) -> EventIx {
    let mut ascending = contest.candidates.iter().rev();
    let mut current = ascending.next().copied().unwrap_or(contest.candidates[0]);
    for event in ascending {
        if !allowed(room, base, Some((contest.key, current)), *event, scratch) {
            break;
        }
        current = *event;
    }
    current
}

/// Whether `event` is allowed in *R* with one entry on top.
fn allowed(
    room: &Room,
    base: Option<&StateMap>,
    on_top: Option<(KeyIx, EventIx)>,
    event: EventIx,
    scratch: &Scratch,
) -> bool {
    let state = |key: KeyIx| {
        if let Some((_, event)) = on_top.filter(|(on_top, _)| *on_top == key) {
            return Some(event);
        }
        if let Some(event) = some(scratch.overlay.get(key.0)) {
            return Some(EventIx(event));
        }
        base.filter(|_| !scratch.conflicted_keys.contains(key.0))?.get(key)
    };
    room.check(event, &state).is_ok()
}

/// By descending depth, then ascending SHA-1 of the ID.
fn ordered(room: &Room, candidates: Vec<EventIx>) -> Vec<EventIx> {
    let mut keyed: Vec<_> = candidates
        .into_iter()
        .map(|event| {
            let hash: [u8; 20] = Sha1::digest(room.event_id(event).as_bytes()).into();
            (std::cmp::Reverse(room.get(event).depth), hash, event)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(.., event)| event).collect()
}
