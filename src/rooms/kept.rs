//! Which rooms are in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use moka::future::Cache;
use parking_lot::Mutex;

use super::{error::RoomError, room::Room};
use crate::storage::intern::RoomNumber;

/// Gone rooms are looked for again when this many are noted beyond those that were alive.
const NOTED: usize = 1_024;

/// Rooms that are ready for the next event: as many as fit into some memory, and those that
/// somebody works on. There are never two of one room, since one would not learn what the other
/// did.
pub(super) struct Kept {
    rooms: Cache<RoomNumber, Arc<Room>>,
    alive: Mutex<Alive>,
}

#[derive(Default)]
struct Alive {
    rooms: HashMap<RoomNumber, Weak<Room>>,
    /// How many there may be before those that are gone are taken out.
    most: usize,
}

impl Kept {
    /// Nothing is in memory. A room counts with half of `max_bytes` at most: one that is larger than
    /// all of it is kept too.
    pub(super) fn new(max_bytes: u64) -> Self {
        let largest = u32::try_from(max_bytes / 2).unwrap_or(u32::MAX);
        let rooms = Cache::builder()
            .weigher(move |_, room: &Arc<Room>| room.weigh().min(largest))
            .max_capacity(max_bytes)
            .build();
        Self { rooms, alive: Mutex::default() }
    }

    /// A room, read by `load` if it is not in memory. All who ask for it at the same time wait for
    /// one and the same reading.
    pub(super) async fn get(
        &self,
        number: RoomNumber,
        load: impl Future<Output = Result<Option<Room>, RoomError>>,
    ) -> Result<Arc<Room>, Arc<Option<RoomError>>> {
        let load = async {
            if let Some(room) = self.alive(number) {
                return Ok(room);
            }
            let room = Arc::new(load.await.map_err(Some)?.ok_or(None)?);
            self.note(&room);
            Ok(room)
        };
        let room = self.rooms.try_get_with(number, load).await?;
        if room.has_grown() && !room.has_failed() {
            // It is weighed when it is put in.
            self.rooms.insert(number, Arc::clone(&room)).await;
        }
        Ok(room)
    }

    /// Keeps a room that was just made.
    pub(super) async fn insert(&self, room: &Arc<Room>) {
        self.note(room);
        self.rooms.insert(room.number, Arc::clone(room)).await;
    }

    /// Gives up a room that has failed.
    pub(super) async fn forget(&self, number: RoomNumber) {
        self.rooms.invalidate(&number).await;
    }

    fn alive(&self, number: RoomNumber) -> Option<Arc<Room>> {
        let room = self.alive.lock().rooms.get(&number)?.upgrade()?;
        (!room.has_failed()).then_some(room)
    }

    /// Notes a room that is about to be there: who asks for it is given this one.
    pub(super) fn note(&self, room: &Arc<Room>) {
        let mut alive = self.alive.lock();
        alive.rooms.insert(room.number, Arc::downgrade(room));
        if alive.rooms.len() > alive.most {
            alive.rooms.retain(|_, room| room.strong_count() > 0);
            alive.most = 2 * alive.rooms.len() + NOTED;
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, owned_room_id};

    use super::*;

    fn room(number: u64) -> Room {
        let version = RoomVersionId::V12;
        let rules = version.rules().unwrap();
        Room::begun(RoomNumber(number), owned_room_id!("!a:localhost"), version, rules).unwrap()
    }

    #[tokio::test]
    async fn a_room_that_somebody_holds_is_not_read_again() {
        let kept = Kept::new(0);
        let first = kept.get(RoomNumber(1), async { Ok(Some(room(1))) }).await.unwrap();
        kept.rooms.run_pending_tasks().await;
        assert_eq!(kept.rooms.entry_count(), 0, "there is no memory for it");
        let again = kept.get(RoomNumber(1), async { Ok(None) }).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        first.failed.store(true, std::sync::atomic::Ordering::Release);
        kept.forget(RoomNumber(1)).await;
        let fresh = kept.get(RoomNumber(1), async { Ok(Some(room(1))) }).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &fresh));
    }

    #[tokio::test]
    async fn a_room_that_is_about_to_be_there_is_not_read_beside_it() {
        let kept = Kept::new(1 << 20);
        let made = Arc::new(room(1));
        kept.note(&made);
        let found = kept.get(RoomNumber(1), async { Ok(Some(room(1))) }).await.unwrap();
        assert!(Arc::ptr_eq(&made, &found));
        kept.insert(&made).await;
        let found = kept.get(RoomNumber(1), async { Ok(Some(room(1))) }).await.unwrap();
        assert!(Arc::ptr_eq(&made, &found));
    }

    #[tokio::test]
    async fn rooms_take_no_more_memory_than_they_may() {
        let kept = Kept::new(20 * u64::from(room(1).weigh()));
        for number in 1..=200 {
            kept.get(RoomNumber(number), async { Ok(Some(room(number))) }).await.unwrap();
        }
        kept.rooms.run_pending_tasks().await;
        assert!((1..=20).contains(&kept.rooms.entry_count()));
        assert!(kept.alive.lock().rooms.len() <= 20 + NOTED + 20);
    }
}
