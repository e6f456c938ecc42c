//! Events on their way to other servers.
//!
//! A row of the outbox says that an event of ours is to be sent. It is turned into marks: this
//! server waits for events of that room, from this stream position up to that. Transactions are
//! made of what the marks say and the timelines hold, so an event is never written down once more
//! for each server.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use federation::{Backoff, Destination, Next};
use parking_lot::Mutex;
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{super::PeerError, Exchange, passing::Passing, transactions::Transaction};
use crate::{
    rooms::{Room, RoomError, record::EventRecord},
    storage::{
        Batch, Json, Range,
        intern::{RoomNumber, UserNumber},
        schema::{DESTINATIONS, EVENTS, OUTBOX, WAITING},
    },
};

/// How many rows of the outbox are worked on at once.
const STEP: usize = 100;
/// How many transactions are on their way at the same time.
const MAX_AT_ONCE: usize = 64;
/// How many of them to servers that did not take the last one: those that are gone keep nobody
/// waiting.
const FAILED_AT_ONCE: usize = 16;

/// That a server waits for events of a room: those with stream positions from `from` to `until`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Waiting {
    pub(super) from: u64,
    pub(super) until: u64,
}

/// The destinations that something is to be sent to, or was lately.
#[derive(Default)]
pub(super) struct Senders {
    pub(super) known: Mutex<BTreeMap<OwnedServerName, Sender>>,
    pub(super) changed: Notify,
    /// Whose turn it is next, if not everybody's was.
    next: Mutex<Option<OwnedServerName>>,
}

#[derive(Default)]
pub(super) struct Sender {
    pub(super) state: Destination,
    pub(super) passing: Passing,
    /// Whether its pause is on disk.
    is_pause_kept: bool,
}

/// What became of a transaction.
enum Sent {
    /// It was taken; `more` may wait.
    Taken { more: bool },
    /// It would have been empty.
    Nothing { more: bool },
    /// It is sent again later.
    NotTaken,
}

impl Exchange {
    /// Takes over what is in the outbox and sends what waits, until the server stops.
    pub(super) async fn run_outbound(&self) {
        let waiter = self.db.wait_for(UserNumber::FOR_OTHER_SERVERS);
        if let Err(error) = self.resume_sending().await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "what other servers wait for can't be read");
        }
        loop {
            let distributed = async {
                self.distribute().await?;
                self.distribute_lasting().await
            };
            if let Err(error) = distributed.await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the outbox can't be worked through");
            }
            let next = self.start_sending();
            let pause = next.map_or(Duration::from_mins(1), |at| {
                Duration::from_millis(at.saturating_sub(self.clock.now_ms()).max(1))
            });
            tokio::select! {
                () = self.shared.stopping.wait() => return,
                () = waiter.woken() => {}
                () = self.rooms.outbox_changed().notified() => {}
                () = self.shared.senders.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Destinations as they were before a restart.
    async fn resume_sending(&self) -> Result<(), RoomError> {
        let mut servers = self.servers_with_lasting().await?;
        let mut range = Range::all();
        while let Some(((server, _), _)) = WAITING.scan(&self.db, &range, 1).await?.pop() {
            range = range.after(&(&*server, RoomNumber(u64::MAX)));
            servers.insert(server);
        }
        servers.extend(self.servers_with_untaken().await?);
        for server in servers {
            let backoff = DESTINATIONS.get(&self.db, &server).await?;
            let is_pause_kept = backoff.is_some();
            let backoff = backoff.map(|Json(backoff)| backoff).unwrap_or_default();
            let state = Destination::restored(backoff);
            let sender = Sender { state, passing: Passing::default(), is_pause_kept };
            self.shared.senders.known.lock().insert(server, sender);
        }
        Ok(())
    }

    /// Something waits for these servers.
    pub(super) fn queued_for(&self, servers: impl IntoIterator<Item = OwnedServerName>) {
        let mut known = self.shared.senders.known.lock();
        for server in servers {
            known.entry(server).or_default().state.queued();
        }
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
            self.queued_for(marks.into_keys().map(|(server, _)| server));
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
        known.retain(|_, sender| {
            !sender.state.is_idle() || !sender.passing.is_empty() || sender.is_pause_kept
        });
        let (mut flying, mut of_failed) = (0, 0);
        for sender in known.values().filter(|sender| sender.state.is_in_flight()) {
            flying += 1;
            of_failed += usize::from(sender.state.backoff() != Backoff::default());
        }
        let mut next = self.shared.senders.next.lock();
        let first = next.take();
        let (after, before): (Vec<_>, Vec<_>) = known
            .iter_mut()
            .partition(|(server, _)| first.as_ref().is_none_or(|first| *server >= first));
        for (server, sender) in after.into_iter().chain(before) {
            let failed = sender.state.backoff() != Backoff::default();
            let is_full = flying >= MAX_AT_ONCE || (failed && of_failed >= FAILED_AT_ONCE);
            if is_full && sender.state.is_due(now) {
                // When one of those on their way is done it goes on here.
                next.get_or_insert_with(|| server.clone());
                continue;
            }
            match sender.state.next(now) {
                Next::Send => {
                    flying += 1;
                    of_failed += usize::from(failed);
                    let (exchange, server) = (self.clone(), server.clone());
                    tokio::spawn(async move { exchange.send_to(&server).await });
                }
                Next::Wait(at) => due = Some(due.unwrap_or(at).min(at)),
                Next::Rest => {}
            }
        }
        due
    }

    /// One transaction: first the one that was not taken the last time.
    async fn send_to(&self, server: &ServerName) {
        let outcome = match self.untaken(server).await {
            Ok(Some(again)) => self.send_load(server, again, true).await,
            Ok(None) => match self.load_for(server).await {
                Ok(load) => self.send_load(server, load, false).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error.into()),
        };
        let was_pause_kept = {
            let mut known = self.shared.senders.known.lock();
            let sender = known.entry(server.to_owned()).or_default();
            let mut was_pause_kept = false;
            match outcome {
                Ok(Sent::Taken { more }) => {
                    sender.state.sent(more || !sender.passing.is_empty());
                    was_pause_kept = std::mem::take(&mut sender.is_pause_kept);
                }
                Ok(Sent::Nothing { more }) => {
                    sender.state.empty(more);
                    if !more && sender.state.backoff() == Backoff::default() {
                        // It spoke to us, and nothing waits for it any more.
                        was_pause_kept = std::mem::take(&mut sender.is_pause_kept);
                    }
                }
                // What follows from that is done already.
                Ok(Sent::NotTaken) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, %server, "a transaction can't be made");
                    sender.state.failed(self.clock.now_ms(), 0);
                }
            }
            was_pause_kept
        };
        if was_pause_kept {
            self.keep_backoff(server, None).await;
        }
        self.shared.senders.changed.notify_one();
    }

    async fn send_load(
        &self,
        server: &ServerName,
        load: Transaction,
        is_kept: bool,
    ) -> Result<Sent, RoomError> {
        let more = load.more;
        if load.is_empty() {
            self.advance(server, &load).await?;
            return Ok(Sent::Nothing { more });
        }
        match self.deliver(server, &load).await {
            Ok(()) => {
                self.advance(server, &load).await?;
                if is_kept {
                    self.forget_untaken(server).await?;
                }
                Ok(Sent::Taken { more })
            }
            Err(error) => {
                tracing::debug!(
                    %server, error = &error as &dyn std::error::Error, "a transaction was not taken"
                );
                if !is_kept {
                    self.keep_untaken(server, load).await?;
                }
                self.failed(server, &error).await?;
                Ok(Sent::NotTaken)
            }
        }
    }

    /// The same is sent again later.
    async fn failed(&self, server: &ServerName, error: &PeerError) -> Result<(), RoomError> {
        let (backoff, is_gone) = {
            let mut known = self.shared.senders.known.lock();
            let sender = known.entry(server.to_owned()).or_default();
            sender.is_pause_kept = true;
            let spread = self.federation.spread();
            sender.state.failed(self.clock.now_ms(), spread);
            (sender.state.backoff(), sender.state.is_behind())
        };
        self.keep_backoff(server, Some(backoff)).await;
        if !is_gone {
            return Ok(());
        }
        let given_up = self.e2ee.to_device.give_up_old(server).await?;
        if given_up > 0 {
            tracing::warn!(
                %server, given_up,
                "messages to devices of a server that is gone were given up"
            );
        }
        // A server that is there and will not have this one may take another.
        if matches!(error, PeerError::Refused { status, .. } if status.is_client_error()) {
            tracing::warn!(%server, error = error as &dyn std::error::Error, "a transaction is given up");
            self.forget_untaken(server).await?;
        }
        Ok(())
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

    /// A request came from `server`: what waits for it is sent now.
    pub(crate) fn heard_of(&self, server: &ServerName) {
        let mut known = self.shared.senders.known.lock();
        if known.get_mut(server).is_some_and(|sender| sender.state.contacted()) {
            self.shared.senders.changed.notify_one();
        }
    }
}
