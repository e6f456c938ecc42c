//! Tests of storage as its users see it.

mod conformance;
#[cfg(target_os = "linux")]
mod crash;
mod opening;

use std::path::Path;

use tempfile::TempDir;

use super::{Db, Settings, open::OpenError};

/// Small, so that tests also see full buffers.
const BUDGET_BYTES: u64 = 32 << 20;

fn settings() -> Settings {
    Settings::new("a.example".try_into().expect("a server name"), BUDGET_BYTES)
}

pub(super) async fn open(directory: &Path) -> Result<Db, OpenError> {
    Db::open(directory, &settings()).await
}

/// Closes and opens again, as a restart does.
pub(super) async fn reopen(db: Db, directory: &Path) -> Db {
    db.close().await;
    drop(db);
    open(directory).await.expect("what was closed opens")
}

/// A database under test, on either engine.
struct Subject {
    db: Db,
    /// None: in memory.
    directory: Option<TempDir>,
}

impl Subject {
    async fn in_memory() -> Self {
        Self { db: Db::in_memory().await, directory: None }
    }

    async fn on_disk() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let db = open(directory.path()).await.expect("an empty directory opens");
        Self { db, directory: Some(directory) }
    }

    /// From here on, all that was written is in files that nobody has read yet.
    async fn settle(self) -> Self {
        let Some(directory) = self.directory else { return self };
        self.db.flush();
        let db = reopen(self.db, directory.path()).await;
        Self { db, directory: Some(directory) }
    }
}

/// Runs each test on both engines.
macro_rules! on_both_engines {
    ($($test:ident)*) => {
        mod memory {
            use crate::storage::tests::Subject;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(Subject::in_memory().await).await;
                }
            )*
        }
        mod rocksdb {
            use crate::storage::tests::Subject;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(Subject::on_disk().await).await;
                }
            )*
        }
    };
}
use on_both_engines;
