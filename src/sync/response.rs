//! What `/v3/sync` answers, as it is written to the wire: events are spliced in, not rebuilt.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{e2ee::DeviceLists, token::SyncToken};
use crate::{e2ee, push::Count};

/// From how many rooms on a response is written in pieces.
const FEW_ROOMS: usize = 16;
/// About how large these are.
const PIECE_BYTES: usize = 64 << 10;

/// The whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct Response {
    pub(crate) next_batch: String,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) account_data: Events,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) presence: Events,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) to_device: Events,
    #[serde(skip_serializing_if = "DeviceLists::is_empty")]
    pub(crate) device_lists: DeviceLists,
    /// One-time keys that the device has left, by algorithm.
    pub(crate) device_one_time_keys_count: BTreeMap<String, u64>,
    /// Algorithms whose fallback key was not used yet.
    pub(crate) device_unused_fallback_key_types: Vec<String>,
    /// These are fewer than in the last response.
    #[serde(skip)]
    pub(super) fewer_keys: bool,
    /// Last: see [`Response::into_pieces`].
    pub(crate) rooms: Rooms,
}

/// Events without more about them.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Events {
    pub(crate) events: Vec<Box<RawValue>>,
}

/// Rooms by what the user is to them.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Rooms {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) join: BTreeMap<OwnedRoomId, Joined>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) invite: BTreeMap<OwnedRoomId, Invited>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) knock: BTreeMap<OwnedRoomId, Knocked>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) leave: BTreeMap<OwnedRoomId, Left>,
}

/// A room that the user is in.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Joined {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) summary: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unread_notifications: Option<Counts>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unread_thread_notifications: BTreeMap<String, Counts>,
    pub(crate) timeline: Timeline,
    #[serde(flatten)]
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) ephemeral: Events,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) account_data: Events,
}

/// What a client needs to name a room without a name.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    #[serde(rename = "m.heroes")]
    pub(crate) heroes: Vec<OwnedUserId>,
    #[serde(rename = "m.joined_member_count")]
    pub(crate) joined_member_count: usize,
    #[serde(rename = "m.invited_member_count")]
    pub(crate) invited_member_count: usize,
}

/// What the user has not read.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Counts {
    pub(crate) notification_count: u64,
    pub(crate) highlight_count: u64,
}

impl From<Count> for Counts {
    fn from(count: Count) -> Self {
        Self { notification_count: count.notifications, highlight_count: count.highlights }
    }
}

/// The latest events of a room.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Timeline {
    pub(crate) events: Vec<Box<RawValue>>,
    /// There are events between these and what the client has seen.
    pub(crate) limited: bool,
    /// Where `/messages` goes on backwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prev_batch: Option<String>,
}

/// State changes that the timeline does not show, up to its start or up to its end.
#[derive(Debug, Serialize)]
pub(crate) enum State {
    #[serde(rename = "state")]
    Before(Events),
    #[serde(rename = "state_after")]
    After(Events),
    /// The same under the name it had before it was in the spec.
    #[serde(rename = "org.matrix.msc4222.state_after")]
    UnstableAfter(Events),
}

/// Where the state stands to the timeline, and under which name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum StateForm {
    /// `state`: as it was before the timeline.
    #[default]
    Before,
    /// `state_after`: as it is after the timeline.
    After,
    /// The same under its unstable name, for clients that ask by that.
    UnstableAfter,
}

impl StateForm {
    /// State in this form.
    pub(super) fn of(self, events: Events) -> State {
        match self {
            Self::Before => State::Before(events),
            Self::After => State::After(events),
            Self::UnstableAfter => State::UnstableAfter(events),
        }
    }
}

/// A room that the user is invited to.
#[derive(Debug, Serialize)]
pub(crate) struct Invited {
    pub(crate) invite_state: Stripped,
}

/// A room that the user knocked on.
#[derive(Debug, Serialize)]
pub(crate) struct Knocked {
    pub(crate) knock_state: Stripped,
}

/// Stripped state events: a JSON array.
#[derive(Debug, Serialize)]
pub(crate) struct Stripped {
    pub(crate) events: Box<RawValue>,
}

/// A room that the user has left, or was made to leave.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Left {
    pub(crate) timeline: Timeline,
    #[serde(flatten)]
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub(crate) account_data: Events,
}

impl Events {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Before(Events::default())
    }
}

impl State {
    /// Its events, in whatever form.
    pub(super) fn into_events(self) -> Vec<Box<RawValue>> {
        match self {
            Self::Before(events) | Self::After(events) | Self::UnstableAfter(events) => {
                events.events
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Before(events) | Self::After(events) | Self::UnstableAfter(events) => {
                events.is_empty()
            }
        }
    }
}

impl Joined {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.summary.is_none()
            && self.timeline.events.is_empty()
            && !self.timeline.limited
            && self.state.is_empty()
            && self.ephemeral.is_empty()
            && self.account_data.is_empty()
    }
}

/// `"NAME":{ROOM:…,ROOM:…}`, a room at a time; nothing if there are none.
fn section<T: Serialize>(
    name: &'static str,
    rooms: BTreeMap<OwnedRoomId, T>,
) -> impl Iterator<Item = Vec<u8>> {
    let last = rooms.len();
    rooms.into_iter().enumerate().map(move |(place, (room_id, room))| {
        let mut piece = match place {
            0 => format!("\"{name}\":{{").into_bytes(),
            _ => vec![b','],
        };
        piece.extend(json(&room_id));
        piece.push(b':');
        piece.extend(json(&room));
        if place + 1 == last {
            piece.push(b'}');
        }
        piece
    })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("its keys are strings")
}

/// Small parts put together until they are worth a frame of their own.
struct Gathered<I> {
    parts: I,
}

impl<I: Iterator<Item = Vec<u8>>> Iterator for Gathered<I> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = self.parts.next()?;
        while piece.len() < PIECE_BYTES {
            let Some(part) = self.parts.next() else { break };
            piece.extend(part);
        }
        Some(piece)
    }
}

impl Response {
    /// One with nothing in it but where the client goes on, and how many keys its device has left.
    pub(super) fn new(next: SyncToken, counts: &e2ee::Counts) -> Self {
        Self {
            next_batch: next.to_string(),
            account_data: Events::default(),
            presence: Events::default(),
            to_device: Events::default(),
            device_lists: DeviceLists::default(),
            device_one_time_keys_count: counts.one_time.clone(),
            device_unused_fallback_key_types: counts.unused_fallback.clone(),
            fewer_keys: false,
            rooms: Rooms::default(),
        }
    }

    /// Where the client goes on from.
    pub(super) fn next(&self) -> SyncToken {
        self.next_batch.parse().expect("it was made from a token")
    }

    /// Whether it has so many rooms that it is better not written as a whole.
    pub(crate) fn is_large(&self) -> bool {
        self.rooms.join.len() + self.rooms.leave.len() > FEW_ROOMS
    }

    /// The JSON of it in pieces, each made when it is asked for: a client that reads slowly, or a
    /// thousand rooms, cost the memory of the events once.
    pub(crate) fn into_pieces(mut self) -> impl Iterator<Item = Vec<u8>> {
        let rooms = std::mem::take(&mut self.rooms);
        let mut head = json(&self);
        // Ends with that of no rooms: `"rooms":{}}`.
        head.truncate(head.len() - 2);
        let Rooms { join, invite, knock, leave } = rooms;
        let sections = section("join", join)
            .chain(section("invite", invite))
            .chain(section("knock", knock))
            .chain(section("leave", leave));
        let mut first = true;
        let sections = sections.map(move |mut piece| {
            // Between two sections.
            if piece.first() == Some(&b'"') && !std::mem::take(&mut first) {
                piece.insert(0, b',');
            }
            piece
        });
        let parts = std::iter::once(head).chain(sections).chain([b"}}".to_vec()]);
        Gathered { parts }
    }

    /// Whether nothing happened since the token: then a long-poll goes on waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.account_data.is_empty()
            && self.rooms.join.is_empty()
            && self.rooms.invite.is_empty()
            && self.rooms.knock.is_empty()
            && self.rooms.leave.is_empty()
            && self.presence.is_empty()
            && self.to_device.is_empty()
            && self.device_lists.is_empty()
            && !self.fewer_keys
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn response(rooms: [usize; 4]) -> Response {
        let next = SyncToken { position: 7, to_device: 7 };
        let mut response = Response::new(next, &e2ee::Counts::default());
        let event = |size: usize| {
            let event = json!({ "type": "m.room.message", "body": "x".repeat(size) });
            Events { events: vec![serde_json::value::to_raw_value(&event).unwrap()] }
        };
        let id = |number: usize| OwnedRoomId::try_from(format!("!{number}:localhost")).unwrap();
        let [join, invite, knock, leave] = rooms;
        for number in 0..join {
            let joined = Joined { ephemeral: event(number * 10_000), ..Joined::default() };
            response.rooms.join.insert(id(number), joined);
        }
        let stripped = || Stripped { events: RawValue::from_string("[]".to_owned()).unwrap() };
        for number in 0..invite {
            response.rooms.invite.insert(id(number), Invited { invite_state: stripped() });
        }
        for number in 0..knock {
            response.rooms.knock.insert(id(number), Knocked { knock_state: stripped() });
        }
        for number in 0..leave {
            let left = Left { account_data: event(1), ..Left::default() };
            response.rooms.leave.insert(id(number), left);
        }
        response
    }

    #[test]
    fn pieces_put_together_are_the_response() {
        for rooms in [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 2], [40, 3, 2, 1], [0, 0, 0, 1]] {
            let whole = serde_json::to_value(response(rooms)).unwrap();
            let pieces: Vec<Vec<u8>> = response(rooms).into_pieces().collect();
            let gathered: Value = serde_json::from_slice(&pieces.concat()).unwrap();
            assert_eq!(gathered, whole, "{rooms:?}");
            assert!(pieces.iter().all(|piece| piece.len() < PIECE_BYTES + 400_100), "{rooms:?}");
        }
        assert!(response([40, 0, 0, 0]).into_pieces().count() > 5);
    }
}
