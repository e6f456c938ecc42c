//! What one change writes.

use super::{positions::Position, schema::TableId};
use crate::storage::intern::UserNumber;

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

    /// Wakes the waiting syncs of these users once the batch's positions are visible.
    pub(crate) fn wake(&mut self, users: impl IntoIterator<Item = UserNumber>) {
        self.wakes.extend(users);
    }
}
