//! The engine on disk: `RocksDB`, with one thread that commits.

mod commit;
mod options;
mod store;

use std::{path::Path, sync::Arc};

use rocksdb::{DB, ReadOptions, SnapshotWithThreadMode};
use self_cell::self_cell;
use tokio::sync::Semaphore;

use super::{
    Batch, StorageError,
    engine::{Pending, Rows},
    schema::TableId,
    stats::{Counters, Memory, Stats, TableSize},
    wakes::Wakes,
};
use commit::Committer;
use store::{Store, Tiers, Wanted, failed, needs_disk};

/// Disk reads at a time. More would not make a disk faster, and each holds a thread.
const DISK_READS: usize = 32;
/// A scan for more rows than this does not start on an async thread: copying them alone would hold
/// up the others.
const INLINE_ROWS: usize = 1_000;

/// The engine on disk.
#[derive(Clone)]
pub(super) struct RocksEngine {
    store: Arc<Store>,
    committer: Arc<Committer>,
    disk_reads: Arc<Semaphore>,
}

/// A snapshot, with what it is read by.
struct View<'a> {
    tiers: Tiers,
    /// Released last: the options refer to it.
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

self_cell!(
    struct Viewed {
        owner: Arc<Store>,
        #[covariant]
        dependent: View,
    }
);

/// The database as it was.
#[derive(Clone)]
pub(crate) struct RocksSnapshot {
    viewed: Arc<Viewed>,
    disk_reads: Arc<Semaphore>,
}

/// What reads have in common: a database, and the state of it that is meant.
trait Source: Clone + Send + Sync + 'static {
    fn store(&self) -> &Store;
    fn tiers(&self) -> &Tiers;
    fn disk_reads(&self) -> &Arc<Semaphore>;
    /// Options for a scan, which needs its own.
    fn scan_options(&self, tier: rocksdb::ReadTier) -> ReadOptions;
}

impl Source for RocksEngine {
    fn store(&self) -> &Store {
        &self.store
    }

    fn tiers(&self) -> &Tiers {
        &self.store.latest
    }

    fn disk_reads(&self) -> &Arc<Semaphore> {
        &self.disk_reads
    }

    fn scan_options(&self, tier: rocksdb::ReadTier) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_read_tier(tier);
        options
    }
}

impl Source for RocksSnapshot {
    fn store(&self) -> &Store {
        self.viewed.borrow_owner()
    }

    fn tiers(&self) -> &Tiers {
        &self.viewed.borrow_dependent().tiers
    }

    fn disk_reads(&self) -> &Arc<Semaphore> {
        &self.disk_reads
    }

    fn scan_options(&self, tier: rocksdb::ReadTier) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_read_tier(tier);
        options.set_snapshot(&self.viewed.borrow_dependent().snapshot);
        options
    }
}

/// The value at `key`: inline if memory has it, otherwise by a thread that may wait for the disk.
async fn get(
    source: &impl Source,
    table: TableId,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StorageError> {
    match source.store().get(table, key, &source.tiers().memory) {
        Err(error) if needs_disk(&error) => {
            let key = key.to_vec();
            from_disk(source, move |source| source.store().get(table, &key, &source.tiers().disk))
                .await
        }
        result => result.map_err(failed),
    }
}

/// The values at `keys`; those that are not in memory are fetched from the disk together.
async fn multi_get(
    source: &impl Source,
    table: TableId,
    keys: &[Vec<u8>],
) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let in_memory = source.store().multi_get(table, keys, &source.tiers().memory);
    if in_memory.iter().any(|found| found.as_ref().is_err_and(needs_disk)) {
        // All of them again, not only those that were missing: the values are then of one moment.
        let keys = keys.to_vec();
        return from_disk(source, move |source| {
            let found = source.store().multi_get(table, &keys, &source.tiers().disk);
            found.into_iter().collect()
        })
        .await;
    }
    in_memory.into_iter().map(|found| found.map_err(failed)).collect()
}

async fn scan(source: &impl Source, table: TableId, wanted: Wanted) -> Result<Rows, StorageError> {
    let inline = Wanted { limit: wanted.limit.min(INLINE_ROWS), ..wanted.clone() };
    let options = source.scan_options(rocksdb::ReadTier::BlockCache);
    match source.store().scan(table, &inline, options) {
        Ok(rows) if rows.len() < inline.limit || inline.limit == wanted.limit => Ok(rows),
        Err(error) if !needs_disk(&error) => Err(failed(error)),
        // From the start: what was read so far is of another moment.
        _ => {
            from_disk(source, move |source| {
                let options = source.scan_options(rocksdb::ReadTier::All);
                source.store().scan(table, &wanted, options)
            })
            .await
        }
    }
}

/// Runs `read` on a thread that may block.
async fn from_disk<S: Source, T: Send + 'static>(
    source: &S,
    read: impl FnOnce(&S) -> Result<T, rocksdb::Error> + Send + 'static,
) -> Result<T, StorageError> {
    let permit = Arc::clone(source.disk_reads()).acquire_owned().await;
    let source = source.clone();
    tokio::task::spawn_blocking(move || {
        let result = read(&source);
        drop(permit);
        result
    })
    .await
    .map_err(|stopped| StorageError::Engine { source: Arc::new(stopped) })?
    .map_err(failed)
}

impl RocksEngine {
    /// Opens the database in directory `path`; blocks.
    pub(super) fn open(
        path: &Path,
        memory_budget_bytes: u64,
        sync: bool,
        wakes: Arc<Wakes>,
    ) -> Result<Self, rocksdb::Error> {
        let store = Arc::new(Store::open(path, memory_budget_bytes)?);
        let committer = Committer::start(Arc::clone(&store), wakes, sync);
        Ok(Self {
            store,
            committer: Arc::new(committer),
            disk_reads: Arc::new(Semaphore::new(DISK_READS)),
        })
    }

    pub(super) fn enqueue(&self, batch: Batch) -> Pending {
        self.committer.enqueue(batch)
    }

    pub(super) fn snapshot(&self) -> RocksSnapshot {
        let viewed = Viewed::new(Arc::clone(&self.store), |store| {
            let snapshot = store.db().snapshot();
            let tiers = Tiers::new(|options| options.set_snapshot(&snapshot));
            View { tiers, snapshot }
        });
        RocksSnapshot { viewed: Arc::new(viewed), disk_reads: Arc::clone(&self.disk_reads) }
    }

    /// Commits what is queued, syncs the log and stops; later batches fail.
    pub(super) async fn close(&self) {
        self.committer.close().await;
    }

    /// Moves everything from the write buffers to the tables' files.
    #[cfg(test)]
    pub(super) fn flush(&self) {
        for id in TableId::ALL {
            self.store.db().flush_cf(self.store.handle(*id)).expect("the disk takes it");
        }
    }

    pub(super) fn stats(&self) -> Stats {
        use rocksdb::properties::{CUR_SIZE_ALL_MEM_TABLES, LIVE_SST_FILES_SIZE};
        let memory = &self.store.memory;
        let tables = TableId::ALL
            .iter()
            .map(|id| {
                let handle = self.store.handle(*id);
                // A property that can't be read is a gauge at zero, not a failure.
                let property = |name| {
                    self.store.db().property_int_value_cf(handle, name).ok().flatten().unwrap_or(0)
                };
                TableSize {
                    table: id.name(),
                    file_bytes: property(LIVE_SST_FILES_SIZE),
                    write_buffer_bytes: property(CUR_SIZE_ALL_MEM_TABLES),
                }
            })
            .collect();
        Stats {
            tables,
            memory: Memory {
                cache_bytes: memory.cache_bytes,
                cache_used_bytes: memory.cache.get_usage(),
                cache_pinned_bytes: memory.cache.get_pinned_usage(),
                write_buffer_bytes: memory.write_buffer_bytes,
                write_buffer_used_bytes: memory.write_buffers.get_usage(),
            },
            commits: self.counters().read(),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        self.committer.counters()
    }

    pub(super) async fn get(
        &self,
        table: TableId,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StorageError> {
        get(self, table, key).await
    }

    pub(super) async fn multi_get(
        &self,
        table: TableId,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        multi_get(self, table, keys).await
    }

    pub(super) async fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        backwards: bool,
    ) -> Result<Rows, StorageError> {
        scan(self, table, Wanted::new(start, end, limit, backwards)).await
    }
}

impl RocksSnapshot {
    pub(super) async fn get(
        &self,
        table: TableId,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StorageError> {
        get(self, table, key).await
    }

    pub(super) async fn multi_get(
        &self,
        table: TableId,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        multi_get(self, table, keys).await
    }

    pub(super) async fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        backwards: bool,
    ) -> Result<Rows, StorageError> {
        scan(self, table, Wanted::new(start, end, limit, backwards)).await
    }
}
