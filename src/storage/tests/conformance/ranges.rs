//! Order, the edges of ranges, and that a prefix finds just its rows.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::storage::{
    Batch, Range, Table,
    schema::{TEST_RANGES, TEST_ROWS, TEST_TEXTS},
    tests::{Subject, on_both_engines},
};

on_both_engines! {
    rows_come_in_the_order_of_their_keys
    edges_belong_to_a_range_as_it_says
    a_prefix_finds_just_its_rows
    a_text_that_begins_another_is_not_its_prefix
    random_changes_and_ranges_are_those_of_a_sorted_map
}

type Key = (u64, u64);

/// Around every place where a byte overflows into the next.
const EDGES: [u64; 8] = [0, 1, 254, 255, 256, 65_535, u64::MAX - 1, u64::MAX];

async fn put(subject: &Subject, table: &Table<Key, Vec<u8>>, keys: impl IntoIterator<Item = Key>) {
    let mut batch = Batch::new();
    for key in keys {
        table.put(&mut batch, &key, &vec![7]);
    }
    subject.db.commit(batch).await.unwrap();
}

async fn keys(subject: &Subject, table: &Table<Key, Vec<u8>>, range: &Range<Key>) -> Vec<Key> {
    let forwards = table.scan(&subject.db, range, usize::MAX).await.unwrap();
    let backwards = table.scan_back(&subject.db, range, usize::MAX).await.unwrap();
    assert!(forwards.iter().eq(backwards.iter().rev()), "{range:?} is the same both ways");
    forwards.into_iter().map(|(key, _)| key).collect()
}

async fn rows_come_in_the_order_of_their_keys(mut subject: Subject) {
    let all: Vec<Key> = EDGES.iter().flat_map(|a| EDGES.map(|b| (*a, b))).collect();
    put(&subject, &TEST_ROWS, all.iter().rev().copied()).await;
    for _ in 0..2 {
        assert_eq!(keys(&subject, &TEST_ROWS, &Range::all()).await, all);
        let db = &subject.db;
        let first = TEST_ROWS.scan(db, &Range::all(), 2).await.unwrap();
        assert_eq!(first.iter().map(|row| row.0).collect::<Vec<_>>(), all[..2]);
        let last = TEST_ROWS.scan_back(db, &Range::all(), 2).await.unwrap();
        assert_eq!(last.iter().map(|row| row.0).collect::<Vec<_>>(), [all[63], all[62]]);
        assert!(TEST_ROWS.scan(db, &Range::all(), 0).await.unwrap().is_empty());
        assert!(TEST_ROWS.scan_back(db, &Range::all(), 0).await.unwrap().is_empty());
        subject = subject.settle().await;
    }
}

async fn edges_belong_to_a_range_as_it_says(mut subject: Subject) {
    put(&subject, &TEST_ROWS, (0..5).map(|number| (1, number))).await;
    let numbers = |keys: Vec<Key>| keys.into_iter().map(|key| key.1).collect::<Vec<_>>();
    for _ in 0..2 {
        let one = || Range::prefix(&(1_u64,));
        for (range, expected) in [
            (one().from(&(1, 2)), vec![2, 3, 4]),
            (one().after(&(1, 2)), vec![3, 4]),
            (one().before(&(1, 2)), vec![0, 1]),
            (one().from(&(1, 1)).before(&(1, 3)), vec![1, 2]),
            (one().after(&(1, 1)).before(&(1, 2)), vec![]),
            (one().from(&(1, 3)).before(&(1, 1)), vec![]),
            (one().from(&(0, 9)).before(&(2, 0)), vec![0, 1, 2, 3, 4]),
            (one().from(&(1, 9)), vec![]),
            (Range::all().before(&(1, 0)), vec![]),
        ] {
            assert_eq!(numbers(keys(&subject, &TEST_ROWS, &range).await), expected, "{range:?}");
        }
        subject = subject.settle().await;
    }
}

async fn a_prefix_finds_just_its_rows(mut subject: Subject) {
    let all = || EDGES.iter().flat_map(|a| EDGES.map(|b| (*a, b)));
    put(&subject, &TEST_RANGES, all()).await;
    for _ in 0..2 {
        for first in EDGES {
            let expected: Vec<Key> = all().filter(|key| key.0 == first).collect();
            let range = Range::prefix(&(first,));
            assert_eq!(keys(&subject, &TEST_RANGES, &range).await, expected);
            let upper = range.after(&(first, 255));
            assert_eq!(keys(&subject, &TEST_RANGES, &upper).await, expected[4..]);
        }
        for absent in [2, 253, 257, u64::MAX - 2] {
            assert!(keys(&subject, &TEST_RANGES, &Range::prefix(&(absent,))).await.is_empty());
        }
        let across = Range::all().from(&(1, 256)).before(&(254, 1));
        let expected: Vec<Key> = all().filter(|key| (1, 256) <= *key && *key < (254, 1)).collect();
        assert_eq!(keys(&subject, &TEST_RANGES, &across).await, expected);
        subject = subject.settle().await;
    }
}

async fn a_text_that_begins_another_is_not_its_prefix(mut subject: Subject) {
    let texts = ["", "\0", "\0\0", "a", "a\0", "a\0b", "aa", "ab", "b", "\u{ffff}"];
    let mut batch = Batch::new();
    for text in texts {
        TEST_TEXTS.put(&mut batch, text, &text.to_owned());
    }
    subject.db.commit(batch).await.unwrap();
    for _ in 0..2 {
        let rows = TEST_TEXTS.scan(&subject.db, &Range::all(), usize::MAX).await.unwrap();
        assert!(rows.iter().map(|row| row.0.as_str()).eq(texts));
        for text in texts {
            let found = TEST_TEXTS.get(&subject.db, text).await.unwrap();
            assert_eq!(found.as_deref(), Some(text));
        }
        assert_eq!(TEST_TEXTS.get(&subject.db, "\0\0\0").await.unwrap(), None);
        subject = subject.settle().await;
    }
}

async fn random_changes_and_ranges_are_those_of_a_sorted_map(mut subject: Subject) {
    let mut random = StdRng::seed_from_u64(2);
    let mut model = BTreeMap::<Key, Vec<u8>>::new();
    for round in 0..120 {
        let mut batch = if random.random() { Batch::new() } else { Batch::unsynced() };
        for _ in 0..random.random_range(0..8) {
            let key = (random.random_range(0..4), random.random_range(0..6));
            if random.random_range(0..3) == 0 {
                TEST_RANGES.delete(&mut batch, &key);
                model.remove(&key);
            } else {
                let value = vec![random.random(); random.random_range(0..40)];
                TEST_RANGES.put(&mut batch, &key, &value);
                model.insert(key, value);
            }
        }
        subject.db.commit(batch).await.unwrap();

        let from = (random.random_range(0..4), random.random_range(0..7));
        let before = (random.random_range(0..4), random.random_range(0..7));
        let limit = random.random_range(0..10);
        let range = Range::all().from(&from).before(&before);
        let expected: Vec<_> =
            model.iter().filter(|(key, _)| from <= **key && **key < before).collect();
        let found = TEST_RANGES.scan(&subject.db, &range, limit).await.unwrap();
        assert!(
            found.iter().map(|(key, value)| (key, value)).eq(expected.iter().copied().take(limit))
        );
        let found = TEST_RANGES.scan_back(&subject.db, &range, limit).await.unwrap();
        assert!(
            found.iter().map(|(key, value)| (key, value)).eq(expected
                .iter()
                .copied()
                .rev()
                .take(limit))
        );
        if round % 30 == 29 {
            subject = subject.settle().await;
        }
    }
}
