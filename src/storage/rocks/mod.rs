//! The engine on disk: `RocksDB`, with one thread that commits.

mod commit;
mod options;
mod store;

use std::{path::Path, sync::Arc};

use futures::future::BoxFuture;
use rocksdb::{DB, ReadOptions, SnapshotWithThreadMode};
use self_cell::self_cell;
use tokio::sync::Semaphore;

use super::{
    Batch, Listeners, StorageError,
    engine::{Pending, Rows},
    schema::TableId,
    stats::{Counters, Memory, Stats, TableSize},
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
    match source.store().multi_get(table, keys, &source.tiers().memory) {
        Err(error) if needs_disk(&error) => {
            // All of them again, not only those that were missing: the values are then of one
            // moment.
            let keys = keys.to_vec();
            from_disk(source, move |source| {
                source.store().multi_get(table, &keys, &source.tiers().disk)
            })
            .await
        }
        result => result.map_err(failed),
    }
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
///
/// Boxed, since the futures that may need this are moved about with room for it: inside them it
/// would cost the reads that do not need it a twentieth of their time.
fn from_disk<S: Source, T: Send + 'static>(
    source: &S,
    read: impl FnOnce(&S) -> Result<T, rocksdb::Error> + Send + 'static,
) -> BoxFuture<'static, Result<T, StorageError>> {
    let source = source.clone();
    Box::pin(async move {
        let permit = Arc::clone(source.disk_reads()).acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let result = read(&source);
            drop(permit);
            result
        })
        .await
        .map_err(|stopped| StorageError::Engine { source: Arc::new(stopped) })?
        .map_err(failed)
    })
}

impl RocksEngine {
    /// Opens the database in directory `path`; blocks.
    pub(super) fn open(
        path: &Path,
        memory_budget_bytes: u64,
        sync: bool,
        listeners: Listeners,
    ) -> Result<Self, rocksdb::Error> {
        let store = Arc::new(Store::open(path, memory_budget_bytes)?);
        let committer = Committer::start(Arc::clone(&store), listeners, sync);
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

    /// The database without any of this, for comparison.
    #[cfg(feature = "bench")]
    pub(super) fn raw(&self) -> &DB {
        self.store.db()
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

    pub(super) fn get(
        &self,
        table: TableId,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StorageError>> + Send {
        get(self, table, key)
    }

    pub(super) fn multi_get(
        &self,
        table: TableId,
        keys: &[Vec<u8>],
    ) -> impl Future<Output = Result<Vec<Option<Vec<u8>>>, StorageError>> + Send {
        multi_get(self, table, keys)
    }

    pub(super) fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        backwards: bool,
    ) -> impl Future<Output = Result<Rows, StorageError>> + Send {
        scan(self, table, Wanted::new(start, end, limit, backwards))
    }
}

impl RocksSnapshot {
    pub(super) fn get(
        &self,
        table: TableId,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StorageError>> + Send {
        get(self, table, key)
    }

    pub(super) fn multi_get(
        &self,
        table: TableId,
        keys: &[Vec<u8>],
    ) -> impl Future<Output = Result<Vec<Option<Vec<u8>>>, StorageError>> + Send {
        multi_get(self, table, keys)
    }

    pub(super) fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        backwards: bool,
    ) -> impl Future<Output = Result<Rows, StorageError>> + Send {
        scan(self, table, Wanted::new(start, end, limit, backwards))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        Range, Read as _,
        engine::{Engine, EngineSnapshot},
        key::AsKey,
        schema::TEST_RANGES,
    };

    fn engine(directory: &Path) -> RocksEngine {
        // Write buffers count against the cache in pieces of 256 KiB, which fill some of the parts of
        // a small cache: enough that each part has room for what is read.
        RocksEngine::open(directory, 512 << 20, true, Listeners::default()).unwrap()
    }

    fn key(row: u64) -> Vec<u8> {
        let mut key = Vec::new();
        (1_u64, row).encode(&mut key);
        key
    }

    fn in_memory(engine: &RocksEngine, row: u64) -> bool {
        let found = engine.store.get(TableId::TestRanges, &key(row), &engine.tiers().memory);
        !found.is_err_and(|error| needs_disk(&error))
    }

    /// A database whose rows are all in files that nobody has read yet.
    async fn cold(directory: &Path) -> RocksEngine {
        let warm = engine(directory);
        let mut batch = Batch::new();
        for row in 0..100 {
            TEST_RANGES.put(&mut batch, &(1, row), &vec![5; 1_000]);
        }
        warm.enqueue(batch).await.unwrap();
        warm.flush();
        warm.close().await;
        drop(warm);
        engine(directory)
    }

    #[tokio::test]
    async fn a_row_on_disk_is_not_read_inline_and_one_in_memory_is() {
        let directory = tempfile::tempdir().unwrap();
        let engine = cold(directory.path()).await;
        assert!(!in_memory(&engine, 7));
        assert!(engine.get(TableId::TestRanges, &key(7)).await.unwrap().is_some());
        assert!(in_memory(&engine, 7));
    }

    #[tokio::test]
    async fn many_reads_and_scans_reach_the_disk_too() {
        let directory = tempfile::tempdir().unwrap();
        for snapshot in [false, true] {
            let engine = cold(directory.path()).await;
            let keys = [key(3), key(200), key(99)];
            let found = if snapshot {
                let at = EngineSnapshot::RocksDb(engine.snapshot());
                assert_eq!(TEST_RANGES.scan(&at, &Range::all(), 500).await.unwrap().len(), 100);
                at.multi_get(TableId::TestRanges, &keys).await.unwrap()
            } else {
                let at = Engine::RocksDb(engine.clone());
                assert_eq!(TEST_RANGES.scan_back(&at, &Range::all(), 7).await.unwrap().len(), 7);
                at.multi_get(TableId::TestRanges, &keys).await.unwrap()
            };
            assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        }
    }

    #[test]
    fn one_prefix_is_told_from_several() {
        let wanted = |start: &[u8], end: Option<&[u8]>| Wanted::new(start, end, 1, false);
        for (start, end, one) in [
            (&[1, 1][..], Some(&[1, 9][..]), true),
            (&[1, 1], Some(&[2]), true),
            (&[1, 1], Some(&[2, 0]), false),
            (&[1, 1], None, false),
            (&[], Some(&[2]), false),
            (&[255, 1], Some(&[255, 2]), true),
        ] {
            assert_eq!(wanted(start, end).within_one_prefix(1), one, "{start:?} {end:?}");
        }
        assert!(!wanted(&[1], Some(&[2])).within_one_prefix(0));
    }
}
