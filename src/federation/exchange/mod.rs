//! Rooms that are on several servers: events in, events out, coming in and going.

mod backfill;
mod callers;
mod gaps;
mod inbound;
mod membership;
mod outbound;
mod spaces;
mod third_party;

#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub(crate) use inbound::{ReceivedTransaction, StagedPdu};
pub(crate) use membership::ExchangeError;
pub(crate) use outbound::Waiting;
pub(crate) use third_party::ThirdPartyInvite;

use super::Federation;
use crate::{
    clock::Clock,
    rooms::{Rooms, receipts::Receipts, typing::Typing},
    shutdown::Stopping,
    storage::{Db, intern::RoomNumber},
};

/// In how many rooms events are taken in at the same time.
const ROOMS_AT_ONCE: usize = 16;

/// What is exchanged with the other servers of rooms.
#[derive(Clone)]
pub(crate) struct Exchange {
    federation: Federation,
    rooms: Rooms,
    typing: Typing,
    receipts: Receipts,
    db: Db,
    clock: Clock,
    shared: Arc<Shared>,
}

struct Shared {
    /// Rooms whose staged events somebody is working through.
    at_work: Mutex<HashSet<RoomNumber>>,
    working: Semaphore,
    senders: outbound::Senders,
    backfills: backfill::Backfills,
    spaces: spaces::KnownSpaces,
}

impl Exchange {
    /// Exchanges events of `rooms`.
    pub(crate) fn new(
        federation: Federation,
        rooms: Rooms,
        typing: Typing,
        receipts: Receipts,
        db: Db,
        clock: Clock,
    ) -> Self {
        let shared = Shared {
            at_work: Mutex::default(),
            working: Semaphore::new(ROOMS_AT_ONCE),
            senders: outbound::Senders::default(),
            backfills: backfill::Backfills::default(),
            spaces: spaces::known_spaces(),
        };
        Self { federation, rooms, typing, receipts, db, clock, shared: Arc::new(shared) }
    }

    /// Goes on with what was interrupted, and does what comes, until the server stops.
    pub(crate) async fn run(self, stopping: Stopping) {
        if !self.federation.is_enabled() {
            return;
        }
        if let Err(error) = self.resume_staged().await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "events that came before the restart can't be read");
        }
        self.run_outbound(stopping).await;
    }

    /// Other servers.
    pub(crate) fn federation(&self) -> &Federation {
        &self.federation
    }
}
