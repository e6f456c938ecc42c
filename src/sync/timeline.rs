//! The timeline of a room in a response: its latest events, and whether there is a gap before them.

use ruma::api::Direction;

use crate::{
    rooms::{
        Boundary, EventFilter, Room, RoomError, Rooms, Visibility,
        record::{EventNumber, SharedEvent},
    },
    storage::Snapshot,
};

/// Events a timeline has when the filter does not say.
const DEFAULT_LIMIT: usize = 10;
/// More than this are not sent, whatever the filter says.
const MAX_LIMIT: usize = 1_000;
/// Events looked at when a filter lets few of them through. Beyond, there is a gap.
const MAX_LOOKED_AT: usize = 5_000;

/// A stretch of a room's timeline.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// Oldest first.
    pub(super) events: Vec<(EventNumber, SharedEvent)>,
    /// Something wanted lies between the begin of the window and the first event.
    pub(super) limited: bool,
    /// Where the stretch begins: everything wanted after this is in it. None if it is empty.
    pub(super) start: Option<Boundary>,
}

/// Reads the latest events after `after` and up to `upto` that the filter wants and the user may
/// see, as many as the filter allows.
pub(super) async fn latest(
    rooms: &Rooms,
    at: &Snapshot,
    room: &Room,
    visibility: &Visibility,
    (after, upto): (Boundary, Boundary),
    filter: &EventFilter,
) -> Result<Stretch, RoomError> {
    let limit = filter
        .limit
        .map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(MAX_LIMIT))
        .min(MAX_LIMIT);
    let mut stretch = Stretch::default();
    let mut upto = upto;
    let mut looked_at = 0;
    'pages: loop {
        // One more than wanted tells whether there is a gap.
        let step = (limit + 1 - stretch.events.len()).max(20);
        let rows = rooms.timeline(at, room, after, upto, step, Direction::Backward).await?;
        let exhausted = rows.len() < step;
        for (key, number, event) in rows {
            looked_at += 1;
            if key.fills_gap() {
                // What was fetched later is no news, and its state is not what came after it: who
                // begins reads it going back from here, where it stands.
                if after == Boundary::at_position(0) && !stretch.events.is_empty() {
                    stretch.limited = true;
                    break 'pages;
                }
                upto = Boundary::before(key);
                continue;
            }
            upto = Boundary::before(key);
            if !filter.wants(&event) || !visibility.allows(&event) {
                continue;
            }
            if stretch.events.len() == limit {
                stretch.limited = true;
                // With a limit of zero the stretch is empty and begins behind this event.
                stretch.start.get_or_insert(Boundary(key));
                break 'pages;
            }
            stretch.start = Some(Boundary::before(key));
            stretch.events.push((number, event));
        }
        if exhausted {
            break;
        }
        if looked_at >= MAX_LOOKED_AT {
            stretch.limited = true;
            stretch.start = Some(upto);
            break;
        }
    }
    stretch.events.reverse();
    Ok(stretch)
}
