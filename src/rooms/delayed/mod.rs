//! Events that are sent later, unless their sender changes that: MSC4140.
//!
//! A call that ends because its client is gone leaves nothing behind: the client schedules its own
//! leaving and keeps putting it off while it is there. What waits is durable; whether the room takes
//! it is decided when it is sent.

mod error;
mod row;
mod send;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use moka::sync::Cache;
use ruma::{CanonicalJsonObject, OwnedTransactionId, RoomId};
use serde_json::value::RawValue;
use tokio::sync::{Mutex, Notify};

use super::{
    Rooms,
    error::RoomError,
    event::{self, MAX_FIELD_BYTES},
    record::Membership,
};
use crate::{
    config::{self, RateLimits},
    shutdown::Stopping,
    storage::{
        Batch, Db, Json, Range, StorageError,
        intern::UserNumber,
        schema::{DELAYED_EVENTS, DELAYED_TRANSACTIONS, USER_DELAYED_EVENTS},
    },
    users::{
        limits::{LimitExceeded, Limits},
        session::Session,
    },
};

pub(crate) use error::DelayedError;
pub(crate) use row::{DelayedEvent, Ending};
pub(super) use send::Completing;
pub(super) use watch::Watched;

/// The largest content: that of an event is smaller.
const MAX_CONTENT_BYTES: usize = 65_536;
/// How many that ended are remembered of one user.
const MAX_ENDED: usize = 100;
/// How many users schedule events at the same time before their turns are forgotten.
const MAX_TURNS: u64 = 10_000;
/// How often a change is tried again when another one was faster.
const ATTEMPTS: usize = 16;

/// The delayed events of this server's users.
#[derive(Clone)]
pub(crate) struct DelayedEvents {
    rooms: Rooms,
    limits: Limits,
    settings: config::DelayedEvents,
    changed: Arc<Notify>,
    /// Scheduling is one at a time for each user, so that none has more than allowed.
    turns: Cache<UserNumber, Arc<Mutex<()>>>,
}

/// What is to be sent, and when.
#[derive(Debug)]
pub(crate) struct NewDelayed {
    /// The `type`.
    pub(crate) event_type: String,
    /// The `state_key` of a state event.
    pub(crate) state_key: Option<String>,
    /// The `content`.
    pub(crate) content: CanonicalJsonObject,
    /// From now on, in ms.
    pub(crate) delay_ms: u64,
    /// Makes a retry of the request harmless.
    pub(crate) transaction: Option<OwnedTransactionId>,
}

/// What can be done with a delayed event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// It is not sent.
    Cancel,
    /// The delay begins anew.
    Restart,
    /// It is sent now.
    Send,
}

impl DelayedEvents {
    /// Delayed events, as configured. Those that wait are sent by `run`.
    ///
    /// # Errors
    /// [`StorageError`] if those that wait can't be read.
    async fn load(
        rooms: Rooms,
        settings: config::DelayedEvents,
        limits: &RateLimits,
    ) -> Result<Self, StorageError> {
        rooms.shared.watched.load(rooms.db()).await?;
        let limits = Limits::new(limits, rooms.clock().clone());
        let turns = Cache::new(MAX_TURNS);
        Ok(Self { rooms, limits, settings, changed: Arc::default(), turns })
    }

    /// The same, with a task that sends what is due until the server stops.
    ///
    /// # Errors
    /// [`StorageError`] if those that wait can't be read.
    pub(crate) async fn start(
        rooms: Rooms,
        config: &config::Config,
        stopping: Stopping,
    ) -> Result<Self, StorageError> {
        let settings = config.delayed_events.clone();
        let delayed = Self::load(rooms, settings, &config.rate_limits).await?;
        tokio::spawn(delayed.clone().run(stopping));
        Ok(delayed)
    }

    fn db(&self) -> &Db {
        self.rooms.db()
    }

    fn now_ms(&self) -> u64 {
        self.rooms.clock().now_ms()
    }

    /// Schedules an event. The same transaction of the same device is answered with the same ID.
    ///
    /// # Errors
    /// [`DelayedError::Off`], [`DelayedError::TooLong`], [`DelayedError::TooMany`],
    /// [`DelayedError::Limit`]; [`RoomError::NotInRoom`] for somebody who is not in the room now.
    pub(crate) async fn schedule(
        &self,
        session: &Session,
        room_id: &RoomId,
        new: NewDelayed,
    ) -> Result<String, DelayedError> {
        let max_ms = self.settings.max_delay_ms;
        if max_ms == 0 {
            return Err(DelayedError::Off);
        }
        if new.delay_ms == 0 {
            return Err(DelayedError::NoDelay);
        }
        if new.delay_ms > max_ms {
            return Err(DelayedError::TooLong { max_ms });
        }
        self.limits.delayed_by(session.user)?;
        let content = event::json(&new.content);
        let too_large = |what, limit| Err(RoomError::TooLarge { what, limit }.into());
        if content.len() > MAX_CONTENT_BYTES {
            return too_large("content", MAX_CONTENT_BYTES);
        }
        let transaction = new.transaction.as_ref().map(|id| id.as_str());
        let fields = [Some(new.event_type.as_str()), new.state_key.as_deref(), transaction];
        for field in fields.into_iter().flatten() {
            if field.len() > MAX_FIELD_BYTES {
                return too_large("type, state key or transaction ID", MAX_FIELD_BYTES);
            }
            if field.contains('\0') {
                let why = "types and keys are without zero bytes".to_owned();
                return Err(RoomError::InvalidParam { why }.into());
            }
        }
        let room = self.rooms.room(room_id).await?;
        let row = self.rooms.user_room(session.user, room.number).await?;
        if row.is_none_or(|row| row.membership != Membership::Join) {
            return Err(RoomError::NotInRoom { room: room_id.to_owned() }.into());
        }
        let now_ms = self.now_ms();
        let delayed = DelayedEvent {
            user: session.user.0,
            device: session.device_id.clone(),
            guest: session.guest,
            room: room.number.0,
            event_type: new.event_type,
            state_key: new.state_key,
            content: RawValue::from_string(content)
                .map_err(|error| RoomError::BadEvent { why: error.to_string() })?,
            delay_ms: new.delay_ms,
            running_since_ms: now_ms,
            transaction: new.transaction,
            ended: None,
        };
        let turn = self.turns.get_with(session.user, Arc::default);
        let _turn = turn.lock().await;
        if let Some(transaction) = delayed.transaction()
            && let Some(id) = DELAYED_TRANSACTIONS.get(self.db(), &transaction).await?
        {
            return Ok(id);
        }
        self.check_count(session.user, now_ms).await?;
        let id = self.rooms.shared.random.token::<24>();
        let mut batch = Batch::new();
        delayed.insert(&mut batch, &id);
        if delayed.state_key.is_some() {
            self.rooms.shared.watched.add(room.number);
        }
        self.db().commit(batch).await?;
        self.changed.notify_one();
        Ok(id)
    }

    /// Whether the user may schedule one more.
    async fn check_count(&self, user: UserNumber, now_ms: u64) -> Result<(), DelayedError> {
        let max = usize::try_from(self.settings.max_scheduled).unwrap_or(usize::MAX);
        let waiting = self.ids(user, true, max).await?;
        if waiting.len() < max {
            return Ok(());
        }
        let waiting = self.read(waiting).await?;
        let next_ms = waiting.iter().map(|(_, event)| event.due_ms()).min().unwrap_or(now_ms);
        let wait_ms = next_ms.saturating_sub(now_ms).max(1_000);
        let retry_after = std::time::Duration::from_millis(wait_ms);
        Err(DelayedError::TooMany(LimitExceeded { retry_after }))
    }

    /// The IDs of a user's, those that wait or those that ended.
    async fn ids(
        &self,
        user: UserNumber,
        waiting: bool,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        let range = Range::prefix(&(user,));
        let first_ended = (user, 1, String::new());
        let range = if waiting { range.before(&first_ended) } else { range.from(&first_ended) };
        let rows = USER_DELAYED_EVENTS.scan(self.db(), &range, limit).await?;
        Ok(rows.into_iter().map(|((_, _, id), ())| id).collect())
    }

    async fn read(&self, ids: Vec<String>) -> Result<Vec<(String, DelayedEvent)>, StorageError> {
        let events = DELAYED_EVENTS.multi_get(self.db(), ids.iter()).await?;
        let events = ids.into_iter().zip(events);
        Ok(events.filter_map(|(id, event)| Some((id, event?.0))).collect())
    }

    /// A user's delayed events in the order in which they are sent; those that ended, in the order
    /// in which they did.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn list(
        &self,
        user: UserNumber,
        waiting: bool,
    ) -> Result<Vec<(String, DelayedEvent)>, StorageError> {
        let mut events = self.read(self.ids(user, waiting, usize::MAX).await?).await?;
        events.retain(|(_, event)| event.ended.is_none() == waiting);
        if waiting {
            events.sort_by_key(|(_, event)| event.due_ms());
        }
        Ok(events)
    }

    /// One of a user's.
    ///
    /// # Errors
    /// [`DelayedError::Unknown`].
    pub(crate) async fn get(
        &self,
        user: UserNumber,
        id: &str,
    ) -> Result<DelayedEvent, DelayedError> {
        let event = self.find(id).await?;
        if event.user() == user { Ok(event) } else { Err(DelayedError::Unknown) }
    }

    async fn find(&self, id: &str) -> Result<DelayedEvent, DelayedError> {
        // A longer one is none of this server's, and may be longer than keys can be.
        let known = if id.len() <= MAX_FIELD_BYTES && !id.contains('\0') {
            DELAYED_EVENTS.get(self.db(), id).await?
        } else {
            None
        };
        known.map(|Json(event)| event).ok_or(DelayedError::Unknown)
    }

    /// Does something with a delayed event. Whoever knows its ID may: `by` is counted, or the
    /// address that asks.
    ///
    /// # Errors
    /// [`DelayedError::Unknown`]; [`DelayedError::Ended`] if it ended in another way already;
    /// [`RoomError`] if it is to be sent and the room does not take it.
    pub(crate) async fn act(
        &self,
        by: Result<UserNumber, Option<std::net::IpAddr>>,
        id: &str,
        action: Action,
    ) -> Result<(), DelayedError> {
        match by {
            Ok(user) => self.limits.delayed_by(user)?,
            Err(address) => self.limits.delayed_from(address)?,
        }
        for _ in 0..ATTEMPTS {
            let event = self.find(id).await?;
            match (&event.ended, action) {
                (Some((Ending::Cancelled, _)), Action::Cancel)
                | (Some((Ending::Sent(_), _)), Action::Send) => return Ok(()),
                (Some(_), _) => return Err(DelayedError::Ended),
                (None, _) => {}
            }
            let done = match action {
                Action::Cancel => {
                    self.replace(id, &event, &event.ended(Ending::Cancelled, self.now_ms())).await
                }
                Action::Restart => {
                    let running_since_ms = self.now_ms();
                    let restarted = DelayedEvent { running_since_ms, ..event.clone() };
                    self.replace(id, &event, &restarted).await
                }
                Action::Send => self.send(id, &event).await,
            };
            match done {
                // Something else was done with it at the same time.
                Err(DelayedError::Storage(StorageError::Precondition { .. })) => {}
                done => return done,
            }
        }
        Err(StorageError::Precondition { table: DELAYED_EVENTS.id.name() }.into())
    }

    /// Puts what became of one in its place.
    async fn replace(
        &self,
        id: &str,
        old: &DelayedEvent,
        new: &DelayedEvent,
    ) -> Result<(), DelayedError> {
        let mut batch = Batch::new();
        new.replace(&mut batch, id, old);
        self.db().commit(batch).await?;
        self.changed.notify_one();
        if new.ended.is_some() {
            self.forget_oldest(new.user()).await?;
        }
        Ok(())
    }

    /// Forgets what ended first of a user's, so that no more are kept than are told of.
    async fn forget_oldest(&self, user: UserNumber) -> Result<(), StorageError> {
        let ended = self.ids(user, false, 2 * MAX_ENDED).await?;
        let Some(excess) = ended.len().checked_sub(MAX_ENDED).filter(|excess| *excess > 0) else {
            return Ok(());
        };
        let mut batch = Batch::unsynced();
        for (id, event) in self.read(ended.into_iter().take(excess).collect()).await? {
            if event.ended.is_some() {
                event.remove(&mut batch, &id);
            }
        }
        self.db().commit(batch).await
    }
}
