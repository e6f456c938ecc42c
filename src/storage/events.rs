//! Events that were read lately, kept as they are after reading, for all who read them next.
//!
//! The latest events of a room and its state are what every sync of its members shows: they are read
//! from the engine and taken apart once. An event that is written again, redacted or purged, is gone
//! from here before whoever wrote it is told.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use quick_cache::{Weighter, unsync::Cache};

use super::{
    Read, StorageError,
    batch::Batch,
    intern::RoomNumber,
    key::Key as _,
    schema::{EVENTS, TableId},
};
use crate::rooms::record::{EventNumber, EventRecord};

/// Parts with a lock of their own; a room is in one of them.
const SHARDS: usize = 8;
/// About what an event takes besides its JSON.
const BYTES_BESIDES: u64 = 400;

type Key = (RoomNumber, EventNumber);

/// The cache.
pub(super) struct EventCache {
    shards: [Mutex<Shard>; SHARDS],
    /// Counts the events that were written.
    written: AtomicU64,
}

struct Shard {
    events: Cache<Key, Arc<EventRecord>, ByBytes>,
    /// The count at the last writing of one of its events.
    written: u64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Arc<EventRecord>> for ByBytes {
    fn weight(&self, _: &Key, event: &Arc<EventRecord>) -> u64 {
        event.json.len() as u64 + BYTES_BESIDES
    }
}

/// The cache as a reader may use it who sees the database as it was at some time.
#[derive(Clone, Copy)]
pub(crate) struct CachedEvents<'a> {
    cache: &'a EventCache,
    as_of: u64,
}

impl EventCache {
    /// A cache of about this size.
    pub(super) fn new(max_bytes: u64) -> Self {
        let each = max_bytes / SHARDS as u64;
        let events = usize::try_from(each / (2 * BYTES_BESIDES)).unwrap_or(usize::MAX);
        let shard = || Shard { events: Cache::with_weighter(events, each, ByBytes), written: 0 };
        Self { shards: std::array::from_fn(|_| Mutex::new(shard())), written: AtomicU64::default() }
    }

    /// The moment from which on a reader sees everything that is counted until now. To be taken
    /// before the database is looked at.
    pub(super) fn now(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// For a reader who sees the database as of that moment or later.
    pub(super) fn as_of(&self, as_of: u64) -> CachedEvents<'_> {
        CachedEvents { cache: self, as_of }
    }

    /// Forgets what a batch has written. To be called once it is visible to readers.
    pub(super) fn forget(&self, batch: &Batch) {
        for row in batch.writes.iter().filter(|row| row.table == TableId::Events) {
            let mut key = row.key;
            let Some(key) = Key::decode(&mut key) else { continue };
            let mut shard = self.shard(key.0).lock();
            shard.written = self.written.fetch_add(1, Ordering::AcqRel) + 1;
            shard.events.remove(&key);
        }
    }

    #[expect(clippy::indexing_slicing, reason = "there is a shard for every remainder")]
    fn shard(&self, room: RoomNumber) -> &Mutex<Shard> {
        &self.shards[usize::try_from(room.0 % SHARDS as u64).unwrap_or(0)]
    }
}

impl CachedEvents<'_> {
    fn get(self, room: RoomNumber, events: &[EventNumber]) -> Vec<Option<Arc<EventRecord>>> {
        let shard = self.cache.shard(room).lock();
        events.iter().map(|event| shard.events.get(&(room, *event)).cloned()).collect()
    }

    /// Keeps what was read, unless one of the shard's events was written since the reader looked:
    /// it may have been one of these.
    fn keep(self, room: RoomNumber, events: impl Iterator<Item = (EventNumber, Arc<EventRecord>)>) {
        let mut shard = self.cache.shard(room).lock();
        if shard.written > self.as_of {
            return;
        }
        for (number, event) in events {
            shard.events.insert((room, number), event);
        }
    }
}

/// Events of a room, in the order of `numbers`: from memory, or all that are not there in one round
/// trip.
pub(crate) async fn shared_events(
    at: &impl Read,
    room: RoomNumber,
    numbers: &[EventNumber],
) -> Result<Vec<Option<Arc<EventRecord>>>, StorageError> {
    let Some(cached) = at.cached_events() else {
        let records = EVENTS.multi_get(at, numbers.iter().map(|number| (room, *number))).await?;
        return Ok(records.into_iter().map(|record| record.map(Arc::new)).collect());
    };
    let mut found = cached.get(room, numbers);
    let missing: Vec<usize> =
        (0..).zip(&found).filter_map(|(at, event)| event.is_none().then_some(at)).collect();
    let numbered = || missing.iter().filter_map(|at| numbers.get(*at));
    let read = EVENTS.multi_get(at, numbered().map(|number| (room, *number))).await?;
    let read: Vec<_> = read.into_iter().map(|record| record.map(Arc::new)).collect();
    if !read.is_empty() {
        let known = numbered().zip(&read);
        cached.keep(room, known.filter_map(|(number, event)| Some((*number, event.clone()?))));
    }
    for (place, event) in missing.into_iter().zip(read) {
        if let Some(slot) = found.get_mut(place) {
            *slot = event;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rooms::HistoryVisibility,
        storage::{Db, intern::UserNumber},
    };

    const ROOM: RoomNumber = RoomNumber(7);

    fn record(body: &str) -> EventRecord {
        let json = format!(r#"{{"content":{{"body":"{body}"}}}}"#);
        EventRecord {
            event_id: ruma::owned_event_id!("$a"),
            sender: UserNumber(7),
            sender_id: ruma::owned_user_id!("@alice:localhost"),
            event_type: "m.room.message".to_owned(),
            state_key: None,
            depth: 3,
            origin_server_ts: 1_000,
            position: 12,
            backfill_key: None,
            visibility: HistoryVisibility::Shared,
            rejected: false,
            soft_failed: false,
            outlier: false,
            redacted_by: None,
            redacts: None,
            replaces: None,
            transaction: None,
            delay_id: None,
            content_at: (11, u32::try_from(json.len()).unwrap() - 12),
            json: json.into(),
        }
    }

    async fn write(db: &Db, number: EventNumber, body: &str) {
        let mut batch = Batch::new();
        EVENTS.put(&mut batch, &(ROOM, number), &record(body));
        db.commit(batch).await.unwrap();
    }

    async fn read(at: &impl Read, numbers: &[EventNumber]) -> Vec<Option<String>> {
        let found = shared_events(at, ROOM, numbers).await.unwrap();
        found.into_iter().map(|event| Some(event?.content().to_owned())).collect()
    }

    fn body(text: &str) -> String {
        format!(r#"{{"body":"{text}"}}"#)
    }

    #[tokio::test]
    async fn what_was_read_is_not_read_again() {
        let db = Db::in_memory().await;
        let [first, second, missing] = [EventNumber(1), EventNumber(2), EventNumber(3)];
        write(&db, first, "a").await;
        write(&db, second, "b").await;
        assert_eq!(read(&db, &[first]).await, [Some(body("a"))]);
        let before = db.round_trips();
        let wanted = [second, first, missing, first];
        let there = [Some(body("b")), Some(body("a")), None, Some(body("a"))];
        assert_eq!(read(&db.snapshot(), &wanted).await, there);
        assert_eq!(db.round_trips(), before + 1);
        assert_eq!(read(&db, &[first, second]).await, [Some(body("a")), Some(body("b"))]);
        assert_eq!(db.round_trips(), before + 1);
    }

    #[tokio::test]
    async fn what_is_written_again_is_read_again() {
        let db = Db::in_memory().await;
        let event = EventNumber(1);
        write(&db, event, "a").await;
        let old = db.snapshot();
        assert_eq!(read(&db, &[event]).await, [Some(body("a"))]);
        write(&db, event, "b").await;
        // Who sees the database as it was reads what was there, and leaves nothing of it behind.
        assert_eq!(read(&old, &[event]).await, [Some(body("a"))]);
        assert_eq!(read(&db, &[event]).await, [Some(body("b"))]);
        let mut batch = Batch::new();
        EVENTS.delete(&mut batch, &(ROOM, event));
        db.commit(batch).await.unwrap();
        assert_eq!(read(&db, &[event]).await, [None]);
    }

    #[tokio::test]
    async fn it_takes_no_more_memory_than_it_may() {
        let cache = EventCache::new(64 << 10);
        let event = Arc::new(record("a"));
        for number in 1..=10_000 {
            let one = std::iter::once((EventNumber(number), Arc::clone(&event)));
            cache.as_of(cache.now()).keep(ROOM, one);
        }
        assert!(cache.shard(ROOM).lock().events.weight() <= 8 << 10);
        assert!(!cache.shard(ROOM).lock().events.is_empty());
    }
}
