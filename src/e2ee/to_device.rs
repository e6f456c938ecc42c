//! Messages from device to device: kept until the device has them, in order, once.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging>

mod bounds;
mod elsewhere;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, TransactionId, UserId,
    serde::Raw, to_device::DeviceIdOrAllDevices,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{ATTEMPTS, E2eeError};
use crate::{
    appservice::{Appservices, queue::Recipient},
    clock::{Clock, Random},
    storage::{
        Batch, Db, Json, Range, Read, StorageError,
        intern::UserNumber,
        schema::{DEVICES, SHORT_LIVED, TO_DEVICE},
    },
    users::{
        limits::Limits,
        rows::Fact,
        session::Session,
        short_lived::{self, ShortLivedFacts},
    },
};

/// How long a transaction ID is remembered.
const TRANSACTION_LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;
/// The largest message, its type and sender included.
const MAX_MESSAGE_BYTES: usize = 65_536;
/// The longest type of a message.
const MAX_TYPE_BYTES: usize = 255;
/// How many messages one sync brings.
pub(crate) const DELIVERED_AT_ONCE: usize = 100;
/// How many devices one request may write to.
const MAX_RECIPIENTS: usize = 10_000;

/// Messages between devices.
#[derive(Clone)]
pub(crate) struct ToDevice {
    db: Db,
    clock: Clock,
    random: Random,
    transactions: ShortLivedFacts,
    inboxes: bounds::Inboxes,
    /// How much users may send; `None`: as much as they like.
    limits: Option<Limits>,
    server_name: OwnedServerName,
    destinations: Arc<Mutex<BTreeSet<OwnedServerName>>>,
    /// Whether there are other servers.
    is_federating: bool,
    /// Who holds devices of this server's users besides.
    appservices: Arc<OnceLock<Appservices>>,
}

/// Which devices of a user.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Target {
    /// All that are logged in.
    All,
    /// One.
    Device(OwnedDeviceId),
}

/// Contents by recipient.
pub(crate) type Delivery = BTreeMap<OwnedUserId, BTreeMap<Target, Box<RawValue>>>;

/// The same of what clients and other servers send.
pub(crate) fn delivery<T>(
    messages: BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Raw<T>>>,
) -> Delivery {
    let of_user = |messages: BTreeMap<DeviceIdOrAllDevices, Raw<T>>| {
        let messages = messages.into_iter().map(|(device, content)| {
            let target = match device {
                DeviceIdOrAllDevices::DeviceId(id) => Target::Device(id),
                DeviceIdOrAllDevices::AllDevices => Target::All,
            };
            (target, content.into_json())
        });
        messages.collect()
    };
    messages.into_iter().map(|(user, messages)| (user, of_user(messages))).collect()
}

/// A message as its recipient gets it.
#[derive(Debug, Serialize)]
pub(crate) struct Message<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    sender: &'a UserId,
    content: &'a RawValue,
}

/// Messages that wait for a device.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Oldest first.
    pub(crate) events: Vec<Box<RawValue>>,
    /// The position up to which the device has everything when it has these.
    pub(crate) upto: u64,
}

impl ToDevice {
    /// The messages in `db`.
    pub(crate) fn new(
        db: Db,
        clock: Clock,
        random: Random,
        server_name: &ServerName,
        is_federating: bool,
    ) -> Self {
        Self {
            transactions: ShortLivedFacts::new(db.clone(), clock.clone()),
            inboxes: bounds::Inboxes::default(),
            limits: None,
            db,
            clock,
            random,
            server_name: server_name.to_owned(),
            destinations: Arc::default(),
            is_federating,
            appservices: Arc::default(),
        }
    }

    /// The same, with limits of how much one user sends.
    pub(crate) fn limited_by(self, limits: Limits) -> Self {
        Self { limits: Some(limits), ..self }
    }

    /// Has application services told of messages from now on. Set once, when the server is put
    /// together.
    pub(crate) fn tell(&self, appservices: Appservices) {
        self.appservices.get_or_init(|| appservices);
    }

    /// Sends messages: all are on disk when this returns. Users and devices that are not known are
    /// left out. The same transaction ID of a device again does nothing.
    ///
    /// # Errors
    /// [`E2eeError`] for what is beyond the limits; nothing is sent then.
    pub(crate) async fn send(
        &self,
        session: &Session,
        event_type: &str,
        transaction: &TransactionId,
        delivery: &Delivery,
    ) -> Result<(), E2eeError> {
        if event_type.len() > MAX_TYPE_BYTES {
            return Err(E2eeError::TooLarge { what: "a type may have at most 255 bytes" });
        }
        let secret =
            format!("{}\0{}\0{event_type}\0{transaction}", session.user.0, session.device_id);
        let transaction = short_lived::key("to-device", &secret);
        let mut counted = false;
        for _ in 0..ATTEMPTS {
            let before = SHORT_LIVED.get(&self.db, &transaction).await?;
            if before.as_ref().is_some_and(|Json(row)| row.expires_ms > self.clock.now_ms()) {
                return Ok(());
            }
            let mut batch = Batch::new();
            match &before {
                Some(expired) => SHORT_LIVED.require_equals(&mut batch, &transaction, expired),
                None => SHORT_LIVED.require_absent(&mut batch, &transaction),
            }
            let lives = TRANSACTION_LIFETIME_MS;
            self.transactions.put(&mut batch, &transaction, lives, Fact::ToDeviceSent).await?;
            let mut count = self.queue(&mut batch, &session.user_id, event_type, delivery).await?;
            if self.is_federating {
                count += self.queue_out(&mut batch, &session.user_id, event_type, delivery).await?;
            }
            if !std::mem::replace(&mut counted, true) {
                self.count(session, count)?;
            }
            match self.db.commit(batch).await {
                // Sent at the same time, or a recipient is gone: look again.
                Err(StorageError::Precondition { .. }) => {}
                done => {
                    done?;
                    self.note_destinations(delivery);
                    return Ok(());
                }
            }
        }
        Err(E2eeError::Busy)
    }

    /// Counts what a user sends: one at least, since each request is work.
    fn count(&self, session: &Session, messages: usize) -> Result<(), E2eeError> {
        let (Some(limits), Some(user)) = (&self.limits, session.limited_as()) else {
            return Ok(());
        };
        let messages = u32::try_from(messages.max(1)).unwrap_or(u32::MAX);
        Ok(limits.messages_between_devices(user, messages)?)
    }

    /// Queues messages for the devices of this server's users; returns how many.
    async fn queue(
        &self,
        batch: &mut Batch,
        sender: &UserId,
        event_type: &str,
        delivery: &Delivery,
    ) -> Result<usize, E2eeError> {
        let mut rows: Vec<(UserNumber, &UserId, OwnedDeviceId, Vec<u8>)> = Vec::new();
        for (user_id, messages) in delivery {
            if user_id.server_name() != self.server_name {
                continue;
            }
            let Some(user) = self.db.users().find(&self.db, &**user_id).await? else { continue };
            let devices = DEVICES.scan(&self.db, &Range::prefix(&(user,)), usize::MAX).await?;
            for ((_, device_id), device) in devices {
                // What is meant for the device alone goes before what is meant for all.
                let content = messages
                    .get(&Target::Device(device_id.clone()))
                    .or_else(|| messages.get(&Target::All));
                let Some(content) = content else { continue };
                if !content.get().starts_with('{') {
                    return Err(E2eeError::Invalid { what: "a message's content is an object" });
                }
                let message = Message { event_type, sender, content };
                let message = serde_json::to_vec(&message)
                    .map_err(|_| E2eeError::Invalid { what: "a message is no JSON" })?;
                if message.len() > MAX_MESSAGE_BYTES {
                    return Err(E2eeError::TooLarge { what: "a message may have at most 64 KiB" });
                }
                // A device that goes at the same time takes its messages with it.
                DEVICES.require_equals(batch, &(user, &*device_id), &device);
                rows.push((user, user_id, device_id, message));
            }
        }
        if rows.len() > MAX_RECIPIENTS {
            return Err(E2eeError::TooMany { what: "at most 10000 devices may be written to" });
        }
        if rows.is_empty() {
            return Ok(0);
        }
        let count = rows.len();
        let position = self.db.position().await?;
        let registry = self.appservices.get().and_then(Appservices::registry);
        for (place, (user, user_id, device_id, message)) in (0..).zip(rows) {
            if let Some(registry) = &registry {
                let (to, place) =
                    (Recipient { user, user_id, device_id: &device_id }, (position.value(), place));
                let held = registry
                    .queue_to_device(batch, place, to, &message)
                    .map_err(|_| E2eeError::Invalid { what: "a message is no JSON" })?;
                if held {
                    continue;
                }
            }
            self.require_place(sender, (user, &device_id), message.len()).await?;
            TO_DEVICE.put(batch, &(user, device_id, position.value()), &message);
            batch.wake([user]);
        }
        batch.hold(position);
        Ok(count)
    }

    /// What waits for a device after the position `since` and up to `until`, at most `limit`.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn inbox(
        &self,
        at: &impl Read,
        user: UserNumber,
        device_id: &DeviceId,
        (since, until): (u64, u64),
        limit: usize,
    ) -> Result<Inbox, StorageError> {
        let range = Range::prefix(&(user, device_id)).after(&(user, device_id, since)).before(&(
            user,
            device_id,
            until.saturating_add(1),
        ));
        let rows = TO_DEVICE.scan(at, &range, limit).await?;
        inbox_of(rows, (since, until))
    }

    /// As [`Self::inbox`], for a device that has everything up to `since` and needs it no longer.
    /// One reading, if there is nothing to remove.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn exchange(
        &self,
        at: &impl Read,
        user: UserNumber,
        device_id: &DeviceId,
        (since, until): (u64, u64),
        limit: usize,
    ) -> Result<Inbox, StorageError> {
        let past = (user, device_id, until.saturating_add(1));
        let range = Range::prefix(&(user, device_id)).before(&past);
        let rows = TO_DEVICE.scan(at, &range, limit).await?;
        if rows.first().is_some_and(|((_, _, position), _)| *position <= since) {
            self.delivered(user, device_id, since).await?;
            return self.inbox(at, user, device_id, (since, until), limit).await;
        }
        inbox_of(rows, (since, until))
    }

    /// Removes what a device has: it came back with the position `upto`, which it was given with
    /// the messages. Unsynced: what comes back in a power failure is not given again, since it lies
    /// before the device's position.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn delivered(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
        upto: u64,
    ) -> Result<(), StorageError> {
        let past = upto.saturating_add(1);
        let range = Range::prefix(&(user, device_id)).before(&(user, device_id, past));
        loop {
            let rows = TO_DEVICE.scan(&self.db, &range, 1_000).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::unsynced();
            for (row, _) in &rows {
                TO_DEVICE.delete(&mut batch, row);
            }
            self.db.commit(batch).await?;
            self.inboxes.emptied(user, device_id);
            if rows.len() < 1_000 {
                return Ok(());
            }
        }
    }
}

fn inbox_of(
    rows: Vec<((UserNumber, OwnedDeviceId, u64), Vec<u8>)>,
    (since, until): (u64, u64),
) -> Result<Inbox, StorageError> {
    // Behind `until` as long as there was something: the device comes back for the rest, or for it
    // to be removed.
    let upto = match rows.last() {
        Some(((_, _, position), _)) => *position,
        None => until.max(since),
    };
    let corrupt = || StorageError::Corrupt { table: TO_DEVICE.id.name() };
    let events = rows
        .into_iter()
        .map(|(_, message)| {
            let text = String::from_utf8(message).map_err(|_| corrupt())?;
            RawValue::from_string(text).map_err(|_| corrupt())
        })
        .collect::<Result<_, _>>()?;
    Ok(Inbox { events, upto })
}
