//! What waits for an application service: rows that are written with the change they tell of.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::registry::{Audience, Registry};
use crate::rooms::record::EventNumber;
use crate::storage::{
    Batch, Json,
    intern::{RoomNumber, UserNumber},
    schema::APPSERVICE_QUEUE,
};

/// Something an application service is to be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Queued {
    /// An event of a room that is here.
    Event {
        /// The room's number.
        room: u64,
        /// The event's number there.
        event: u64,
    },
    /// A member event of a room that is not here, as clients see it.
    Outside(Box<RawValue>),
    /// A read receipt.
    Ephemeral(Box<RawValue>),
    /// A message to a device.
    ToDevice {
        /// Whose device; told of its keys as well.
        user: OwnedUserId,
        /// The message as the service gets it.
        message: Box<RawValue>,
    },
}

impl Queued {
    /// An event of a room that is here.
    pub(crate) fn event(room: RoomNumber, event: EventNumber) -> Self {
        Self::Event { room: room.0, event: event.0 }
    }
}

/// How far an application service is.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    /// The number of the next transaction.
    pub(crate) next_transaction: u64,
    /// The transaction that is made and not acknowledged.
    pub(crate) pending: Option<u64>,
    /// How often that was sent in vain.
    pub(crate) failures: u32,
    /// When it is sent again, in ms since the Unix epoch.
    pub(crate) retry_at_ms: u64,
    /// Up to which stream position it was told of device lists; none: it was not there yet.
    pub(crate) device_lists: Option<u64>,
}

/// A device that a message is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient<'a> {
    /// The user.
    pub(crate) user: UserNumber,
    /// The same.
    pub(crate) user_id: &'a UserId,
    /// The device.
    pub(crate) device_id: &'a DeviceId,
}

/// A message to a device, as application services get it.
#[derive(Serialize)]
struct Addressed<'a> {
    #[serde(flatten)]
    message: BTreeMap<&'a str, &'a RawValue>,
    to_user_id: &'a UserId,
    to_device_id: &'a DeviceId,
}

impl Registry {
    /// Queues a message to a device, a JSON object, for whom the device's user concerns. Whether that
    /// is all: the device is held by one of them, and syncs from nowhere else.
    ///
    /// # Errors
    /// [`serde_json::Error`] if the message is no JSON object.
    pub(crate) fn queue_to_device(
        &self,
        batch: &mut Batch,
        place: (u64, u32),
        to: Recipient<'_>,
        message: &[u8],
    ) -> Result<bool, serde_json::Error> {
        let audience = self.with_ephemeral(self.of_user(to.user, to.user_id));
        if audience.is_empty() {
            return Ok(false);
        }
        let message: BTreeMap<&str, &RawValue> = serde_json::from_slice(message)?;
        let message = Addressed { message, to_user_id: to.user_id, to_device_id: to.device_id };
        let message = serde_json::value::to_raw_value(&message)?;
        let what = Queued::ToDevice { user: to.user_id.to_owned(), message };
        self.queue(batch, audience, place, &what);
        let mut told = self.named(audience);
        Ok(told.any(|service| service.holds_devices_of(to.user_id)))
    }

    /// Queues something for an audience, at a stream position and a place among what has the same
    /// one; they are woken when it is visible.
    pub(crate) fn queue(
        &self,
        batch: &mut Batch,
        audience: Audience,
        (position, place): (u64, u32),
        what: &Queued,
    ) {
        if audience.is_empty() {
            return;
        }
        let row = Json(what.clone());
        for service in self.named(audience) {
            APPSERVICE_QUEUE.put(batch, &(service.id(), position, place), &row);
        }
        self.wake(batch, audience);
    }
}
