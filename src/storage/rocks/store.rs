//! The open database and its blocking reads.

use std::{path::Path, sync::Arc};

use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DB, DBPinnableSlice, ErrorKind, ReadOptions,
    ReadTier, WriteBatch, WriteOptions,
};
use self_cell::self_cell;

use super::options::{self, Memory};
use crate::storage::{
    StorageError, engine::Rows, layout::Layout, schema::TableId, table::after_all_beginning_with,
};

/// What a table is called by `RocksDB`.
type Handle<'a> = Arc<BoundColumnFamily<'a>>;

/// The tables, in the order of [`TableId::ALL`]: looking one up by name takes a lock.
struct Handles<'a>(Vec<Handle<'a>>);

self_cell!(
    struct Opened {
        owner: DB,
        #[covariant]
        dependent: Handles,
    }
);

/// An open database.
pub(super) struct Store {
    opened: Opened,
    pub(super) memory: Memory,
    /// Read options for the latest state.
    pub(super) latest: Tiers,
}

/// Read options that are the same for many reads.
pub(super) struct Tiers {
    /// Only what is in memory.
    pub(super) memory: ReadOptions,
    /// The disk too.
    pub(super) disk: ReadOptions,
}

/// Which rows a scan wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) start: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
    pub(super) limit: usize,
    pub(super) backwards: bool,
}

impl Tiers {
    pub(super) fn new(mut prepare: impl FnMut(&mut ReadOptions)) -> Self {
        let mut memory = ReadOptions::default();
        memory.set_read_tier(ReadTier::BlockCache);
        let mut disk = ReadOptions::default();
        prepare(&mut memory);
        prepare(&mut disk);
        Self { memory, disk }
    }
}

/// Whether a read that was kept to memory found that it needs the disk.
pub(super) fn needs_disk(error: &rocksdb::Error) -> bool {
    error.kind() == ErrorKind::Incomplete
}

pub(super) fn failed(error: rocksdb::Error) -> StorageError {
    StorageError::Engine { source: Arc::new(error) }
}

impl Store {
    /// Opens the database in directory `path`, making what is missing.
    pub(super) fn open(path: &Path, memory_budget_bytes: u64) -> Result<Self, rocksdb::Error> {
        let memory = Memory::of_budget(memory_budget_bytes);
        let database = options::database(&memory);
        let mut tables: Vec<(String, Layout)> =
            TableId::ALL.iter().map(|id| (id.name().to_owned(), id.layout())).collect();
        // All tables on disk must be named to open it, those of a newer version included: whether
        // we may go on is decided once the schema version can be read.
        if path.join("CURRENT").exists() {
            for name in DB::list_cf(&database, path)? {
                if !tables.iter().any(|(known, _)| *known == name) {
                    tables.push((name, Layout::NUMBERS));
                }
            }
        }
        let tables = tables.into_iter().map(|(name, layout)| {
            ColumnFamilyDescriptor::new(name, options::table(layout, &memory))
        });
        let db = DB::open_cf_descriptors(&database, path, tables)?;
        let opened = Opened::new(db, |db| {
            let handle = |id: &TableId| db.cf_handle(id.name()).expect("opening makes all tables");
            Handles(TableId::ALL.iter().map(handle).collect())
        });
        Ok(Self { opened, memory, latest: Tiers::new(|_| {}) })
    }

    pub(super) fn db(&self) -> &DB {
        self.opened.borrow_owner()
    }

    /// The table's handle.
    #[expect(clippy::indexing_slicing, reason = "there is a handle for every TableId, see `open`")]
    pub(super) fn handle(&self, table: TableId) -> &Handle<'_> {
        &self.opened.borrow_dependent().0[table as usize]
    }

    pub(super) fn get(
        &self,
        table: TableId,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Option<Vec<u8>>, rocksdb::Error> {
        Ok(self.get_pinned(table, key, options)?.map(|value| value.to_vec()))
    }

    /// The value at `key`, in the cache's memory.
    pub(super) fn get_pinned(
        &self,
        table: TableId,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Option<DBPinnableSlice<'_>>, rocksdb::Error> {
        self.db().get_pinned_cf_opt(self.handle(table), key, options)
    }

    pub(super) fn multi_get<'k>(
        &self,
        table: TableId,
        keys: impl IntoIterator<Item = &'k Vec<u8>>,
        options: &ReadOptions,
    ) -> Result<Vec<Option<Vec<u8>>>, rocksdb::Error> {
        self.db()
            .batched_multi_get_cf_opt(self.handle(table), keys, false, options)
            .into_iter()
            .map(|found| Ok(found?.map(|value| value.to_vec())))
            .collect()
    }

    /// The wanted rows. `options` is used up: it carries the bounds.
    pub(super) fn scan(
        &self,
        table: TableId,
        wanted: &Wanted,
        mut options: ReadOptions,
    ) -> Result<Rows, rocksdb::Error> {
        if wanted.limit == 0 || wanted.end.as_ref().is_some_and(|end| *end <= wanted.start) {
            return Ok(Rows::new());
        }
        options.set_iterate_lower_bound(wanted.start.as_slice());
        if let Some(end) = &wanted.end {
            options.set_iterate_upper_bound(end.as_slice());
        }
        // Going backwards begins at the upper bound, which is past the prefix.
        let one_prefix = !wanted.backwards && wanted.within_one_prefix(table.layout().prefix_bytes);
        options.set_prefix_same_as_start(one_prefix);
        options.set_total_order_seek(!one_prefix);

        let mut rows = Rows::new();
        let mut cursor = self.db().raw_iterator_cf_opt(self.handle(table), options);
        if wanted.backwards {
            cursor.seek_to_last();
        } else {
            cursor.seek(&wanted.start);
        }
        while let Some((key, value)) = cursor.item() {
            rows.push((key.to_vec(), value.to_vec()));
            if rows.len() == wanted.limit {
                return Ok(rows);
            }
            if wanted.backwards {
                cursor.prev();
            } else {
                cursor.next();
            }
        }
        cursor.status()?;
        Ok(rows)
    }

    pub(super) fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), rocksdb::Error> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db().write_opt(batch, &options)
    }
}

impl Wanted {
    pub(super) fn new(start: &[u8], end: Option<&[u8]>, limit: usize, backwards: bool) -> Self {
        Self { start: start.to_vec(), end: end.map(<[u8]>::to_vec), limit, backwards }
    }

    /// Whether all wanted keys have their first `bytes` bytes in common.
    pub(super) fn within_one_prefix(&self, bytes: usize) -> bool {
        let (Some(prefix), Some(end)) = (self.start.get(..bytes), &self.end) else { return false };
        bytes > 0 && after_all_beginning_with(prefix).is_none_or(|past| *end <= past)
    }
}
