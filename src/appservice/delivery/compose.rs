//! Making a transaction out of what is queued.

use std::{collections::BTreeSet, sync::Arc};

use ruma::OwnedUserId;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{BODIES, Deliveries, DeliveryError, encryption::KeyNews, ephemeral::Seen};
use crate::{
    appservice::{
        queue::{Progress, Queued},
        registry::{Registry, Service},
    },
    rooms::record::{EventNumber, EventRecord},
    storage::{
        Batch, Json, Range,
        intern::RoomNumber,
        schema::{APPSERVICE_QUEUE, APPSERVICES},
    },
};

/// How many rows of the queue one transaction takes.
const MAX_ROWS: usize = 100;
/// What they may take together; the last one may go beyond.
const MAX_BYTES: usize = 1 << 20;

/// A transaction, by the names in use.
#[derive(Serialize)]
struct Transaction {
    events: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ephemeral: Vec<Box<RawValue>>,
    #[serde(rename = "de.sorunome.msc2409.ephemeral", skip_serializing_if = "Vec::is_empty")]
    ephemeral_unstable: Vec<Box<RawValue>>,
    #[serde(rename = "de.sorunome.msc2409.to_device", skip_serializing_if = "Vec::is_empty")]
    to_device: Vec<Box<RawValue>>,
    #[serde(flatten)]
    keys: Option<KeyNews>,
}

/// What a transaction is made of.
#[derive(Default)]
struct Load {
    /// The rows it takes.
    taken: Vec<(String, u64, u32)>,
    events: Vec<Box<RawValue>>,
    receipts: Vec<Box<RawValue>>,
    to_device: Vec<Box<RawValue>>,
    /// Member events among them: room, whose, and whether they are in the room by it.
    members: Vec<(OwnedUserId, bool)>,
    /// The service's users that something is sent to or came from: their keys are told of.
    users: BTreeSet<OwnedUserId>,
}

impl Deliveries {
    /// Makes the next transaction and writes it down; false if there is nothing to tell.
    pub(super) async fn compose(
        &self,
        registry: &Arc<Registry>,
        service: &Service,
        seen: &mut Seen,
        progress: &Progress,
    ) -> Result<bool, DeliveryError> {
        let until = self.db().visible_position();
        let load = self.load(service, until).await?;
        let (news, now_seen) = self.ephemeral_since(registry, service, *seen, until).await?;
        let listed = progress.device_lists.unwrap_or(until);
        let keys = if service.registration.encrypts {
            let news =
                self.key_news(registry, service, (listed, until), &load.members, &load.users);
            Some(news.await?)
        } else {
            None
        };
        *seen = now_seen;
        let mut ephemeral = load.receipts;
        ephemeral.extend(news);
        let nothing = load.taken.is_empty()
            && ephemeral.is_empty()
            && keys.as_ref().is_none_or(KeyNews::names_nobody);
        if nothing {
            return Ok(false);
        }
        let (ephemeral, ephemeral_unstable) = if service.registration.stable_ephemeral {
            (ephemeral, Vec::new())
        } else {
            (Vec::new(), ephemeral)
        };
        let to_device = load.to_device;
        let body = serde_json::to_vec(&Transaction {
            events: load.events,
            ephemeral,
            ephemeral_unstable,
            to_device,
            keys,
        })?;
        let number = progress.next_transaction;
        let mut batch = Batch::new();
        for row in &load.taken {
            APPSERVICE_QUEUE.delete(&mut batch, row);
        }
        BODIES.put_new(&mut batch, &(service.id().to_owned(), number), &body);
        let after = Progress {
            next_transaction: number + 1,
            pending: Some(number),
            failures: 0,
            retry_at_ms: 0,
            device_lists: service.registration.encrypts.then_some(until),
        };
        APPSERVICES.put(&mut batch, service.id(), &Json(after));
        self.db().commit(batch).await?;
        Ok(true)
    }

    /// Takes as much from the queue as a transaction holds.
    async fn load(&self, service: &Service, until: u64) -> Result<Load, DeliveryError> {
        let id = service.id().to_owned();
        let range = Range::prefix(&(&*id,)).before(&(&*id, until.saturating_add(1), 0_u32));
        let rows = APPSERVICE_QUEUE.scan(self.db(), &range, MAX_ROWS).await?;
        let mut load = Load::default();
        let mut bytes = 0;
        for (key, Json(what)) in rows {
            if bytes > MAX_BYTES {
                break;
            }
            load.taken.push(key);
            match what {
                Queued::Event { room, event } => {
                    let (room, event) = (RoomNumber(room), EventNumber(event));
                    // One that is gone since is not told of any more.
                    let Some((record, json)) = self.rooms.plain_event(room, event).await? else {
                        continue;
                    };
                    bytes += json.get().len();
                    load.note(service, &record);
                    load.events.push(json);
                }
                Queued::Outside(json) => {
                    bytes += json.get().len();
                    load.events.push(json);
                }
                Queued::Ephemeral(json) => {
                    bytes += json.get().len();
                    load.receipts.push(json);
                }
                Queued::ToDevice { user, message } => {
                    bytes += message.get().len();
                    load.users.insert(user);
                    load.to_device.push(message);
                }
            }
        }
        Ok(load)
    }
}

impl Load {
    fn note(&mut self, service: &Service, record: &EventRecord) {
        if service.speaks_for(&record.sender_id) {
            self.users.insert(record.sender_id.clone());
        }
        let member = record.state_key.as_deref().filter(|_| record.event_type == "m.room.member");
        if let Some(user) = member.and_then(|key| OwnedUserId::try_from(key).ok()) {
            let joined = crate::rooms::auth::membership_in(record.content())
                == Some(crate::rooms::record::Membership::Join);
            self.members.push((user, joined));
        }
    }
}
