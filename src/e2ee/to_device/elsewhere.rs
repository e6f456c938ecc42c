//! Messages between devices on several servers: those for others wait on disk, as the EDUs that they
//! become, and those that came are known by their IDs.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedServerName, ServerName, UserId};
use serde_json::value::RawValue;

use super::{
    super::{ATTEMPTS, E2eeError},
    Delivery, MAX_MESSAGE_BYTES, MAX_RECIPIENTS, MAX_TYPE_BYTES, Target, ToDevice,
};
use crate::storage::{
    Batch, Range, StorageError,
    intern::UserNumber,
    schema::{TO_DEVICE_OUT, TO_DEVICE_SEEN, TO_DEVICE_SEEN_EXPIRY},
};

/// How many bytes of messages one EDU carries at most, unless it is one message.
const MAX_EDU_BYTES: usize = 60_000;
/// The longest ID of a message that another server sends.
const MAX_MESSAGE_ID_BYTES: usize = 255;
/// How long it is remembered which messages other servers sent.
const SEEN_FOR_MS: u64 = 14 * 24 * 60 * 60 * 1000;
/// How many of those are forgotten with each new one.
const FORGOTTEN_AT_ONCE: usize = 5;

/// The same as it stands in an EDU.
type Outgoing<'a> = BTreeMap<&'a UserId, BTreeMap<&'a str, &'a RawValue>>;

impl ToDevice {
    /// Has what was queued for other servers sent.
    pub(super) fn note_destinations(&self, delivery: &Delivery) {
        if !self.is_federating {
            return;
        }
        let servers = delivery.keys().map(|user| user.server_name());
        let servers: Vec<_> = servers.filter(|server| *server != self.server_name).collect();
        if !servers.is_empty() {
            self.destinations.lock().extend(servers.into_iter().map(ToOwned::to_owned));
            self.db.wake(&[UserNumber::FOR_OTHER_SERVERS]);
        }
    }

    /// The servers that messages were queued for since this was asked last. What was queued before
    /// a restart is in the table.
    pub(crate) fn take_destinations(&self) -> BTreeSet<OwnedServerName> {
        std::mem::take(&mut *self.destinations.lock())
    }

    /// Queues messages for devices on other servers; returns how many.
    pub(super) async fn queue_out(
        &self,
        batch: &mut Batch,
        sender: &UserId,
        event_type: &str,
        delivery: &Delivery,
    ) -> Result<usize, E2eeError> {
        let mut by_server: BTreeMap<&ServerName, Vec<(&UserId, &str, &RawValue)>> = BTreeMap::new();
        let mut count = 0;
        for (user_id, messages) in delivery {
            let server = user_id.server_name();
            if server == self.server_name {
                continue;
            }
            for (target, content) in messages {
                if !content.get().starts_with('{') {
                    return Err(E2eeError::Invalid { what: "a message's content is an object" });
                }
                if content.get().len() + event_type.len() > MAX_MESSAGE_BYTES {
                    return Err(E2eeError::TooLarge { what: "a message may have at most 64 KiB" });
                }
                let device = match target {
                    Target::All => "*",
                    Target::Device(id) => id.as_str(),
                };
                by_server.entry(server).or_default().push((user_id, device, content));
                count += 1;
            }
        }
        if count > MAX_RECIPIENTS {
            return Err(E2eeError::TooMany { what: "at most 10000 devices may be written to" });
        }
        if by_server.is_empty() {
            return Ok(0);
        }
        let position = self.db.position().await?;
        for (server, messages) in by_server {
            let mut number = 0;
            let mut messages = messages.into_iter().peekable();
            while messages.peek().is_some() {
                let mut outgoing = Outgoing::new();
                let mut bytes = 0;
                while let Some((user, device, content)) = messages
                    .next_if(|(_, _, next)| bytes == 0 || bytes + next.get().len() <= MAX_EDU_BYTES)
                {
                    bytes += content.get().len();
                    outgoing.entry(user).or_default().insert(device, content);
                }
                let edu = serde_json::json!({
                    "sender": sender,
                    "type": event_type,
                    "message_id": self.random.token::<12>(),
                    "messages": outgoing,
                });
                let edu = serde_json::to_vec(&edu)
                    .map_err(|_| E2eeError::Invalid { what: "a message is no JSON" })?;
                TO_DEVICE_OUT.put(batch, &(server, position.value(), number), &edu);
                number += 1;
            }
        }
        batch.hold(position);
        Ok(count)
    }

    /// Takes messages in that `origin` sent: they are on disk when this returns. What came before,
    /// by its ID, does nothing.
    ///
    /// # Errors
    /// [`E2eeError::NotOwn`] for another server's sender; [`E2eeError`] for what is beyond the
    /// limits; nothing is taken then.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging>
    pub(crate) async fn receive(
        &self,
        origin: &ServerName,
        sender: &UserId,
        event_type: &str,
        message_id: &str,
        delivery: &Delivery,
    ) -> Result<(), E2eeError> {
        if sender.server_name() != origin {
            return Err(E2eeError::NotOwn);
        }
        if event_type.len() > MAX_TYPE_BYTES || message_id.len() > MAX_MESSAGE_ID_BYTES {
            return Err(E2eeError::TooLarge { what: "a type or ID may have at most 255 bytes" });
        }
        let seen = (sender, message_id);
        for _ in 0..ATTEMPTS {
            if TO_DEVICE_SEEN.contains(&self.db, &seen).await? {
                return Ok(());
            }
            let now = self.clock.now_ms();
            let mut batch = Batch::new();
            TO_DEVICE_SEEN.require_absent(&mut batch, &seen);
            TO_DEVICE_SEEN.put(&mut batch, &seen, &now);
            TO_DEVICE_SEEN_EXPIRY.put(&mut batch, &(now, sender, message_id), &());
            let old = Range::all().before(&(now.saturating_sub(SEEN_FOR_MS), sender, message_id));
            let old = TO_DEVICE_SEEN_EXPIRY.scan(&self.db, &old, FORGOTTEN_AT_ONCE).await?;
            for ((at, sender, id), ()) in old {
                TO_DEVICE_SEEN.delete(&mut batch, &(&*sender, &*id));
                TO_DEVICE_SEEN_EXPIRY.delete(&mut batch, &(at, sender, id));
            }
            self.queue(&mut batch, sender, event_type, delivery).await?;
            match self.db.commit(batch).await {
                // It came twice at the same time, or a recipient is gone: look again.
                Err(StorageError::Precondition { .. }) => {}
                done => return Ok(done?),
            }
        }
        Err(E2eeError::Busy)
    }
}
