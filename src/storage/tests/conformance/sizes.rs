//! Limits of size, and values above them.

use crate::storage::{
    Batch, MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Range, StorageError,
    chunks::Chunks,
    schema::{TEST_CHUNKS, TEST_ROWS, TEST_TEXTS},
    tests::{Subject, on_both_engines},
};

on_both_engines! {
    the_largest_rows_are_kept
    rows_above_the_limits_are_refused_with_all_of_their_batch
    the_largest_batch_is_kept_and_a_larger_one_refused
    large_values_are_kept_in_pieces
}

/// The longest text whose key has not more than [`MAX_KEY_BYTES`]: two bytes end it.
fn longest_text() -> String {
    "x".repeat(MAX_KEY_BYTES - 2)
}

async fn the_largest_rows_are_kept(mut subject: Subject) {
    let mut batch = Batch::new();
    let value = "y".repeat(MAX_VALUE_BYTES);
    TEST_TEXTS.put(&mut batch, &longest_text(), &value);
    subject.db.commit(batch).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            TEST_TEXTS.get(&subject.db, &longest_text()).await.unwrap(),
            Some(value.clone())
        );
        subject = subject.settle().await;
    }
}

async fn rows_above_the_limits_are_refused_with_all_of_their_batch(subject: Subject) {
    for (key, value) in [
        (longest_text() + "x", String::new()),
        ("small".to_owned(), "y".repeat(MAX_VALUE_BYTES + 1)),
    ] {
        let mut batch = Batch::new();
        TEST_ROWS.put(&mut batch, &(1, 1), &vec![1]);
        TEST_TEXTS.put(&mut batch, &key, &value);
        let error = subject.db.commit(batch).await.unwrap_err();
        let limit = if value.is_empty() { MAX_KEY_BYTES } else { MAX_VALUE_BYTES };
        assert!(matches!(error, StorageError::TooLarge { table: "test_texts", bytes }
            if bytes == limit + 1));
        assert!(!TEST_ROWS.contains(&subject.db, &(1, 1)).await.unwrap());
        assert_eq!(TEST_TEXTS.get(&subject.db, &key).await.unwrap(), None);
    }
}

async fn the_largest_batch_is_kept_and_a_larger_one_refused(subject: Subject) {
    let key_bytes = 16;
    let rows = MAX_BATCH_BYTES / 65_536;
    let full = |last_bytes: usize| {
        let mut batch = Batch::new();
        for row in 1..rows as u64 {
            TEST_ROWS.put(&mut batch, &(row, 0), &vec![5; 65_536 - key_bytes]);
        }
        TEST_ROWS.put(&mut batch, &(0, 0), &vec![5; last_bytes]);
        batch
    };
    let error = subject.db.commit(full(65_536 - key_bytes + 1)).await.unwrap_err();
    assert!(matches!(error, StorageError::BatchTooLarge { bytes } if bytes == MAX_BATCH_BYTES + 1));
    assert!(!TEST_ROWS.contains(&subject.db, &(1, 0)).await.unwrap());
    subject.db.commit(full(65_536 - key_bytes)).await.unwrap();
    let found = TEST_ROWS.scan(&subject.db, &Range::all(), usize::MAX).await.unwrap();
    assert_eq!(found.len(), rows);
}

async fn large_values_are_kept_in_pieces(mut subject: Subject) {
    const CHUNKS: Chunks<u64> = Chunks(&TEST_CHUNKS);
    let neighbour = vec![1; 10];
    for bytes in [3_900_000, 100_000 - 8, 100_000, 250_000, 0] {
        let value: Vec<u8> = (0..bytes).map(|index: usize| index.to_be_bytes()[6]).collect();
        let mut batch = Batch::new();
        CHUNKS.put(&subject.db, &mut batch, &7, &value).await.unwrap();
        CHUNKS.put(&subject.db, &mut batch, &8, &neighbour).await.unwrap();
        subject.db.commit(batch).await.unwrap();
        assert_eq!(CHUNKS.get(&subject.db, &7).await.unwrap(), Some(value.clone()));
        subject = subject.settle().await;
        assert_eq!(CHUNKS.get(&subject.db, &7).await.unwrap(), Some(value));
        let pieces = TEST_CHUNKS.scan(&subject.db, &Range::prefix(&(7_u64,)), 99).await.unwrap();
        assert_eq!(pieces.len(), (bytes + 8).div_ceil(MAX_VALUE_BYTES), "none is left over");
    }
    let mut batch = Batch::new();
    CHUNKS.delete(&subject.db, &mut batch, &7).await.unwrap();
    subject.db.commit(batch).await.unwrap();
    assert_eq!(CHUNKS.get(&subject.db, &7).await.unwrap(), None);
    assert_eq!(CHUNKS.get(&subject.db, &8).await.unwrap(), Some(neighbour));
}
