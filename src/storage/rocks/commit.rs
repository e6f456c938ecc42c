//! The thread that commits: whatever waits is one write of the log and one flush of the disk.
//!
//! `RocksDB` shows a write to readers after the log holds it, and after the log is synced if that
//! was asked for; so nothing is seen that a power failure could take back, but for unsynced
//! batches.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use rocksdb::WriteBatch;
use tokio::{sync::oneshot, time::Instant};

use super::store::{Store, failed};
use crate::storage::{
    Batch, Durability, Listeners, StorageError, engine::Pending, schema::TableId, stats::Counters,
};

/// A group takes no further batch once it has this many bytes: it is copied as a whole, and those
/// who wait for the first batch should not wait for a hundred more.
const GROUP_BYTES: usize = 4 << 20;
/// The same in batches.
const GROUP_BATCHES: usize = 1_000;

/// Hands batches to the thread.
pub(super) struct Committer {
    /// None only while it is dropped.
    jobs: Option<Sender<Job>>,
    counters: Arc<Counters>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Committer {
    /// Waits for the thread to commit what is queued: a process that ends under a thread that uses
    /// `RocksDB` aborts.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been reported already.
            let _ = thread.join();
        }
    }
}

enum Job {
    Commit(Queued),
    /// Commit what came before, sync, close the files, and answer.
    Close(oneshot::Sender<()>),
}

struct Queued {
    batch: Batch,
    since: Instant,
    done: oneshot::Sender<Result<(), StorageError>>,
}

/// After a failed write, nothing more is written: what is on disk is no longer known.
#[derive(Debug, thiserror::Error)]
#[error("nothing is written any more since an earlier write failed; the server must be restarted")]
struct Stopped {
    #[source]
    source: rocksdb::Error,
}

/// The database was closed.
#[derive(Debug, thiserror::Error)]
#[error("the database is closed")]
struct Closed;

impl Committer {
    /// Starts the thread. It ends when the database is closed, or nobody holds it any more.
    pub(super) fn start(store: Arc<Store>, listeners: Listeners, sync: bool) -> Self {
        let (jobs, queue) = channel();
        let counters = Arc::<Counters>::default();
        let committing =
            Thread { store, listeners, sync, counters: Arc::clone(&counters), stopped: None };
        let thread = thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || committing.run(&queue))
            .expect("a process that starts can have one thread more");
        Self { jobs: Some(jobs), counters, thread: Some(thread) }
    }

    pub(super) fn enqueue(&self, batch: Batch) -> Pending {
        if let Err(error) = batch.check() {
            return Pending::ready(Err(error));
        }
        let (done, outcome) = oneshot::channel();
        self.counters.queued();
        if self.send(Job::Commit(Queued { batch, since: Instant::now(), done })) {
            return Pending::new(outcome);
        }
        self.counters.taken(1);
        Pending::ready(Err(StorageError::Engine { source: Arc::new(Closed) }))
    }

    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        // Without a thread it is closed already.
        if self.send(Job::Close(done)) {
            let _ = closed.await;
        }
    }

    /// Whether there is a thread to take it.
    fn send(&self, job: Job) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }
}

struct Thread {
    store: Arc<Store>,
    listeners: Listeners,
    /// Whether to sync at all. Off only where a test shows that its absence is noticed.
    sync: bool,
    counters: Arc<Counters>,
    /// Why nothing is written any more.
    stopped: Option<Arc<Stopped>>,
}

impl Thread {
    fn run(mut self, queue: &Receiver<Job>) {
        let mut close = None;
        while close.is_none()
            && let Ok(first) = queue.recv()
        {
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Commit(queued) => {
                        bytes += queued.batch.bytes();
                        group.push(queued);
                    }
                    Job::Close(done) => {
                        close = Some(done);
                        break;
                    }
                }
                if bytes < GROUP_BYTES && group.len() < GROUP_BATCHES {
                    next = queue.try_recv().ok();
                }
            }
            self.counters.taken(group.len());
            self.commit(group);
        }
        // The last handle may be gone without a word; what was unsynced is kept all the same.
        if self.stopped.is_none()
            && let Err(error) = self.store.db().flush_wal(true)
        {
            tracing::error!(%error, "cannot sync the write-ahead log while closing");
        }
        for job in queue.try_iter() {
            match job {
                Job::Commit(queued) => {
                    self.counters.taken(1);
                    let source = Arc::new(Closed);
                    let _ = queued.done.send(Err(StorageError::Engine { source }));
                }
                Job::Close(done) => drop(done),
            }
        }
        if let Some(done) = close {
            self.store.db().cancel_all_background_work(true);
            // The files are closed when the last handle is gone: this must not be the last.
            drop(self);
            let _ = done.send(());
        }
    }

    /// Applies the batches in order, as if one by one, and answers each.
    fn commit(&mut self, group: Vec<Queued>) {
        if let Some(stopped) = &self.stopped {
            for queued in group {
                let source = Arc::<Stopped>::clone(stopped);
                let _ = queued.done.send(Err(StorageError::Engine { source }));
            }
            return;
        }
        let refusals = self.check(&group);
        let accepted = || group.iter().zip(&refusals).filter(|(_, no)| no.is_none());
        let mut write = WriteBatch::default();
        for row in accepted().flat_map(|(queued, _)| queued.batch.writes.iter()) {
            let handle = self.store.handle(row.table);
            match row.value {
                Some(value) => write.put_cf(handle, row.key, value),
                None => write.delete_cf(handle, row.key),
            }
        }
        let synced = accepted().any(|(queued, _)| queued.batch.durability == Durability::Synced);
        let result = if write.is_empty() && !synced {
            Ok(())
        } else {
            self.counters.group(synced);
            self.store.write(write, synced && self.sync)
        };
        if let Err(error) = &result {
            tracing::error!(%error, "the write-ahead log can't be written: storage stops");
            self.counters.stop();
            self.stopped = Some(Arc::new(Stopped { source: error.clone() }));
        }
        for (queued, refusal) in group.into_iter().zip(refusals) {
            let outcome = match (refusal, &result) {
                (Some(refusal), _) => {
                    self.counters.refused();
                    Err(refusal)
                }
                (None, Err(error)) => {
                    Err(StorageError::Unknown { source: Arc::new(error.clone()) })
                }
                (None, Ok(())) => {
                    let durability = queued.batch.durability;
                    queued.batch.announce(&self.listeners);
                    self.counters.committed(durability, queued.since.elapsed());
                    Ok(())
                }
            };
            // Whoever waited may have gone away; the batch is applied all the same.
            let _ = queued.done.send(outcome);
        }
    }

    /// Per batch, why it can't be applied; the ones before it in the group count as applied if
    /// they can be.
    fn check(&self, group: &[Queued]) -> Vec<Option<StorageError>> {
        let mut refusals = Vec::with_capacity(group.len());
        // What the group has written so far; kept only if somebody will ask.
        let mut pending: HashMap<(TableId, &[u8]), Option<&[u8]>> = HashMap::new();
        let last_to_ask = group.iter().rposition(|queued| !queued.batch.preconditions.is_empty());
        for (index, queued) in group.iter().enumerate() {
            let refusal = queued.batch.preconditions.iter().find_map(|row| {
                let holds = match pending.get(&(row.table, row.key)) {
                    Some(value) => *value == row.value,
                    None => match self.stored_is(row.table, row.key, row.value) {
                        Ok(holds) => holds,
                        Err(error) => return Some(failed(error)),
                    },
                };
                (!holds).then(|| StorageError::Precondition { table: row.table.name() })
            });
            if refusal.is_none() && last_to_ask.is_some_and(|last| index < last) {
                for row in queued.batch.writes.iter() {
                    pending.insert((row.table, row.key), row.value);
                }
            }
            refusals.push(refusal);
        }
        refusals
    }

    fn stored_is(
        &self,
        table: TableId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<bool, rocksdb::Error> {
        let stored = self.store.get_pinned(table, key, &self.store.latest.disk)?;
        Ok(stored.as_deref() == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{positions::Positions, schema::TEST_ROWS};

    /// What the thread makes of batches that all wait when it gets to them.
    async fn run(batches: Vec<Batch>) -> (Vec<Result<(), StorageError>>, Arc<Counters>) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path(), 0).unwrap());
        let (jobs, queue) = channel();
        let counters = Arc::<Counters>::default();
        let mut outcomes = Vec::new();
        for batch in batches {
            let (done, outcome) = oneshot::channel();
            counters.queued();
            jobs.send(Job::Commit(Queued { batch, since: Instant::now(), done })).unwrap();
            outcomes.push(Pending::new(outcome));
        }
        drop(jobs);
        let listeners = Listeners::default();
        Thread { store, listeners, sync: true, counters: Arc::clone(&counters), stopped: None }
            .run(&queue);
        (futures::future::join_all(outcomes).await, counters)
    }

    fn put(mut batch: Batch, row: u64, bytes: usize) -> Batch {
        TEST_ROWS.put(&mut batch, &(row, 0), &vec![0; bytes]);
        batch
    }

    #[tokio::test]
    async fn what_waits_is_one_flush() {
        let batch = |row| if row % 2 == 0 { Batch::new() } else { Batch::unsynced() };
        let (outcomes, counters) =
            run((0..50).map(|row| put(batch(row), row, 100)).collect()).await;
        assert!(outcomes.iter().all(Result::is_ok));
        let commits = counters.read();
        assert_eq!((commits.synced, commits.unsynced), (25, 25));
        assert_eq!((commits.groups, commits.flushes, commits.queued), (1, 1, 0));
    }

    #[tokio::test]
    async fn unsynced_batches_alone_are_not_flushed() {
        let (_, counters) = run((0..5).map(|row| put(Batch::unsynced(), row, 1)).collect()).await;
        assert_eq!((counters.read().groups, counters.read().flushes), (1, 0));
    }

    #[tokio::test]
    async fn a_group_has_a_largest_size() {
        let (outcomes, counters) =
            run((0..90).map(|row| put(Batch::new(), row, 99_000)).collect()).await;
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!(counters.read().groups, 3, "nine megabytes are two full groups and a rest");
    }

    #[tokio::test]
    async fn a_refused_batch_holds_up_no_position() {
        let positions = Positions::starting_at(1, Arc::default());
        positions.raise(10);
        let mut refused = put(Batch::new(), 1, 1);
        TEST_ROWS.require_equals(&mut refused, &(2, 2), &vec![2]);
        refused.hold(positions.try_take().unwrap());
        let mut accepted = put(Batch::new(), 1, 1);
        accepted.hold(positions.try_take().unwrap());
        let (outcomes, _) = run(vec![refused, accepted]).await;
        assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);
        assert_eq!(positions.visible(), 2);
    }
}
