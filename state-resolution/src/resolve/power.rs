//! Reverse topological power ordering.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v11/#definitions>

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::{
    auth::{Power, power},
    content::Content,
    ids::{EventIx, NONE},
    room::{POWER_EVENT, Room},
    scratch::Scratch,
    tables::KEY_CREATE,
};

/// "Select the set *X* of all *power events* that appear in the *full conflicted set*. For each
/// such power event *P*, enlarge *X* by adding the events in the auth chain of *P* which also
/// belong to the full conflicted set. Sort *X* into a list using the *reverse topological power
/// ordering*."
///
/// The auth chain is followed inside the conflicted set, as all implementations do: behind an
/// event that is not in it, all states agree on the chain.
///
/// Returns the list, and the events of `set` that are not in it in ascending order.
pub(crate) fn power_order(
    room: &Room,
    set: &[EventIx],
    scratch: &mut Scratch,
) -> (Vec<EventIx>, Vec<EventIx>) {
    for event in set {
        scratch.first.insert(event.0);
    }
    // Edges lead downwards, so that an event is selected before it is looked at.
    for event in set.iter().rev() {
        if room.get(*event).has(POWER_EVENT) {
            scratch.second.insert(event.0);
        }
        if scratch.second.contains(event.0) {
            for auth in room.auth_events(*event) {
                scratch.visited += 1;
                if scratch.first.contains(auth.0) {
                    scratch.second.insert(auth.0);
                }
            }
        }
    }
    let (selected, rest): (Vec<EventIx>, Vec<EventIx>) =
        set.iter().partition(|event| scratch.second.contains(event.0));
    scratch.first.clear_all(set.iter().map(|event| event.0));
    scratch.second.clear_all(selected.iter().map(|event| event.0));
    (sort(room, &selected, scratch), rest)
}

/// "The reverse topological power ordering can be found by sorting the events using Kahn's
/// algorithm for topological sorting, and at each step selecting, among all the candidate
/// vertices, the smallest vertex using the above comparison relation."
fn sort(room: &Room, events: &[EventIx], scratch: &mut Scratch) -> Vec<EventIx> {
    for (place, event) in (0..).zip(events) {
        scratch.places.set(event.0, place);
    }
    // Per event: how many of its auth events are still to come out, and, as ranges of one list,
    // who waits for it.
    let mut waiting_for = vec![0_u32; events.len()];
    let mut starts = vec![0_usize; events.len() + 1];
    let mut edges = Vec::new();
    for (place, event) in events.iter().enumerate() {
        for auth in room.auth_events(*event) {
            scratch.visited += 1;
            let auth = scratch.places.get(auth.0);
            if auth != NONE {
                waiting_for[place] += 1;
                starts[auth as usize + 1] += 1;
                edges.push((auth as usize, place));
            }
        }
    }
    scratch.places.clear();
    for place in 0..events.len() {
        starts[place + 1] += starts[place];
    }
    let mut fill = starts.clone();
    let mut waiters = vec![0_usize; edges.len()];
    for (auth, place) in edges {
        waiters[fill[auth]] = place;
        fill[auth] += 1;
    }

    // "*x* < *y* if 1. *x*'s sender has *greater* power level than *y*'s sender, when looking at
    // their respective `auth_event`s; or 2. the senders have the same power level, but *x*'s
    // `origin_server_ts` is *less* than *y*'s `origin_server_ts`; or 3. the senders have the same
    // power level and the events have the same `origin_server_ts`, but *x*'s `event_id` is *less*
    // than *y*'s `event_id`."
    let candidate = |place: usize| {
        let event = events[place];
        Reverse((
            Reverse(sender_power(room, event)),
            room.get(event).ts,
            room.event_id(event),
            place,
        ))
    };
    let mut candidates: BinaryHeap<_> =
        (0..events.len()).filter(|place| waiting_for[*place] == 0).map(candidate).collect();
    let mut sorted = Vec::with_capacity(events.len());
    while let Some(Reverse((.., place))) = candidates.pop() {
        sorted.push(events[place]);
        for waiter in &waiters[starts[place]..starts[place + 1]] {
            waiting_for[*waiter] -= 1;
            if waiting_for[*waiter] == 0 {
                candidates.push(candidate(*waiter));
            }
        }
    }
    sorted
}

/// The level of the sender by the event's own auth events.
fn sender_power(room: &Room, ix: EventIx) -> Power {
    let event = room.get(ix);
    let cited = || {
        let mut auth_events = room.auth_events(ix).iter().copied();
        auth_events.find(|auth| room.get(*auth).key() == Some(KEY_CREATE))
    };
    let create = if room.rules().auth.room_id_is_create_hash {
        room.create_event()
    } else {
        cited().or(room.create_event())
    };
    let Some(Content::Create(create)) = create.map(|create| room.content(create)) else {
        return Power::Level(0);
    };
    let levels = match event.power_levels().map(|levels| room.content(levels)) {
        Some(Content::PowerLevels(levels)) => Some(levels),
        _ => None,
    };
    power(create, levels, event.sender)
}
