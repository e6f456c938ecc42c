//! Single reads, many at once, and snapshots.

use crate::storage::{
    Batch, Range,
    schema::{TEST_RANGES, TEST_ROWS},
    tests::{Subject, on_both_engines},
};

on_both_engines! {
    many_values_come_in_the_order_asked_for
    a_large_scan_is_complete
    a_snapshot_stays_as_it_was
    a_snapshot_reads_files_as_they_were
}

async fn many_values_come_in_the_order_asked_for(mut subject: Subject) {
    let mut batch = Batch::new();
    for number in 0..300_u64 {
        TEST_ROWS.put(&mut batch, &(number, 0), &number.to_be_bytes().to_vec());
    }
    subject.db.commit(batch).await.unwrap();
    for _ in 0..2 {
        let asked = [299, 7, 1_000, 7, 0, 150, 5_000];
        let found =
            TEST_ROWS.multi_get(&subject.db, asked.map(|number| (number, 0_u64))).await.unwrap();
        let expected =
            asked.map(|number: u64| (number < 300).then(|| number.to_be_bytes().to_vec()));
        assert_eq!(found, expected);
        assert!(TEST_ROWS.contains(&subject.db, &(7, 0)).await.unwrap());
        assert!(!TEST_ROWS.contains(&subject.db, &(7, 1)).await.unwrap());
        assert!(TEST_ROWS.multi_get(&subject.db, [(0_u64, 0_u64); 0]).await.unwrap().is_empty());
        subject = subject.settle().await;
    }
}

/// More rows than are read on an async thread.
async fn a_large_scan_is_complete(mut subject: Subject) {
    let mut batch = Batch::new();
    for number in 0..5_000_u64 {
        TEST_RANGES.put(&mut batch, &(1, number), &vec![3; 100]);
    }
    subject.db.commit(batch).await.unwrap();
    for _ in 0..2 {
        for limit in [999, 1_000, 1_001, 5_000, usize::MAX] {
            let rows = TEST_RANGES.scan(&subject.db, &Range::prefix(&(1_u64,)), limit).await;
            assert!(rows.unwrap().into_iter().map(|row| row.0.1).eq(0..limit.min(5_000) as u64));
        }
        let rows = TEST_RANGES.scan_back(&subject.db, &Range::all(), 1_500).await.unwrap();
        assert!(rows.into_iter().map(|row| row.0.1).eq((3_500..5_000).rev()));
        subject = subject.settle().await;
    }
}

async fn change_everything(subject: &Subject) {
    let mut batch = Batch::new();
    TEST_ROWS.put(&mut batch, &(1, 0), &vec![99]);
    TEST_ROWS.delete(&mut batch, &(2, 0));
    TEST_ROWS.put(&mut batch, &(4, 0), &vec![4]);
    subject.db.commit(batch).await.unwrap();
}

async fn rows_one_to_three(subject: &Subject) {
    let mut batch = Batch::new();
    for number in 1..4 {
        TEST_ROWS.put(&mut batch, &(u64::from(number), 0), &vec![number]);
    }
    subject.db.commit(batch).await.unwrap();
}

async fn assert_unchanged(snapshot: &crate::storage::Snapshot) {
    assert_eq!(TEST_ROWS.get(snapshot, &(1, 0)).await.unwrap(), Some(vec![1]));
    let many = TEST_ROWS.multi_get(snapshot, [(2_u64, 0_u64), (4, 0)]).await.unwrap();
    assert_eq!(many, [Some(vec![2]), None]);
    let rows = TEST_ROWS.scan(snapshot, &Range::all(), usize::MAX).await.unwrap();
    assert_eq!(rows, [((1, 0), vec![1]), ((2, 0), vec![2]), ((3, 0), vec![3])]);
}

async fn a_snapshot_stays_as_it_was(subject: Subject) {
    rows_one_to_three(&subject).await;
    let snapshot = subject.db.snapshot();
    change_everything(&subject).await;
    assert_unchanged(&snapshot).await;
    let copy = snapshot.clone();
    drop(snapshot);
    assert_unchanged(&copy).await;
    assert_eq!(TEST_ROWS.get(&subject.db, &(1, 0)).await.unwrap(), Some(vec![99]));
    assert_eq!(TEST_ROWS.get(&subject.db.snapshot(), &(2, 0)).await.unwrap(), None);
}

async fn a_snapshot_reads_files_as_they_were(subject: Subject) {
    rows_one_to_three(&subject).await;
    let subject = subject.settle().await;
    let snapshot = subject.db.snapshot();
    change_everything(&subject).await;
    subject.db.flush();
    assert_unchanged(&snapshot).await;
}
