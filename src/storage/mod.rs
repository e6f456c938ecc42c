//! Durable storage: ordered byte keys in named tables behind one engine, typed at this layer.
//!
//! Reads come first, from the latest state or from a snapshot; a change is one [`Batch`], with
//! preconditions for what must still hold, committed as a whole. Nothing outside this module knows
//! which engine it is or where it keeps its files.

mod batch;
#[cfg(feature = "bench")]
pub mod bench;
pub(crate) mod chunks;
mod engine;
mod events;
pub(crate) mod intern;
pub(crate) mod key;
mod layout;
mod memory;
mod migrations;
mod open;
mod positions;
mod rocks;
pub(crate) mod schema;
pub(crate) mod stats;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod value;
mod wakes;

use std::sync::Arc;

pub(crate) use batch::{Batch, Durability};
pub(crate) use engine::{Pending, Read};
pub(crate) use events::{CachedEvents, shared_events};
pub(crate) use open::Settings;
pub(crate) use positions::Position;
pub(crate) use table::{Range, Table};
pub(crate) use value::{Json, Value};
pub(crate) use wakes::{Changes, Concern, RoomChanges, Waiter};

use engine::{Engine, EngineSnapshot, Rows};
use events::EventCache;
use intern::{RoomNumbers, UserNumber, UserNumbers};
use positions::Positions;
use schema::{META, TableId};
use stats::Stats;
use wakes::Wakes;

/// What can go wrong below the domain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// A row's bytes are not what its table holds.
    #[error("a row of table {table} can't be read")]
    Corrupt {
        /// The table.
        table: &'static str,
    },
    /// A key or a value is larger than every engine can hold.
    #[error("a row for table {table} is too large: {bytes} bytes")]
    TooLarge {
        /// The table.
        table: &'static str,
        /// Size of the key or of the value.
        bytes: usize,
    },
    /// What the batch required did not hold; nothing of it was written.
    #[error("a row of table {table} changed in the meantime")]
    Precondition {
        /// The table.
        table: &'static str,
    },
    /// A batch is larger than every engine can apply as a whole; nothing of it was written.
    #[error("a change of {bytes} bytes is too large to be made at once")]
    BatchTooLarge {
        /// Size of its keys and values.
        bytes: usize,
    },
    /// The batch may have been applied or not: the disk failed in the middle of it. Ask again, after
    /// a restart, for a row that the batch would have written.
    #[error("it is not known whether the change was stored")]
    Unknown {
        /// What the engine said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The engine failed: the disk is broken, an earlier write failed (then nothing is written
    /// until a restart), or the engine was closed. Nothing of the batch was written.
    #[error("the storage engine failed")]
    Engine {
        /// What it said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// The largest value; larger ones are refused.
pub(crate) const MAX_VALUE_BYTES: usize = 100_000;
/// The largest key.
pub(crate) const MAX_KEY_BYTES: usize = 1_000;
/// The largest batch, keys and values together.
pub(crate) const MAX_BATCH_BYTES: usize = 4 << 20;

/// The database: reads, commits, positions and numbers.
#[derive(Clone)]
pub(crate) struct Db {
    shared: Arc<Shared>,
}

/// A state that stays as it was, for as long as it is held. Rows deleted since are kept on disk for
/// it: hold it for a request, not for a connection.
#[derive(Clone)]
pub(crate) struct Snapshot {
    engine: EngineSnapshot,
    events: Arc<EventCache>,
    /// The cache's moment before the state was taken.
    as_of: u64,
}

/// What is told of every commit, by the engine, once it is visible to readers.
#[derive(Clone)]
struct Listeners {
    wakes: Arc<Wakes>,
    events: Arc<EventCache>,
}

struct Shared {
    engine: Engine,
    positions: Arc<Positions>,
    listeners: Listeners,
    ceiling: tokio::sync::Mutex<()>,
    users: UserNumbers,
    rooms: RoomNumbers,
}

impl Listeners {
    /// Those of a process with this much memory.
    fn of_budget(budget_bytes: u64) -> Self {
        Self { wakes: Arc::default(), events: Arc::new(EventCache::new(budget_bytes / 16)) }
    }
}

/// Those of tests.
impl Default for Listeners {
    fn default() -> Self {
        Self::of_budget(64 << 20)
    }
}

const POSITION_CEILING: &str = "ceiling.positions";

impl Db {
    /// An empty database in memory, gone when dropped.
    #[cfg(test)]
    pub(crate) async fn in_memory() -> Self {
        let listeners = Listeners::default();
        let engine = Engine::Memory(memory::MemoryEngine::new(listeners.clone()));
        Self::over(engine, listeners).await.expect("an empty memory engine can be read")
    }

    /// Another database in memory with what is in this one now.
    #[cfg(test)]
    pub(crate) async fn copied(&self) -> Self {
        let Engine::Memory(engine) = &self.shared.engine else { panic!("not in memory") };
        let listeners = Listeners::default();
        let engine = Engine::Memory(engine.copied(listeners.clone()));
        Self::over(engine, listeners).await.expect("what was there can be read")
    }

    /// The database in `engine`, which tells `listeners` what it commits.
    async fn over(engine: Engine, listeners: Listeners) -> Result<Self, StorageError> {
        let ceiling = match engine.get(TableId::Meta, &encoded_meta_key(POSITION_CEILING)).await? {
            Some(bytes) => u64::from_bytes(&bytes)
                .ok_or(StorageError::Corrupt { table: TableId::Meta.name() })?,
            None => 1,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                positions: Positions::starting_at(ceiling, Arc::clone(&listeners.wakes)),
                listeners,
                ceiling: tokio::sync::Mutex::new(()),
                users: UserNumbers::of_users(),
                rooms: RoomNumbers::of_rooms(),
            }),
        })
    }

    /// Queues `batch`. Batches are applied in the order in which they are queued; await the result
    /// before anybody is told.
    pub(crate) fn enqueue(&self, batch: Batch) -> Pending {
        self.shared.engine.enqueue(batch)
    }

    /// Commits `batch`: returns when it is applied, and on disk unless it is unsynced.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<(), StorageError> {
        self.enqueue(batch).await
    }

    /// Commits what is queued, syncs the log and stops: later batches fail, reads go on. The files
    /// are closed, and the directory may be opened again, when every handle and snapshot is gone.
    pub(crate) async fn close(&self) {
        self.shared.engine.close().await;
    }

    /// Sizes, counts and latencies, for metrics. Reads one number per table: not for every request.
    pub(crate) fn stats(&self) -> Stats {
        self.shared.engine.stats()
    }

    /// Moves everything from the write buffers to the tables' files.
    #[cfg(test)]
    fn flush(&self) {
        if let Engine::RocksDb(engine) = &self.shared.engine {
            engine.flush();
        }
    }

    /// Has changes of this table fail from now on, or none.
    #[cfg(test)]
    pub(crate) fn fail(&self, table: Option<TableId>) {
        if let Engine::Memory(engine) = &self.shared.engine {
            engine.fail(table);
        }
    }

    /// How many reads there were so far, each of them a round trip for an engine across a network:
    /// tests hold hot paths to a budget. Counted by the memory engine only.
    #[cfg(test)]
    pub(crate) fn round_trips(&self) -> u64 {
        match &self.shared.engine {
            Engine::Memory(engine) => engine.reads(),
            Engine::RocksDb(_) => 0,
        }
    }

    /// The state of now, unmoved by later commits.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let as_of = self.shared.listeners.events.now();
        let events = Arc::clone(&self.shared.listeners.events);
        Snapshot { engine: self.shared.engine.snapshot(), events, as_of }
    }

    /// The next stream position. Take it as late as possible and commit at once: readers wait for
    /// the smallest one that is not done.
    pub(crate) async fn position(&self) -> Result<Position, StorageError> {
        loop {
            if let Some(position) = self.shared.positions.try_take() {
                return Ok(position);
            }
            let _raising = self.shared.ceiling.lock().await;
            if let Some(position) = self.shared.positions.try_take() {
                return Ok(position);
            }
            let ceiling = self.shared.positions.ceiling() + positions::BLOCK;
            let mut bytes = Vec::new();
            ceiling.to_bytes(&mut bytes);
            let mut batch = Batch::new();
            META.put(&mut batch, POSITION_CEILING, &bytes);
            self.commit(batch).await?;
            self.shared.positions.raise(ceiling);
        }
    }

    /// The position up to which everything is committed and may be read.
    pub(crate) fn visible_position(&self) -> u64 {
        self.shared.positions.visible()
    }

    /// Starts waiting for what concerns `user`: see [`Batch::wake`].
    pub(crate) fn wait_for(&self, user: UserNumber) -> Waiter {
        self.shared.listeners.wakes.subscribe(user, || self.shared.positions.handed_out())
    }

    /// Starts waiting for what concerns anybody.
    pub(crate) fn wait_for_any(&self) -> Waiter {
        self.shared.listeners.wakes.subscribe_to_any()
    }

    /// Wakes users for whom nothing has changed that has a position.
    pub(crate) fn wake(&self, users: &[UserNumber]) {
        self.shared.listeners.wakes.wake(users.iter().copied());
    }

    /// The numbers that stand for users.
    pub(crate) fn users(&self) -> &UserNumbers {
        &self.shared.users
    }

    /// The numbers that stand for rooms.
    pub(crate) fn rooms(&self) -> &RoomNumbers {
        &self.shared.rooms
    }
}

fn encoded_meta_key(name: &str) -> Vec<u8> {
    let mut key = Vec::new();
    key::AsKey::<String>::encode(name, &mut key);
    key
}

/// Reading the latest state and reading a snapshot are the same, but for the engine. Its futures are
/// handed on as they are: one more around each would be paid for by every read.
macro_rules! reads {
    ($($source:ident: $self:ident => $engine:expr, $cached:expr;)*) => {$(
        impl Read for $source {
            fn get(
                &$self,
                table: TableId,
                key: &[u8],
            ) -> impl Future<Output = Result<Option<Vec<u8>>, StorageError>> + Send {
                $engine.get(table, key)
            }

            fn multi_get(
                &$self,
                table: TableId,
                keys: &[Vec<u8>],
            ) -> impl Future<Output = Result<Vec<Option<Vec<u8>>>, StorageError>> + Send {
                $engine.multi_get(table, keys)
            }

            fn scan(
                &$self,
                table: TableId,
                start: &[u8],
                end: Option<&[u8]>,
                limit: usize,
                backwards: bool,
            ) -> impl Future<Output = Result<Rows, StorageError>> + Send {
                $engine.scan(table, start, end, limit, backwards)
            }

            fn cached_events(&$self) -> Option<CachedEvents<'_>> {
                Some($cached)
            }
        }
    )*};
}

reads! {
    Db: self => self.shared.engine, {
        let events = &self.shared.listeners.events;
        events.as_of(events.now())
    };
    Snapshot: self => self.engine, self.events.as_of(self.as_of);
}
