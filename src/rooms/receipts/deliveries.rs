//! Telling senders that a device has their messages: it came back with the token of the response
//! that they were in.
//!
//! What a device was given is kept in memory until it comes back. What a restart forgets is told with
//! the next message, or when it is read.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use moka::sync::Cache;
use parking_lot::Mutex;
use ruma::{OwnedDeviceId, events::receipt::ReceiptType};

use super::{ReadUpTo, Receipts};
use crate::{
    config,
    rooms::{Room, record::EventRecord},
    storage::{
        StorageError,
        intern::{RoomNumber, UserNumber},
    },
    users::session::Session,
};

/// The kind of these receipts. Each sender has those of their own messages and sees no others: the
/// number of the sender stands where other receipts have the thread.
pub(crate) const DELIVERED: &str = "dev.myelin.delivered";

/// Of how many devices it is known what they were given.
const MAX_DEVICES: u64 = 50_000;
/// How much of one device: what is beyond is not told.
const MAX_PENDING: usize = 1_000;

/// What a device was given and has not come back with: by room and sender, the last message and the
/// position of the response.
type Given = HashMap<(RoomNumber, UserNumber), (ReadUpTo, u64)>;

/// What devices were given.
pub(super) struct Deliveries {
    max_members: u64,
    given: Cache<(UserNumber, OwnedDeviceId), Arc<Mutex<Given>>>,
}

impl Deliveries {
    /// None if nobody is told.
    pub(super) fn new(settings: &config::Receipts) -> Option<Arc<Self>> {
        let given = Cache::new(MAX_DEVICES);
        let max_members = u64::from(settings.delivered_max_members);
        settings.delivered.then(|| Arc::new(Self { max_members, given }))
    }
}

impl Receipts {
    /// Notes that a device is given these events in the response whose token has this position.
    pub(crate) fn note_delivery<'e>(
        &self,
        session: &Session,
        room: &Room,
        events: impl IntoIterator<Item = &'e EventRecord>,
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
        let given = deliveries.given.get_with(key, Arc::default);
        let mut given = given.lock();
        for (sender, up_to) in last {
            if given.len() < MAX_PENDING || given.contains_key(&(room.number, sender)) {
                given.insert((room.number, sender), (up_to, position));
            }
        }
    }

    /// A device came back with a token of this position: it has what it was given up to there.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(crate) async fn acknowledge(
        &self,
        session: &Session,
        position: u64,
    ) -> Result<(), StorageError> {
        let Some(deliveries) = &self.deliveries else { return Ok(()) };
        let key = (session.user, session.device_id.clone());
        let Some(given) = deliveries.given.get(&key) else { return Ok(()) };
        let delivered: Vec<_> = {
            let mut given = given.lock();
            let delivered = given.extract_if(|_, (_, given_at)| *given_at <= position);
            delivered.collect()
        };
        let kind = ReceiptType::from(DELIVERED);
        for ((room, sender), (up_to, _)) in delivered {
            // Another device of the same user may have had it before.
            let slot = sender.0.to_string();
            self.set(room, session.user, &kind, &slot, &up_to, &[sender]).await?;
        }
        Ok(())
    }
}
