//! What every engine can do.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::{
    Batch, StorageError,
    memory::{MemoryEngine, MemorySnapshot},
    schema::TableId,
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
}

/// The engines there are.
#[derive(Clone)]
pub(super) enum Engine {
    /// Everything in memory: for tests.
    Memory(MemoryEngine),
}

/// A state that stays as it was.
pub(crate) enum Snapshot {
    /// Of the memory engine.
    Memory(MemorySnapshot),
}

/// The outcome of a queued batch.
pub(crate) struct Pending {
    outcome: oneshot::Receiver<Result<(), StorageError>>,
}

impl Pending {
    pub(super) fn new(outcome: oneshot::Receiver<Result<(), StorageError>>) -> Self {
        Self { outcome }
    }
}

impl Future for Pending {
    type Output = Result<(), StorageError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(context).map(|outcome| {
            outcome.unwrap_or_else(|closed| {
                Err(StorageError::Engine { source: std::sync::Arc::new(closed) })
            })
        })
    }
}

impl Engine {
    #[cfg(test)]
    pub(super) fn memory() -> Self {
        Self::Memory(MemoryEngine::default())
    }

    pub(super) fn enqueue(&self, batch: Batch) -> Pending {
        match self {
            Self::Memory(engine) => engine.enqueue(batch),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        match self {
            Self::Memory(engine) => Snapshot::Memory(engine.snapshot()),
        }
    }
}

impl Read for Engine {
    async fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        match self {
            Self::Memory(engine) => Ok(engine.snapshot().get(table, key)),
        }
    }

    async fn multi_get(
        &self,
        table: TableId,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        match self {
            Self::Memory(engine) => Ok(engine.snapshot().multi_get(table, keys)),
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
            Self::Memory(engine) => Ok(engine.snapshot().scan(table, start, end, limit, backwards)),
        }
    }
}

impl Read for Snapshot {
    async fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        match self {
            Self::Memory(snapshot) => Ok(snapshot.get(table, key)),
        }
    }

    async fn multi_get(
        &self,
        table: TableId,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        match self {
            Self::Memory(snapshot) => Ok(snapshot.multi_get(table, keys)),
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
            Self::Memory(snapshot) => Ok(snapshot.scan(table, start, end, limit, backwards)),
        }
    }
}
