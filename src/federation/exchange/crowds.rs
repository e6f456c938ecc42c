//! Bounds on what comes in: of one server, and for one room.

use std::{collections::HashMap, sync::Arc};

use moka::sync::Cache;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
}

impl Staged {
    /// Whether another one may wait.
    pub(super) fn has_place(&self, room: RoomNumber) -> bool {
        self.rooms.lock().get(&room).is_none_or(|waiting| *waiting < MAX_STAGED)
    }

    /// One more waits.
    pub(super) fn came(&self, room: RoomNumber) {
        *self.rooms.lock().entry(room).or_default() += 1;
    }

    /// One was dealt with.
    pub(super) fn went(&self, room: RoomNumber) {
        let mut rooms = self.rooms.lock();
        if let Some(waiting) = rooms.get_mut(&room) {
            *waiting -= 1;
            if *waiting == 0 {
                rooms.remove(&room);
            }
        }
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

    #[test]
    fn a_room_has_place_again_when_one_is_dealt_with() {
        let (staged, room) = (Staged::default(), RoomNumber(1));
        for _ in 0..MAX_STAGED {
            assert!(staged.has_place(room));
            staged.came(room);
        }
        assert!(!staged.has_place(room));
        assert!(staged.has_place(RoomNumber(2)));
        staged.went(room);
        assert!(staged.has_place(room));
        // One from before a restart.
        staged.went(RoomNumber(3));
        assert!(staged.has_place(RoomNumber(3)));
    }
}
