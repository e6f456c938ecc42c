//! Batches: all or nothing, in order, and only if what they require holds.

use futures::future::join_all;

use crate::storage::{
    Batch, Db, Range, StorageError,
    intern::UserNumber,
    schema::{TEST_RANGES, TEST_ROWS, TEST_TEXTS},
    tests::{Subject, on_both_engines},
};

on_both_engines! {
    a_batch_is_seen_whole_or_not_at_all
    a_refused_batch_writes_nothing_and_the_next_goes_on
    queued_batches_see_the_ones_before_them
    of_many_that_require_absence_one_wins
    counting_by_compare_and_swap_loses_nothing
    the_last_write_of_a_row_in_a_batch_counts
    those_who_wait_are_woken_by_a_batch_without_positions
    an_empty_batch_is_done
}

async fn a_batch_is_seen_whole_or_not_at_all(subject: Subject) {
    let db = subject.db.clone();
    let writer = tokio::spawn(async move {
        for round in 0..200_u64 {
            let mut batch = if round % 2 == 0 { Batch::new() } else { Batch::unsynced() };
            let value = round.to_be_bytes().to_vec();
            TEST_ROWS.put(&mut batch, &(0, 0), &value);
            TEST_ROWS.put(&mut batch, &(u64::MAX, 0), &value);
            TEST_RANGES.put(&mut batch, &(0, 0), &value);
            db.commit(batch).await.unwrap();
        }
    });
    while !writer.is_finished() {
        let now = subject.db.snapshot();
        let first = TEST_ROWS.get(&now, &(0, 0)).await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(TEST_ROWS.get(&now, &(u64::MAX, 0)).await.unwrap(), first);
        assert_eq!(TEST_RANGES.get(&now, &(0, 0)).await.unwrap(), first);
    }
    writer.await.unwrap();
}

async fn a_refused_batch_writes_nothing_and_the_next_goes_on(subject: Subject) {
    let db = &subject.db;
    let mut refused = Batch::new();
    TEST_ROWS.put(&mut refused, &(1, 1), &vec![1]);
    TEST_ROWS.require_equals(&mut refused, &(2, 2), &vec![2]);
    let error = db.commit(refused).await.unwrap_err();
    assert!(matches!(error, StorageError::Precondition { table: "test_rows" }), "{error:?}");
    assert!(!TEST_ROWS.contains(db, &(1, 1)).await.unwrap());

    let mut accepted = Batch::new();
    TEST_ROWS.require_absent(&mut accepted, &(1, 1));
    TEST_ROWS.put(&mut accepted, &(1, 1), &vec![1]);
    db.commit(accepted).await.unwrap();
    assert_eq!(db.stats().commits.refused, 1);
}

async fn queued_batches_see_the_ones_before_them(subject: Subject) {
    let db = &subject.db;
    let step = |from: Option<u8>, to: Option<u8>| {
        let mut batch = Batch::new();
        match from {
            Some(from) => TEST_ROWS.require_equals(&mut batch, &(1, 1), &vec![from]),
            None => TEST_ROWS.require_absent(&mut batch, &(1, 1)),
        }
        match to {
            Some(to) => TEST_ROWS.put(&mut batch, &(1, 1), &vec![to]),
            None => TEST_ROWS.delete(&mut batch, &(1, 1)),
        }
        db.enqueue(batch)
    };
    let outcomes = join_all([
        step(None, Some(1)),
        step(None, Some(9)),    // refused: there is a row
        step(Some(9), Some(8)), // refused: the one before was
        step(Some(1), Some(2)),
        step(Some(2), None),
        step(Some(2), Some(7)), // refused: deleted
        step(None, Some(3)),
    ])
    .await;
    let accepted: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(accepted, [true, false, false, true, true, false, true]);
    assert_eq!(TEST_ROWS.get(db, &(1, 1)).await.unwrap(), Some(vec![3]));
}

async fn of_many_that_require_absence_one_wins(subject: Subject) {
    for round in 0..10 {
        let racers = (0..20_u64).map(|racer| {
            let db = subject.db.clone();
            tokio::spawn(async move {
                let mut batch = Batch::new();
                TEST_ROWS.require_absent(&mut batch, &(round, 0));
                TEST_ROWS.put(&mut batch, &(round, 0), &racer.to_be_bytes().to_vec());
                TEST_ROWS.put(&mut batch, &(round, racer + 1), &Vec::new());
                db.commit(batch).await.is_ok().then_some(racer)
            })
        });
        let winners: Vec<u64> =
            join_all(racers).await.into_iter().filter_map(Result::unwrap).collect();
        let [winner] = winners[..] else { panic!("{winners:?}") };
        let rows =
            TEST_ROWS.scan(&subject.db, &Range::prefix(&(round,)), usize::MAX).await.unwrap();
        let expected =
            [((round, 0), winner.to_be_bytes().to_vec()), ((round, winner + 1), Vec::new())];
        assert_eq!(rows, expected, "only the winner wrote");
    }
}

async fn count(db: &Db) {
    loop {
        let old = TEST_TEXTS.get(db, "count").await.unwrap();
        let new = old.as_ref().map_or(0, |text| text.parse::<u64>().unwrap()) + 1;
        let mut batch = Batch::unsynced();
        match &old {
            Some(old) => TEST_TEXTS.require_equals(&mut batch, "count", old),
            None => TEST_TEXTS.require_absent(&mut batch, "count"),
        }
        TEST_TEXTS.put(&mut batch, "count", &new.to_string());
        match db.commit(batch).await {
            Ok(()) => return,
            Err(StorageError::Precondition { .. }) => (),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn counting_by_compare_and_swap_loses_nothing(subject: Subject) {
    let counters = (0..8).map(|_| {
        let db = subject.db.clone();
        tokio::spawn(async move {
            for _ in 0..25 {
                count(&db).await;
            }
        })
    });
    for counter in join_all(counters).await {
        counter.unwrap();
    }
    let count = TEST_TEXTS.get(&subject.db, "count").await.unwrap();
    assert_eq!(count.as_deref(), Some("200"));
}

async fn the_last_write_of_a_row_in_a_batch_counts(subject: Subject) {
    let mut batch = Batch::new();
    TEST_ROWS.put(&mut batch, &(1, 1), &vec![1]);
    TEST_ROWS.delete(&mut batch, &(1, 1));
    TEST_ROWS.delete(&mut batch, &(2, 2));
    TEST_ROWS.put(&mut batch, &(2, 2), &vec![2]);
    subject.db.commit(batch).await.unwrap();
    let rows = TEST_ROWS.scan(&subject.db, &Range::all(), 9).await.unwrap();
    assert_eq!(rows, [((2, 2), vec![2])]);
}

async fn those_who_wait_are_woken_by_a_batch_without_positions(subject: Subject) {
    let db = &subject.db;
    let waiter = db.wait_for(UserNumber(3));
    let mut batch = Batch::unsynced();
    batch.wake([UserNumber(3)]);
    db.commit(batch).await.unwrap();
    waiter.woken().await;

    let (first, second) = (db.position().await.unwrap(), db.position().await.unwrap());
    let last = second.value();
    let mut batch = Batch::new();
    batch.hold(second);
    batch.wake([UserNumber(3)]);
    db.commit(batch).await.unwrap();
    assert!(!waiter.is_woken(), "a smaller position is not done yet");
    drop(first);
    waiter.woken().await;
    assert_eq!(db.visible_position(), last);
}

async fn an_empty_batch_is_done(subject: Subject) {
    subject.db.commit(Batch::new()).await.unwrap();
    subject.db.commit(Batch::unsynced()).await.unwrap();
}
