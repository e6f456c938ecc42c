//! The end of a room's timeline, in memory: it is what most readers want, and the members of a room
//! want the same of it at the same moment.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::{record::EventNumber, timeline_key::TimelineKey};

/// The most rows that are kept, 24 bytes each.
pub(super) const MOST: usize = 64;
/// How many are read when there are none.
pub(super) const READ: usize = 32;

/// A row of the timeline.
pub(super) type Row = (TimelineKey, EventNumber);

/// The last rows of a timeline, or none of them. There may be some that came to nothing, never are
/// there fewer than the disk has: who uses them reads the events and learns it.
#[derive(Debug, Default)]
pub(super) struct Tail {
    rows: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// How many rows were added, kept or not.
    added: u64,
    tail: Option<Rows>,
}

#[derive(Debug)]
struct Rows {
    /// All rows after this one are there; none if all rows are.
    after: Option<TimelineKey>,
    /// In their order.
    rows: VecDeque<Row>,
}

/// What was known before the disk was read.
pub(super) struct Unread(u64);

impl Tail {
    /// Adds rows that are on their way to the disk. Before they are visible, and after they were
    /// counted among what is in flight.
    pub(super) fn add(&self, new: Vec<Row>) {
        let mut known = self.rows.lock();
        known.added += new.len() as u64;
        let Some(Rows { after, rows }) = &mut known.tail else { return };
        for row in new {
            if after.is_some_and(|after| row.0 <= after) {
                continue;
            }
            let place = rows.partition_point(|(key, _)| *key < row.0);
            rows.insert(place, row);
            if rows.len() > MOST {
                *after = rows.pop_front().map(|(key, _)| key);
            }
        }
    }

    /// The last rows after the place `after` and up to `upto`, the latest first; none if it is not
    /// known whether these are all of them.
    pub(super) fn latest(
        &self,
        after: TimelineKey,
        upto: TimelineKey,
        limit: usize,
    ) -> Option<Vec<Row>> {
        let known = self.rows.lock();
        let tail = known.tail.as_ref()?;
        let wanted = tail.rows.iter().rev().skip_while(|(key, _)| *key > upto);
        let found: Vec<Row> =
            wanted.take_while(|(key, _)| *key > after).take(limit).copied().collect();
        let complete = found.len() == limit || tail.after.is_none_or(|from| from <= after);
        complete.then_some(found)
    }

    /// Before the disk is read to know the rows; none if they are known, or if some are on their way
    /// there and would not be found.
    pub(super) fn unread(&self, in_flight: &AtomicUsize) -> Option<Unread> {
        let known = self.rows.lock();
        let settled = known.tail.is_none() && in_flight.load(Ordering::Acquire) == 0;
        settled.then_some(Unread(known.added))
    }

    /// Keeps what the disk has, the latest first: the last [`READ`] rows or all there are. Unless
    /// some were added meanwhile.
    pub(super) fn keep(&self, unread: &Unread, mut read: Vec<Row>) {
        let mut known = self.rows.lock();
        if known.added != unread.0 {
            return;
        }
        // The earliest stands for all before it.
        let after = if read.len() < READ { None } else { read.pop().map(|(key, _)| key) };
        known.tail = Some(Rows { after, rows: read.into_iter().rev().collect() });
    }

    /// Forgets all of it.
    pub(super) fn forget(&self) {
        self.rows.lock().tail = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(position: u64) -> TimelineKey {
        TimelineKey::live(position)
    }

    fn row(position: u64) -> Row {
        (key(position), EventNumber(position))
    }

    fn positions(rows: &[Row]) -> Vec<u64> {
        rows.iter().map(|(_, event)| event.0).collect()
    }

    fn known(rows: &[u64]) -> Tail {
        let tail = Tail::default();
        let unread = tail.unread(&AtomicUsize::new(0)).unwrap();
        tail.keep(&unread, rows.iter().rev().take(READ).map(|position| row(*position)).collect());
        tail
    }

    #[test]
    fn nothing_is_known_before_the_disk_was_read() {
        let tail = Tail::default();
        tail.add(vec![row(1)]);
        assert_eq!(tail.latest(key(0), key(9), 10), None);
        assert!(tail.unread(&AtomicUsize::new(1)).is_none(), "the disk may not have it yet");
        let unread = tail.unread(&AtomicUsize::new(0)).unwrap();
        tail.add(vec![row(2)]);
        tail.keep(&unread, vec![row(1)]);
        assert_eq!(tail.latest(key(0), key(9), 10), None, "what was read may lack the second");
    }

    #[test]
    fn what_is_forgotten_is_read_again() {
        let tail = known(&[1, 2]);
        assert_eq!(positions(&tail.latest(key(0), key(9), 10).unwrap()), [2, 1]);
        assert!(tail.unread(&AtomicUsize::new(0)).is_none());
        tail.forget();
        assert_eq!(tail.latest(key(0), key(9), 10), None);
        assert!(tail.unread(&AtomicUsize::new(0)).is_some());
    }

    proptest! {
        /// It says nothing, or what the disk would say.
        #[test]
        fn it_says_what_the_disk_says(
            stored in prop::collection::btree_set(1_u64..200, 0..120),
            added in prop::collection::vec(1_u64..300, 0..120),
            asked in prop::collection::vec((0_u64..300, 0_u64..300, 1_usize..50), 1..20),
        ) {
            let stored: Vec<u64> = stored.into_iter().collect();
            let tail = known(&stored);
            let mut disk: std::collections::BTreeSet<u64> = stored.into_iter().collect();
            for position in added {
                // No row is written twice.
                if disk.insert(position) {
                    tail.add(vec![row(position)]);
                }
            }
            for (after, upto, limit) in asked {
                let says: Vec<u64> =
                    disk.iter().rev().copied().filter(|at| *at > after && *at <= upto).take(limit).collect();
                if let Some(found) = tail.latest(key(after), key(upto), limit) {
                    prop_assert_eq!(positions(&found), says);
                }
            }
            // The last ones it always knows.
            let last = disk.iter().next_back().copied().unwrap_or(0);
            let found = tail.latest(key(last), key(u64::MAX >> 1), 10);
            prop_assert_eq!(found, Some(Vec::new()));
        }
    }
}
