//! What storage tells about itself.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use super::Durability;

/// Sizes and counts, as of now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    /// Every table; empty for an engine without files.
    pub(crate) tables: Vec<TableSize>,
    /// What the engine holds in memory.
    pub(crate) memory: Memory,
    /// What was committed since the start.
    pub(crate) commits: Commits,
}

/// The size of one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableSize {
    /// Its name.
    pub(crate) table: &'static str,
    /// On disk, compressed; without the log.
    pub(crate) file_bytes: u64,
    /// Written, and not yet in a file of its own.
    pub(crate) write_buffer_bytes: u64,
}

/// Memory of the engine.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_field_names, reason = "a number carries its unit")]
pub(crate) struct Memory {
    /// The cache's size, write buffers included.
    pub(crate) cache_bytes: usize,
    /// What of it is in use.
    pub(crate) cache_used_bytes: usize,
    /// What of that can't be given back now.
    pub(crate) cache_pinned_bytes: usize,
    /// The most that write buffers may take.
    pub(crate) write_buffer_bytes: usize,
    /// What of that is in use.
    pub(crate) write_buffer_used_bytes: usize,
}

/// Commits since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commits {
    /// Batches on disk.
    pub(crate) synced: u64,
    /// Batches in the log, unsynced.
    pub(crate) unsynced: u64,
    /// Batches whose preconditions did not hold.
    pub(crate) refused: u64,
    /// Writes of the log, each with one or more batches.
    pub(crate) groups: u64,
    /// Flushes of the disk; one for each group with a synced batch.
    pub(crate) flushes: u64,
    /// Batches that wait.
    pub(crate) queued: usize,
    /// Whether a write failed, so that nothing is written any more until a restart.
    pub(crate) stopped: bool,
    /// From queued to done, synced batches.
    pub(crate) synced_latency: Histogram,
    /// From queued to done, unsynced batches.
    pub(crate) unsynced_latency: Histogram,
}

/// The upper bounds of a histogram's buckets, in microseconds. A last bucket holds what is above.
pub(crate) const BOUNDS_US: [u64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000];

/// How long things took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    /// How many took at most as long as the bound at the same place in [`BOUNDS_US`], and longer
    /// than the one before.
    pub(crate) buckets: [u64; BOUNDS_US.len() + 1],
    /// All durations together, in microseconds.
    pub(crate) sum_us: u64,
}

#[derive(Debug, Default)]
struct LiveHistogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl LiveHistogram {
    fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn read(&self) -> Histogram {
        Histogram {
            buckets: self.buckets.each_ref().map(|bucket| bucket.load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

/// What an engine counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    synced: AtomicU64,
    unsynced: AtomicU64,
    refused: AtomicU64,
    groups: AtomicU64,
    flushes: AtomicU64,
    queued: AtomicUsize,
    stopped: AtomicBool,
    synced_latency: LiveHistogram,
    unsynced_latency: LiveHistogram,
}

impl Counters {
    /// One batch more waits.
    pub(super) fn queued(&self) {
        self.queued.fetch_add(1, Relaxed);
    }

    /// So many wait no longer.
    pub(super) fn taken(&self, batches: usize) {
        self.queued.fetch_sub(batches, Relaxed);
    }

    /// The log is written once.
    pub(super) fn group(&self, synced: bool) {
        self.groups.fetch_add(1, Relaxed);
        self.flushes.fetch_add(u64::from(synced), Relaxed);
    }

    pub(super) fn committed(&self, durability: Durability, took: Duration) {
        let (count, latency) = match durability {
            Durability::Synced => (&self.synced, &self.synced_latency),
            Durability::Unsynced => (&self.unsynced, &self.unsynced_latency),
        };
        count.fetch_add(1, Relaxed);
        latency.record(took);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    pub(super) fn read(&self) -> Commits {
        Commits {
            synced: self.synced.load(Relaxed),
            unsynced: self.unsynced.load(Relaxed),
            refused: self.refused.load(Relaxed),
            groups: self.groups.load(Relaxed),
            flushes: self.flushes.load(Relaxed),
            queued: self.queued.load(Relaxed),
            stopped: self.stopped.load(Relaxed),
            synced_latency: self.synced_latency.read(),
            unsynced_latency: self.unsynced_latency.read(),
        }
    }
}
