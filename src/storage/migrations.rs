//! Bringing an older database up to this program's schema.
//!
//! A migration works in steps. What a step writes and how far it has got are one batch, so a
//! process that is killed in the middle goes on after the last step that was committed.

use std::{future::Future, pin::Pin};

use super::{Batch, Db, StorageError, schema::META, value::Value};

/// The schema this program writes: increased with every change of what is stored, together with a
/// migration to it.
pub(super) const SCHEMA_VERSION: u64 = 1;

/// The migrations, in the order of their versions.
pub(super) const MIGRATIONS: &[Migration] = &[];

/// The row that holds the schema's version.
pub(super) const VERSION: &str = "schema.version";
/// Where the migration under way goes on; absent at its start.
const CURSOR: &str = "schema.migration_cursor";

const _: () = match MIGRATIONS.last() {
    Some(last) => assert!(last.to == SCHEMA_VERSION),
    None => assert!(SCHEMA_VERSION == 1),
};

/// One step of a migration: what to write, and where the next goes on; none after the last.
pub(super) struct Step {
    pub(super) batch: Batch,
    pub(super) next: Option<Vec<u8>>,
}

/// A step to be: what [`Migration::step`] returns.
pub(super) type StepFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Step, StorageError>> + Send + 'a>>;

/// The way from one version to the next.
pub(super) struct Migration {
    /// The version it leads to, from the one before.
    pub(super) to: u64,
    /// What is done, for the log.
    pub(super) what: &'static str,
    /// Makes the step that begins at a cursor; none: the first. It must be bounded, as a batch is,
    /// and depend on nothing but the database and the cursor.
    pub(super) step: for<'a> fn(&'a Db, Option<Vec<u8>>) -> StepFuture<'a>,
}

/// Runs what leads from version `found` to the last of `migrations`.
pub(super) async fn run(db: &Db, found: u64, migrations: &[Migration]) -> Result<(), StorageError> {
    for migration in migrations.iter().filter(|migration| migration.to > found) {
        tracing::info!(version = migration.to, what = migration.what, "changing the schema");
        let mut cursor = META.get(db, CURSOR).await?;
        loop {
            let Step { mut batch, next } = (migration.step)(db, cursor).await?;
            META.require_equals(&mut batch, VERSION, &encoded(migration.to - 1));
            if let Some(next) = &next {
                META.put(&mut batch, CURSOR, next);
            } else {
                META.delete(&mut batch, CURSOR);
                META.put(&mut batch, VERSION, &encoded(migration.to));
            }
            db.commit(batch).await?;
            if next.is_none() {
                break;
            }
            cursor = next;
        }
    }
    Ok(())
}

fn encoded(version: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    version.to_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        Range,
        schema::{TEST_ROWS, TEST_TEXTS},
        tests::{open, reopen},
    };

    const ROWS: u64 = 10;

    /// Appends a byte to every row, three at a time. While the text "interrupt" is there it fails
    /// at the cursor that this names.
    fn append(db: &Db, cursor: Option<Vec<u8>>) -> StepFuture<'_> {
        Box::pin(async move {
            let from = cursor.map_or(0, |bytes| u64::from_bytes(&bytes).unwrap());
            if TEST_TEXTS.get(db, "interrupt").await? == Some(from.to_string()) {
                return Err(StorageError::Corrupt { table: "interrupted" });
            }
            let mut batch = Batch::new();
            let rows = TEST_ROWS.scan(db, &Range::all().from(&(from, 0)), 3).await?;
            for (key, mut value) in rows.iter().cloned() {
                value.push(1);
                TEST_ROWS.put(&mut batch, &key, &value);
            }
            let next = rows.get(2).map(|(key, _)| encoded(key.0 + 1));
            Ok(Step { batch, next })
        })
    }

    const TO_TWO: Migration = Migration { to: 2, what: "a byte more", step: append };
    const TO_THREE: Migration = Migration { to: 3, what: "and another", step: append };

    async fn lengths(db: &Db) -> Vec<usize> {
        let rows = TEST_ROWS.scan(db, &Range::all(), usize::MAX).await.unwrap();
        rows.into_iter().map(|(_, value)| value.len()).collect()
    }

    async fn version(db: &Db) -> u64 {
        u64::from_bytes(&META.get(db, VERSION).await.unwrap().unwrap()).unwrap()
    }

    async fn interrupt_at(db: &Db, row: &str) {
        let mut batch = Batch::new();
        TEST_TEXTS.put(&mut batch, "interrupt", &row.to_owned());
        db.commit(batch).await.unwrap();
    }

    #[tokio::test]
    async fn an_interrupted_migration_goes_on_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let db = open(directory.path()).await.unwrap();
        let mut batch = Batch::new();
        for row in 0..ROWS {
            TEST_ROWS.put(&mut batch, &(row, 0), &Vec::new());
        }
        db.commit(batch).await.unwrap();

        interrupt_at(&db, "6").await;
        assert!(run(&db, 1, &[TO_TWO]).await.is_err());
        assert_eq!(lengths(&db).await, [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(version(&db).await, 1);

        let db = reopen(db, directory.path()).await;
        interrupt_at(&db, "nowhere").await;
        run(&db, 1, &[TO_TWO, TO_THREE]).await.unwrap();
        assert_eq!(lengths(&db).await, [2; 10], "each row was changed once by each migration");
        assert_eq!(version(&db).await, 3);

        run(&db, 3, &[TO_TWO, TO_THREE]).await.unwrap();
        assert_eq!(lengths(&db).await, [2; 10], "what was done is not done again");
    }
}
