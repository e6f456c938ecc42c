//! Events on their way to other servers.
//!
//! A row of the outbox says that an event of ours is to be sent. It is turned into marks: this
//! server waits for events of that room, from this stream position up to that. Transactions are
//! made of what the marks say and the timelines hold, so an event is never written down once more
//! for each server.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use federation::{Backoff, Destination, Limits, MAX_EDUS, MAX_PDUS, Next};
use parking_lot::Mutex;
use ruma::{
    EventId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::transactions::{
        edu::{Edu, ReceiptContent, ReceiptData, ReceiptMap},
        send_transaction_message,
    },
    events::receipt::{Receipt, ReceiptThread},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::Exchange;
use crate::{
    rooms::{Room, RoomError, record::EventRecord},
    shutdown::Stopping,
    storage::{
        Batch, Json, Range, StorageError,
        intern::RoomNumber,
        schema::{DESTINATIONS, EVENTS, OUTBOX, WAITING},
    },
};

/// What a transaction may take.
const TRANSACTION: Limits = Limits { timeout: Duration::from_mins(1), max_bytes: 1 << 20 };
/// How many rows of the outbox are worked on at once.
const STEP: usize = 100;
/// How many EDUs wait for a server; the oldest go first.
const MAX_WAITING_EDUS: usize = 200;

/// That a server waits for events of a room: those with stream positions from `from` to `until`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Waiting {
    pub(super) from: u64,
    pub(super) until: u64,
}

/// The destinations that something is to be sent to, or was lately.
#[derive(Default)]
pub(super) struct Senders {
    known: Mutex<BTreeMap<OwnedServerName, Sender>>,
    changed: Notify,
}

#[derive(Default)]
struct Sender {
    state: Destination,
    edus: VecDeque<Raw<Edu>>,
}

/// What a transaction carries, and what is done once it is taken.
struct Load {
    pdus: Vec<Box<RawValue>>,
    edus: Vec<Raw<Edu>>,
    /// The marks it covers: as they were, and from where they go on.
    marks: Vec<(RoomNumber, Waiting, u64)>,
    more: bool,
}

impl Exchange {
    /// Takes over what is in the outbox and sends what waits, until the server stops.
    pub(super) async fn run_outbound(&self, stopping: Stopping) {
        if let Err(error) = self.resume_sending().await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "what other servers wait for can't be read");
        }
        loop {
            if let Err(error) = self.distribute().await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the outbox can't be worked through");
            }
            let next = self.start_sending();
            let pause = next.map_or(Duration::from_mins(1), |at| {
                Duration::from_millis(at.saturating_sub(self.clock.now_ms()).max(1))
            });
            tokio::select! {
                () = stopping.wait() => return,
                () = self.rooms.outbox_changed().notified() => {}
                () = self.shared.senders.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Destinations as they were before a restart.
    async fn resume_sending(&self) -> Result<(), RoomError> {
        let mut range = Range::all();
        while let Some(((server, _), _)) = WAITING.scan(&self.db, &range, 1).await?.pop() {
            let backoff = DESTINATIONS.get(&self.db, &server).await?;
            let backoff = backoff.map(|Json(backoff)| backoff).unwrap_or_default();
            let state = Destination::restored(backoff);
            range = range.after(&(&*server, RoomNumber(u64::MAX)));
            let sender = Sender { state, edus: VecDeque::new() };
            self.shared.senders.known.lock().insert(server, sender);
        }
        Ok(())
    }

    /// Turns rows of the outbox into marks.
    async fn distribute(&self) -> Result<(), RoomError> {
        loop {
            let rows = OUTBOX.scan(&self.db, &Range::all(), STEP).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let records = EVENTS.multi_get(&self.db, rows.iter().map(|(_, event)| *event)).await?;
            let mut marks: BTreeMap<(OwnedServerName, RoomNumber), Waiting> = BTreeMap::new();
            let mut batch = Batch::unsynced();
            for ((position, (number, _)), record) in rows.into_iter().zip(records) {
                OUTBOX.delete(&mut batch, &position);
                let Some(record) = record else { continue };
                let room = self.rooms.numbered(number).await?;
                for server in self.destinations(&room, &record) {
                    let mark = marks.entry((server, number));
                    let mark = mark.or_insert(Waiting { from: position, until: position });
                    mark.from = mark.from.min(position);
                    mark.until = mark.until.max(position);
                }
            }
            let old = WAITING.multi_get(&self.db, marks.keys().cloned()).await?;
            for ((key, mark), old) in marks.iter().zip(old) {
                let old = old.map_or(*mark, |Json(old)| old);
                let both =
                    Waiting { from: mark.from.min(old.from), until: mark.until.max(old.until) };
                WAITING.put(&mut batch, key, &Json(both));
            }
            // If this is lost the outbox still has the rows.
            self.db.commit(batch).await?;
            let mut known = self.shared.senders.known.lock();
            for (server, _) in marks.into_keys() {
                known.entry(server).or_default().state.queued();
            }
        }
    }

    /// Who is to get an event: the other servers in the room, and that of whom it is about.
    fn destinations(&self, room: &Room, event: &EventRecord) -> BTreeSet<OwnedServerName> {
        let mut servers: BTreeSet<OwnedServerName> =
            self.rooms.other_servers(room).into_iter().collect();
        if event.event_type == "m.room.member"
            && !event.content().contains("\"membership\":\"invite\"")
            && let Some(user) = &event.state_key
            && let Ok(user) = OwnedUserId::try_from(user.as_str())
        {
            servers.insert(user.server_name().to_owned());
        }
        servers.remove(self.rooms.server_name());
        // Whoever sent it has it.
        servers.remove(event.sender_id.server_name());
        servers
    }

    /// Starts the transactions whose time has come; says when the next one is due.
    fn start_sending(&self) -> Option<u64> {
        let now = self.clock.now_ms();
        let mut due = None;
        let mut known = self.shared.senders.known.lock();
        known.retain(|_, sender| !sender.state.is_idle() || !sender.edus.is_empty());
        for (server, sender) in known.iter_mut() {
            match sender.state.next(now) {
                Next::Send => {
                    let (exchange, server) = (self.clone(), server.clone());
                    tokio::spawn(async move { exchange.send_to(&server).await });
                }
                Next::Wait(at) => due = Some(due.unwrap_or(at).min(at)),
                Next::Rest => {}
            }
        }
        due
    }

    /// One transaction.
    async fn send_to(&self, server: &ServerName) {
        let load = self.load_for(server).await;
        let outcome = match load {
            Ok(load) if load.pdus.is_empty() && load.edus.is_empty() => {
                self.advance(server, &load.marks).await.map(|()| None)
            }
            Ok(load) => match self.deliver(server, &load).await {
                Ok(()) => self.advance(server, &load.marks).await.map(|()| Some(load.more)),
                Err(error) => {
                    tracing::debug!(%server, error, "a transaction was not taken");
                    self.failed(server, load.edus).await;
                    return;
                }
            },
            Err(error) => Err(error),
        };
        let had_failed = {
            let mut known = self.shared.senders.known.lock();
            let sender = known.entry(server.to_owned()).or_default();
            let had_failed = sender.state.backoff() != Backoff::default();
            match outcome {
                Ok(Some(more)) => sender.state.sent(more || !sender.edus.is_empty()),
                Ok(None) => sender.state.empty(),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, %server, "a transaction can't be made");
                    sender.state.failed(self.clock.now_ms(), 0);
                }
            }
            had_failed
        };
        if had_failed {
            self.keep_backoff(server, None).await;
        }
        self.shared.senders.changed.notify_one();
    }

    /// The same is sent again later; EDUs that are replaced by then come first.
    async fn failed(&self, server: &ServerName, edus: Vec<Raw<Edu>>) {
        let backoff = {
            let mut known = self.shared.senders.known.lock();
            let sender = known.entry(server.to_owned()).or_default();
            for edu in edus.into_iter().rev() {
                sender.edus.push_front(edu);
            }
            sender.edus.truncate(MAX_WAITING_EDUS);
            let spread = self.federation.spread();
            sender.state.failed(self.clock.now_ms(), spread);
            sender.state.backoff()
        };
        self.keep_backoff(server, Some(backoff)).await;
        self.shared.senders.changed.notify_one();
    }

    async fn keep_backoff(&self, server: &ServerName, backoff: Option<Backoff>) {
        let mut batch = Batch::unsynced();
        match backoff {
            Some(backoff) => DESTINATIONS.put(&mut batch, server, &Json(backoff)),
            None => DESTINATIONS.delete(&mut batch, server),
        }
        if let Err(error) = self.db.commit(batch).await {
            tracing::error!(%error, "the pause of a server can't be kept");
        }
    }

    /// What waits for a server, as much as one transaction holds.
    async fn load_for(&self, server: &ServerName) -> Result<Load, RoomError> {
        let edus: Vec<Raw<Edu>> = {
            let mut known = self.shared.senders.known.lock();
            let waiting = known.entry(server.to_owned()).or_default();
            let count = waiting.edus.len().min(MAX_EDUS);
            waiting.edus.drain(..count).collect()
        };
        let mut load = Load { pdus: Vec::new(), edus, marks: Vec::new(), more: false };
        let marks = WAITING.scan(&self.db, &Range::prefix(&(server,)), MAX_PDUS + 1).await?;
        for ((_, number), Json(mark)) in marks {
            let room_left = MAX_PDUS.saturating_sub(load.pdus.len());
            if room_left == 0 {
                load.more = true;
                break;
            }
            let (events, next) =
                self.rooms.events_to_send(number, mark.from, mark.until, room_left).await?;
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

    async fn deliver(&self, server: &ServerName, load: &Load) -> Result<(), String> {
        let id = self.federation.transaction_id();
        let mut request = send_transaction_message::v1::Request::new(
            id,
            self.rooms.server_name().to_owned(),
            self.clock.now(),
        );
        request.pdus.clone_from(&load.pdus);
        request.edus.clone_from(&load.edus);
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
    async fn advance(
        &self,
        server: &ServerName,
        marks: &[(RoomNumber, Waiting, u64)],
    ) -> Result<(), RoomError> {
        for (room, mark, next) in marks {
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

    /// A request came from `server`: what waits for it is sent now.
    pub(crate) fn heard_of(&self, server: &ServerName) {
        let mut known = self.shared.senders.known.lock();
        if known.get_mut(server).is_some_and(|sender| sender.state.contacted()) {
            self.shared.senders.changed.notify_one();
        }
    }

    /// Tells the other servers in a room how far a user has read: `thread` is empty for a receipt
    /// without one.
    pub(crate) fn send_receipt(&self, room: &Room, user: &UserId, event: &EventId, thread: &str) {
        let mut receipt = Receipt::new(self.clock.now());
        receipt.thread = match thread {
            "" => ReceiptThread::Unthreaded,
            "main" => ReceiptThread::Main,
            thread => match EventId::parse(thread) {
                Ok(thread) => ReceiptThread::Thread(thread),
                Err(_) => return,
            },
        };
        let data = ReceiptData::new(receipt, vec![event.to_owned()]);
        let map = ReceiptMap::new([(user.to_owned(), data)].into());
        let content = ReceiptContent::new([(room.id.clone(), map)].into());
        self.send_edu(room, &Edu::Receipt(content));
    }

    /// Sends an EDU to the other servers in a room. It may be lost: it is soon replaced.
    pub(crate) fn send_edu(&self, room: &Room, edu: &Edu) {
        if !self.federation.is_enabled() {
            return;
        }
        let servers = self.rooms.other_servers(room);
        if servers.is_empty() {
            return;
        }
        let Ok(edu) = Raw::new(edu) else { return };
        let mut known = self.shared.senders.known.lock();
        for server in servers {
            let sender = known.entry(server).or_default();
            sender.edus.push_back(edu.clone());
            if sender.edus.len() > MAX_WAITING_EDUS {
                sender.edus.pop_front();
            }
            sender.state.queued();
        }
        self.shared.senders.changed.notify_one();
    }
}
