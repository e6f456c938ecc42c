//! Where the words of a room are: its events that have all of them.

use std::collections::{BTreeSet, VecDeque};

use crate::{
    rooms::{record::EventNumber, timeline_key::TimelineKey},
    storage::{Range, Read, StorageError, intern::RoomNumber, schema::SEARCH_WORDS},
};

/// How many rows one step takes.
const STEP: usize = 256;
/// How many steps are taken in one room before what is there is taken for all.
const MAX_STEPS: usize = 200;

/// The rows of one word, latest first.
struct Cursor<'a> {
    room: RoomNumber,
    word: &'a str,
    rows: VecDeque<(TimelineKey, EventNumber)>,
    /// What was not read yet stands up to here; none: everything was.
    rest: Option<TimelineKey>,
}

impl Cursor<'_> {
    /// The latest row at or before `key`.
    async fn seek(
        &mut self,
        at: &impl Read,
        key: TimelineKey,
        steps: &mut usize,
    ) -> Result<Option<TimelineKey>, StorageError> {
        loop {
            while self.rows.front().is_some_and(|(head, _)| *head > key) {
                self.rows.pop_front();
            }
            if let Some((head, _)) = self.rows.front() {
                return Ok(Some(*head));
            }
            let Some(rest) = self.rest.filter(|_| *steps < MAX_STEPS) else { return Ok(None) };
            *steps += 1;
            let upto = (self.room, self.word, rest.min(key));
            let range = Range::prefix(&(self.room, self.word)).upto(&upto);
            let rows = SEARCH_WORDS.scan_back(at, &range, STEP).await?;
            let last = rows.last().filter(|_| rows.len() == STEP);
            self.rest = last.map(|((_, _, key), _)| key.before());
            self.rows.extend(rows.into_iter().map(|((_, _, key), number)| (key, number)));
        }
    }
}

/// The events of a room that have all of the words and stand up to a timeline key, latest first, at
/// most `limit`.
pub(super) async fn matching(
    at: &impl Read,
    room: RoomNumber,
    words: &BTreeSet<String>,
    upto: TimelineKey,
    limit: usize,
) -> Result<Vec<(TimelineKey, EventNumber)>, StorageError> {
    let mut found = Vec::new();
    let mut cursors: Vec<Cursor<'_>> = words
        .iter()
        .map(|word| Cursor { room, word, rows: VecDeque::new(), rest: Some(upto) })
        .collect();
    let mut steps = 0;
    let mut key = upto;
    'events: while found.len() < limit && !cursors.is_empty() {
        let here = key;
        for cursor in &mut cursors {
            match cursor.seek(at, key, &mut steps).await? {
                Some(head) => key = head,
                None => return Ok(found),
            }
            if key < here {
                // Nothing is here: all of them go on from where this one is.
                continue 'events;
            }
        }
        let Some((_, number)) = cursors.first().and_then(|cursor| cursor.rows.front()) else {
            return Ok(found);
        };
        found.push((key, *number));
        key = key.before();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::{Batch, Db};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The same as looking at each event.
        #[test]
        fn what_has_all_words_is_found(
            tea in prop::collection::btree_set(-40_i64..400, 0..350),
            green in prop::collection::btree_set(-40_i64..400, 0..350),
            upto in -50_i64..420,
            limit in 1_usize..500,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let db = Db::in_memory().await;
                let mut batch = Batch::new();
                for (word, keys) in [("tea", &tea), ("green", &green)] {
                    for key in keys {
                        let number = EventNumber(key.unsigned_abs() + 1);
                        let key = TimelineKey::at(*key);
                        SEARCH_WORDS.put(&mut batch, &(RoomNumber(1), word, key), &number);
                        SEARCH_WORDS.put(&mut batch, &(RoomNumber(2), word, key), &number);
                    }
                }
                db.commit(batch).await.unwrap();
                let words = ["tea".to_owned(), "green".to_owned()].into();
                let found = matching(&db, RoomNumber(1), &words, TimelineKey::at(upto), limit).await.unwrap();
                let found: Vec<i64> = found.into_iter().map(|(key, _)| key.number()).collect();
                let expected: Vec<i64> = tea
                    .iter()
                    .rev()
                    .copied()
                    .filter(|key| green.contains(key))
                    .filter(|key| *key <= upto)
                    .take(limit)
                    .collect();
                assert_eq!(found, expected);
            });
        }
    }
}
