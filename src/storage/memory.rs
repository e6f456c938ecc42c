//! The engine that keeps everything in memory: for tests, and to keep the engine's interface honest.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    Batch, Durability, Listeners, StorageError,
    engine::{Pending, Rows},
    schema::TableId,
    stats::Counters,
};

/// Shared with snapshots; copied by the first write after one.
type Tables = BTreeMap<TableId, Arc<BTreeMap<Vec<u8>, Vec<u8>>>>;

/// An engine without a disk.
#[derive(Clone, Default)]
pub(super) struct MemoryEngine {
    tables: Arc<Mutex<Tables>>,
    reads: Arc<AtomicU64>,
    counters: Arc<Counters>,
    listeners: Listeners,
    /// Changes of this table fail.
    failing: Arc<Mutex<Option<TableId>>>,
}

/// The tables as they were.
#[derive(Clone, Debug)]
pub(crate) struct MemorySnapshot {
    tables: Tables,
    reads: Arc<AtomicU64>,
}

impl MemoryEngine {
    pub(super) fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot { tables: self.tables.lock().clone(), reads: Arc::clone(&self.reads) }
    }

    /// An empty engine that tells `listeners`.
    #[cfg(test)]
    pub(super) fn new(listeners: Listeners) -> Self {
        Self { listeners, ..Self::default() }
    }

    /// Another engine with what is in this one now.
    #[cfg(test)]
    pub(super) fn copied(&self, listeners: Listeners) -> Self {
        let tables = Arc::new(Mutex::new(self.tables.lock().clone()));
        Self { tables, listeners, ..Self::default() }
    }

    /// How many reads there were, each of them a round trip for an engine across a network.
    #[cfg(test)]
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Has changes of this table fail from now on, or none.
    #[cfg(test)]
    pub(super) fn fail(&self, table: Option<TableId>) {
        *self.failing.lock() = table;
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn enqueue(&self, batch: Batch) -> Pending {
        Pending::ready(batch.check().and_then(|()| self.apply(batch)))
    }

    fn apply(&self, batch: Batch) -> Result<(), StorageError> {
        let failing = *self.failing.lock();
        if failing.is_some_and(|table| batch.writes.iter().any(|row| row.table == table)) {
            let source = std::io::Error::other("the disk of this test is broken");
            return Err(StorageError::Engine { source: Arc::new(source) });
        }
        let mut tables = self.tables.lock();
        for row in batch.preconditions.iter() {
            let present = tables.get(&row.table).and_then(|table| table.get(row.key));
            if present.map(Vec::as_slice) != row.value {
                self.counters.refused();
                return Err(StorageError::Precondition { table: row.table.name() });
            }
        }
        for write in batch.writes.iter() {
            let table = Arc::make_mut(tables.entry(write.table).or_default());
            match write.value {
                Some(value) => table.insert(write.key.to_vec(), value.to_vec()),
                None => table.remove(write.key),
            };
        }
        drop(tables);
        self.counters.group(batch.durability == Durability::Synced);
        self.counters.committed(batch.durability, std::time::Duration::ZERO);
        batch.announce(&self.listeners);
        Ok(())
    }
}

/// Reading the latest state and reading a snapshot are the same, but for where the tables are.
macro_rules! reads {
    ($($source:ident: $self:ident => $tables:expr),*) => {$(
        impl $source {
            pub(super) fn get(&$self, table: TableId, key: &[u8]) -> Option<Vec<u8>> {
                $self.reads.fetch_add(1, Ordering::Relaxed);
                $tables.get(&table)?.get(key).cloned()
            }

            pub(super) fn multi_get(
                &$self,
                table: TableId,
                keys: &[Vec<u8>],
            ) -> Vec<Option<Vec<u8>>> {
                $self.reads.fetch_add(1, Ordering::Relaxed);
                let tables = $tables;
                let table = tables.get(&table);
                keys.iter().map(|key| table?.get(key).cloned()).collect()
            }

            pub(super) fn scan(
                &$self,
                table: TableId,
                start: &[u8],
                end: Option<&[u8]>,
                limit: usize,
                backwards: bool,
            ) -> Rows {
                $self.reads.fetch_add(1, Ordering::Relaxed);
                $tables.get(&table).map_or_else(Rows::new, |table| {
                    rows(table, start, end, limit, backwards)
                })
            }
        }
    )*};
}

reads!(MemoryEngine: self => self.tables.lock(), MemorySnapshot: self => &self.tables);

fn rows(
    table: &BTreeMap<Vec<u8>, Vec<u8>>,
    start: &[u8],
    end: Option<&[u8]>,
    limit: usize,
    backwards: bool,
) -> Rows {
    if end.is_some_and(|end| end <= start) {
        return Rows::new();
    }
    let end = end.map_or(Bound::Unbounded, Bound::Excluded);
    let rows = table.range::<[u8], _>((Bound::Included(start), end));
    let copy = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
    if backwards {
        rows.rev().take(limit).map(copy).collect()
    } else {
        rows.take(limit).map(copy).collect()
    }
}
