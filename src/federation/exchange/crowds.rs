//! Bounds on what comes in: of one server, and for one room.

use std::{collections::HashMap, sync::Arc, time::Duration};

use moka::sync::Cache;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::ExchangeError;
use crate::storage::intern::RoomNumber;

/// How many transactions of one server wait for their turn: a server sends one after the other, and
/// one again that took too long.
const MAX_WAITING: usize = 4;
/// Of how many servers turns are kept; a turn that somebody has is never lost.
const MAX_SERVERS: u64 = 10_000;
/// How many staged events of one room wait. What is turned away is fetched when later events refer
/// to it.
const MAX_STAGED: usize = 5_000;
/// How long a transaction waits for places in the rooms of its events, so that a server that sends
/// faster than its events can be taken in is slowed down; well within the minute that others wait
/// for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The transactions of each server come one after the other: one that is sent again finds the
/// answer to the first.
pub(super) struct Turns {
    servers: Cache<OwnedServerName, Arc<Turn>>,
}

struct Turn {
    waiting: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { servers: Cache::new(MAX_SERVERS) }
    }
}

/// A transaction's turn, until it is dropped.
pub(super) struct TurnHeld {
    _waiting: OwnedSemaphorePermit,
    _working: OwnedSemaphorePermit,
}

impl Turns {
    /// Waits until the transactions of `server` that came before are done with.
    ///
    /// # Errors
    /// [`ExchangeError::TooMany`] if too many wait already.
    pub(super) async fn wait(&self, server: &ServerName) -> Result<TurnHeld, ExchangeError> {
        let turn = self.servers.get_with_by_ref(server, || {
            let waiting = Arc::new(Semaphore::new(MAX_WAITING));
            Arc::new(Turn { waiting, working: Arc::new(Semaphore::new(1)) })
        });
        let waiting = Arc::clone(&turn.waiting).try_acquire_owned();
        let waiting = waiting.map_err(|_| ExchangeError::TooMany)?;
        let working = Arc::clone(&turn.working).acquire_owned().await;
        let working = working.map_err(|_| ExchangeError::TooMany)?;
        Ok(TurnHeld { _waiting: waiting, _working: working })
    }
}

/// How many staged events of each room wait. Those from before a restart don't count.
#[derive(Default)]
pub(super) struct Staged {
    rooms: Mutex<HashMap<RoomNumber, usize>>,
    /// A full room has place again.
    place: Notify,
}

/// Until when a transaction waits for places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(Instant);

impl Patience {
    /// From now on.
    pub(super) fn starts() -> Self {
        Self(Instant::now() + PATIENCE)
    }
}

impl Staged {
    /// Takes a place for one more, and waits for it while the room is full. Nothing if there is
    /// none in time.
    pub(super) async fn place(&self, room: RoomNumber, patience: Patience) -> Option<Place<'_>> {
        loop {
            // Whoever goes after the look and before the wait is heard too.
            let mut free = std::pin::pin!(self.place.notified());
            free.as_mut().enable();
            if self.take_place(room) {
                return Some(Place { staged: self, room });
            }
            timeout_at(patience.0, free).await.ok()?;
        }
    }

    fn take_place(&self, room: RoomNumber) -> bool {
        let mut rooms = self.rooms.lock();
        let waiting = rooms.entry(room).or_default();
        let free = *waiting < MAX_STAGED;
        *waiting += usize::from(free);
        free
    }

    /// One was dealt with.
    pub(super) fn went(&self, room: RoomNumber) {
        let mut rooms = self.rooms.lock();
        let Some(waiting) = rooms.get_mut(&room) else { return };
        let was_full = *waiting >= MAX_STAGED;
        *waiting = waiting.saturating_sub(1);
        if *waiting == 0 {
            rooms.remove(&room);
        }
        drop(rooms);
        if was_full {
            self.place.notify_waiters();
        }
    }
}

/// A place in a room, given up if the event does not get into the queue.
#[must_use]
pub(super) struct Place<'a> {
    staged: &'a Staged,
    room: RoomNumber,
}

impl Place<'_> {
    /// The event is in the queue: whoever takes it out says that it [`went`](Staged::went).
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.staged.went(self.room);
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[tokio::test]
    async fn transactions_of_one_server_take_turns_and_do_not_pile_up() {
        let turns = Arc::new(Turns::default());
        let (a, b) = (server_name!("a.example"), server_name!("b.example"));
        let first = turns.wait(a).await.unwrap();
        let queued: Vec<_> = (1..MAX_WAITING)
            .map(|_| {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move { turns.wait(a).await.map(drop) })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(matches!(turns.wait(a).await, Err(ExchangeError::TooMany)));
        turns.wait(b).await.unwrap();
        drop(first);
        for waiter in queued {
            waiter.await.unwrap().unwrap();
        }
        turns.wait(a).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_room_is_waited_for() {
        let (staged, room) = (Arc::new(Staged::default()), RoomNumber(1));
        for _ in 0..MAX_STAGED {
            staged.place(room, Patience::starts()).await.unwrap().keep();
        }
        assert!(staged.place(RoomNumber(2), Patience::starts()).await.is_some());
        // Nobody goes: there is an end to it.
        let began = Instant::now();
        assert!(staged.place(room, Patience::starts()).await.is_none());
        assert!(began.elapsed() >= PATIENCE);

        let waiter = {
            let staged = Arc::clone(&staged);
            tokio::spawn(
                async move { staged.place(room, Patience::starts()).await.map(Place::keep) },
            )
        };
        tokio::task::yield_now().await;
        let began = Instant::now();
        staged.went(room);
        assert!(waiter.await.unwrap().is_some());
        assert!(began.elapsed() < PATIENCE);
        assert!(!staged.take_place(room), "one place was free, and one took it");
        // Room 2's was not kept.
        assert!(!staged.rooms.lock().contains_key(&RoomNumber(2)));
        // One from before a restart.
        staged.went(RoomNumber(3));
        assert!(staged.take_place(RoomNumber(3)));
    }
}
