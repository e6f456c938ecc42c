//! Conflicts that were resolved before.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    auth::select_keys,
    ids::{EventIx, NONE},
    resolve::{Accepted, v2::Conflict},
    scratch::Scratch,
    tables::{KEY_CREATE, KEY_POWER_LEVELS},
};

/// Remembers what conflicts of one room were resolved to, for algorithms 2 and 2.1.
///
/// The key is everything that the outcome depends on: the full conflicted set, the entries of the
/// unconflicted state that the checks of these events can look up, and which events are rejected.
/// So a hit is always right, and a fork that stays open while the rest of the state moves on is
/// resolved once. Since version 12, resolution starts from nothing, and the set alone decides.
///
/// Keys are compared whole. The oldest entries go when the memory for keys and outcomes, counted
/// in numbers, exceeds the limit.
#[derive(Debug)]
pub struct ConflictCache {
    limit: usize,
    size: usize,
    room: Option<Arc<str>>,
    epoch: u64,
    known: HashMap<Arc<[u32]>, Accepted>,
    order: VecDeque<Arc<[u32]>>,
}

impl Default for ConflictCache {
    /// A cache of about 256 kB.
    fn default() -> Self {
        Self::with_limit(1 << 16)
    }
}

impl ConflictCache {
    /// A cache that holds at most `limit` numbers of four bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, size: 0, room: None, epoch: 0, known: HashMap::new(), order: VecDeque::new() }
    }

    /// How many conflicts it remembers.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it remembers nothing.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Resolves a conflict; whether it was known.
    pub(crate) fn resolve(
        &mut self,
        conflict: &Conflict<'_>,
        scratch: &mut Scratch,
    ) -> (Accepted, bool) {
        self.attach(conflict);
        let key = key(conflict);
        if let Some(accepted) = self.known.get(&key[..]) {
            return (Arc::clone(accepted), true);
        }
        let accepted = conflict.resolve(scratch, None);
        let size = key.len() + 2 * accepted.len();
        if size <= self.limit {
            let key: Arc<[u32]> = key.into();
            self.size += size;
            self.known.insert(Arc::clone(&key), Arc::clone(&accepted));
            self.order.push_back(key);
        }
        while self.size > self.limit {
            let Some(oldest) = self.order.pop_front() else { break };
            let accepted = self.known.remove(&oldest).map_or(0, |accepted| accepted.len());
            self.size -= oldest.len() + 2 * accepted;
        }
        (accepted, false)
    }

    /// Forgets everything if this is another room, or another set of rejected events.
    fn attach(&mut self, conflict: &Conflict<'_>) {
        let (room, epoch) = (conflict.room.shared_id(), conflict.room.rejection_epoch());
        let same_room = self.room.as_ref().is_some_and(|known| Arc::ptr_eq(known, room));
        if !same_room || self.epoch != epoch {
            *self = Self { room: Some(Arc::clone(room)), epoch, ..Self::with_limit(self.limit) };
        }
    }
}

fn key(conflict: &Conflict<'_>) -> Vec<u32> {
    let room = conflict.room;
    let mut key: Vec<u32> = conflict.set.iter().map(|event| event.0).collect();
    let Some(start) = conflict.start() else { return key };
    let mut needed = vec![KEY_CREATE, KEY_POWER_LEVELS];
    for event in conflict.set {
        // A membership too malformed to select by is rejected whatever the state.
        if let Ok(keys) = select_keys(room, &room.subject(*event)) {
            needed.extend_from_slice(keys.as_slice());
        }
    }
    needed.sort_unstable();
    needed.dedup();
    key.push(NONE);
    for at in needed {
        let event = start.get(at).filter(|_| conflict.keys.binary_search(&at).is_err());
        key.extend(event.map(|EventIx(event)| [at.0, event]).into_iter().flatten());
    }
    key
}
