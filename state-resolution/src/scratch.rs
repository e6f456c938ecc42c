//! Memory that resolutions use again and again.

use crate::ids::{EventIx, NONE};

/// A set of small numbers.
#[derive(Debug, Default, Clone)]
pub(crate) struct BitSet {
    words: Vec<u64>,
}

impl BitSet {
    pub(crate) fn reserve(&mut self, len: usize) {
        let words = len.div_ceil(64);
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
    }

    pub(crate) fn contains(&self, at: u32) -> bool {
        self.words[at as usize / 64] & (1 << (at % 64)) != 0
    }

    /// Whether the number is new.
    pub(crate) fn insert(&mut self, at: u32) -> bool {
        let word = &mut self.words[at as usize / 64];
        let bit = 1 << (at % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub(crate) fn remove(&mut self, at: u32) {
        self.words[at as usize / 64] &= !(1 << (at % 64));
    }

    /// Removes all numbers in `list`, which is everything in the set.
    pub(crate) fn clear_all(&mut self, list: impl IntoIterator<Item = u32>) {
        for at in list {
            self.remove(at);
        }
    }

    /// The largest number in the set that is below `end`.
    pub(crate) fn last_below(&self, end: u32) -> Option<u32> {
        let last = end.checked_sub(1)?;
        let mut at = last as usize / 64;
        let mut word = self.words[at] & (u64::MAX >> (63 - last % 64));
        while word == 0 {
            at = at.checked_sub(1)?;
            word = self.words[at];
        }
        let bit = word.ilog2();
        u32::try_from(at).ok().map(|at| at * 64 + bit)
    }
}

/// A table of numbers that starts out empty everywhere and is emptied by what was set.
#[derive(Debug, Default, Clone)]
pub(crate) struct Column {
    values: Vec<u32>,
    set: Vec<u32>,
}

impl Column {
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.values.len() < len {
            self.values.resize(len, NONE);
        }
    }

    /// The value, or `NONE`.
    pub(crate) fn get(&self, at: u32) -> u32 {
        self.values[at as usize]
    }

    pub(crate) fn set(&mut self, at: u32, value: u32) {
        if std::mem::replace(&mut self.values[at as usize], value) == NONE {
            self.set.push(at);
        }
    }

    /// Where values were set, in that order.
    pub(crate) fn places(&self) -> &[u32] {
        &self.set
    }

    pub(crate) fn clear(&mut self) {
        for at in self.set.drain(..) {
            self.values[at as usize] = NONE;
        }
    }
}

/// Working memory for resolutions, to be kept by whoever resolves often.
///
/// It grows to about 17 bytes per event of the largest room it served, and holds nothing between
/// two uses, so it may serve many rooms in turn.
#[derive(Debug, Default)]
pub struct Scratch {
    /// By event: in the chains of which states it was found to be.
    pub(crate) masks: Vec<u64>,
    pub(crate) touched: Vec<u32>,
    pub(crate) conflicted: BitSet,
    pub(crate) first: BitSet,
    pub(crate) second: BitSet,
    /// By event: place in a list, or mainline position.
    pub(crate) places: Column,
    /// By key: what replay accepted.
    pub(crate) overlay: Column,
    pub(crate) conflicted_keys: BitSet,
    pub(crate) visited: u64,
}

impl Scratch {
    /// Memory for no room yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        let sets = [&self.conflicted, &self.first, &self.second, &self.conflicted_keys]
            .map(|s| s.words.len() * 8);
        let columns =
            [&self.places, &self.overlay].map(|c| (c.values.len() + c.set.capacity()) * 4);
        self.masks.len() * 8
            + self.touched.capacity() * 4
            + sets.iter().sum::<usize>()
            + columns.iter().sum::<usize>()
    }

    /// How many events and auth edges all uses so far have looked at: the measure of work that
    /// does not depend on the machine.
    pub fn visited(&self) -> u64 {
        self.visited
    }

    pub(crate) fn reserve(&mut self, events: usize, keys: usize) {
        if self.masks.len() < events {
            self.masks.resize(events, 0);
        }
        for set in [&mut self.conflicted, &mut self.first, &mut self.second] {
            set.reserve(events);
        }
        self.conflicted_keys.reserve(keys);
        self.places.reserve(events);
        self.overlay.reserve(keys);
    }

    /// Adds `bits` to the mask of an event; returns the masks before and after.
    pub(crate) fn mask(&mut self, event: EventIx, bits: u64) -> (u64, u64) {
        let mask = &mut self.masks[event.index()];
        let before = *mask;
        *mask |= bits;
        if before == 0 && bits != 0 {
            self.touched.push(event.0);
        }
        (before, before | bits)
    }

    pub(crate) fn clear_masks(&mut self) {
        for event in self.touched.drain(..) {
            self.masks[event as usize] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_set_is_searched_downwards() {
        let mut set = BitSet::default();
        set.reserve(200);
        for at in [0, 63, 64, 199] {
            assert!(set.insert(at));
        }
        assert!(!set.insert(64));
        let mut found = vec![];
        let mut end = 200;
        while let Some(at) = set.last_below(end) {
            found.push(at);
            end = at;
        }
        assert_eq!(found, [199, 64, 63, 0]);
        set.remove(63);
        assert_eq!((set.last_below(64), set.last_below(0)), (Some(0), None));
    }
}
