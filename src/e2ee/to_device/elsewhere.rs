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
    schema::{TO_DEVICE_OUT, TO_DEVICE_OUT_DAYS, TO_DEVICE_SEEN, TO_DEVICE_SEEN_EXPIRY},
};

/// How many bytes of messages one EDU carries at most, unless it is one message.
const MAX_EDU_BYTES: usize = 60_000;
/// The longest ID of a message that another server sends.
const MAX_MESSAGE_ID_BYTES: usize = 255;
/// How long it is remembered which messages other servers sent.
const SEEN_FOR_MS: u64 = 14 * 24 * 60 * 60 * 1000;
/// How many of those are forgotten with each new one.
const FORGOTTEN_AT_ONCE: usize = 5;

/// How long a message waits for a server that is not there.
const WAITS_FOR_DAYS: u64 = 30;
/// How many EDUs with messages wait for a server that has not been there for long.
const MAX_WAITING: usize = 10_000;
/// How many rows are looked at or removed at once.
const STEP: usize = 200;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

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
        let day = self.clock.now_ms() / DAY_MS;
        for (server, messages) in by_server {
            TO_DEVICE_OUT_DAYS.put(batch, &(server, day), &position.value());
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

    /// Says in `batch` that a server has these messages, by stream position and number.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn arrived(
        &self,
        batch: &mut Batch,
        server: &ServerName,
        messages: &[(u64, u32)],
    ) -> Result<(), StorageError> {
        for (position, number) in messages {
            TO_DEVICE_OUT.delete(batch, &(server, *position, *number));
        }
        let last = messages.iter().map(|(position, _)| *position).max().unwrap_or_default();
        // Today's row may be written at this moment.
        let before_today =
            Range::prefix(&(server,)).before(&(server, self.clock.now_ms() / DAY_MS));
        for ((_, day), until) in TO_DEVICE_OUT_DAYS.scan(&self.db, &before_today, STEP).await? {
            if until <= last {
                TO_DEVICE_OUT_DAYS.delete(batch, &(server, day));
            }
        }
        Ok(())
    }

    /// Gives up messages for a server that has not been there for long: those that have waited for
    /// 30 days, and the oldest of more than 10,000 EDUs. How many EDUs.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn give_up_old(&self, server: &ServerName) -> Result<usize, StorageError> {
        let today = self.clock.now_ms() / DAY_MS;
        let too_old = today.saturating_sub(WAITS_FOR_DAYS);
        let days = Range::prefix(&(server,)).before(&(server, too_old));
        let days = TO_DEVICE_OUT_DAYS.scan(&self.db, &days, STEP).await?;
        let mut given_up = 0;
        if let Some((_, until)) = days.last() {
            given_up += self.remove_out(server, (until.saturating_add(1), 0)).await?;
        }
        if !days.is_empty() {
            let mut batch = Batch::unsynced();
            for ((_, day), _) in &days {
                TO_DEVICE_OUT_DAYS.delete(&mut batch, &(server, *day));
            }
            self.db.commit(batch).await?;
        }
        let (mut end, mut seen) = ((u64::MAX, u32::MAX), 0);
        loop {
            let range = Range::prefix(&(server,)).before(&(server, end.0, end.1));
            let rows = TO_DEVICE_OUT.scan_back(&self.db, &range, STEP).await?;
            let Some(((_, position, number), _)) = rows.last() else { break };
            end = (*position, *number);
            seen += rows.len();
            if seen >= MAX_WAITING {
                given_up += self.remove_out(server, end).await?;
                break;
            }
        }
        Ok(given_up)
    }

    /// Removes what was queued for a server before this position and number. How many rows.
    async fn remove_out(
        &self,
        server: &ServerName,
        end: (u64, u32),
    ) -> Result<usize, StorageError> {
        let range = Range::prefix(&(server,)).before(&(server, end.0, end.1));
        let mut removed = 0;
        loop {
            let rows = TO_DEVICE_OUT.scan(&self.db, &range, STEP).await?;
            if rows.is_empty() {
                return Ok(removed);
            }
            removed += rows.len();
            let mut batch = Batch::unsynced();
            for ((server, position, number), _) in &rows {
                TO_DEVICE_OUT.delete(&mut batch, &(&**server, *position, *number));
            }
            self.db.commit(batch).await?;
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::{server_name, user_id};

    use super::*;
    use crate::{
        clock::{Clock, Random},
        storage::Db,
    };

    const DAY: Duration = Duration::from_hours(24);

    async fn empty() -> (ToDevice, Db, Clock) {
        let (db, clock) = (Db::in_memory().await, Clock::manual(1_700_000_000_000));
        let (random, us) = (Random::seeded(1), server_name!("a.example"));
        (ToDevice::new(db.clone(), clock.clone(), random, us, true), db, clock)
    }

    async fn write(to_device: &ToDevice, db: &Db) {
        let content = RawValue::from_string("{}".to_owned()).unwrap();
        let to = user_id!("@gone:b.example").to_owned();
        let delivery = Delivery::from([(to, [(Target::All, content)].into())]);
        let mut batch = Batch::new();
        let sender = user_id!("@alice:a.example");
        to_device.queue_out(&mut batch, sender, "t", &delivery).await.unwrap();
        db.commit(batch).await.unwrap();
    }

    async fn waiting(db: &Db) -> Vec<(u64, u32)> {
        let rows = TO_DEVICE_OUT.scan(db, &Range::all(), usize::MAX).await.unwrap();
        rows.into_iter().map(|((_, position, number), _)| (position, number)).collect()
    }

    #[tokio::test]
    async fn messages_for_a_server_that_is_gone_are_given_up_after_a_month() {
        let (to_device, db, clock) = empty().await;
        let gone = server_name!("b.example");
        write(&to_device, &db).await;
        clock.advance(DAY * 20);
        write(&to_device, &db).await;
        let second = waiting(&db).await[1];
        assert_eq!(to_device.give_up_old(gone).await.unwrap(), 0);
        clock.advance(DAY * 11);
        assert_eq!(to_device.give_up_old(gone).await.unwrap(), 1);
        assert_eq!(waiting(&db).await, [second]);
        clock.advance(DAY * 20);
        assert_eq!(to_device.give_up_old(gone).await.unwrap(), 1);
        assert!(TO_DEVICE_OUT_DAYS.scan(&db, &Range::all(), 9).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn of_very_many_messages_the_newest_wait() {
        let (to_device, db, _) = empty().await;
        let gone = server_name!("b.example");
        let mut batch = Batch::new();
        for position in 0..MAX_WAITING as u64 + 5 {
            TO_DEVICE_OUT.put(&mut batch, &(gone, position, 0), &Vec::new());
        }
        TO_DEVICE_OUT.put(&mut batch, &(server_name!("c.example"), 0, 0), &Vec::new());
        db.commit(batch).await.unwrap();
        assert_eq!(to_device.give_up_old(gone).await.unwrap(), 5);
        assert_eq!(to_device.give_up_old(gone).await.unwrap(), 0);
        let left = waiting(&db).await;
        assert_eq!((left[0], left.len()), ((5, 0), MAX_WAITING + 1));
    }

    #[tokio::test]
    async fn the_days_of_what_arrived_are_forgotten() {
        let (to_device, db, clock) = empty().await;
        let server = server_name!("b.example");
        write(&to_device, &db).await;
        clock.advance(DAY);
        write(&to_device, &db).await;
        for left in [1, 1] {
            let messages = waiting(&db).await;
            let mut batch = Batch::new();
            to_device.arrived(&mut batch, server, &messages[..1]).await.unwrap();
            db.commit(batch).await.unwrap();
            let days = TO_DEVICE_OUT_DAYS.scan(&db, &Range::all(), 9).await.unwrap();
            assert_eq!(days.len(), left, "today's stays");
        }
        assert!(waiting(&db).await.is_empty());
    }
}
