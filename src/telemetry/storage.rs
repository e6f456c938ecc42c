//! Numbers about storage.

use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::storage::{
    Db,
    stats::{BOUNDS_US, Histogram},
};

const FILES: &str = "myelin_storage_table_file_bytes";
const BUFFERED: &str = "myelin_storage_table_write_buffer_bytes";
const CACHE: &str = "myelin_storage_cache_bytes";
const WRITE_BUFFERS: &str = "myelin_storage_write_buffer_bytes";
const COMMITS: &str = "myelin_storage_commits_total";
const GROUPS: &str = "myelin_storage_commit_groups_total";
const FLUSHES: &str = "myelin_storage_flushes_total";
const QUEUED: &str = "myelin_storage_commits_queued";
const STOPPED: &str = "myelin_storage_stopped";
const LATENCY_BUCKET: &str = "myelin_storage_commit_duration_seconds_bucket";
const LATENCY_COUNT: &str = "myelin_storage_commit_duration_seconds_count";
const LATENCY_SUM: &str = "myelin_storage_commit_duration_seconds_sum";

pub(super) fn describe() {
    describe_gauge!(FILES, "Size of a table on disk, compressed, in bytes.");
    describe_gauge!(BUFFERED, "What of a table is not yet in a file of its own, in bytes.");
    describe_gauge!(CACHE, "The storage cache, write buffers included, in bytes.");
    describe_gauge!(WRITE_BUFFERS, "The write buffers of storage, in bytes.");
    describe_counter!(COMMITS, "Batches committed, and those refused by a precondition.");
    describe_counter!(GROUPS, "Writes of the log, each with one or more batches.");
    describe_counter!(FLUSHES, "Flushes of the disk.");
    describe_gauge!(QUEUED, "Batches that wait to be committed.");
    describe_gauge!(STOPPED, "1 if a write failed and nothing is written until a restart.");
    describe_counter!(LATENCY_BUCKET, "Seconds from queued to committed.");
}

/// Sets the gauges and counters to what storage says now.
#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub(crate) fn set_gauges(db: &Db) {
    let stats = db.stats();
    for size in &stats.tables {
        gauge!(FILES, "table" => size.table).set(size.file_bytes as f64);
        gauge!(BUFFERED, "table" => size.table).set(size.write_buffer_bytes as f64);
    }
    let memory = &stats.memory;
    for (what, bytes) in [
        ("limit", memory.cache_bytes),
        ("used", memory.cache_used_bytes),
        ("pinned", memory.cache_pinned_bytes),
    ] {
        gauge!(CACHE, "what" => what).set(bytes as f64);
    }
    for (what, bytes) in
        [("limit", memory.write_buffer_bytes), ("used", memory.write_buffer_used_bytes)]
    {
        gauge!(WRITE_BUFFERS, "what" => what).set(bytes as f64);
    }
    let commits = &stats.commits;
    for (kind, count) in
        [("synced", commits.synced), ("unsynced", commits.unsynced), ("refused", commits.refused)]
    {
        counter!(COMMITS, "kind" => kind).absolute(count);
    }
    counter!(GROUPS).absolute(commits.groups);
    counter!(FLUSHES).absolute(commits.flushes);
    gauge!(QUEUED).set(commits.queued as f64);
    gauge!(STOPPED).set(f64::from(u8::from(commits.stopped)));
    set_latency("synced", &commits.synced_latency);
    set_latency("unsynced", &commits.unsynced_latency);
}

/// Storage counts these by itself, so they are written as the series a histogram consists of.
#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn set_latency(kind: &'static str, latency: &Histogram) {
    let mut total = 0;
    let bounds = BOUNDS_US.iter().map(|us| (*us as f64 / 1e6).to_string());
    for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(latency.buckets) {
        total += count;
        counter!(LATENCY_BUCKET, "kind" => kind, "le" => bound).absolute(total);
    }
    counter!(LATENCY_COUNT, "kind" => kind).absolute(total);
    gauge!(LATENCY_SUM, "kind" => kind).set(latency.sum_us as f64 / 1e6);
}
