//! Unread counts as numbers: how many events of each thread notify, beyond what was read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts of one thread, or of the main timeline.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Count {
    /// Events that notify.
    pub(crate) notifications: u64,
    /// Those among them that are meant for the user.
    pub(crate) highlights: u64,
}

impl Count {
    pub(super) fn add(&mut self, highlight: bool) {
        self.notifications += 1;
        self.highlights += u64::from(highlight);
    }
}

/// Up to where a user has read a room, as stream positions.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Marks {
    /// Whatever the thread.
    pub(crate) all: u64,
    /// By thread: `main`, or the ID of its root.
    pub(crate) threads: BTreeMap<String, u64>,
}

/// The thread ID of what is in no thread.
pub(crate) const MAIN: &str = "main";

impl Marks {
    /// Up to where the thread was read.
    pub(super) fn of(&self, thread: &str) -> u64 {
        self.all.max(self.threads.get(thread).copied().unwrap_or(0))
    }
}

/// A user's counts in a room, and what they were made from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Tally {
    /// All events up to this stream position are counted.
    pub(super) until: u64,
    /// Where the user came in: only events after it are counted.
    pub(super) since: u64,
    /// The position of the member event that was looked at.
    pub(super) member: u64,
    /// The position of the rules.
    pub(super) rules: u64,
    /// What had been read.
    pub(super) marks: Marks,
    /// By thread, without those that have nothing unread.
    pub(super) threads: BTreeMap<String, Count>,
}

/// What must be counted anew once more was read.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Recount {
    /// Nothing.
    Nothing,
    /// These threads, each after a position.
    Threads(BTreeMap<String, u64>),
    /// All of it.
    Everything,
}

impl Tally {
    /// Takes account of what was read since, and tells what can't be known without looking.
    pub(super) fn read(&mut self, marks: Marks) -> Recount {
        if marks.all > self.marks.all && marks.all < self.until && !self.threads.is_empty() {
            return Recount::Everything;
        }
        let mut anew = BTreeMap::new();
        self.threads.retain(|thread, _| {
            let (old, new) = (self.marks.of(thread), marks.of(thread));
            if new > old && new < self.until {
                anew.insert(thread.clone(), new);
            }
            new < self.until && new <= old
        });
        self.marks = marks;
        if anew.is_empty() { Recount::Nothing } else { Recount::Threads(anew) }
    }

    /// Counts an event.
    pub(super) fn add(&mut self, thread: &str, highlight: bool) {
        self.threads.entry(thread.to_owned()).or_default().add(highlight);
    }

    /// All threads together.
    pub(crate) fn total(&self) -> Count {
        self.threads.values().fold(Count::default(), |sum, count| Count {
            notifications: sum.notifications + count.notifications,
            highlights: sum.highlights + count.highlights,
        })
    }

    /// The main timeline.
    pub(crate) fn main(&self) -> Count {
        self.threads.get(MAIN).copied().unwrap_or_default()
    }

    /// The threads, without the main timeline.
    pub(crate) fn threads(&self) -> impl Iterator<Item = (&str, Count)> {
        self.threads
            .iter()
            .filter(|(thread, _)| thread.as_str() != MAIN)
            .map(|(thread, count)| (thread.as_str(), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: Count = Count { notifications: 2, highlights: 1 };

    fn tally() -> Tally {
        Tally {
            until: 100,
            threads: BTreeMap::from([(MAIN.to_owned(), COUNT), ("$root".to_owned(), COUNT)]),
            ..Tally::default()
        }
    }

    fn read(all: u64, threads: &[(&str, u64)]) -> Marks {
        let threads = threads.iter().map(|(thread, at)| ((*thread).to_owned(), *at)).collect();
        Marks { all, threads }
    }

    #[test]
    fn reading_to_the_end_clears_what_it_covers() {
        let mut all = tally();
        assert_eq!(all.read(read(100, &[])), Recount::Nothing);
        assert_eq!(all.total(), Count::default());
        let mut main = tally();
        assert_eq!(main.read(read(0, &[(MAIN, 120)])), Recount::Nothing);
        assert_eq!(main.main(), Count::default());
        assert_eq!(main.total(), COUNT);
    }

    #[test]
    fn reading_to_the_middle_is_counted_anew() {
        assert_eq!(tally().read(read(50, &[])), Recount::Everything);
        let mut thread = tally();
        let anew = BTreeMap::from([("$root".to_owned(), 50)]);
        assert_eq!(thread.read(read(0, &[("$root", 50)])), Recount::Threads(anew));
        assert_eq!(thread.total(), COUNT, "the main timeline stays");
    }

    #[test]
    fn nothing_new_read_changes_nothing() {
        let mut same = tally();
        assert_eq!(same.read(Marks::default()), Recount::Nothing);
        assert_eq!(same, tally());
    }
}
