//! What a client has got on a connection.
//!
//! Kept in memory: a client whose connection is gone (the server was restarted, or it was away for
//! long) is told so, and begins again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;
use parking_lot::Mutex;
use ruma::OwnedDeviceId;

use super::{
    Form, SlidingError, lists::Matching, request::Profiles, response::List, state::Required,
};
use crate::{
    rooms::record::Membership,
    storage::intern::{RoomNumber, UserNumber},
    sync::response::Counts,
};

/// How many connections are kept; the least used ones are forgotten first.
const MAX_CONNECTIONS: u64 = 20_000;
/// A connection that is not used for so long is forgotten.
const IDLE: Duration = Duration::from_hours(2);

type Key = (UserNumber, OwnedDeviceId, Form, Option<String>);

/// The connections of all clients.
#[derive(Clone)]
pub(super) struct Connections {
    open: Cache<Key, Arc<Mutex<Positions>>>,
    /// Sets the positions of this process apart from those of the one before.
    process: u64,
    next: Arc<AtomicU64>,
}

/// The state by position: that of the last answer, and of the one that the client came with. It may
/// come with that again, since an answer can be lost.
type Positions = BTreeMap<u64, Arc<State>>;

/// What a client has got.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Up to this stream position, as far as rooms are concerned that stand in `rooms`.
    pub(super) position: u64,
    /// The rooms it has got.
    pub(super) rooms: HashMap<RoomNumber, Arc<SentRoom>>,
    /// The lists as it has got them.
    pub(super) lists: BTreeMap<String, List>,
    /// Which rooms belonged to the lists that have filters.
    pub(super) matching: BTreeMap<String, Matching>,
    /// The rooms in which it was told who types.
    pub(super) typing: BTreeSet<RoomNumber>,
    /// Which profiles it asked for.
    pub(super) profiles: Profiles,
    /// What it asked for: see [`super::Body::asked`].
    pub(super) asked: u64,
}

/// What a client has got of a room.
#[derive(Clone, Debug)]
pub(super) struct SentRoom {
    /// What the user was to it.
    pub(super) membership: Membership,
    /// Everything up to this stream position that was wanted then.
    pub(super) upto: u64,
    /// How many events were wanted.
    pub(super) timeline_limit: u64,
    /// Which state was wanted.
    pub(super) required_state: Required,
    /// Whether it is a conversation with one person.
    pub(super) direct: bool,
    /// Whether the user has or had come in, and it was shown as such a room.
    pub(super) came_in: bool,
    /// Whose member events it has got because they matter.
    pub(super) members: BTreeSet<String>,
    /// What the user had not read, as it was told.
    pub(super) unread: Option<Counts>,
}

impl Connections {
    /// No connections yet. `process` is another number in each process.
    pub(super) fn new(process: u64) -> Self {
        let open = Cache::builder().max_capacity(MAX_CONNECTIONS).time_to_idle(IDLE).build();
        Self { open, process, next: Arc::new(AtomicU64::new(1)) }
    }

    /// The state that the client comes with; an empty one without a position.
    ///
    /// # Errors
    /// [`SlidingError::UnknownPosition`] if it is not known, or no longer.
    pub(super) fn state(&self, key: &Key, pos: Option<&str>) -> Result<Arc<State>, SlidingError> {
        let Some(pos) = pos else { return Ok(Arc::default()) };
        let number = self.number(pos).ok_or(SlidingError::UnknownPosition)?;
        let connection = self.open.get(key).ok_or(SlidingError::UnknownPosition)?;
        let mut positions = connection.lock();
        let state = positions.get(&number).cloned().ok_or(SlidingError::UnknownPosition)?;
        // It has got that answer: what was before is over.
        *positions = positions.split_off(&number);
        Ok(state)
    }

    /// Keeps the state that the client has once it gets the answer; returns its position.
    pub(super) fn keep(&self, key: Key, came_with: Option<&str>, state: Arc<State>) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let position = state.position;
        let connection = if came_with.is_some() {
            self.open.get_with(key, Arc::default)
        } else {
            // A new connection ends the one before of that name.
            let connection = Arc::<Mutex<Positions>>::default();
            self.open.insert(key, Arc::clone(&connection));
            connection
        };
        let mut positions = connection.lock();
        let before = came_with.and_then(|pos| self.number(pos));
        // An answer to the same position that was lost is replaced by this one.
        positions.retain(|number, _| Some(*number) == before);
        positions.insert(number, state);
        format!("{}_{number}_{position}", self.process)
    }

    fn number(&self, pos: &str) -> Option<u64> {
        let [process, number, _] = parts(pos)?;
        (process == self.process).then_some(number)
    }
}

/// The stream position up to which a client has everything that comes with this position of its
/// connection; none if it is none of this server's.
pub(crate) fn sliding_position(pos: &str) -> Option<u64> {
    parts(pos).map(|[.., position]| position)
}

/// The process, the number of the answer, and the stream position.
fn parts(pos: &str) -> Option<[u64; 3]> {
    let parts: Vec<u64> = pos.split('_').map(str::parse).collect::<Result<_, _>>().ok()?;
    parts.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        (UserNumber(1), "DEVICE".into(), Form::Deployed, None)
    }

    fn at(position: u64) -> Arc<State> {
        Arc::new(State { position, ..State::default() })
    }

    #[test]
    fn a_position_may_be_repeated_until_the_next_one_is_used() {
        let connections = Connections::new(1);
        let first = connections.keep(key(), None, at(1));
        let lost = connections.keep(key(), Some(&first), at(2));
        assert_eq!(connections.state(&key(), Some(&first)).unwrap().position, 1);
        let second = connections.keep(key(), Some(&first), at(3));
        assert!(connections.state(&key(), Some(&lost)).is_err());
        assert_eq!(connections.state(&key(), Some(&second)).unwrap().position, 3);
        assert!(connections.state(&key(), Some(&first)).is_err());
    }

    #[test]
    fn a_position_says_how_far_the_client_is() {
        let pos = Connections::new(7).keep(key(), None, at(42));
        assert_eq!(sliding_position(&pos), Some(42));
        assert_eq!(sliding_position("s2_1_2"), None);
    }

    #[test]
    fn positions_of_other_connections_and_processes_are_unknown() {
        let connections = Connections::new(1);
        let pos = connections.keep(key(), None, at(1));
        let other = (UserNumber(2), "DEVICE".into(), Form::Deployed, None);
        assert!(connections.state(&other, Some(&pos)).is_err());
        assert!(Connections::new(2).state(&key(), Some(&pos)).is_err());
        for pos in ["", "1", "1_1", "1_1_", "x_1_1", "1_x_1", "1_1_x", "1_1_1_1"] {
            assert!(connections.state(&key(), Some(pos)).is_err());
        }
        connections.keep(key(), None, at(2));
        assert!(connections.state(&key(), Some(&pos)).is_err(), "begun again");
    }
}
