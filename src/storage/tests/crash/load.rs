//! What the process that is killed commits, and what must be true of it afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ruma::{OwnedUserId, UserId};

use crate::storage::{
    Batch, Db, Range, Settings,
    intern::UserNumber,
    schema::{TEST_RANGES, TEST_ROWS, TEST_TEXTS},
    tests::settings,
    value::Value,
};

const WRITERS: u64 = 8;
/// Older rows of a writer are deleted, so that what is checked does not grow.
const KEPT: u64 = 100;

/// What the process said before it died.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Per writer, its last change that was acknowledged.
    pub(super) acknowledged: BTreeMap<u64, u64>,
    /// All positions handed out.
    pub(super) positions: BTreeSet<u64>,
    /// Those of them that were handed out again.
    pub(super) twice: Vec<u64>,
}

impl Said {
    pub(super) fn took(&mut self, position: u64) {
        if !self.positions.insert(position) {
            self.twice.push(position);
        }
    }
}

fn user(writer: u64, change: u64) -> OwnedUserId {
    // Ten changes share one, so numbers are both given and found.
    format!("@{writer}-{}:a.example", change / 10).try_into().unwrap()
}

fn counter(writer: u64) -> String {
    format!("changes of {writer}")
}

/// A row: the change's stream position, a user's number, and bytes that tell whose they are.
fn row(writer: u64, change: u64, position: u64, user: UserNumber) -> Vec<u8> {
    let mut bytes = Vec::new();
    position.to_bytes(&mut bytes);
    user.to_bytes(&mut bytes);
    // Mostly small; some so large that write buffers fill up and are written out.
    let filler = if change.is_multiple_of(7) { 40_000 } else { change % 50 * 10 };
    let byte = u8::try_from((writer * 31 + change) % 251).unwrap();
    bytes.resize(bytes.len() + usize::try_from(filler).unwrap(), byte);
    bytes
}

async fn changes_of(db: &Db, writer: u64) -> u64 {
    let text = TEST_TEXTS.get(db, &counter(writer)).await.unwrap();
    text.map_or(0, |text| text.parse().unwrap())
}

/// Commits until it is killed, and says on standard output what it took and what was acknowledged.
pub(super) async fn run(directory: &Path, sync: bool, seed: u64) {
    let db = Db::open(directory, &Settings { sync, ..settings() }).await.unwrap();
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(db.clone(), writer, seed))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn write(db: Db, writer: u64, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed * WRITERS + writer);
    let mut change = changes_of(&db, writer).await;
    loop {
        let before = change;
        change += 1;
        let number = db.users().intern::<UserId>(&db, &user(writer, change)).await.unwrap();
        let position = db.position().await.unwrap();
        println!("took {}", position.value());
        // A synced change after an unsynced one takes it to the disk with it.
        let unsynced = random.random_range(0..5) == 0;
        let mut batch = if unsynced { Batch::unsynced() } else { Batch::new() };
        let bytes = row(writer, change, position.value(), number);
        match before {
            0 => TEST_TEXTS.require_absent(&mut batch, &counter(writer)),
            _ => TEST_TEXTS.require_equals(&mut batch, &counter(writer), &before.to_string()),
        }
        TEST_TEXTS.put(&mut batch, &counter(writer), &change.to_string());
        for table in [&TEST_ROWS, &TEST_RANGES] {
            table.put(&mut batch, &(writer, change), &bytes);
            if let Some(old) = change.checked_sub(KEPT) {
                table.delete(&mut batch, &(writer, old));
            }
        }
        batch.hold(position);
        db.commit(batch).await.unwrap();
        if !unsynced {
            println!("acknowledged {writer} {change}");
        }
    }
}

/// Checks that what was acknowledged is there, and that nothing is there by half.
pub(super) async fn check(db: &Db, said: &Said) -> Result<(), String> {
    for writer in 0..WRITERS {
        let changes = changes_of(db, writer).await;
        let acknowledged = said.acknowledged.get(&writer).copied().unwrap_or(0);
        if changes < acknowledged {
            return Err(format!(
                "writer {writer}: {acknowledged} changes were acknowledged, {changes} are there"
            ));
        }
        for table in [&TEST_ROWS, &TEST_RANGES] {
            let rows = table.scan(db, &Range::prefix(&(writer,)), usize::MAX).await.unwrap();
            let expected = (changes + 1).saturating_sub(KEPT).max(1)..=changes;
            let found: Vec<u64> = rows.iter().map(|(key, _)| key.1).collect();
            if !found.iter().copied().eq(expected.clone()) {
                return Err(format!("writer {writer}: {expected:?} expected, {found:?} found"));
            }
            for ((_, change), bytes) in rows {
                let position = u64::from_bytes(&bytes[..8]).unwrap();
                let number = UserNumber::from_bytes(&bytes[8..16]).unwrap();
                if bytes != row(writer, change, position, number) {
                    return Err(format!("writer {writer}: change {change} is damaged"));
                }
                if db.users().name(db, number).await.ok() != Some(user(writer, change)) {
                    return Err(format!("writer {writer}: change {change} names another user"));
                }
                if !said.positions.contains(&position) {
                    return Err(format!("position {position} was never handed out"));
                }
            }
        }
    }
    Ok(())
}
