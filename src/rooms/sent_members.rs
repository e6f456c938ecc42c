//! Which member events a device has: clients that load members lazily are not sent them again.
//!
//! What was in a response counts once the device comes back with the token of just that response.
//! With any other it may never have come, or been forgotten by the client: then all is sent again.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#lazy-loading-room-members>

use std::{collections::HashSet, sync::Arc};

use quick_cache::sync::Cache;
use ruma::OwnedDeviceId;

use super::{record::EventNumber, timeline_key::TimelineKey};
use crate::{
    storage::intern::{RoomNumber, UserNumber},
    users::session::Session,
};

/// Of how many sequences of responses it is known; the least used ones are forgotten first.
const MAX_SEQUENCES: usize = 5_000;
/// How many member events are known of one, about 20 bytes each. Beyond, it begins anew.
const MAX_MEMBERS: usize = 256;

/// A sequence of responses to a device: its syncs, or its reading of one room's history.
type Sequence = (UserNumber, OwnedDeviceId, Option<RoomNumber>);
type Members = Arc<HashSet<(RoomNumber, EventNumber)>>;

/// What devices have. In memory alone: after a restart they are sent it again.
pub(crate) struct SentMembers {
    /// By sequence: the token of the last response, and what was in it and those before.
    known: Cache<Sequence, (TimelineKey, Members)>,
}

/// A response that goes on from where the last one ended.
pub(crate) struct Sending {
    sequence: Sequence,
    had: Members,
    sent: HashSet<(RoomNumber, EventNumber)>,
}

impl Default for SentMembers {
    fn default() -> Self {
        Self { known: Cache::new(MAX_SEQUENCES) }
    }
}

impl SentMembers {
    /// Begins a response to a device that comes with the token `since`: to a sync, or to a reading
    /// of the history of `room`.
    pub(crate) fn begin(
        &self,
        session: &Session,
        room: Option<RoomNumber>,
        since: Option<TimelineKey>,
    ) -> Sending {
        let sequence = (session.user, session.device_id.clone(), room);
        let known = self.known.get(&sequence).filter(|(token, _)| since == Some(*token));
        let had = known.map(|(_, members)| members).unwrap_or_default();
        Sending { sequence, had, sent: HashSet::new() }
    }

    /// The response is complete: the device goes on from it with the token `next`.
    pub(crate) fn finish(&self, sending: Sending, next: TimelineKey) {
        let Sending { sequence, mut had, sent } = sending;
        if !sent.is_subset(&had) {
            if had.len() + sent.len() > MAX_MEMBERS {
                had = Members::default();
            }
            Arc::make_mut(&mut had).extend(sent.into_iter().take(MAX_MEMBERS));
        }
        self.known.insert(sequence, (next, had));
    }
}

impl Sending {
    /// Whether the device has this member event.
    pub(crate) fn has(&self, room: RoomNumber, event: EventNumber) -> bool {
        self.had.contains(&(room, event)) || self.sent.contains(&(room, event))
    }

    /// Notes that it is in the response.
    pub(crate) fn send(&mut self, room: RoomNumber, event: EventNumber) {
        self.sent.insert((room, event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: RoomNumber = RoomNumber(1);

    fn session(device: &str) -> Session {
        Session {
            user_id: ruma::user_id!("@alice:localhost").to_owned(),
            user: UserNumber(1),
            device_id: device.into(),
            guest: false,
            appservice: None,
        }
    }

    fn at(token: i64) -> TimelineKey {
        TimelineKey::at(token)
    }

    fn send(members: &SentMembers, since: Option<i64>, next: i64, event: u64) -> bool {
        let mut sending = members.begin(&session("A"), None, since.map(at));
        let had = sending.has(ROOM, EventNumber(event));
        sending.send(ROOM, EventNumber(event));
        members.finish(sending, at(next));
        had
    }

    #[test]
    fn a_device_has_what_it_confirms_with_its_next_token() {
        let members = SentMembers::default();
        assert!(!send(&members, None, 10, 1));
        assert!(send(&members, Some(10), 20, 1));
        assert!(!members.begin(&session("B"), None, Some(at(20))).has(ROOM, EventNumber(1)));
        assert!(!members.begin(&session("A"), Some(ROOM), Some(at(20))).has(ROOM, EventNumber(1)));
        // The response up to 30 did not come; what was in it is sent again, and all else.
        send(&members, Some(20), 30, 2);
        assert!(!send(&members, Some(20), 40, 2));
        assert!(!send(&members, Some(40), 50, 1));
        assert!(send(&members, Some(50), 60, 2));
        assert!(!send(&members, None, 70, 2), "a client that begins has nothing");
    }

    #[test]
    fn what_is_known_is_bounded() {
        let members = SentMembers::default();
        for event in 0..2_560_i64 {
            send(&members, Some(event), event + 1, event.cast_unsigned());
        }
        let known: usize = members.known.iter().map(|(_, (_, events))| events.len()).sum();
        assert!((1..=MAX_MEMBERS).contains(&known), "{known}");
    }
}
