//! Opening: again, twice, by the wrong server, by an old program.

use tempfile::tempdir;

use super::{open, reopen, settings};
use crate::storage::{Batch, Db, Settings, open::OpenError, schema::META, value::Value};

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let directory = tempdir().unwrap();
    let db = open(directory.path()).await.unwrap();
    for (key, mut batch) in [("synced", Batch::new()), ("unsynced", Batch::unsynced())] {
        META.put(&mut batch, key, &vec![1]);
        db.commit(batch).await.unwrap();
    }
    let db = reopen(db, directory.path()).await;
    assert_eq!(
        META.multi_get(&db, ["synced", "unsynced"]).await.unwrap(),
        [Some(vec![1]), Some(vec![1])]
    );
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let directory = tempdir().unwrap();
    let _held = open(directory.path()).await.unwrap();
    let error = open(directory.path()).await.err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("data directory {} is in use by another process", directory.path().display())
    );
}

#[tokio::test]
async fn another_servers_database_is_refused() {
    let directory = tempdir().unwrap();
    let db = open(directory.path()).await.unwrap();
    db.close().await;
    drop(db);
    let other = Settings { server_name: "b.example".try_into().unwrap(), ..settings() };
    let error = Db::open(directory.path(), &other).await.err().unwrap();
    assert!(matches!(&error, OpenError::OtherServer { pinned, .. } if pinned == "a.example"));
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_named() {
    let directory = tempdir().unwrap();
    let db = open(directory.path()).await.unwrap();
    let mut version = Vec::new();
    1_000_u64.to_bytes(&mut version);
    let mut batch = Batch::new();
    META.put(&mut batch, "schema.version", &version);
    db.commit(batch).await.unwrap();
    db.close().await;
    drop(db);
    let error = open(directory.path()).await.err().unwrap();
    assert!(error.to_string().contains("schema version 1000"), "{error}");
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = open(file.path()).await.err().unwrap();
    assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
}

#[tokio::test]
async fn a_closed_database_takes_no_batches_and_still_reads() {
    let directory = tempdir().unwrap();
    let db = open(directory.path()).await.unwrap();
    db.close().await;
    let mut batch = Batch::new();
    META.put(&mut batch, "late", &vec![]);
    assert!(db.commit(batch).await.is_err());
    assert!(!META.contains(&db, "late").await.unwrap());
    db.close().await;
}
