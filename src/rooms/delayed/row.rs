//! What is kept of a delayed event.

use ruma::{OwnedDeviceId, OwnedEventId, OwnedTransactionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::storage::{
    Batch, Json,
    intern::{RoomNumber, UserNumber},
    schema::{
        DELAYED_DUE, DELAYED_EVENTS, DELAYED_STATE, DELAYED_TRANSACTIONS, USER_DELAYED_EVENTS,
    },
};

/// How long it is told how a delayed event ended, in ms.
pub(super) const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;

/// An event that is to be sent later, or what became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DelayedEvent {
    /// Who scheduled it.
    pub(crate) user: u64,
    /// On which device.
    pub(crate) device: OwnedDeviceId,
    /// Whether the user is a guest.
    pub(crate) guest: bool,
    /// Where it is sent to.
    pub(crate) room: u64,
    /// Its `type`.
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    /// Its `state_key`; none if it is no state event.
    pub(crate) state_key: Option<String>,
    /// Its `content`.
    pub(crate) content: Box<RawValue>,
    /// How long after `running_since_ms` it is sent.
    pub(crate) delay_ms: u64,
    /// When it was scheduled or restarted, in ms since the Unix epoch.
    pub(crate) running_since_ms: u64,
    /// The transaction that scheduled it.
    pub(crate) transaction: Option<OwnedTransactionId>,
    /// How and when it ended, in ms since the Unix epoch; none while it waits.
    pub(crate) ended: Option<(Ending, u64)>,
}

/// How a delayed event ended.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// It was sent as this event.
    Sent(OwnedEventId),
    /// Its sender did not want it any more.
    Cancelled,
    /// Somebody else changed the state that it was to change.
    Overtaken,
    /// The room did not take it.
    Refused {
        /// Its rules stood against it.
        forbidden: bool,
        /// Why.
        error: String,
    },
}

impl DelayedEvent {
    /// Who scheduled it.
    pub(super) fn user(&self) -> UserNumber {
        UserNumber(self.user)
    }

    /// Where it is sent to.
    pub(crate) fn room(&self) -> RoomNumber {
        RoomNumber(self.room)
    }

    /// When something is to be done with it, in ms since the Unix epoch: sent, or forgotten.
    pub(super) fn due_ms(&self) -> u64 {
        match &self.ended {
            None => self.running_since_ms.saturating_add(self.delay_ms),
            Some((_, at_ms)) => at_ms.saturating_add(REMEMBERED_MS),
        }
    }

    /// Its place among the user's: those that wait come first.
    fn place(&self, id: &str) -> (UserNumber, u64, String) {
        (self.user(), self.ended.as_ref().map_or(0, |(_, at_ms)| *at_ms), id.to_owned())
    }

    fn state(&self, id: &str) -> Option<(RoomNumber, String, String, String)> {
        let state_key = self.state_key.clone()?;
        Some((self.room(), self.event_type.clone(), state_key, id.to_owned()))
    }

    /// The transaction that scheduled it, as a key.
    pub(super) fn transaction(
        &self,
    ) -> Option<(UserNumber, OwnedDeviceId, String, OwnedTransactionId)> {
        let kind = format!("{}/{}", self.room, self.event_type);
        Some((self.user(), self.device.clone(), kind, self.transaction.clone()?))
    }

    /// Queues all rows of a new one.
    pub(super) fn insert(&self, batch: &mut Batch, id: &str) {
        if let Some(transaction) = self.transaction() {
            DELAYED_TRANSACTIONS.require_absent(batch, &transaction);
            DELAYED_TRANSACTIONS.put(batch, &transaction, &id.to_owned());
        }
        if let Some(state) = self.state(id) {
            DELAYED_STATE.put(batch, &state, &());
        }
        self.put(batch, id);
    }

    fn put(&self, batch: &mut Batch, id: &str) {
        DELAYED_EVENTS.put(batch, id, &Json(self.clone()));
        DELAYED_DUE.put(batch, &(self.due_ms(), id.to_owned()), &());
        USER_DELAYED_EVENTS.put(batch, &self.place(id), &());
    }

    /// Queues this in place of what it was. The batch fails if that has changed meanwhile.
    pub(super) fn replace(&self, batch: &mut Batch, id: &str, old: &Self) {
        DELAYED_EVENTS.require_equals(batch, id, &Json(old.clone()));
        self.put_over(batch, id, old);
    }

    /// The same without the condition. What is left of another change at the same time is cleared
    /// away when it is due.
    pub(super) fn put_over(&self, batch: &mut Batch, id: &str, old: &Self) {
        DELAYED_DUE.delete(batch, &(old.due_ms(), id.to_owned()));
        USER_DELAYED_EVENTS.delete(batch, &old.place(id));
        if self.ended.is_some()
            && let Some(state) = self.state(id)
        {
            DELAYED_STATE.delete(batch, &state);
        }
        self.put(batch, id);
    }

    /// Queues the removal of everything.
    pub(super) fn remove(&self, batch: &mut Batch, id: &str) {
        DELAYED_EVENTS.delete(batch, id);
        DELAYED_DUE.delete(batch, &(self.due_ms(), id.to_owned()));
        USER_DELAYED_EVENTS.delete(batch, &self.place(id));
        if let Some(state) = self.state(id) {
            DELAYED_STATE.delete(batch, &state);
        }
        if let Some(transaction) = self.transaction() {
            DELAYED_TRANSACTIONS.delete(batch, &transaction);
        }
    }

    /// The same one, ended.
    pub(super) fn ended(&self, ending: Ending, now_ms: u64) -> Self {
        Self { ended: Some((ending, now_ms)), ..self.clone() }
    }
}
