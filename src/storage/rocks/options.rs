//! How RocksDB is set up, and why.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel,
    Options, SliceTransform, WriteBufferManager,
};

use crate::storage::layout::{Layout, Values};

/// Memory that all tables share.
///
/// Half of the process's budget: one cache for data, index and filter blocks. What is written but
/// not yet in a table's file counts against the cache too, up to an eighth of the budget. The
/// other half is for what does not pass through here: the program itself, connections, caches of
/// the domain, and what the allocator can't give back.
#[derive(Clone)]
pub(super) struct Memory {
    pub(super) cache: Cache,
    pub(super) write_buffers: WriteBufferManager,
    /// Size of `cache`.
    pub(super) cache_bytes: usize,
    /// Limit of `write_buffers`.
    pub(super) write_buffer_bytes: usize,
}

/// Below this, filters and indexes push each other out of the cache at every read.
const MIN_CACHE_BYTES: usize = 16 << 20;
/// Every table written to takes at least an [`ARENA_BYTES`]; there are about a hundred tables.
const MIN_WRITE_BUFFER_BYTES: usize = 8 << 20;
/// What a table's write buffer grows by. `RocksDB`'s own choice, an eighth of the buffer, would
/// have a hundred tables with a few rows each use up the budget many times over.
const ARENA_BYTES: usize = 32 << 10;

impl Memory {
    pub(super) fn of_budget(budget_bytes: u64) -> Self {
        let budget = usize::try_from(budget_bytes).unwrap_or(usize::MAX);
        let cache_bytes = (budget / 2).max(MIN_CACHE_BYTES);
        let write_buffer_bytes = (budget / 8).max(MIN_WRITE_BUFFER_BYTES);
        // Few large shards: the write buffers are charged in pieces of 256 KiB, and of the 64 shards of an
        // LRU cache some would be filled by a handful of them and keep no block.
        let cache = Cache::new_hyper_clock_cache(cache_bytes, 0);
        // Writers wait when the disk can't take the buffers as fast as they fill: better slow than
        // above the budget.
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            write_buffer_bytes,
            true,
            cache.clone(),
        );
        Self { cache, write_buffers, cache_bytes, write_buffer_bytes }
    }
}

/// What holds for the database as a whole.
pub(super) fn database(memory: &Memory) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // After a power failure the log ends in whatever the disk had got to: torn, zeroed or garbage.
    // All before that point was synced and is kept; what comes after is dropped. The stricter modes
    // refuse to open after such a failure.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // A log that was synced and is now missing or shorter is an error, not the end of the log.
    options.set_track_and_verify_wals_in_manifest(true);
    // Bounds the time to start again; the oldest buffers are written out when the log gets there.
    options.set_max_total_wal_size(64 << 20);
    options.set_write_buffer_manager(&memory.write_buffers);
    // Below the usual limit of 1,024 descriptors, with room for connections.
    options.set_max_open_files(400);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    options.set_max_background_jobs(i32::try_from(cores.clamp(2, 8)).unwrap_or(2));
    // Files that compactions write go to the disk bit by bit: one large flush at the end would
    // hold up the log's.
    options.set_bytes_per_sync(1 << 20);
    // A file of warnings beside the data, bounded, instead of one that grows.
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(1 << 20);
    options.set_keep_log_file_num(3);
    // Nobody reads these, and they wake an idle machine.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// What holds for one table.
pub(super) fn table(layout: Layout, memory: &Memory) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_manager(&memory.write_buffers);
    // A few busy tables share the budget: none gets more than a quarter of it.
    options.set_write_buffer_size((memory.write_buffer_bytes / 4).clamp(1 << 20, 16 << 20));
    options.set_arena_block_size(ARENA_BYTES);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(16 << 20);
    options.set_max_bytes_for_level_base(64 << 20);
    match layout.values {
        Values::Numbers => options.set_compression_type(DBCompressionType::Lz4),
        Values::Text => {
            // The last level is nine tenths of the data and is rewritten least.
            options.set_compression_type(DBCompressionType::Lz4);
            options.set_bottommost_compression_type(DBCompressionType::Zstd);
        }
        Values::Incompressible => options.set_compression_type(DBCompressionType::None),
    }

    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&memory.cache);
    // Text compresses better in larger blocks; single small rows are found faster in small ones.
    blocks.set_block_size(if layout.values == Values::Text { 16 << 10 } else { 4 << 10 });
    // Preconditions and look-ups ask for rows that mostly are not there: 10 bits a key answer 99 of
    // 100 of them without a read.
    blocks.set_bloom_filter(10.0, false);
    blocks.set_whole_key_filtering(true);
    // Indexes and filters are part of the budget, and in pieces, so that one read of a large file
    // does not push megabytes out of the cache; their tops stay.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_optimize_filters_for_memory(true);
    options.set_block_based_table_factory(&blocks);

    if layout.prefix_bytes > 0 {
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(layout.prefix_bytes));
    }
    if layout.is_asked_in_vain {
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(0.02);
    }
    options
}
