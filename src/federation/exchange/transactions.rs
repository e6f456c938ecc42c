//! One transaction: what goes into it, sending it, and what is no longer waited for then.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::time::Duration;

use federation::{Limits, MAX_EDUS, MAX_PDUS};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedTransactionId, ServerName,
    api::federation::transactions::{edu::Edu, send_transaction_message},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{super::PeerError, Exchange, lasting::Told, outbound::Waiting};
use crate::{
    rooms::RoomError,
    storage::{
        Batch, Json, Range, StorageError,
        chunks::Chunks,
        intern::RoomNumber,
        schema::{UNTAKEN, WAITING},
    },
};

/// What a transaction may take.
const TRANSACTION: Limits = Limits { timeout: Duration::from_mins(1), max_bytes: 1 << 20 };
/// The largest transaction that is kept to be sent again. One with larger events than this is made
/// anew: they are known by their own IDs.
const MAX_KEPT_BYTES: usize = 3 << 20;
/// Those that were not taken.
const KEPT: Chunks<OwnedServerName> = Chunks(&UNTAKEN);
/// Of a room with more events than this, a server that was away for long is sent the newest alone.
const CATCH_UP_OVER: usize = 50;

/// What a transaction carries, and what no longer waits once it is taken.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Transaction {
    id: OwnedTransactionId,
    made_at: MilliSecondsSinceUnixEpoch,
    pdus: Vec<Box<RawValue>>,
    edus: Vec<Raw<Edu>>,
    told: Told,
    /// The marks it covers: as they were, and from where they go on.
    marks: Vec<(RoomNumber, Waiting, u64)>,
    /// Whether more may wait than it holds.
    pub(super) more: bool,
}

impl Transaction {
    /// Whether nothing is to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.pdus.is_empty() && self.edus.is_empty()
    }
}

impl Exchange {
    /// What waits for a server, as much as one transaction holds.
    pub(super) async fn load_for(&self, server: &ServerName) -> Result<Transaction, RoomError> {
        let lasting = self.lasting_for(server).await?;
        let (passing, is_behind) = {
            let mut known = self.shared.senders.known.lock();
            let waiting = known.entry(server.to_owned()).or_default();
            let room_left = MAX_EDUS.saturating_sub(lasting.edus.len());
            (waiting.passing.take(room_left), waiting.state.is_behind())
        };
        let mut load = Transaction {
            id: self.federation.transaction_id(),
            made_at: self.clock.now(),
            pdus: Vec::new(),
            edus: lasting.edus.into_iter().chain(passing.edus()).collect(),
            told: lasting.told,
            marks: Vec::new(),
            more: lasting.more,
        };
        let marks = WAITING.scan(&self.db, &Range::prefix(&(server,)), MAX_PDUS + 1).await?;
        for ((_, number), Json(mark)) in marks {
            let room_left = MAX_PDUS.saturating_sub(load.pdus.len());
            if room_left == 0 {
                load.more = true;
                break;
            }
            let rooms = &self.rooms;
            let (mut events, mut next) =
                rooms.events_to_send(number, mark.from, mark.until, room_left).await?;
            if is_behind && next <= mark.until && events.len() >= CATCH_UP_OVER.min(room_left) {
                if let Some(newest) = rooms.newest_to_send(number, next, mark.until).await? {
                    events = vec![newest];
                }
                next = mark.until.saturating_add(1);
            }
            for (_, event) in events {
                if event.sender_id.server_name() != server {
                    let json = RawValue::from_string(event.json.into());
                    load.pdus.push(json.map_err(|_| RoomError::Corrupt { what: "an event" })?);
                }
            }
            load.more |= next <= mark.until;
            load.marks.push((number, mark, next));
        }
        Ok(load)
    }

    /// Sends it once.
    ///
    /// # Errors
    /// [`PeerError`] if the other server did not say that it took it.
    pub(super) async fn deliver(
        &self,
        server: &ServerName,
        load: &Transaction,
    ) -> Result<(), PeerError> {
        let mut request = send_transaction_message::v1::Request::new(
            load.id.clone(),
            self.rooms.server_name().to_owned(),
            load.made_at,
        );
        request.pdus.clone_from(&load.pdus);
        request.edus.clone_from(&load.edus);
        let answer = self.federation.tell(server, request, TRANSACTION).await?;
        for (event, result) in answer.pdus {
            if let Err(why) = result {
                tracing::debug!(%server, %event, why, "an event was refused");
            }
        }
        Ok(())
    }

    /// Takes marks away that are done with, or moves them on.
    pub(super) async fn advance(
        &self,
        server: &ServerName,
        load: &Transaction,
    ) -> Result<(), RoomError> {
        self.done_with(server, &load.told).await?;
        for (room, mark, next) in &load.marks {
            let key = (server, *room);
            let mut seen = *mark;
            loop {
                let mut batch = Batch::unsynced();
                WAITING.require_equals(&mut batch, &key, &Json(seen));
                if *next > seen.until {
                    WAITING.delete(&mut batch, &key);
                } else {
                    // It may have been moved on before, by a transaction that was taken twice.
                    let from = seen.from.max(*next);
                    WAITING.put(&mut batch, &key, &Json(Waiting { from, ..seen }));
                }
                match self.db.commit(batch).await {
                    Ok(()) => break,
                    Err(StorageError::Precondition { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                // More of this room came to wait in the meantime.
                match WAITING.get(&self.db, &key).await? {
                    Some(Json(now)) => seen = now,
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// The transaction that a server did not take the last time: until it has, it is sent no other.
    pub(super) async fn untaken(
        &self,
        server: &ServerName,
    ) -> Result<Option<Transaction>, StorageError> {
        let Some(bytes) = KEPT.get(&self.db, &server.to_owned()).await? else { return Ok(None) };
        let corrupt = |_| StorageError::Corrupt { table: UNTAKEN.id.name() };
        Ok(Some(serde_json::from_slice(&bytes).map_err(corrupt)?))
    }

    /// Keeps a transaction that was not taken, as it is: it is sent again with the same ID, also
    /// after a restart.
    pub(super) async fn keep_untaken(
        &self,
        server: &ServerName,
        load: Transaction,
    ) -> Result<(), StorageError> {
        // By the time that it is taken, more may have come to wait.
        let bytes = serde_json::to_vec(&Transaction { more: true, ..load });
        let bytes = bytes.map_err(|_| StorageError::Corrupt { table: UNTAKEN.id.name() })?;
        if bytes.len() > MAX_KEPT_BYTES {
            return Ok(());
        }
        let mut batch = Batch::unsynced();
        KEPT.put_new(&mut batch, &server.to_owned(), &bytes);
        self.db.commit(batch).await
    }

    /// It was taken, or never will be.
    pub(super) async fn forget_untaken(&self, server: &ServerName) -> Result<(), StorageError> {
        let mut batch = Batch::unsynced();
        KEPT.delete(&self.db, &mut batch, &server.to_owned()).await?;
        self.db.commit(batch).await
    }

    /// The servers that did not take a transaction.
    pub(super) async fn servers_with_untaken(&self) -> Result<Vec<OwnedServerName>, StorageError> {
        let mut servers = Vec::new();
        let mut range = Range::all();
        while let Some(((server, _), _)) = UNTAKEN.scan(&self.db, &range, 1).await?.pop() {
            range = range.after(&(&*server, u32::MAX));
            servers.push(server);
        }
        Ok(servers)
    }
}
