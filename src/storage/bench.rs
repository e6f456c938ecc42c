//! A door for `benches/storage.rs`: one table of bytes, and the engine below it.

use std::{path::Path, sync::Arc};

use super::{
    Batch, Db, Range, Read, Settings, StorageError,
    engine::Engine,
    schema::{META, TableId},
};

/// The table's name on disk.
pub const TABLE: &str = "meta";

/// A database on disk.
#[derive(Clone)]
pub struct Bench {
    db: Db,
}

/// What went wrong; a benchmark only reports it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What was committed since the database was opened.
#[derive(Clone, Copy, Debug)]
pub struct Commits {
    /// Batches.
    pub batches: u64,
    /// Flushes of the disk.
    pub flushes: u64,
}

impl Bench {
    /// Opens the database in `directory` with the memory that servers have by default.
    ///
    /// # Errors
    /// If it can't be opened.
    pub async fn open(directory: &Path) -> Result<Self, Error> {
        let name = "bench.example".try_into()?;
        let db = Db::open(directory, &Settings::new(name, 256 << 20)).await;
        Ok(Self { db: db? })
    }

    /// Commits rows of `value` at encoded `keys` as one synced batch, through the engine's interface.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn put_encoded(&self, keys: &[Vec<u8>], value: &[u8]) -> Result<(), Error> {
        let mut batch = Batch::new();
        for key in keys {
            batch.put(TableId::Meta, &|out| out.extend_from_slice(key), &|out| {
                out.extend_from_slice(value);
            });
        }
        Ok(self.db.commit(batch).await?)
    }

    /// Commits rows of `value` at `keys` as one batch.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn put(&self, keys: &[String], value: &Vec<u8>, synced: bool) -> Result<(), Error> {
        let mut batch = if synced { Batch::new() } else { Batch::unsynced() };
        for key in keys {
            META.put(&mut batch, key, value);
        }
        Ok(self.db.commit(batch).await?)
    }

    /// The encoded form of a key, which the reads of bytes take.
    pub fn encoded(key: &str) -> Vec<u8> {
        super::encoded_meta_key(key)
    }

    /// Reads bytes through the engine's interface.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.db.get(TableId::Meta, key).await?)
    }

    /// Reads a row through its typed table.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn get_typed(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(META.get(&self.db, key).await?)
    }

    /// Reads bytes of many rows through the engine's interface.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        Ok(self.db.multi_get(TableId::Meta, keys).await?)
    }

    /// Reads up to `limit` rows from `start` on through the engine's interface.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn scan(&self, start: &[u8], limit: usize) -> Result<usize, Error> {
        Ok(self.db.scan(TableId::Meta, start, None, limit, false).await?.len())
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// If the engine fails.
    pub async fn count(&self) -> Result<usize, Error> {
        Ok(META.scan(&self.db, &Range::all(), usize::MAX).await?.len())
    }

    /// What was committed so far.
    pub fn commits(&self) -> Commits {
        let commits = self.db.stats().commits;
        Commits { batches: commits.synced + commits.unsynced, flushes: commits.flushes }
    }

    /// The engine itself.
    ///
    /// # Errors
    /// If it is not `RocksDB`, which [`Bench::open`] always makes it.
    pub fn raw(&self) -> Result<&rocksdb::DB, Error> {
        match &self.db.shared.engine {
            Engine::RocksDb(engine) => Ok(engine.raw()),
            Engine::Memory(_) => {
                Err(Box::new(StorageError::Engine { source: Arc::new(std::fmt::Error) }))
            }
        }
    }

    /// Closes the files once the last copy is gone.
    pub async fn close(self) {
        self.db.close().await;
    }
}
