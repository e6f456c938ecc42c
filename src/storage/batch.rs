//! What one change writes.

use super::{
    MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, StorageError, intern::UserNumber,
    positions::Position, schema::TableId, wakes::Wakes,
};

/// Writes that become visible and durable together, or not at all.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(super) writes: Vec<Write>,
    pub(super) preconditions: Vec<Precondition>,
    pub(super) durability: Durability,
    pub(super) positions: Vec<Position>,
    pub(super) wakes: Vec<UserNumber>,
}

/// One row put or deleted.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) table: TableId,
    pub(super) key: Vec<u8>,
    /// None: the row is deleted.
    pub(super) value: Option<Vec<u8>>,
}

/// What must hold just before the batch is applied.
#[derive(Debug)]
pub(super) struct Precondition {
    pub(super) table: TableId,
    pub(super) key: Vec<u8>,
    /// None: there is no row at `key`.
    pub(super) value: Option<Vec<u8>>,
}

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Durability {
    /// When the write-ahead log is on disk: whatever is acknowledged to anybody.
    #[default]
    Synced,
    /// When it is in the write-ahead log: typing, presence, receipts. A later synced batch takes it
    /// to the disk with it.
    Unsynced,
}

impl Batch {
    /// An empty batch that is on disk when it is done.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An empty batch whose loss in a power failure would do no harm.
    pub(crate) fn unsynced() -> Self {
        Self { durability: Durability::Unsynced, ..Self::default() }
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn put(&mut self, table: TableId, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push(Write { table, key, value: Some(value) });
    }

    pub(super) fn delete(&mut self, table: TableId, key: Vec<u8>) {
        self.writes.push(Write { table, key, value: None });
    }

    pub(super) fn require(&mut self, table: TableId, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.preconditions.push(Precondition { table, key, value });
    }

    /// Keeps `position` invisible until this batch is committed, or has failed.
    pub(crate) fn hold(&mut self, position: Position) {
        self.positions.push(position);
    }

    /// Wakes the waiting syncs of these users once the batch's positions are visible; if it has none,
    /// when it is committed.
    pub(crate) fn wake(&mut self, users: impl IntoIterator<Item = UserNumber>) {
        self.wakes.extend(users);
    }

    /// Size of the keys and values written.
    pub(super) fn bytes(&self) -> usize {
        let row = |write: &Write| write.key.len() + write.value.as_ref().map_or(0, Vec::len);
        self.writes.iter().map(row).sum()
    }

    /// Whether every engine can hold this.
    pub(super) fn check(&self) -> Result<(), StorageError> {
        for write in &self.writes {
            let value_bytes = write.value.as_ref().map_or(0, Vec::len);
            if write.key.len() > MAX_KEY_BYTES || value_bytes > MAX_VALUE_BYTES {
                let bytes = value_bytes.max(write.key.len());
                return Err(StorageError::TooLarge { table: write.table.name(), bytes });
            }
        }
        match self.bytes() {
            bytes if bytes > MAX_BATCH_BYTES => Err(StorageError::BatchTooLarge { bytes }),
            _ => Ok(()),
        }
    }

    /// Tells that the batch is committed: its positions are done, and once they are visible those
    /// who wait for it are woken; at once if it has none.
    pub(super) fn announce(mut self, wakes: &Wakes) {
        self.positions.sort_by_key(Position::value);
        let Some(last) = self.positions.pop() else {
            wakes.wake(&self.wakes);
            return;
        };
        for position in self.positions {
            position.committed(Vec::new());
        }
        last.committed(self.wakes);
    }
}
