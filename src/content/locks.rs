//! Locks by key, of which only those in use exist.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Held = tokio::sync::Mutex<()>;

/// One lock for each key.
pub(crate) struct Locks<K> {
    held: Mutex<HashMap<K, Weak<Held>>>,
}

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self { held: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash> Locks<K> {
    /// Waits for the lock of `key`.
    pub(crate) async fn lock(&self, key: &K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.held.lock();
            // The map is as large as the work in progress, give or take as much again.
            if held.len() > 64 && held.len() == held.capacity() {
                held.retain(|_, lock| lock.strong_count() > 0);
            }
            let known = held.get(key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(Held::default());
                held.insert(key.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn one_key_is_held_once_and_keys_do_not_disturb_each_other() {
        let locks = Locks::default();
        let first = locks.lock(&1).await;
        assert!(locks.lock(&1).now_or_never().is_none());
        assert!(locks.lock(&2).now_or_never().is_some());
        drop(first);
        assert!(locks.lock(&1).now_or_never().is_some());
        for key in 0..10_000 {
            drop(locks.lock(&key).await);
        }
        assert!(locks.held.lock().len() < 1_000);
    }
}
