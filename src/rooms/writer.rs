//! Changing a room's graph: one at a time, each change in one batch.
//!
//! A writer holds the room's lock while it decides, and gives it up when its batch is queued; the
//! next one builds on what was queued. Each batch requires the head that it was built on, so that
//! a change built on one that failed fails too; the room is then loaded again.

use std::sync::{Arc, atomic::Ordering};

use parking_lot::RwLock;
use ruma::{OwnedDeviceId, OwnedEventId, OwnedTransactionId, UserId};
use state_resolution::EventIx;
use tokio::sync::{OwnedMappedMutexGuard, OwnedMutexGuard};

use super::{
    Rooms,
    auth::{Powers, Table},
    auth_record::SnapshotNumber,
    error::RoomError,
    record::{EventNumber, EventRecord, Membership},
    room::{Graph, Room, StateEvent},
    state::{Ledger, State},
    timeline_key::TimelineKey,
    whole::Whole,
};
use crate::storage::{Batch, intern::UserNumber, schema::EVENTS};

/// The (device, kind of request, transaction ID) that an event answers.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// The user and the device.
    pub(crate) device: (UserNumber, OwnedDeviceId),
    /// The endpoint, with what its path names.
    pub(crate) kind: String,
    /// The client's choice.
    pub(crate) id: OwnedTransactionId,
}

impl Transaction {
    /// Its key in the table of transactions.
    pub(crate) fn key(&self) -> (UserNumber, OwnedDeviceId, String, OwnedTransactionId) {
        (self.device.0, self.device.1.clone(), self.kind.clone(), self.id.clone())
    }
}

/// Who sends an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// The user.
    pub(crate) id: &'a UserId,
    /// The same, as tables know it.
    pub(crate) number: UserNumber,
}

/// Where an event of a change goes in the timeline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shown {
    /// At the end, at a stream position of its own.
    Live,
    /// Before what came earlier, at this key.
    Backfilled(TimelineKey),
    /// Nowhere: rejected, soft-failed, or an outlier.
    Nowhere,
}

/// An event that is part of the change.
pub(super) struct Added {
    pub(super) number: EventNumber,
    /// All of it but the position.
    pub(super) record: EventRecord,
    pub(super) shown: Shown,
    /// Its parents that are not here.
    pub(super) missing: Vec<OwnedEventId>,
    /// The current state, if it is another one from here on.
    pub(super) current: Option<SnapshotNumber>,
    pub(super) members: Vec<MemberChange>,
    /// Other servers are to get it.
    pub(super) outbox: bool,
}

/// A change of somebody's membership in the current state.
pub(super) struct MemberChange {
    pub(super) user: UserNumber,
    pub(super) is_local: bool,
    pub(super) old: Option<Membership>,
    /// None: no member event speaks of the user any more.
    pub(super) new: Option<Membership>,
    /// The member event.
    pub(super) event: EventNumber,
    pub(super) stripped_state: Box<str>,
}

impl MemberChange {
    /// Whether the user was in the room and no longer is.
    pub(super) fn is_departure(&self) -> bool {
        self.old == Some(Membership::Join) && self.new != Some(Membership::Join)
    }
}

/// The one who may change a room.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the change")]
pub(super) struct RoomWriter {
    pub(super) rooms: Rooms,
    pub(super) room: Arc<Room>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) table: Arc<RwLock<Table>>,
    pub(super) graph: OwnedMappedMutexGuard<Option<Graph>, Graph>,
    /// The head this change builds on.
    pub(super) head: EventNumber,
    /// What else the change writes.
    pub(super) batch: Batch,
    pub(super) added: Vec<Added>,
    /// Snapshots that the change writes.
    pub(super) snapshots: Vec<SnapshotNumber>,
    pub(super) transaction: Option<Transaction>,
    /// The change begins the room here: it is there once this is committed.
    pub(super) founding: bool,
    /// This server comes into the room by the change: what it knew of it before is outdated.
    pub(super) joining: bool,
    /// The room becomes whole by the change.
    pub(super) whole: Option<Whole>,
    /// The events are another server's, which this one took in for it and sends on to the others.
    pub(super) forwarding: bool,
    /// Whether `graph` holds something that was not queued.
    pub(super) dirty: bool,
}

impl Drop for RoomWriter {
    fn drop(&mut self) {
        // Given up half-way, by an error or because the request was cancelled.
        if self.dirty {
            self.room.failed.store(true, Ordering::Release);
        }
    }
}

pub(super) const CORRUPT: RoomError = RoomError::Corrupt { what: "the graph of a room" };

impl RoomWriter {
    /// Waits for the room's turn. The room may have failed meanwhile: see [`Rooms::writer`].
    pub(super) async fn new(rooms: &Rooms, room: Arc<Room>) -> Result<Self, RoomError> {
        let mut guard = Arc::clone(&room.graph).lock_owned().await;
        if guard.is_none() {
            *guard = Some(Graph::load(rooms, &room).await?);
        }
        let mut graph = OwnedMutexGuard::map(guard, |graph| graph.get_or_insert_with(Graph::empty));
        if room.in_flight.load(Ordering::Acquire) == 0 {
            graph.trim();
        }
        let ledger = Arc::clone(room.ledger(rooms.db()).await?);
        Ok(Self {
            rooms: rooms.clone(),
            head: graph.next,
            room,
            table: Arc::clone(&ledger.table),
            ledger,
            graph,
            batch: Batch::new(),
            added: Vec::new(),
            snapshots: Vec::new(),
            transaction: None,
            founding: false,
            joining: false,
            whole: None,
            forwarding: false,
            dirty: false,
        })
    }

    /// The change is made only if no other answered this transaction.
    pub(super) fn require_new(&mut self, transaction: Transaction) {
        self.transaction = Some(transaction);
    }

    /// The current state event with this type and state key, queued changes and those of this
    /// writer included.
    pub(super) async fn state(
        &mut self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StateEvent>>, RoomError> {
        let number = {
            let table = self.table.read();
            let found = table.find(&self.graph.current.map, event_type, state_key);
            found.map(|event| table.number(event))
        };
        match number {
            Some(number) => Ok(Some(self.state_event(number).await?)),
            None => Ok(None),
        }
    }

    pub(super) async fn state_event(
        &mut self,
        number: EventNumber,
    ) -> Result<Arc<StateEvent>, RoomError> {
        if let Some(known) = self.graph.events.get(&number) {
            return Ok(Arc::clone(known));
        }
        let record =
            EVENTS.get(self.rooms.db(), &(self.room.number, number)).await?.ok_or(CORRUPT)?;
        let event = Arc::new(StateEvent::stored(&record)?);
        self.graph.events.insert(number, Arc::clone(&event));
        Ok(event)
    }

    /// The membership of `user`; none if no member event speaks of them.
    pub(super) fn membership(&self, user: &UserId) -> Option<Membership> {
        let table = self.table.read();
        let event = table.find(&self.graph.current.map, "m.room.member", user.as_str())?;
        table.membership(event)
    }

    /// Who may do what.
    pub(super) fn powers(&self) -> Powers {
        Powers::new(Arc::clone(&self.table), self.graph.current.map.clone())
    }

    /// The event that holds the key of the event `at` in `state`.
    pub(super) fn replaced(&self, at: EventIx, state: &State) -> Option<EventNumber> {
        let table = self.table.read();
        let replaced = state.map.get(table.room().key_of(at)?)?;
        Some(table.number(replaced))
    }

    pub(super) fn is_create(&self, number: EventNumber) -> bool {
        let table = self.table.read();
        table.room().create_event().is_some_and(|create| table.number(create) == number)
    }
}
