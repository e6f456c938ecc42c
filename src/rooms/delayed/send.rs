//! Sending what is due.

use std::time::Duration;

use ruma::{EventId, OwnedEventId};
use tokio::time::sleep;

use super::{DelayedError, DelayedEvent, DelayedEvents, Ending};
use crate::{
    rooms::{
        Rooms,
        error::RoomError,
        event::{Draft, content},
        writer::{RoomWriter, Transaction},
    },
    shutdown::Stopping,
    storage::{
        Batch, Json, Range, StorageError,
        schema::{ACCOUNTS, DELAYED_DUE, DELAYED_EVENTS},
    },
    users::session::Session,
};

/// How many are read at a time.
const STEP: usize = 100;
/// How long after a failure of the database it is tried again.
const REST: Duration = Duration::from_secs(5);
/// The longest sleep: the machine's clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// What a change of a room completes, noted in its batch.
#[derive(Clone, Copy, Debug)]
pub(in crate::rooms) enum Completing<'a> {
    /// Nothing but itself.
    Nothing,
    /// A request: made only if no other answered the transaction.
    Transaction(&'a Transaction),
    /// A delayed event: sent only if nothing else was done with it.
    Delayed(&'a str, &'a DelayedEvent),
}

impl Completing<'_> {
    /// Notes that this event, the last that was appended, completes it.
    pub(in crate::rooms) fn note(self, writer: &mut RoomWriter, event_id: &EventId) {
        match self {
            Self::Nothing => {}
            Self::Transaction(transaction) => writer.require_new(transaction.clone()),
            Self::Delayed(id, event) => {
                let now_ms = writer.rooms.clock().now_ms();
                let sent = event.ended(Ending::Sent(event_id.to_owned()), now_ms);
                sent.replace(&mut writer.batch, id, event);
                if let Some(added) = writer.added.last_mut() {
                    added.record.delay_id = Some(id.into());
                }
            }
        }
    }
}

impl Rooms {
    /// Sends a delayed event as if its sender did now.
    async fn send_delayed(&self, id: &str, event: &DelayedEvent) -> Result<(), RoomError> {
        let user = event.user();
        let account = ACCOUNTS.get(self.db(), &user).await?;
        if account.is_some_and(|Json(account)| account.locked || account.suspended) {
            let why = "the account is locked or suspended".to_owned();
            return Err(RoomError::Forbidden { why });
        }
        let session = Session {
            user_id: self.db().users().name(self.db(), user).await?,
            user,
            device_id: event.device.clone(),
            guest: event.guest,
            appservice: None,
        };
        let room = self.numbered(event.room()).await?;
        let content = content(event.content.get())?;
        let (event_type, completing) = (&*event.event_type, Completing::Delayed(id, event));
        let sent: Result<OwnedEventId, RoomError> = if let Some(state_key) = &event.state_key {
            self.put_state(&session, &room, event_type, state_key, content, completing).await
        } else if event_type == "m.room.redaction" {
            let target = super::super::send::redacted_by(&content)?;
            self.redact_in(&session, &room, &target, content, completing).await
        } else {
            let draft = Draft::message(event_type, content);
            self.retried(|| self.try_send(&session, &room, draft.clone(), completing)).await
        };
        sent.map(|_| ())
    }
}

impl DelayedEvents {
    /// Sends one now; it ends even if the room does not take it.
    pub(super) async fn send(&self, id: &str, event: &DelayedEvent) -> Result<(), DelayedError> {
        let refused = match self.rooms.send_delayed(id, event).await {
            Ok(()) => {
                self.changed.notify_one();
                return Ok(self.forget_oldest(event.user()).await?);
            }
            // Nothing is known of what the room says to it: it is tried again.
            Err(
                error @ (RoomError::Storage(_)
                | RoomError::NotLoaded { .. }
                | RoomError::Corrupt { .. }),
            ) => return Err(error.into()),
            Err(error) => error,
        };
        let forbidden = matches!(refused, RoomError::Forbidden { .. });
        let ending = Ending::Refused { forbidden, error: refused.to_string() };
        self.replace(id, event, &event.ended(ending, self.now_ms())).await?;
        Err(refused.into())
    }

    /// Sends all that is due, in order, and forgets what ended long ago. When the next one is due,
    /// in ms since the Unix epoch.
    ///
    /// # Errors
    /// [`StorageError`] if something is left that is due.
    pub(super) async fn send_due(&self) -> Result<Option<u64>, StorageError> {
        let mut failure = None;
        let mut range = Range::all();
        loop {
            let rows = DELAYED_DUE.scan(self.db(), &range, STEP).await?;
            let more = rows.len() == STEP;
            for ((due_ms, id), ()) in rows {
                if due_ms > self.now_ms() {
                    return failure.map_or(Ok(Some(due_ms)), Err);
                }
                if let Err(error) = self.settle(due_ms, &id).await {
                    // Others are not kept waiting by it.
                    tracing::error!(%error, "a delayed event could not be sent");
                    failure = Some(error);
                }
                range = Range::all().after(&(due_ms, id));
            }
            if !more {
                return failure.map_or(Ok(None), Err);
            }
        }
    }

    /// Does what is due with one.
    async fn settle(&self, due_ms: u64, id: &str) -> Result<(), StorageError> {
        let event = DELAYED_EVENTS.get(self.db(), id).await?.map(|Json(event)| event);
        let mut batch = Batch::unsynced();
        match event.filter(|event| event.due_ms() == due_ms) {
            Some(event) if event.ended.is_none() => match self.send(id, &event).await {
                // Restarted or cancelled at the last moment: that is what holds.
                Err(DelayedError::Storage(StorageError::Precondition { .. })) | Ok(()) => {
                    return Ok(());
                }
                Err(DelayedError::Storage(error)) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "a delayed event was not sent");
                    return Ok(());
                }
            },
            Some(event) => event.remove(&mut batch, id),
            // Two things were done with it at the same time, and this is left of one.
            None => DELAYED_DUE.delete(&mut batch, &(due_ms, id.to_owned())),
        }
        self.db().commit(batch).await
    }

    /// Sends what is due when it is, what became due while the server was down first, until the
    /// server stops.
    pub(super) async fn run(self, stopping: Stopping) {
        loop {
            let pause = match self.send_due().await {
                Ok(Some(next_ms)) => {
                    Duration::from_millis(next_ms.saturating_sub(self.now_ms())).min(LONGEST_SLEEP)
                }
                Ok(None) => LONGEST_SLEEP,
                Err(_) => REST,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.changed.notified() => {}
                () = stopping.wait() => return,
            }
        }
    }
}
