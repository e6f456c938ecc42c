//! Rooms that were joined without most of their members: the whole state before the join is fetched
//! in the background, from whoever tells it, for as long as it takes and also after a restart.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid>

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::OwnedServerName;
use tokio::sync::Semaphore;

use super::{Exchange, gaps::Extent};
use crate::{
    rooms::{Room, RoomError, partial::PartialRoom, whole::Told},
    storage::intern::RoomNumber,
};

/// Of how many rooms the state is fetched at the same time.
const ROOMS_AT_ONCE: usize = 4;
/// How many servers are asked in a row.
const SERVERS_AT_ONCE: usize = 10;
/// How long the first pause is after nobody told the state; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_mins(10);

/// The rooms whose state is being fetched.
pub(super) struct Resyncs {
    under_way: Mutex<HashSet<RoomNumber>>,
    turns: Semaphore,
}

impl Default for Resyncs {
    fn default() -> Self {
        Self { under_way: Mutex::default(), turns: Semaphore::new(ROOMS_AT_ONCE) }
    }
}

impl Exchange {
    /// Goes on with the rooms that were not whole before a restart.
    pub(super) async fn resume_resyncs(&self) -> Result<(), RoomError> {
        for room in self.rooms.partial_rooms().await? {
            self.resync(room);
        }
        Ok(())
    }

    /// Has the whole state of a room fetched in the background, unless that is under way.
    pub(super) fn resync(&self, room: RoomNumber) {
        if !self.shared.resyncs.under_way.lock().insert(room) {
            return;
        }
        let exchange = self.clone();
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            // Those that told what can't be are not asked again before the others all have been.
            let mut refused: HashSet<OwnedServerName> = HashSet::new();
            loop {
                let done = exchange.try_resync(room, &mut refused).await;
                let done = done.unwrap_or_else(|error| {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, room = room.0, "the state of a room can't be fetched");
                    false
                });
                if done {
                    break;
                }
                tokio::select! {
                    () = exchange.shared.stopping.wait() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LAST_PAUSE);
            }
            exchange.shared.resyncs.under_way.lock().remove(&room);
            // Whoever came in just before the mark was taken away found this one under way.
            if let Ok(Some(room)) = exchange.rooms.room_if_here(room).await
                && room.is_partial()
                && !room.local_members().is_empty()
                && !exchange.shared.stopping.is_stopping()
            {
                exchange.resync(room.number);
            }
        });
    }

    /// Asks one server after the other. Whether there is nothing more to do.
    async fn try_resync(
        &self,
        number: RoomNumber,
        refused: &mut HashSet<OwnedServerName>,
    ) -> Result<bool, RoomError> {
        let Ok(_turn) = self.shared.resyncs.turns.acquire().await else { return Ok(true) };
        let Some(room) = self.rooms.room_if_here(number).await? else { return Ok(true) };
        let mut servers = match room.partial() {
            // Whoever is not in a room is told nothing of it. The next join goes on with it.
            Some(_) if room.local_members().is_empty() => return Ok(true),
            Some(partial) => self.who_may_tell(&room, &partial),
            None => return Ok(true),
        };
        if servers.iter().all(|server| refused.contains(server)) {
            refused.clear();
        }
        servers.retain(|server| !refused.contains(server));
        servers.truncate(SERVERS_AT_ONCE);
        for server in servers {
            let Some(partial) = room.partial() else { return Ok(true) };
            let state = self.fetch_state(&room, &partial.join, &server, Extent::Whole).await?;
            let Some(state) = state else { continue };
            match self.rooms.make_whole(&room, &state).await? {
                Told::Taken => {
                    tracing::info!(room = %room.id, %server, "all of the room is known now");
                    self.shared.senders.changed.notify_one();
                    return Ok(true);
                }
                Told::Refused(why) => {
                    tracing::warn!(
                        room = %room.id, %server, why, "what a server tells can't be the room's state"
                    );
                    refused.insert(server);
                }
            }
        }
        Ok(false)
    }

    /// The servers that may know the state: first the one that the room was joined through.
    fn who_may_tell(&self, room: &Arc<Room>, partial: &PartialRoom) -> Vec<OwnedServerName> {
        let mut servers = vec![partial.via.clone()];
        let mut others = self.rooms.other_servers(room);
        others.retain(|server| *server != partial.via);
        // Not the same ones each time.
        if !others.is_empty() {
            let first = usize::try_from(self.federation.spread()).unwrap_or(0) % others.len();
            others.rotate_left(first);
        }
        servers.extend(others);
        servers
    }
}
