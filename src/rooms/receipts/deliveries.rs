//! Telling senders that a device has their messages: it came back with the token of the response
//! that they were in.
//!
//! What a device was given is kept in memory until it comes back. What a restart forgets is told with
//! the next message, or when it is read.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::OwnedDeviceId;
use tokio::time::sleep;

use super::{ReadUpTo, ReceiptSlot, Receipts};
use crate::{
    config,
    rooms::{Room, record::SharedEvent},
    storage::{
        Batch, Json, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::RECEIPTS,
    },
    users::session::Session,
};

/// The kind of these receipts. Each sender has those of their own messages and sees no others: the
/// number of the sender stands where other receipts have the thread.
pub(crate) const DELIVERED: &str = "dev.myelin.delivered";

/// Of how many devices it is known what they were given.
const MAX_DEVICES: usize = 50_000;
/// How much of one device: what is beyond is not told.
const MAX_PENDING: usize = 1_000;
/// How many deliveries wait to be told of: what is beyond is not told.
const MAX_DUE: usize = 50_000;
/// For how long they are collected. A message reaches the members of a room within moments, and the
/// next one makes the receipts for this one worthless: each is a row and may wake the sender.
const TOGETHER: Duration = Duration::from_millis(250);
/// How many are written at once.
const AT_ONCE: usize = 500;

/// What a device was given and has not come back with: by room and sender, the last message and the
/// position of the response.
type Given = HashMap<(RoomNumber, UserNumber), (ReadUpTo, u64)>;

/// What devices were given.
pub(super) struct Deliveries {
    max_members: u64,
    given: Cache<(UserNumber, OwnedDeviceId), Arc<Mutex<Given>>>,
    /// What senders are to be told: up to where in the room, of which sender, which reader.
    due: Mutex<HashMap<(RoomNumber, UserNumber, UserNumber), ReadUpTo>>,
    telling: tokio::sync::Mutex<()>,
}

impl Deliveries {
    /// None if nobody is told.
    pub(super) fn new(settings: &config::Receipts) -> Option<Arc<Self>> {
        let given = Cache::new(MAX_DEVICES);
        let max_members = u64::from(settings.delivered_max_members);
        settings.delivered.then(|| {
            Arc::new(Self {
                max_members,
                given,
                due: Mutex::default(),
                telling: tokio::sync::Mutex::default(),
            })
        })
    }
}

impl Receipts {
    /// Notes that a device is given these events in the response whose token has this position.
    pub(crate) fn note_delivery<'e>(
        &self,
        session: &Session,
        room: &Room,
        events: impl IntoIterator<Item = &'e SharedEvent>,
        position: u64,
    ) {
        let Some(deliveries) = &self.deliveries else { return };
        if room.member_count() > deliveries.max_members {
            return;
        }
        let members = room.local_members();
        let mut last: BTreeMap<UserNumber, ReadUpTo> = BTreeMap::new();
        for event in events {
            let counts = !event.is_state()
                && event.sender != session.user
                && event.position > 0
                && members.binary_search(&event.sender).is_ok();
            if counts {
                let up_to = ReadUpTo { event_id: event.event_id.clone(), position: event.position };
                last.insert(event.sender, up_to);
            }
        }
        if last.is_empty() {
            return;
        }
        let key = (session.user, session.device_id.clone());
        let Ok(given) =
            deliveries.given.get_or_insert_with(&key, || Ok::<_, Infallible>(Arc::default()));
        let mut given = given.lock();
        for (sender, up_to) in last {
            if given.len() < MAX_PENDING || given.contains_key(&(room.number, sender)) {
                given.insert((room.number, sender), (up_to, position));
            }
        }
    }

    /// A device came back with a token of this position: it has what it was given up to there. The
    /// senders are told a moment later, of all that was delivered meanwhile together.
    pub(crate) fn acknowledge(&self, session: &Session, position: u64) {
        let Some(deliveries) = &self.deliveries else { return };
        let key = (session.user, session.device_id.clone());
        let Some(given) = deliveries.given.get(&key) else { return };
        let mut given = given.lock();
        let mut delivered = given.extract_if(|_, (_, given_at)| *given_at <= position).peekable();
        if delivered.peek().is_none() {
            return;
        }
        let mut due = deliveries.due.lock();
        let first = due.is_empty();
        for ((room, sender), (up_to, _)) in delivered {
            if due.len() < MAX_DUE {
                due.insert((room, sender, session.user), up_to);
            }
        }
        drop(due);
        if first {
            let (this, deliveries) = (self.clone(), Arc::clone(deliveries));
            tokio::spawn(async move {
                sleep(TOGETHER).await;
                if let Err(error) = this.tell_due(&deliveries).await {
                    tracing::warn!(%error, "senders could not be told that messages arrived");
                }
            });
        }
    }

    /// Writes down what was delivered, and wakes the senders.
    async fn tell_due(&self, deliveries: &Deliveries) -> Result<(), StorageError> {
        // One after the other: nobody else writes these rows.
        let _turn = deliveries.telling.lock().await;
        let due: Vec<_> = std::mem::take(&mut *deliveries.due.lock()).into_iter().collect();
        for part in due.chunks(AT_ONCE) {
            let slots: Vec<String> =
                part.iter().map(|((_, sender, _), _)| sender.0.to_string()).collect();
            let keys = part.iter().zip(&slots);
            let keys =
                keys.map(|(((room, _, reader), _), slot)| (*room, *reader, DELIVERED, &**slot));
            let old = RECEIPTS.multi_get(&self.db, keys).await?;
            let mut batch = Batch::unsynced();
            for ((((room, sender, reader), up_to), slot), old) in part.iter().zip(slots).zip(old) {
                let old = old.map(|Json(receipt)| receipt);
                // Another device of the same user may have had it before.
                if old.as_ref().is_some_and(|old| old.event_position >= up_to.position) {
                    continue;
                }
                let slot = ReceiptSlot { user: reader.0, kind: DELIVERED.to_owned(), thread: slot };
                self.write(&mut batch, *room, slot, up_to, old.as_ref()).await?;
                batch.wake_in(*room, [*sender]);
            }
            self.db.commit(batch).await?;
        }
        Ok(())
    }
}
