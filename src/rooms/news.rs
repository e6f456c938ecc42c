//! Where something happened since somebody looked: a hint in memory, so that who follows all rooms
//! need not ask each.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use crate::storage::intern::{RoomNumber, UserNumber};

/// Rooms with events, for whoever follows all of them.
#[derive(Debug, Default)]
pub(crate) struct News {
    followed: AtomicBool,
    found: Mutex<Found>,
}

/// What was noted since the last time.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Rooms, with the stream position of the last event.
    pub(crate) rooms: BTreeMap<RoomNumber, u64>,
    /// Users of this server and rooms that it is not in, with the position of what the user became
    /// there.
    pub(crate) outside: BTreeMap<(UserNumber, RoomNumber), u64>,
}

impl News {
    /// From now on what happens is noted, until it is taken.
    pub(crate) fn follow(&self) {
        self.followed.store(true, Ordering::Release);
    }

    /// Notes an event before it is visible: whoever sees its position finds its room here.
    pub(super) fn note(&self, room: RoomNumber, position: u64) {
        if self.followed.load(Ordering::Acquire) {
            let mut found = self.found.lock();
            let last = found.rooms.entry(room).or_default();
            *last = (*last).max(position);
        }
    }

    /// Notes that a user became something to a room that this server is not in.
    pub(super) fn note_invited(&self, user: UserNumber, room: RoomNumber, position: u64) {
        if self.followed.load(Ordering::Acquire) {
            self.found.lock().outside.insert((user, room), position);
        }
    }

    /// Notes again what was taken.
    pub(crate) fn put_back(&self, taken: Found) {
        for (room, position) in taken.rooms {
            self.note(room, position);
        }
        for ((user, room), position) in taken.outside {
            self.found.lock().outside.entry((user, room)).or_insert(position);
        }
    }

    /// Takes what was noted up to the stream position `until`; where something happened after it
    /// too, it is found again the next time.
    pub(crate) fn take(&self, until: u64) -> Found {
        let mut found = self.found.lock();
        let later = Found {
            rooms: found.rooms.iter().filter(|(_, at)| **at > until).map(copy).collect(),
            outside: found.outside.iter().filter(|(_, at)| **at > until).map(copy).collect(),
        };
        let mut taken = std::mem::replace(&mut *found, later);
        taken.outside.retain(|_, at| *at <= until);
        taken
    }
}

fn copy<K: Copy>((key, at): (&K, &u64)) -> (K, u64) {
    (*key, *at)
}
