//! What a pusher is to send a mail about: not each event, but what is still unread after a while.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lane::Item;
use crate::{config::EmailNotifications, storage::intern::RoomNumber};

/// How much longer each further pause of a room is.
const GROWTH: u64 = 12;

/// When mails go out, in ms.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Schedule {
    delay: u64,
    first_pause: u64,
    longest_pause: u64,
    reset_after: u64,
}

impl Schedule {
    pub(super) fn new(settings: &EmailNotifications) -> Self {
        let ms = |seconds: u64| seconds.saturating_mul(1_000);
        Self {
            delay: ms(settings.delay_s),
            first_pause: ms(settings.first_pause_s),
            longest_pause: ms(settings.longest_pause_s),
            reset_after: ms(settings.reset_after_s),
        }
    }
}

/// Why there is no further mail because of a room.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Pause {
    /// When there was one, in ms since the Unix epoch.
    mailed: u64,
    /// For how long there is no other, in ms.
    length: u64,
}

impl Pause {
    fn end(self) -> u64 {
        self.mailed.saturating_add(self.length)
    }
}

/// Pauses of rooms. They outlive a restart.
pub(super) type Pauses = BTreeMap<u64, Pause>;

/// Events of a room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Waiting {
    /// The stream position of the first one that may be unread.
    pub(super) first: u64,
    /// That of the last one.
    last: u64,
    /// When the first one was sent, in ms since the Unix epoch.
    pub(super) since_ms: u64,
}

/// What was found in a room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Oldest {
    /// The stream position of the first unread event.
    pub(super) position: u64,
    /// When it was sent, in ms since the Unix epoch.
    pub(super) sent_ms: u64,
}

/// What waits for a mail, by room.
#[derive(Debug)]
pub(super) struct Digest {
    schedule: Schedule,
    rooms: BTreeMap<RoomNumber, Waiting>,
}

impl Digest {
    pub(super) fn new(schedule: Schedule) -> Self {
        Self { schedule, rooms: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.rooms.clear();
    }

    /// The rooms in which something waits, the longest waiting first.
    pub(super) fn rooms(&self) -> Vec<(RoomNumber, Waiting)> {
        let mut rooms: Vec<_> =
            self.rooms.iter().map(|(room, waiting)| (*room, *waiting)).collect();
        rooms.sort_by_key(|(_, waiting)| waiting.first);
        rooms
    }

    /// The stream position of the first event that waits.
    pub(super) fn first(&self) -> Option<u64> {
        self.rooms.values().map(|waiting| waiting.first).min()
    }

    /// Takes an event.
    pub(super) fn add(&mut self, item: Item) {
        let new = Waiting { first: item.position, last: item.position, since_ms: item.sent_ms };
        let waiting = self.rooms.entry(item.room).or_insert(new);
        waiting.last = waiting.last.max(item.position);
    }

    /// When the next mail goes out, in ms since the Unix epoch.
    pub(super) fn due(&self, pauses: &Pauses) -> Option<u64> {
        let due = |(room, waiting): (&RoomNumber, &Waiting)| {
            let pause = pauses.get(&room.0).map_or(0, |pause| pause.end());
            waiting.since_ms.saturating_add(self.schedule.delay).max(pause)
        };
        self.rooms.iter().map(due).min()
    }

    /// It was looked at what is unread in a room up to a stream position.
    pub(super) fn looked_at(
        &mut self,
        room: RoomNumber,
        upto: u64,
        unread: Option<Oldest>,
        now_ms: u64,
    ) {
        let Some(waiting) = self.rooms.get_mut(&room) else { return };
        match unread {
            Some(Oldest { position, sent_ms }) => {
                (waiting.first, waiting.since_ms) = (position, sent_ms.min(now_ms));
            }
            None => self.drop_upto(room, upto, now_ms),
        }
    }

    /// A mail about everything up to a stream position went out. `unread` are the rooms it was
    /// about.
    pub(super) fn mailed(
        &mut self,
        upto: u64,
        unread: &[(RoomNumber, Oldest)],
        now_ms: u64,
        pauses: &mut Pauses,
    ) {
        let Schedule { first_pause, longest_pause, reset_after, .. } = self.schedule;
        for (room, oldest) in unread {
            let old = pauses.get(&room.0);
            let old = old.filter(|old| oldest.sent_ms.saturating_sub(old.mailed) <= reset_after);
            let length = old.map_or(first_pause, |old| old.length.saturating_mul(GROWTH));
            pauses.insert(room.0, Pause { mailed: now_ms, length: length.min(longest_pause) });
            self.drop_upto(*room, upto, now_ms);
        }
        // Those that make no difference any more.
        pauses
            .retain(|_, pause| now_ms <= pause.end().max(pause.mailed.saturating_add(reset_after)));
    }

    fn drop_upto(&mut self, room: RoomNumber, upto: u64, now_ms: u64) {
        if let Some(waiting) = self.rooms.get_mut(&room)
            && waiting.last > upto
        {
            (waiting.first, waiting.since_ms) = (upto.saturating_add(1), now_ms);
        } else {
            self.rooms.remove(&room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule =
        Schedule { delay: 600, first_pause: 600, longest_pause: 86_400, reset_after: 43_200 };

    fn item(position: u64, room: u64, sent_ms: u64) -> Item {
        Item { position, room: RoomNumber(room), sent_ms }
    }

    #[test]
    fn the_first_event_decides_when_there_is_a_mail() {
        let (mut digest, pauses) = (Digest::new(SCHEDULE), Pauses::new());
        assert_eq!(digest.due(&pauses), None);
        digest.add(item(5, 1, 1_000));
        digest.add(item(6, 1, 1_500));
        digest.add(item(7, 2, 1_100));
        assert_eq!(digest.due(&pauses), Some(1_600));
        // The first room was read.
        digest.looked_at(RoomNumber(1), 7, None, 1_600);
        assert_eq!(digest.due(&pauses), Some(1_700));
        assert_eq!(digest.first(), Some(7));
    }

    #[test]
    fn pauses_grow_with_each_mail_and_end_with_silence() {
        let (mut digest, mut pauses) = (Digest::new(SCHEDULE), Pauses::new());
        let room = RoomNumber(1);
        let mut now = 1_000;
        for (position, pause) in [(1, 600), (2, 7_200), (3, 86_400), (4, 86_400)] {
            let sent_ms = now;
            digest.add(item(position, 1, sent_ms));
            now = digest.due(&pauses).unwrap();
            let oldest = Oldest { position, sent_ms };
            digest.mailed(position, &[(room, oldest)], now, &mut pauses);
            assert_eq!(pauses[&1].length, pause, "after mail {position}");
            assert!(digest.is_empty());
        }
        now += 43_201;
        let oldest = Oldest { position: 5, sent_ms: now };
        digest.mailed(5, &[(room, oldest)], now + 50_000, &mut pauses);
        assert_eq!(pauses[&1].length, 600);
        // Another room a day later: the first one's is of no use any more.
        digest.mailed(6, &[], now + 200_000, &mut pauses);
        assert!(pauses.is_empty());
    }

    #[test]
    fn what_came_while_the_mail_was_written_waits_for_the_next() {
        let (mut digest, mut pauses) = (Digest::new(SCHEDULE), Pauses::new());
        digest.add(item(5, 1, 1_000));
        digest.add(item(9, 1, 1_700));
        let oldest = Oldest { position: 5, sent_ms: 1_000 };
        digest.mailed(7, &[(RoomNumber(1), oldest)], 1_800, &mut pauses);
        assert_eq!(digest.first(), Some(8));
        assert_eq!(digest.due(&pauses), Some(2_400));
    }
}
