//! Mainline ordering.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v11/#definitions>

use std::cmp::Reverse;

use crate::{
    ids::{EventIx, NONE},
    room::Room,
    scratch::Scratch,
};

/// "Otherwise set *i* = ∞, where ∞ is a sentinel value greater than any integer." Not `NONE`,
/// which stands for a position that has not been looked up yet.
const INFINITY: u32 = NONE - 1;

/// Sorts `events` by the mainline ordering based on `power_levels`.
///
/// The position of each power levels event is looked up once, however many events cite it and
/// however they are chained.
pub(crate) fn mainline_sort(
    room: &Room,
    events: &mut [EventIx],
    power_levels: Option<EventIx>,
    scratch: &mut Scratch,
) {
    // "Starting with *i* = 0, repeatedly fetch *P*(i+1), the `m.room.power_levels` event in the
    // `auth_events` of *P*(i). Increment *i* and repeat until *P*(i) has no
    // `m.room.power_levels` event in its `auth_events`."
    let mut next = power_levels;
    let mut position = 0;
    while let Some(event) = next {
        scratch.visited += 1;
        scratch.places.set(event.0, position);
        position += 1;
        next = room.get(event).power_levels();
    }
    // "*x* < *y* if 1. the mainline position of *x* is **greater** than the mainline position of
    // *y*; or 2. the mainline positions of the events are the same, but *x*'s `origin_server_ts`
    // is *less* than *y*'s `origin_server_ts`; or 3. the mainline positions of the events are the
    // same and the events have the same `origin_server_ts`, but *x*'s `event_id` is *less* than
    // *y*'s `event_id`."
    let mut path = Vec::new();
    let mut keyed: Vec<_> = events
        .iter()
        .map(|event| {
            let position = position_of(room, *event, &mut path, scratch);
            (Reverse(position), room.get(*event).ts, room.event_id(*event), *event)
        })
        .collect();
    keyed.sort_unstable();
    for (event, (.., sorted)) in events.iter_mut().zip(keyed) {
        *event = sorted;
    }
    scratch.places.clear();
}

/// "Find the smallest index *j* ≥ 1 for which *e*(j) belongs to the mainline of *P*. If such a *j*
/// exists, then *e*(j) = *P*(i) for some unique index *i* ≥ 0. Otherwise set *i* = ∞. In both
/// cases, the *mainline position* of *e* is *i*."
fn position_of(room: &Room, event: EventIx, path: &mut Vec<u32>, scratch: &mut Scratch) -> u32 {
    let mut next = room.get(event).power_levels();
    let position = loop {
        let Some(levels) = next else { break INFINITY };
        scratch.visited += 1;
        let known = scratch.places.get(levels.0);
        if known != NONE {
            break known;
        }
        path.push(levels.0);
        next = room.get(levels).power_levels();
    };
    for levels in path.drain(..) {
        scratch.places.set(levels, position);
    }
    position
}
