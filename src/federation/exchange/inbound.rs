//! Transactions of other servers.
//!
//! What comes is checked as far as it can be without its room, put into a queue on disk, and
//! acknowledged; each room's queue is then worked through in order, the rooms in parallel, so that
//! no answer waits for a gap to be filled.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use federation::{MAX_EDUS, MAX_PDUS};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, ServerName, TransactionId,
    api::federation::transactions::edu::Edu, serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Exchange, ExchangeError,
    crowds::{Patience, Place},
};
use crate::{
    rooms::{RoomError, error::RoomError::InvalidParam, pdu::Pdu},
    storage::{
        Batch, Json, Range,
        intern::RoomNumber,
        schema::{RECEIVED, RECEIVED_EXPIRY, STAGED},
    },
};

/// The longest transaction ID.
const MAX_ID_BYTES: usize = 255;
/// How long the answer to a transaction is kept, to be given again.
const KEPT_MS: u64 = 24 * 3_600_000;
/// How many old answers are removed with each new one.
const REMOVED_AT_ONCE: usize = 20;
/// How many staged events are read at once.
const STEP: usize = 20;
/// How long the first wait is after an error of the database; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait.
const LAST_RETRY: Duration = Duration::from_mins(2);

/// An event that was checked and waits for its turn.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct StagedPdu {
    /// Who sent it here.
    pub(super) origin: OwnedServerName,
    /// The event, without `unsigned`.
    pub(super) pdu: Box<RawValue>,
}

/// What became of the events of a transaction; an error each, or none.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct ReceivedTransaction {
    pub(super) pdus: BTreeMap<OwnedEventId, Option<String>>,
}

impl ReceivedTransaction {
    /// As the answer has it.
    pub(crate) fn into_results(self) -> BTreeMap<OwnedEventId, Result<(), String>> {
        self.pdus.into_iter().map(|(id, error)| (id, error.map_or(Ok(()), Err))).collect()
    }
}

impl Exchange {
    /// Takes a transaction in. The same one is answered the same way.
    ///
    /// # Errors
    /// [`RoomError::InvalidParam`] if it is larger than allowed, [`ExchangeError::TooMany`] if too
    /// many of that server are being taken in; a bad event is no error.
    pub(crate) async fn receive(
        &self,
        origin: &ServerName,
        id: &TransactionId,
        pdus: Vec<Box<RawValue>>,
        edus: Vec<Raw<Edu>>,
    ) -> Result<ReceivedTransaction, ExchangeError> {
        if pdus.len() > MAX_PDUS || edus.len() > MAX_EDUS {
            let why = format!("at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs");
            return Err(InvalidParam { why }.into());
        }
        if id.as_str().len() > MAX_ID_BYTES {
            return Err(InvalidParam { why: "the transaction ID is too long".to_owned() }.into());
        }
        let _turn = self.shared.turns.wait(origin).await?;
        if let Some(Json(answered)) = RECEIVED.get(&self.db, &(origin, id)).await? {
            return Ok(answered);
        }
        // What counts is on disk before the transaction counts as received; if it comes again it is
        // known by its own IDs.
        let passing = self.take_lasting_edus(origin, edus).await?;
        let mut answer = ReceivedTransaction::default();
        let mut staged = Vec::new();
        let patience = Patience::starts();
        for json in pdus {
            // What is not even an event of a room known here has no ID to answer by.
            match self.check(origin, &json).await {
                Ok((room, pdu)) => {
                    let raw = RawValue::from_string(pdu.json().to_owned())
                        .map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
                    let waits = StagedPdu { origin: origin.to_owned(), pdu: raw };
                    let error = match self.shared.staged.place(room, patience).await {
                        Some(place) => {
                            staged.push((room, waits, place));
                            None
                        }
                        None => Some("too many events of the room wait".to_owned()),
                    };
                    answer.pdus.insert(pdu.event_id().to_owned(), error);
                }
                Err((event, why)) => match (self.take_withdrawal(origin, &json).await?, event) {
                    (Some(event), _) => drop(answer.pdus.insert(event, None)),
                    (None, Some(event)) => drop(answer.pdus.insert(event, Some(why))),
                    (None, None) => tracing::debug!(%origin, why, "not taken"),
                },
            }
        }
        let mut batch = Batch::new();
        let now = self.clock.now_ms();
        RECEIVED.put(&mut batch, &(origin, id), &Json(answer.clone()));
        RECEIVED_EXPIRY.put(&mut batch, &(now, origin, id), &());
        let old = Range::all().before(&(now.saturating_sub(KEPT_MS), origin, id));
        for ((at, server, id), ()) in RECEIVED_EXPIRY.scan(&self.db, &old, REMOVED_AT_ONCE).await? {
            RECEIVED.delete(&mut batch, &(&server, &id));
            RECEIVED_EXPIRY.delete(&mut batch, &(at, server, id));
        }
        let rooms: BTreeSet<RoomNumber> = staged.iter().map(|(room, ..)| *room).collect();
        // Readers wait for a position that is taken, so nothing else is waited for from here on.
        let mut places = Vec::with_capacity(staged.len());
        for (room, staged, place) in staged {
            let position = self.db.position().await?;
            STAGED.put(&mut batch, &(room, position.value()), &Json(staged));
            batch.hold(position);
            places.push(place);
        }
        self.db.commit(batch).await?;
        places.into_iter().for_each(Place::keep);
        for room in rooms {
            self.work_on(room);
        }
        self.take_passing_edus(origin, passing).await;
        Ok(answer)
    }

    /// Checks what can be checked without the room's graph.
    async fn check(
        &self,
        origin: &ServerName,
        json: &RawValue,
    ) -> Result<(RoomNumber, Pdu), (Option<OwnedEventId>, String)> {
        #[derive(Deserialize)]
        struct InRoom {
            room_id: OwnedRoomId,
        }
        let none = |error: &dyn std::fmt::Display| (None, error.to_string());
        let in_room: InRoom = serde_json::from_str(json.get()).map_err(|error| none(&error))?;
        let room = self.rooms.room(&in_room.room_id).await.map_err(|error| none(&error))?;
        let pdu = self.federation.verify(json.get(), &room.rules, Some(origin)).await;
        let pdu = match pdu {
            Ok(pdu) => pdu,
            Err(error) => {
                let object = serde_json::from_str(json.get()).ok();
                let read = object.and_then(|object| Pdu::parse(object, &room.rules).ok());
                return Err((read.map(|pdu| pdu.event_id().to_owned()), error.to_string()));
            }
        };
        let refused = |why: &str| Err((Some(pdu.event_id().to_owned()), why.to_owned()));
        // The list of servers concerns who sends here as well as who made the event.
        for server in [origin, pdu.sender().server_name()] {
            if self.rooms.room_for(&room.id, server).await.is_err() {
                return refused("the room does not let this server in");
            }
        }
        if room.local_members().is_empty() {
            return refused("nobody of this server is in the room");
        }
        if room.is_held_up() {
            return refused("not all of the room is known here yet");
        }
        Ok((room.number, pdu))
    }

    /// Works through the staged events of a room, unless somebody does already. If the database
    /// fails they stay, and it is tried again, later each time.
    pub(super) fn work_on(&self, room: RoomNumber) {
        if !self.shared.at_work.lock().insert(room) {
            return;
        }
        let exchange = self.clone();
        tokio::spawn(async move {
            let mut retry = FIRST_RETRY;
            loop {
                let done = exchange.work_through(room).await.inspect_err(|error| {
                    let error = error as &dyn std::error::Error;
                    tracing::error!(error, room = room.0, "staged events wait for the database");
                });
                if done.is_err() {
                    tokio::select! {
                        () = exchange.shared.stopping.wait() => return,
                        () = tokio::time::sleep(retry) => {}
                    }
                    retry = (retry * 2).min(LAST_RETRY);
                    continue;
                }
                retry = FIRST_RETRY;
                exchange.shared.at_work.lock().remove(&room);
                // What was staged just before the mark was taken away found somebody at work.
                let range = Range::prefix(&(room,));
                let left = STAGED.scan(&exchange.db, &range, 1).await;
                if left.is_ok_and(|rows| rows.is_empty())
                    || !exchange.shared.at_work.lock().insert(room)
                {
                    break;
                }
            }
        });
    }

    async fn work_through(&self, number: RoomNumber) -> Result<(), RoomError> {
        let range = Range::prefix(&(number,));
        loop {
            let rows = STAGED.scan(&self.db, &range, STEP).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let room = self.rooms.numbered(number).await?;
            for (key, Json(staged)) in rows {
                let working = self.shared.working.acquire().await;
                let object = serde_json::from_str(staged.pdu.get()).ok();
                let pdu = object.and_then(|object| Pdu::parse(object, &room.rules).ok());
                let done = match &pdu {
                    Some(pdu) => self.take_in(&room, pdu, &staged.origin).await,
                    None => Ok(()),
                };
                drop(working);
                match done {
                    // It says nothing of the event.
                    Err(error) if error.may_pass() => return Err(error),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        let event = pdu.as_ref().map(Pdu::event_id);
                        tracing::info!(error, room = %room.id, ?event, "an event was not taken in");
                    }
                    Ok(()) => {}
                }
                let mut batch = Batch::unsynced();
                STAGED.delete(&mut batch, &key);
                self.db.commit(batch).await?;
                self.shared.staged.went(number);
            }
        }
    }

    /// Goes on with the events that were staged before a restart.
    pub(super) async fn resume_staged(&self) -> Result<(), RoomError> {
        let mut range = Range::all();
        while let Some(((room, _), _)) = STAGED.scan(&self.db, &range, 1).await?.pop() {
            self.work_on(room);
            range = range.after(&(room, u64::MAX));
        }
        Ok(())
    }
}
