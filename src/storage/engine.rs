//! What every engine can do.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::{
    Batch, CachedEvents, StorageError,
    memory::{MemoryEngine, MemorySnapshot},
    rocks::{RocksEngine, RocksSnapshot},
    schema::TableId,
    stats::Stats,
};

/// Rows as the engine keeps them.
pub(super) type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Reading: the latest state, or a snapshot's. Use it through [`super::Table`].
pub(crate) trait Read: Send + Sync {
    /// The value at `key`.
    fn get(
        &self,
        table: TableId,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StorageError>> + Send;

    /// The values at `keys`, in their order, in one round trip.
    fn multi_get(
        &self,
        table: TableId,
        keys: &[Vec<u8>],
    ) -> impl Future<Output = Result<Vec<Option<Vec<u8>>>, StorageError>> + Send;

    /// At most `limit` rows from `start` to before `end`; from the end if `backwards`.
    fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        backwards: bool,
    ) -> impl Future<Output = Result<Rows, StorageError>> + Send;

    /// The events in memory, as this reader may use them; none where there is no such cache.
    fn cached_events(&self) -> Option<CachedEvents<'_>> {
        None
    }
}

/// The engines there are.
#[derive(Clone)]
pub(super) enum Engine {
    /// Everything in memory: for tests.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests make one"))]
    Memory(MemoryEngine),
    /// On disk.
    RocksDb(RocksEngine),
}

/// A state that stays as it was.
#[derive(Clone)]
pub(super) enum EngineSnapshot {
    /// Of the memory engine.
    Memory(MemorySnapshot),
    /// Of the engine on disk.
    RocksDb(RocksSnapshot),
}

/// The outcome of a queued batch. The batch is applied whether this is awaited or not.
pub(crate) struct Pending {
    outcome: Outcome,
}

enum Outcome {
    Known(Option<Result<(), StorageError>>),
    Awaited(oneshot::Receiver<Result<(), StorageError>>),
}

/// The engine ended without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the storage engine ended before it answered")]
struct Ended;

impl Pending {
    pub(super) fn new(outcome: oneshot::Receiver<Result<(), StorageError>>) -> Self {
        Self { outcome: Outcome::Awaited(outcome) }
    }

    pub(super) fn ready(outcome: Result<(), StorageError>) -> Self {
        Self { outcome: Outcome::Known(Some(outcome)) }
    }
}

impl Future for Pending {
    type Output = Result<(), StorageError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let unknown = || Err(StorageError::Unknown { source: Arc::new(Ended) });
        match &mut self.outcome {
            Outcome::Known(outcome) => Poll::Ready(outcome.take().unwrap_or_else(unknown)),
            Outcome::Awaited(outcome) => {
                Pin::new(outcome).poll(context).map(|answer| answer.unwrap_or_else(|_| unknown()))
            }
        }
    }
}

impl Engine {
    pub(super) fn enqueue(&self, batch: Batch) -> Pending {
        match self {
            Self::Memory(engine) => engine.enqueue(batch),
            Self::RocksDb(engine) => engine.enqueue(batch),
        }
    }

    pub(super) fn snapshot(&self) -> EngineSnapshot {
        match self {
            Self::Memory(engine) => EngineSnapshot::Memory(engine.snapshot()),
            Self::RocksDb(engine) => EngineSnapshot::RocksDb(engine.snapshot()),
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Memory(_) => (),
            Self::RocksDb(engine) => engine.close().await,
        }
    }

    pub(super) fn stats(&self) -> Stats {
        match self {
            Self::Memory(engine) => Stats { commits: engine.counters().read(), ..Stats::default() },
            Self::RocksDb(engine) => engine.stats(),
        }
    }
}

/// Both kinds of reading are the same three calls, on whichever engine it is.
macro_rules! read_by_engine {
    ($($source:ident),*) => {$(
        impl Read for $source {
            async fn get(
                &self,
                table: TableId,
                key: &[u8],
            ) -> Result<Option<Vec<u8>>, StorageError> {
                match self {
                    Self::Memory(memory) => Ok(memory.get(table, key)),
                    Self::RocksDb(rocks) => rocks.get(table, key).await,
                }
            }

            async fn multi_get(
                &self,
                table: TableId,
                keys: &[Vec<u8>],
            ) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
                match self {
                    Self::Memory(memory) => Ok(memory.multi_get(table, keys)),
                    Self::RocksDb(rocks) => rocks.multi_get(table, keys).await,
                }
            }

            async fn scan(
                &self,
                table: TableId,
                start: &[u8],
                end: Option<&[u8]>,
                limit: usize,
                backwards: bool,
            ) -> Result<Rows, StorageError> {
                match self {
                    Self::Memory(memory) => Ok(memory.scan(table, start, end, limit, backwards)),
                    Self::RocksDb(rocks) => rocks.scan(table, start, end, limit, backwards).await,
                }
            }
        }
    )*};
}

read_by_engine!(Engine, EngineSnapshot);
