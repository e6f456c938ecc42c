//! Rooms that are on several servers: events in, events out, coming in and going.

mod addresses;
mod arrivals;
mod backfill;
mod callers;
mod crowds;
mod edus;
mod gaps;
mod inbound;
mod joined_state;
mod joining;
mod lasting;
mod membership;
mod outbound;
mod outliers;
mod passing;
mod resync;
mod spaces;
mod third_party;
mod transactions;
mod withdrawals;

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
    e2ee::E2ee,
    identity::IdentityServers,
    rooms::{Rooms, receipts::Receipts, typing::Typing},
    shutdown::Stopping,
    storage::{Db, intern::RoomNumber},
    users::presence::Presence,
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
    presence: Presence,
    e2ee: E2ee,
    identity: IdentityServers,
    db: Db,
    clock: Clock,
    shared: Arc<Shared>,
}

/// What is exchanged besides events.
pub(crate) struct Besides {
    typing: Typing,
    receipts: Receipts,
    presence: Presence,
    e2ee: E2ee,
    identity: IdentityServers,
}

impl Besides {
    /// Who types, has read, is there; keys, and messages between devices; whose addresses are.
    pub(crate) fn new(
        typing: &Typing,
        receipts: &Receipts,
        presence: &Presence,
        e2ee: &E2ee,
        identity: &IdentityServers,
    ) -> Self {
        let (typing, receipts) = (typing.clone(), receipts.clone());
        let (presence, e2ee) = (presence.clone(), e2ee.clone());
        Self { typing, receipts, presence, e2ee, identity: identity.clone() }
    }
}

struct Shared {
    /// Rooms whose staged events somebody is working through.
    at_work: Mutex<HashSet<RoomNumber>>,
    working: Semaphore,
    turns: crowds::Turns,
    staged: crowds::Staged,
    stopping: Stopping,
    senders: outbound::Senders,
    backfills: backfill::Backfills,
    spaces: spaces::KnownSpaces,
    strangers: arrivals::Strangers,
    resyncs: resync::Resyncs,
}

impl Exchange {
    /// Exchanges events of `rooms`.
    pub(crate) fn new(
        federation: Federation,
        rooms: Rooms,
        besides: Besides,
        db: Db,
        clock: Clock,
        stopping: Stopping,
    ) -> Self {
        let shared = Shared {
            at_work: Mutex::default(),
            working: Semaphore::new(ROOMS_AT_ONCE),
            turns: crowds::Turns::default(),
            staged: crowds::Staged::default(),
            stopping,
            senders: outbound::Senders::default(),
            backfills: backfill::Backfills::default(),
            spaces: spaces::known_spaces(),
            strangers: arrivals::Strangers::default(),
            resyncs: resync::Resyncs::default(),
        };
        let Besides { typing, receipts, presence, e2ee, identity } = besides;
        let shared = Arc::new(shared);
        Self { federation, rooms, typing, receipts, presence, e2ee, identity, db, clock, shared }
    }

    /// Goes on with what was interrupted, and does what comes, until the server stops.
    pub(crate) async fn run(self) {
        if !self.federation.is_enabled() {
            return;
        }
        if let Err(error) = self.resume_staged().await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "events that came before the restart can't be read");
        }
        if let Err(error) = self.resume_resyncs().await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "rooms of which not all is known can't be read");
        }
        self.run_outbound().await;
    }

    /// Other servers.
    pub(crate) fn federation(&self) -> &Federation {
        &self.federation
    }
}
