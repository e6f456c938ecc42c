//! States as bytes, each as a change of an earlier one.
//!
//! A state is written down as a *record*: the entries in which it differs from another state, its
//! parent. Chains of records would grow with the history; so a record's parent is not the state
//! before it but an ancestor chosen as in a skip list: the one at the depth that lacks the lowest
//! bit of its own. That is 0 for a power of two, and takes log₂(depth) steps from anywhere. Where
//! most of a state has changed since, the record holds all of it.
//!
//! Histories fork, so the depth counts steps in the tree of states, not states overall. Nothing
//! here reads or writes storage: [`Source`] says where records come from.

mod codec;
mod fingerprint;

use std::collections::BTreeMap;

use crate::{
    ids::{EventIx, KeyIx},
    state_map::StateMap,
};

pub use fingerprint::{Fingerprint, FingerprintKey};

/// The name under which a record is stored, chosen by who stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

/// An entry that changed: the key, and the event that stands there now.
pub type Change = (KeyIx, Option<EventIx>);

/// Where records come from.
pub trait Source {
    /// The bytes of a record.
    fn record(&self, id: SnapshotId) -> Option<Vec<u8>>;

    /// The state itself, if it happens to be in memory: reading need not go further back then.
    fn state(&self, _id: SnapshotId) -> Option<StateMap> {
        None
    }
}

/// What is wrong with stored records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// There is no such record.
    #[error("snapshot {} is missing", .0.0)]
    Missing(SnapshotId),
    /// The bytes are no record.
    #[error("the record is malformed at byte {0}")]
    Malformed(usize),
    /// A record's ancestors are not at the depths where they belong.
    #[error("snapshot {} has the wrong ancestors", .0.0)]
    Misplaced(SnapshotId),
}

/// A state, written down as the change of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How many steps in the tree of states lead here.
    pub depth: u64,
    /// The ancestor at the depth without the lowest bit of `depth`; none at depth 0.
    pub parent: Option<SnapshotId>,
    /// Whether `entries` are the whole state, and not just what differs from the parent's.
    pub whole: bool,
    /// In ascending order of keys; absent events were removed.
    pub entries: Vec<Change>,
}

/// The depth of the parent of a record: without the lowest bit.
const fn parent_depth(depth: u64) -> u64 {
    depth & depth.wrapping_sub(1)
}

impl Record {
    /// The first state of a tree.
    pub fn root(state: &StateMap) -> Self {
        Self { depth: 0, parent: None, whole: true, entries: whole(state) }
    }

    /// The record of `state`, which comes after the state `before` by `changes`. After a
    /// resolution, the closest of the resolved states is the best one to come after.
    ///
    /// # Errors
    /// [`SnapshotError`] if the records behind `before` cannot be read.
    pub fn after(
        before: SnapshotId,
        changes: &[Change],
        state: &StateMap,
        source: &impl Source,
    ) -> Result<Self, SnapshotError> {
        // The steps between the parent and here, newest first: what is overwritten is left out.
        let mut entries: BTreeMap<KeyIx, Option<EventIx>> = changes.iter().copied().collect();
        let (mut id, mut record) = (before, Self::load(before, source)?);
        let depth = record.depth.saturating_add(1);
        let mut is_whole = false;
        while record.depth > parent_depth(depth) {
            // Behind a whole state there are no steps to add up.
            is_whole |= record.whole;
            if !is_whole {
                for (key, event) in &record.entries {
                    entries.entry(*key).or_insert(*event);
                }
            }
            let parent = record.parent.ok_or(SnapshotError::Misplaced(id))?;
            let next = Self::load(parent, source)?;
            if next.depth != parent_depth(record.depth) {
                return Err(SnapshotError::Misplaced(id));
            }
            (id, record) = (parent, next);
        }
        // Reading many changes is no better than reading all.
        if is_whole || entries.len() * 4 > state.len() {
            return Ok(Self { depth, parent: Some(id), whole: true, entries: whole(state) });
        }
        Ok(Self { depth, parent: Some(id), whole: false, entries: entries.into_iter().collect() })
    }

    fn load(id: SnapshotId, source: &impl Source) -> Result<Self, SnapshotError> {
        Self::from_bytes(&source.record(id).ok_or(SnapshotError::Missing(id))?)
    }
}

fn whole(state: &StateMap) -> Vec<Change> {
    state.iter().map(|(key, event)| (key, Some(event))).collect()
}

/// Reads a state. Looks at no more than log₂(depth) + 1 records.
///
/// # Errors
/// [`SnapshotError`] if a record is missing or malformed.
pub fn read_state(id: SnapshotId, source: &impl Source) -> Result<StateMap, SnapshotError> {
    let mut changes = Vec::new();
    let mut at = id;
    let mut state = loop {
        if let Some(state) = source.state(at) {
            break state;
        }
        let record = Record::load(at, source)?;
        let (whole, parent) = (record.whole, record.parent);
        let bound = changes.last().map(|record: &Record| parent_depth(record.depth));
        if bound.is_some_and(|depth| depth != record.depth) {
            return Err(SnapshotError::Misplaced(at));
        }
        changes.push(record);
        if whole {
            break StateMap::new();
        }
        at = parent.ok_or(SnapshotError::Misplaced(at))?;
    };
    for record in changes.into_iter().rev() {
        for (key, event) in record.entries {
            match event {
                Some(event) => drop(state.insert(key, event)),
                None => drop(state.remove(key)),
            }
        }
    }
    Ok(state)
}

/// The records that `roots` need: these and their ancestors, in ascending order. All others may
/// be deleted.
///
/// # Errors
/// [`SnapshotError`] if a record is missing or malformed.
pub fn needed_records(
    roots: &[SnapshotId],
    source: &impl Source,
) -> Result<Vec<SnapshotId>, SnapshotError> {
    let mut needed = std::collections::BTreeSet::new();
    for root in roots {
        let mut next = Some(*root);
        while let Some(id) = next.filter(|id| needed.insert(*id)) {
            next = Record::load(id, source)?.parent;
        }
    }
    Ok(needed.into_iter().collect())
}

#[cfg(test)]
mod tests;
