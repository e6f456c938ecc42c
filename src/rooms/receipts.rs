//! Read receipts: how far each user has read, unthreaded and by thread.
//!
//! Only the latest of a kind is kept; that is the policy by which receipts are collapsed.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receipts>

mod deliveries;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, events::receipt::ReceiptType};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub(crate) use deliveries::DELIVERED;
use deliveries::Deliveries;

use crate::{
    appservice::{Audience, queue::Queued, registry::Registry},
    clock::Clock,
    config,
    storage::{
        Batch, Db, Json, Range, Read, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::{RECEIPT_CHANGES, RECEIPTS},
    },
};

/// Receipts of all rooms.
#[derive(Clone)]
pub(crate) struct Receipts {
    db: Db,
    clock: Clock,
    latest: Arc<Mutex<Latest>>,
    started_at: u64,
    /// Which application services a room concerns.
    audiences: Arc<OnceLock<Audiences>>,
    /// What is told of users of this server who read.
    read: Arc<OnceLock<WhoRead>>,
    /// None: senders are not told of deliveries.
    deliveries: Option<Arc<Deliveries>>,
}

/// The positions of the latest receipts since the start: most syncs need not look any further.
#[derive(Default)]
struct Latest {
    /// Of those that say what was read.
    read: HashMap<RoomNumber, u64>,
    /// Of those that say what was delivered, in any room, by the sender of the messages: the others
    /// in the room have nothing to do with them.
    delivered: HashMap<UserNumber, u64>,
}

/// Which application services a room concerns, and the room's ID; none if there are no services.
pub(crate) type Audiences = Box<
    dyn Fn(RoomNumber) -> BoxFuture<'static, Result<Option<Concerned>, StorageError>> + Send + Sync,
>;

/// Whom the receipts of a room concern.
pub(crate) struct Concerned {
    /// The application services there are.
    pub(crate) registry: Arc<Registry>,
    /// Which of them.
    pub(crate) audience: Audience,
    /// The room.
    pub(crate) room_id: OwnedRoomId,
}

/// Told who read something in which room.
pub(crate) type WhoRead = Box<dyn Fn(UserNumber, RoomNumber) + Send + Sync>;

/// Which of a user's receipts in a room.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct ReceiptSlot {
    /// Whose.
    pub(crate) user: u64,
    /// `m.read`, `m.read.private` or [`DELIVERED`].
    pub(crate) kind: String,
    /// `main`, the ID of a thread's root, or empty for an unthreaded receipt.
    pub(crate) thread: String,
}

impl ReceiptSlot {
    /// Whether somebody may see it: private ones their owner only, and those of deliveries only who
    /// sent what was delivered.
    fn is_for(&self, reader: UserNumber) -> bool {
        match self.kind.as_str() {
            DELIVERED => self.delivered_to() == Some(reader),
            kind => kind != ReceiptType::ReadPrivate.as_str() || self.user == reader.0,
        }
    }

    /// Whose messages were delivered, if it is about that.
    fn delivered_to(&self) -> Option<UserNumber> {
        if self.kind != DELIVERED {
            return None;
        }
        self.thread.parse().ok().map(UserNumber)
    }

    /// The thread it is about; none if it is about no certain one.
    pub(crate) fn thread_id(&self) -> Option<&str> {
        (self.kind != DELIVERED && !self.thread.is_empty()).then_some(&self.thread)
    }
}

/// One receipt.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Receipt {
    /// Up to which event.
    pub(crate) event_id: OwnedEventId,
    /// The event's place in the order of arrival.
    pub(crate) event_position: u64,
    /// When it was sent.
    pub(crate) ts: MilliSecondsSinceUnixEpoch,
    /// The stream position of the receipt itself.
    pub(crate) position: u64,
}

/// The event that a receipt is for.
#[derive(Clone, Debug)]
pub(crate) struct ReadUpTo {
    /// Its ID.
    pub(crate) event_id: OwnedEventId,
    /// Its place in the order of arrival.
    pub(crate) position: u64,
}

impl Receipts {
    /// Receipts kept in `db`.
    pub(crate) fn new(db: Db, clock: Clock) -> Self {
        let started_at = db.visible_position();
        Self {
            db,
            clock,
            latest: Arc::default(),
            started_at,
            audiences: Arc::default(),
            read: Arc::default(),
            deliveries: None,
        }
    }

    /// Has application services told of receipts from now on. Set once, when the server is put
    /// together.
    pub(crate) fn tell(&self, audiences: Audiences) {
        self.audiences.get_or_init(|| audiences);
    }

    /// Calls `read` with whoever reads something from now on. Set once, when the server is put
    /// together.
    pub(crate) fn when_read(&self, read: WhoRead) {
        self.read.get_or_init(|| read);
    }

    /// The same, which tell senders when devices have their messages, as configured.
    #[must_use]
    pub(crate) fn telling_deliveries(self, settings: &config::Receipts) -> Self {
        Self { deliveries: Deliveries::new(settings), ..self }
    }

    /// Notes that `user` has read up to an event, and wakes `wake`. A receipt for something older
    /// than what was read before changes nothing.
    ///
    /// The batch is unsynced: a receipt lost in a power failure is sent again with the next one.
    pub(crate) async fn set(
        &self,
        room: RoomNumber,
        user: UserNumber,
        kind: &ReceiptType,
        thread: &str,
        up_to: &ReadUpTo,
        wake: &[UserNumber],
    ) -> Result<(), StorageError> {
        let key = (room, user, kind.as_str(), thread);
        let old = RECEIPTS.get(&self.db, &key).await?.map(|Json(receipt)| receipt);
        if old.as_ref().is_some_and(|old| old.event_position >= up_to.position) {
            return Ok(());
        }
        let slot = ReceiptSlot { user: user.0, kind: kind.to_string(), thread: thread.to_owned() };
        let mut batch = Batch::unsynced();
        let receipt = self.write(&mut batch, room, slot.clone(), up_to, old.as_ref()).await?;
        // Two devices of one user may race; the loser finds the row changed and looks again.
        match old {
            Some(old) => RECEIPTS.require_equals(&mut batch, &key, &Json(old)),
            None => RECEIPTS.require_absent(&mut batch, &key),
        }
        self.queue(&mut batch, room, &slot, &receipt).await?;
        batch.wake_in(room, wake.iter().copied());
        match self.db.commit(batch).await {
            Err(StorageError::Precondition { .. }) => {
                Box::pin(self.set(room, user, kind, thread, up_to, wake)).await
            }
            Ok(()) => {
                if let Some(read) = self.read.get() {
                    read(user, room);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a receipt in the place of an old one, at a position of its own.
    async fn write(
        &self,
        batch: &mut Batch,
        room: RoomNumber,
        slot: ReceiptSlot,
        up_to: &ReadUpTo,
        old: Option<&Receipt>,
    ) -> Result<Receipt, StorageError> {
        let position = self.db.position().await?;
        let receipt = Receipt {
            event_id: up_to.event_id.clone(),
            event_position: up_to.position,
            ts: self.clock.now(),
            position: position.value(),
        };
        let mut latest = self.latest.lock();
        match slot.delivered_to() {
            Some(sender) => latest.delivered.insert(sender, position.value()),
            None => latest.read.insert(room, position.value()),
        };
        drop(latest);
        if let Some(old) = old {
            RECEIPT_CHANGES.delete(batch, &(room, old.position));
        }
        let key = (room, UserNumber(slot.user), &*slot.kind, &*slot.thread);
        RECEIPTS.put(batch, &key, &Json(receipt.clone()));
        RECEIPT_CHANGES.put(batch, &(room, position.value()), &Json(slot));
        batch.hold(position);
        Ok(receipt)
    }

    /// Queues a receipt for the application services that the room concerns; a private one only for
    /// those that speak for the user.
    async fn queue(
        &self,
        batch: &mut Batch,
        room: RoomNumber,
        slot: &ReceiptSlot,
        receipt: &Receipt,
    ) -> Result<(), StorageError> {
        let Some(audiences) = self.audiences.get() else { return Ok(()) };
        let Some(concerned) = audiences(room).await? else { return Ok(()) };
        let Concerned { registry, audience, room_id } = concerned;
        let mut audience = registry.with_ephemeral(audience);
        let user = UserNumber(slot.user);
        let user_id = self.db.users().name(&self.db, user).await?;
        if slot.kind == ReceiptType::ReadPrivate.as_str() {
            audience = audience.within(registry.of_user(user, &user_id));
        }
        if audience.is_empty() {
            return Ok(());
        }
        let mut data = json!({ "ts": receipt.ts });
        if let (false, Some(data)) = (slot.thread.is_empty(), data.as_object_mut()) {
            data.insert("thread_id".to_owned(), slot.thread.clone().into());
        }
        let content = json!({ &*receipt.event_id: { &*slot.kind: { user_id.as_str(): data } } });
        let event = json!({ "type": "m.receipt", "room_id": room_id, "content": content });
        let event = serde_json::value::to_raw_value(&event).expect("its keys are strings");
        let place = (receipt.position, 0);
        registry.queue(batch, audience, place, &Queued::Ephemeral(event));
        Ok(())
    }

    /// Whether there may be receipts in `room` after `since` that `reader` sees: memory knows if
    /// there are none.
    pub(crate) fn may_have_changed(
        &self,
        room: RoomNumber,
        reader: UserNumber,
        since: u64,
    ) -> bool {
        let latest = self.latest.lock();
        let last = latest.read.get(&room).max(latest.delivered.get(&reader)).copied();
        last.unwrap_or_default().max(self.started_at) > since
    }

    /// The stream position of the last receipt in `room` that says what somebody read, or a later
    /// one: of rooms without receipts since the start, that of the start.
    pub(crate) fn last_read(&self, room: RoomNumber) -> u64 {
        self.latest.lock().read.get(&room).copied().unwrap_or(self.started_at)
    }

    /// The receipts of `room` that changed after `since`, up to `until`, as `reader` may see them:
    /// private ones only to their owner.
    pub(crate) async fn changed(
        &self,
        at: &impl Read,
        room: RoomNumber,
        reader: UserNumber,
        since: u64,
        until: u64,
    ) -> Result<Vec<(ReceiptSlot, Receipt)>, StorageError> {
        if !self.may_have_changed(room, reader, since) {
            return Ok(Vec::new());
        }
        let range = Range::prefix(&(room,)).after(&(room, since)).before(&(room, until + 1));
        let changes = RECEIPT_CHANGES.scan(at, &range, usize::MAX).await?;
        let slots: Vec<ReceiptSlot> = changes
            .into_iter()
            .map(|(_, Json(slot))| slot)
            .filter(|slot| slot.is_for(reader))
            .collect();
        let keys = slots
            .iter()
            .map(|slot| (room, UserNumber(slot.user), slot.kind.as_str(), slot.thread.as_str()));
        let receipts = RECEIPTS.multi_get(at, keys).await?;
        Ok(slots
            .into_iter()
            .zip(receipts)
            .filter_map(|(slot, receipt)| receipt.map(|Json(receipt)| (slot, receipt)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_event_id;

    use super::*;

    const ROOM: RoomNumber = RoomNumber(1);
    const ALICE: UserNumber = UserNumber(1);
    const BOB: UserNumber = UserNumber(2);

    fn up_to(number: u64) -> ReadUpTo {
        let event_id = match number {
            1 => owned_event_id!("$one"),
            _ => owned_event_id!("$two"),
        };
        ReadUpTo { event_id, position: number }
    }

    async fn seen_by(receipts: &Receipts, reader: UserNumber) -> Vec<OwnedEventId> {
        let until = receipts.db.visible_position();
        let changed = receipts.changed(&receipts.db, ROOM, reader, 0, until).await.unwrap();
        changed.into_iter().map(|(_, receipt)| receipt.event_id).collect()
    }

    #[tokio::test]
    async fn only_the_latest_receipt_is_kept_and_it_never_moves_back() {
        let db = Db::in_memory().await;
        let receipts = Receipts::new(db, Clock::manual(1));
        for number in [1, 2, 1] {
            receipts.set(ROOM, ALICE, &ReceiptType::Read, "", &up_to(number), &[]).await.unwrap();
        }
        assert_eq!(seen_by(&receipts, BOB).await, vec![owned_event_id!("$two")]);
    }

    #[tokio::test]
    async fn a_private_receipt_is_seen_by_its_owner_only() {
        let db = Db::in_memory().await;
        let receipts = Receipts::new(db, Clock::manual(1));
        receipts.set(ROOM, ALICE, &ReceiptType::ReadPrivate, "", &up_to(1), &[]).await.unwrap();
        assert_eq!(seen_by(&receipts, BOB).await, Vec::<OwnedEventId>::new());
        assert_eq!(seen_by(&receipts, ALICE).await, vec![owned_event_id!("$one")]);
    }

    #[tokio::test]
    async fn what_was_delivered_is_news_to_the_sender_only() {
        let db = Db::in_memory().await;
        let receipts = Receipts::new(db.clone(), Clock::manual(1));
        let before = db.visible_position();
        let thread = ALICE.0.to_string();
        let slot = ReceiptSlot { user: BOB.0, kind: DELIVERED.to_owned(), thread };
        let mut batch = Batch::unsynced();
        receipts.write(&mut batch, ROOM, slot, &up_to(1), None).await.unwrap();
        batch.wake_in(ROOM, [ALICE]);
        db.commit(batch).await.unwrap();
        assert!(receipts.may_have_changed(ROOM, ALICE, before));
        assert!(!receipts.may_have_changed(ROOM, BOB, before), "nothing is read for him");
        assert_eq!(receipts.last_read(ROOM), before, "and nothing is counted anew");
        assert_eq!(seen_by(&receipts, ALICE).await, vec![owned_event_id!("$one")]);
        // Who is told of something else is not told of that.
        receipts.set(ROOM, BOB, &ReceiptType::Read, "", &up_to(2), &[]).await.unwrap();
        assert_eq!(seen_by(&receipts, BOB).await, vec![owned_event_id!("$two")]);
    }

    #[tokio::test]
    async fn threads_have_receipts_of_their_own() {
        let db = Db::in_memory().await;
        let receipts = Receipts::new(db, Clock::manual(1));
        receipts.set(ROOM, ALICE, &ReceiptType::Read, "", &up_to(2), &[]).await.unwrap();
        receipts.set(ROOM, ALICE, &ReceiptType::Read, "main", &up_to(1), &[]).await.unwrap();
        assert_eq!(seen_by(&receipts, BOB).await.len(), 2);
    }
}
