//! Waking those who wait for something to change, and remembering whom what changed concerned.
//!
//! A wake-up is a hint: whoever wakes reads storage. What is remembered says where there is nothing
//! to read, which is nearly everywhere nearly always. It is in memory only, and where it does not
//! reach back far enough it says so.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::intern::{RoomNumber, UserNumber};

/// Of how many users it is remembered what concerned them while none of them waits, about 250 bytes
/// each.
const MAX_REMEMBERED: usize = 50_000;
/// In how many rooms of one user it is remembered when something changed last.
const MAX_ROOMS: usize = 8;

/// Somebody whom a change concerns, and what of theirs it changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Concern {
    /// Who.
    pub(crate) user: UserNumber,
    /// The room, if nothing but what they see of its messages, receipts and typing changes; none if
    /// it may be anything.
    pub(crate) room: Option<RoomNumber>,
}

/// What changed for somebody after some position.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Changes {
    /// Nothing.
    Nothing,
    /// Messages, receipts or typing in some rooms, and nothing else.
    InRooms(RoomChanges),
    /// It may be anything.
    Anything,
}

/// In which rooms something changed, while all else is as it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RoomChanges {
    /// The rooms, in the order of their numbers.
    pub(crate) rooms: Vec<RoomNumber>,
    /// After this position nothing changed for the user but messages, receipts and typing, in any
    /// room: whatever else was read of what they see since then still holds.
    pub(crate) settled: u64,
}

/// Who waits, by user, and what concerned them lately.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    users: Mutex<HashMap<UserNumber, Followed>>,
}

/// A user for whom somebody waits, or waited lately.
#[derive(Debug)]
struct Followed {
    signals: Vec<Arc<Signal>>,
    /// What is remembered is all there was after this position.
    from: u64,
    /// The last position that may have changed anything.
    anything: u64,
    /// The last positions that changed nothing but a room.
    rooms: Vec<(RoomNumber, u64)>,
}

#[derive(Debug, Default)]
struct Signal {
    notify: Notify,
    woken: AtomicBool,
}

/// One that waits; it no longer does when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    user: UserNumber,
    signal: Arc<Signal>,
    wakes: Arc<Wakes>,
}

/// Stands for everybody: no user has this number.
const ANYBODY: UserNumber = UserNumber(0);

impl Wakes {
    /// Starts waiting for whatever wakes anybody.
    pub(crate) fn subscribe_to_any(self: &Arc<Self>) -> Waiter {
        self.subscribe(ANYBODY, || u64::MAX)
    }

    /// Starts waiting. Subscribe first and read afterwards: what is committed in between wakes too.
    ///
    /// `handed_out` is asked for the last position that was handed out, if nothing was remembered of
    /// the user so far: what has it or a smaller one is not known of.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        user: UserNumber,
        handed_out: impl FnOnce() -> u64,
    ) -> Waiter {
        let signal = Arc::<Signal>::default();
        let mut users = self.users.lock();
        let followed = users.entry(user).or_insert_with(|| Followed {
            signals: Vec::new(),
            from: handed_out(),
            anything: 0,
            rooms: Vec::new(),
        });
        followed.signals.push(Arc::clone(&signal));
        Waiter { user, signal, wakes: Arc::clone(self) }
    }

    /// Remembers whom a change with this position concerns. Before it is visible: whoever reads up
    /// to a position finds here whatever that position has for them.
    pub(super) fn remember(&self, position: u64, concerns: &[Concern]) {
        if concerns.is_empty() {
            return;
        }
        let mut users = self.users.lock();
        for concern in concerns {
            if let Some(followed) = users.get_mut(&concern.user) {
                followed.remember(position, concern.room);
            }
        }
    }

    /// Wakes all that wait for one of those concerned.
    pub(crate) fn wake(&self, concerned: impl IntoIterator<Item = UserNumber>) {
        let mut concerned = concerned.into_iter().peekable();
        if concerned.peek().is_none() {
            return;
        }
        let users = self.users.lock();
        for followed in concerned.chain([ANYBODY]).filter_map(|user| users.get(&user)) {
            for signal in &followed.signals {
                signal.woken.store(true, Ordering::Release);
                signal.notify.notify_one();
            }
        }
    }
}

impl Followed {
    fn remember(&mut self, position: u64, room: Option<RoomNumber>) {
        let Some(room) = room else {
            self.anything = self.anything.max(position);
            return;
        };
        if let Some((_, last)) = self.rooms.iter_mut().find(|(known, _)| *known == room) {
            *last = position.max(*last);
            return;
        }
        if self.rooms.len() == MAX_ROOMS {
            let places = self.rooms.iter().enumerate();
            let oldest = places.min_by_key(|(_, (_, last))| *last).map_or(0, |(place, _)| place);
            let (_, forgotten) = self.rooms.swap_remove(oldest);
            self.from = self.from.max(forgotten);
        }
        self.rooms.push((room, position));
    }

    fn changes_after(&self, since: u64) -> Changes {
        if since < self.from || since < self.anything {
            return Changes::Anything;
        }
        let after = self.rooms.iter().filter(|(_, position)| *position > since);
        let mut rooms: Vec<RoomNumber> = after.map(|(room, _)| *room).collect();
        if rooms.is_empty() {
            return Changes::Nothing;
        }
        rooms.sort_unstable();
        Changes::InRooms(RoomChanges { rooms, settled: self.from.max(self.anything) })
    }
}

impl Waiter {
    /// Returns once there was a wake-up since the subscription or the last call.
    pub(crate) async fn woken(&self) {
        while !self.signal.woken.swap(false, Ordering::AcqRel) {
            self.signal.notify.notified().await;
        }
    }

    /// What changed for the user after `since`, up to the visible position at least.
    pub(crate) fn changes_after(&self, since: u64) -> Changes {
        let users = self.wakes.users.lock();
        users.get(&self.user).map_or(Changes::Anything, |followed| followed.changes_after(since))
    }

    /// Whether there was a wake-up that nobody has taken yet.
    #[cfg(test)]
    pub(crate) fn is_woken(&self) -> bool {
        self.signal.woken.load(Ordering::Acquire)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut users = self.wakes.users.lock();
        let remembered = users.len();
        let Some(followed) = users.get_mut(&self.user) else { return };
        followed.signals.retain(|signal| !Arc::ptr_eq(signal, &self.signal));
        if followed.signals.is_empty() && remembered > MAX_REMEMBERED {
            users.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: UserNumber = UserNumber(5);

    fn followed_from(from: u64) -> (Arc<Wakes>, Waiter) {
        let wakes = Arc::<Wakes>::default();
        let waiter = wakes.subscribe(ALICE, || from);
        (wakes, waiter)
    }

    fn in_room(room: u64) -> [Concern; 1] {
        [Concern { user: ALICE, room: Some(RoomNumber(room)) }]
    }

    fn in_rooms(rooms: &[u64], settled: u64) -> Changes {
        let rooms = rooms.iter().map(|room| RoomNumber(*room)).collect();
        Changes::InRooms(RoomChanges { rooms, settled })
    }

    #[test]
    fn before_somebody_was_followed_anything_may_have_changed() {
        let (_, waiter) = followed_from(10);
        assert_eq!(waiter.changes_after(9), Changes::Anything);
        assert_eq!(waiter.changes_after(10), Changes::Nothing);
    }

    #[test]
    fn rooms_are_told_apart_from_what_may_be_anything() {
        let (wakes, waiter) = followed_from(10);
        wakes.remember(11, &in_room(2));
        wakes.remember(12, &in_room(1));
        assert_eq!(waiter.changes_after(10), in_rooms(&[1, 2], 10));
        assert_eq!(waiter.changes_after(11), in_rooms(&[1], 10));
        wakes.remember(13, &[Concern { user: ALICE, room: None }]);
        assert_eq!(waiter.changes_after(12), Changes::Anything);
        assert_eq!(waiter.changes_after(13), Changes::Nothing);
        wakes.remember(14, &in_room(2));
        assert_eq!(waiter.changes_after(13), in_rooms(&[2], 13));
    }

    #[test]
    fn what_was_forgotten_is_not_taken_for_nothing() {
        let (wakes, waiter) = followed_from(10);
        for room in 0..=MAX_ROOMS as u64 {
            wakes.remember(11 + room, &in_room(room));
        }
        assert_eq!(waiter.changes_after(10), Changes::Anything);
        assert!(
            matches!(waiter.changes_after(11), Changes::InRooms(RoomChanges { rooms, .. }) if rooms.len() == 8)
        );
    }

    #[test]
    fn it_is_remembered_while_nobody_waits() {
        let (wakes, waiter) = followed_from(10);
        drop(waiter);
        wakes.remember(11, &in_room(1));
        let waiter = wakes.subscribe(ALICE, || unreachable!("the user is followed already"));
        assert_eq!(waiter.changes_after(10), in_rooms(&[1], 10));
    }
}
