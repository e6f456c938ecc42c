//! One transaction: what goes into it, sending it, and what is no longer waited for then.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::time::Duration;

use federation::{Limits, MAX_EDUS, MAX_PDUS};
use ruma::{ServerName, api::federation::transactions::send_transaction_message};
use serde_json::value::RawValue;

use super::{Exchange, lasting::Lasting, outbound::Waiting, passing::Passing};
use crate::{
    rooms::RoomError,
    storage::{Batch, Json, Range, StorageError, intern::RoomNumber, schema::WAITING},
};

/// What a transaction may take.
const TRANSACTION: Limits = Limits { timeout: Duration::from_mins(1), max_bytes: 1 << 20 };
/// Of a room with more events than this, a server that was away for long is sent the newest alone.
const CATCH_UP_OVER: usize = 50;

/// What a transaction carries, and what is done once it is taken.
#[derive(Default)]
pub(super) struct Load {
    pdus: Vec<Box<RawValue>>,
    lasting: Lasting,
    pub(super) passing: Passing,
    /// The marks it covers: as they were, and from where they go on.
    marks: Vec<(RoomNumber, Waiting, u64)>,
    pub(super) more: bool,
}

impl Load {
    /// Whether nothing is to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.pdus.is_empty() && self.lasting.edus.is_empty() && self.passing.is_empty()
    }
}

impl Exchange {
    /// What waits for a server, as much as one transaction holds.
    pub(super) async fn load_for(&self, server: &ServerName) -> Result<Load, RoomError> {
        let lasting = self.lasting_for(server).await?;
        let (passing, is_behind) = {
            let mut known = self.shared.senders.known.lock();
            let waiting = known.entry(server.to_owned()).or_default();
            let room_left = MAX_EDUS.saturating_sub(lasting.edus.len());
            (waiting.passing.take(room_left), waiting.state.is_behind())
        };
        let more = lasting.more;
        let mut load = Load { lasting, passing, more, ..Load::default() };
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
    pub(super) async fn deliver(&self, server: &ServerName, load: &Load) -> Result<(), String> {
        let id = self.federation.transaction_id();
        let mut request = send_transaction_message::v1::Request::new(
            id,
            self.rooms.server_name().to_owned(),
            self.clock.now(),
        );
        request.pdus.clone_from(&load.pdus);
        request.edus = load.lasting.edus.iter().cloned().chain(load.passing.edus()).collect();
        let answer = self.federation.tell(server, request, TRANSACTION).await;
        let answer = answer.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })?;
        for (event, result) in answer.pdus {
            if let Err(why) = result {
                tracing::debug!(%server, %event, why, "an event was refused");
            }
        }
        Ok(())
    }

    /// Takes marks away that are done with, or moves them on.
    pub(super) async fn advance(&self, server: &ServerName, load: &Load) -> Result<(), RoomError> {
        self.done_with(server, &load.lasting).await?;
        for (room, mark, next) in &load.marks {
            let key = (server, *room);
            let mut seen = *mark;
            loop {
                let mut batch = Batch::unsynced();
                WAITING.require_equals(&mut batch, &key, &Json(seen));
                if *next > seen.until {
                    WAITING.delete(&mut batch, &key);
                } else {
                    WAITING.put(&mut batch, &key, &Json(Waiting { from: *next, ..seen }));
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
}
