//! Tests of storage as its users see it.

mod opening;

use std::path::Path;

use super::{Db, OpenError, Settings};

/// Small, so that tests also see full buffers.
const BUDGET_BYTES: u64 = 32 << 20;

fn settings() -> Settings {
    Settings::new("a.example".try_into().expect("a server name"), BUDGET_BYTES)
}

async fn open(directory: &Path) -> Result<Db, OpenError> {
    Db::open(directory, &settings()).await
}

/// Closes and opens again, as a restart does.
async fn reopen(db: Db, directory: &Path) -> Db {
    db.close().await;
    drop(db);
    open(directory).await.expect("what was closed opens")
}
