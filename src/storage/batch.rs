//! What one change writes.

use super::{
    Listeners, MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, StorageError,
    intern::{RoomNumber, UserNumber},
    positions::Position,
    schema::TableId,
    wakes::Concern,
};

/// Writes that become visible and durable together, or not at all.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// What is put, or deleted where a row has no value.
    pub(super) writes: Rows,
    /// What must hold just before the batch is applied: this value, or no row at all.
    pub(super) preconditions: Rows,
    pub(super) durability: Durability,
    pub(super) positions: Vec<Position>,
    pub(super) concerned: Vec<Concern>,
}

/// Rows one behind the other in one buffer: a message is a dozen of them, which would be two dozen
/// allocations.
#[derive(Debug, Default)]
pub(super) struct Rows {
    bytes: Vec<u8>,
    rows: Vec<Place>,
}

/// Where a row is in the buffer: it begins where the one before ends.
#[derive(Debug)]
struct Place {
    table: TableId,
    key_end: usize,
    value_end: Option<usize>,
}

/// A key, and perhaps a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) table: TableId,
    pub(super) key: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
}

/// Writes a value at the end of a buffer.
pub(super) type ToBytes<'a> = &'a dyn Fn(&mut Vec<u8>);

impl Rows {
    fn push(&mut self, table: TableId, key: ToBytes<'_>, value: Option<ToBytes<'_>>) {
        if self.rows.is_empty() {
            // What a message takes; a batch of one row is of no concern.
            self.bytes.reserve(2_048);
            self.rows.reserve(16);
        }
        key(&mut self.bytes);
        let key_end = self.bytes.len();
        let value_end = value.map(|value| {
            value(&mut self.bytes);
            self.bytes.len()
        });
        self.rows.push(Place { table, key_end, value_end });
    }

    fn copy(&mut self, row: Row<'_>) {
        let value = row.value.map(|value| move |out: &mut Vec<u8>| out.extend_from_slice(value));
        let value = value.as_ref().map(|value| value as ToBytes<'_>);
        self.push(row.table, &|out| out.extend_from_slice(row.key), value);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let mut rest = self.bytes.as_slice();
        let mut at = 0;
        let mut take = move |end: usize| {
            let (taken, left) = rest.split_at_checked(end - at).unwrap_or_default();
            (rest, at) = (left, end);
            taken
        };
        self.rows.iter().map(move |place| Row {
            table: place.table,
            key: take(place.key_end),
            value: place.value_end.map(&mut take),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
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

    pub(super) fn put(&mut self, table: TableId, key: ToBytes<'_>, value: ToBytes<'_>) {
        self.writes.push(table, key, Some(value));
    }

    pub(super) fn delete(&mut self, table: TableId, key: ToBytes<'_>) {
        self.writes.push(table, key, None);
    }

    pub(super) fn require(&mut self, table: TableId, key: ToBytes<'_>, value: Option<ToBytes<'_>>) {
        self.preconditions.push(table, key, value);
    }

    /// Keeps `position` invisible until this batch is committed, or has failed.
    pub(crate) fn hold(&mut self, position: Position) {
        self.positions.push(position);
    }

    /// Says whom the batch concerns: everybody whose next sync may tell of it. They are woken once
    /// the batch's positions are visible; if it has none, when it is committed.
    pub(crate) fn wake(&mut self, users: impl IntoIterator<Item = UserNumber>) {
        self.concerned.extend(users.into_iter().map(|user| Concern { user, room: None }));
    }

    /// The same of a batch that changes nothing for these users but messages, receipts or typing in
    /// one room: neither its state nor who is in it.
    pub(crate) fn wake_in(
        &mut self,
        room: RoomNumber,
        users: impl IntoIterator<Item = UserNumber>,
    ) {
        self.concerned.extend(users.into_iter().map(|user| Concern { user, room: Some(room) }));
    }

    /// Size of the keys and values written.
    pub(super) fn bytes(&self) -> usize {
        self.writes.bytes.len()
    }

    /// Splits off what comes first of a batch that is larger than can be applied at once, in
    /// batches to be queued before it. They keep its preconditions; what makes the change visible
    /// is to be written last.
    pub(crate) fn split_off_first(&mut self) -> Vec<Self> {
        let mut parts = Vec::new();
        if self.bytes() <= MAX_BATCH_BYTES {
            return parts;
        }
        let mut part = Self::default();
        for row in self.writes.iter() {
            let size = row.key.len() + row.value.map_or(0, <[u8]>::len);
            if part.bytes() + size > MAX_BATCH_BYTES / 2 {
                for row in self.preconditions.iter() {
                    part.preconditions.copy(row);
                }
                parts.push(std::mem::take(&mut part));
            }
            part.writes.copy(row);
        }
        self.writes = part.writes;
        parts
    }

    /// Whether every engine can hold this.
    pub(super) fn check(&self) -> Result<(), StorageError> {
        for row in self.writes.iter() {
            let value_bytes = row.value.map_or(0, <[u8]>::len);
            if row.key.len() > MAX_KEY_BYTES || value_bytes > MAX_VALUE_BYTES {
                let bytes = value_bytes.max(row.key.len());
                return Err(StorageError::TooLarge { table: row.table.name(), bytes });
            }
        }
        match self.bytes() {
            bytes if bytes > MAX_BATCH_BYTES => Err(StorageError::BatchTooLarge { bytes }),
            _ => Ok(()),
        }
    }

    /// Tells that the batch is committed: what memory has of its rows is forgotten, its positions are
    /// done, and once they are visible those who wait for it are woken; at once if it has none.
    pub(super) fn announce(mut self, listeners: &Listeners) {
        listeners.events.forget(&self);
        self.positions.sort_by_key(Position::value);
        let Some(last) = self.positions.pop() else {
            listeners.wakes.wake(self.concerned.into_iter().map(|concern| concern.user));
            return;
        };
        // The last one first: none is visible before it is remembered whom they concern.
        last.committed(self.concerned);
        for position in self.positions {
            position.committed(Vec::new());
        }
    }
}
