//! Stream positions and the numbers of identifiers.

use std::collections::{BTreeSet, HashSet};

use futures::future::join_all;
use ruma::{OwnedUserId, UserId};

use crate::storage::{
    Batch,
    intern::UserNumber,
    schema::{TEST_ROWS, USER_IDS},
    tests::{Subject, on_both_engines},
};

on_both_engines! {
    what_is_visible_is_complete
    no_position_is_used_twice
    an_identifier_has_one_number_for_good
    a_request_dropped_half_way_leaves_no_second_number
    names_come_in_the_order_asked_for
}

fn user(number: usize) -> OwnedUserId {
    format!("@user{number}:a.example").try_into().unwrap()
}

/// Whoever reads up to the visible position misses nothing below it.
async fn what_is_visible_is_complete(subject: Subject) {
    // Before anybody writes.
    let first = subject.db.visible_position() + 1;
    let writers = (0..6).map(|_| {
        let db = subject.db.clone();
        tokio::spawn(async move {
            for _ in 0..30 {
                let position = db.position().await.unwrap();
                let mut batch = Batch::new();
                TEST_ROWS.put(&mut batch, &(1, position.value()), &Vec::new());
                batch.hold(position);
                db.commit(batch).await.unwrap();
            }
        })
    });
    let writers = tokio::spawn(join_all(writers.collect::<Vec<_>>()));
    while !writers.is_finished() {
        let visible = subject.db.visible_position();
        let keys = (first..=visible).map(|position| (1_u64, position));
        let found = TEST_ROWS.multi_get(&subject.db, keys).await.unwrap();
        assert!(found.iter().all(Option::is_some), "up to {visible}: {found:?}");
    }
    writers.await.unwrap().into_iter().for_each(|writer| writer.unwrap());
    assert_eq!(subject.db.visible_position(), first + 6 * 30 - 1);
}

async fn no_position_is_used_twice(mut subject: Subject) {
    let mut last = 0;
    for _ in 0..3 {
        let (abandoned, kept) =
            (subject.db.position().await.unwrap(), subject.db.position().await.unwrap());
        assert!(last < abandoned.value() && abandoned.value() < kept.value());
        last = kept.value();
        let mut batch = Batch::new();
        batch.hold(kept);
        subject.db.commit(batch).await.unwrap();
        drop(abandoned);
        assert_eq!(subject.db.visible_position(), last);
        subject = subject.settle().await;
        assert!(subject.db.visible_position() >= last);
    }
}

async fn an_identifier_has_one_number_for_good(mut subject: Subject) {
    let mut given = Vec::<(OwnedUserId, UserNumber)>::new();
    for round in 0..3 {
        assert_eq!(subject.db.users().find(&subject.db, &user(round)).await.unwrap(), None);
        let racers = (0..40).map(|racer| {
            let db = subject.db.clone();
            tokio::spawn(async move {
                let id = user(racer % 5 * 100 + round);
                let number = db.users().intern::<UserId>(&db, &id).await.unwrap();
                (id, number)
            })
        });
        let numbers: BTreeSet<_> = join_all(racers).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(numbers.len(), 5, "one number each: {numbers:?}");
        given.extend(numbers);
        subject = subject.settle().await;
        for (id, number) in &given {
            let db = &subject.db;
            assert_eq!(db.users().find::<UserId>(db, id).await.unwrap(), Some(*number));
            assert_eq!(db.users().name(db, *number).await.unwrap(), *id);
        }
    }
    let distinct: HashSet<_> = given.iter().map(|(_, number)| number).collect();
    assert_eq!(distinct.len(), given.len(), "no number stands for two: {given:?}");
}

async fn a_request_dropped_half_way_leaves_no_second_number(subject: Subject) {
    let db = &subject.db;
    let mut numbers = HashSet::new();
    for round in 0..50 {
        let id = user(round);
        tokio::select! {
            biased;
            _ = db.users().intern::<UserId>(db, &id) => (),
            () = std::future::ready(()) => (),
        }
        let number = db.users().intern::<UserId>(db, &id).await.unwrap();
        assert!(numbers.insert(number), "{number:?} was given twice");
        assert_eq!(db.users().name(db, number).await.unwrap(), id);
    }
    let rows = USER_IDS.scan(db, &crate::storage::Range::all(), usize::MAX).await.unwrap();
    assert_eq!(rows.len(), 50);
}

async fn names_come_in_the_order_asked_for(subject: Subject) {
    let db = &subject.db;
    let mut numbers = Vec::new();
    for number in 0..5 {
        numbers.push(db.users().intern::<UserId>(db, &user(number)).await.unwrap());
    }
    let subject = subject.settle().await;
    let db = &subject.db;
    db.users().name(db, numbers[3]).await.unwrap();
    let asked = [4, 3, 0, 4].map(|index| numbers[index]);
    assert_eq!(db.users().names(db, &asked).await.unwrap(), [user(4), user(3), user(0), user(4)]);
    assert!(db.users().names(db, &[numbers[0], UserNumber(u64::MAX)]).await.is_err());
}
