//! Opening a database: what may go wrong, and what is pinned in it.

use std::{
    fs::{DirBuilder, File},
    io,
    path::{Path, PathBuf},
};

use ruma::OwnedServerName;

use super::{
    Batch, Db, Listeners, StorageError,
    engine::Engine,
    migrations::{self, MIGRATIONS, SCHEMA_VERSION, VERSION},
    rocks::RocksEngine,
    schema::META,
    value::Value,
};

const SERVER_NAME: &str = "server_name";

/// The database's directory in the data directory.
const DIRECTORY: &str = "db";

/// What opening needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Whose data it is: pinned when the database is made.
    pub(crate) server_name: OwnedServerName,
    /// Memory of the whole process, in bytes; the engine takes half.
    pub(crate) memory_budget_bytes: u64,
    /// Whether synced batches are synced. Only a test of tests says no.
    pub(super) sync: bool,
}

impl Settings {
    /// Settings for a server.
    pub(crate) fn new(server_name: OwnedServerName, memory_budget_bytes: u64) -> Self {
        Self { server_name, memory_budget_bytes, sync: true }
    }
}

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The data directory can't be made or read.
    #[error("cannot use the data directory {}", directory.display())]
    Directory {
        /// The data directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("data directory {} is in use by another process", directory.display())]
    InUse {
        /// The data directory.
        directory: PathBuf,
    },
    /// A newer program wrote it.
    #[error(
        "the database in {} has schema version {found}, this program knows versions up to {known}: \
         use the newer program, or restore a backup from before the upgrade",
        directory.display()
    )]
    NewerSchema {
        /// The data directory.
        directory: PathBuf,
        /// The version it has.
        found: u64,
        /// The latest this program knows.
        known: u64,
    },
    /// It is another server's.
    #[error(
        "the database in {} belongs to the server {pinned} and can't be used as {configured}: a \
         server's name can't be changed once it has data",
        directory.display()
    )]
    OtherServer {
        /// The data directory.
        directory: PathBuf,
        /// Whose it is.
        pinned: String,
        /// The name in the configuration.
        configured: OwnedServerName,
    },
    /// The engine can't open it.
    #[error("cannot open the database in {}", directory.display())]
    Engine {
        /// The data directory.
        directory: PathBuf,
        /// What the engine said.
        source: rocksdb::Error,
    },
    /// It opens, and what it says about itself can't be read or written.
    #[error("cannot read the database in {}", directory.display())]
    Storage {
        /// The data directory.
        directory: PathBuf,
        /// Why.
        source: StorageError,
    },
}

impl Db {
    /// Opens the database in `data_dir`, making it if there is none.
    pub(crate) async fn open(data_dir: &Path, settings: &Settings) -> Result<Self, OpenError> {
        let directory = data_dir.to_owned();
        let (budget_bytes, sync) = (settings.memory_budget_bytes, settings.sync);
        let listeners = Listeners::of_budget(budget_bytes);
        let for_engine = listeners.clone();
        let engine = tokio::task::spawn_blocking(move || {
            open_engine(directory, budget_bytes, sync, for_engine)
        })
        .await
        .map_err(|stopped| OpenError::Directory {
            directory: data_dir.to_owned(),
            source: io::Error::other(stopped),
        })??;
        let storage = |source| OpenError::Storage { directory: data_dir.to_owned(), source };
        let db = Self::over(Engine::RocksDb(engine), listeners).await.map_err(storage)?;
        db.check_identity(data_dir, settings).await?;
        Ok(db)
    }

    /// Refuses what this program can't read or should not write; marks a new database as its own.
    async fn check_identity(&self, data_dir: &Path, settings: &Settings) -> Result<(), OpenError> {
        let directory = || data_dir.to_owned();
        let storage = |source| OpenError::Storage { directory: directory(), source };
        let corrupt = || StorageError::Corrupt { table: META.id.name() };
        let mut rows = META.multi_get(self, [VERSION, SERVER_NAME]).await.map_err(storage)?;
        let (name, version) = (rows.pop().flatten(), rows.pop().flatten());
        let Some(name) = name else {
            let mut version = Vec::new();
            SCHEMA_VERSION.to_bytes(&mut version);
            let mut batch = Batch::new();
            META.put(&mut batch, VERSION, &version);
            META.put(&mut batch, SERVER_NAME, &settings.server_name.as_bytes().to_vec());
            return self.commit(batch).await.map_err(storage);
        };
        // Both were written at once.
        let found =
            version.and_then(|bytes| u64::from_bytes(&bytes)).ok_or_else(|| storage(corrupt()))?;
        if found > SCHEMA_VERSION {
            let known = SCHEMA_VERSION;
            return Err(OpenError::NewerSchema { directory: directory(), found, known });
        }
        let pinned = String::from_utf8(name).map_err(|_| storage(corrupt()))?;
        if pinned != settings.server_name.as_str() {
            let configured = settings.server_name.clone();
            return Err(OpenError::OtherServer { directory: directory(), pinned, configured });
        }
        migrations::run(self, found, MIGRATIONS).await.map_err(storage)
    }
}

fn open_engine(
    directory: PathBuf,
    budget_bytes: u64,
    sync: bool,
    listeners: Listeners,
) -> Result<RocksEngine, OpenError> {
    let files = directory.join(DIRECTORY);
    if let Err(source) = create_durably(&files) {
        return Err(OpenError::Directory { directory, source });
    }
    RocksEngine::open(&files, budget_bytes, sync, listeners).map_err(|source| {
        if is_locked(&source) {
            OpenError::InUse { directory }
        } else {
            OpenError::Engine { directory, source }
        }
    })
}

/// Whether opening failed because a process, this one included, holds the directory's lock. The
/// engine says so in words only.
fn is_locked(error: &rocksdb::Error) -> bool {
    let message = error.as_ref();
    message.contains("LOCK")
        && (message.contains("temporarily unavailable")
            || message.contains("lock hold by current process"))
}

/// Makes a directory, for the server's user only, and those above it. Each is on disk when this
/// returns: otherwise a power failure could take a new database away with all that was synced in it.
fn create_durably(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    create_durably(parent)?;
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(directory) {
        // Somebody else was faster; that it is a directory shows when it is used.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
        result => result?,
    }
    File::open(parent)?.sync_all()
}
