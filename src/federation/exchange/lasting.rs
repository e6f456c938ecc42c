//! What must reach other servers besides events: messages between devices, each once and in order,
//! and whose keys changed. All of it is on disk until it has arrived.
//!
//! A message is kept as the EDU that it becomes. Of changed keys only is kept whose they are and
//! which server waits for them: what it is told is made when it is sent, so that it is the newest.

use std::collections::BTreeSet;

use federation::MAX_EDUS;
use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UInt,
    api::federation::transactions::edu::{DeviceListUpdateContent, Edu, SigningKeyUpdateContent},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Exchange;
use crate::{
    e2ee::{DeviceUpdate, E2eeError, servers_sharing},
    rooms::RoomError,
    storage::{
        Batch, Range, StorageError,
        intern::UserNumber,
        schema::{DEVICE_LIST_OUTBOX, DEVICE_LISTS_WAITING, TO_DEVICE_OUT},
    },
};

/// How many rows are worked on at once.
const STEP: usize = 100;
/// Of how many users' keys one transaction tells.
const MAX_LISTS: usize = 20;
/// How many EDUs with messages one transaction carries.
const MAX_MESSAGES: usize = 30;

/// What of this goes into one transaction.
#[derive(Default)]
pub(super) struct Lasting {
    pub(super) edus: Vec<Raw<Edu>>,
    pub(super) more: bool,
    pub(super) told: Told,
}

/// What no longer waits when it has arrived.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Told {
    /// Whose keys it tells of, the mark of that, and what the server knows then.
    lists: Vec<(UserNumber, u64, (u64, u64))>,
    messages: Vec<(u64, u32)>,
}

impl Exchange {
    /// The servers that something waits for.
    pub(super) async fn servers_with_lasting(
        &self,
    ) -> Result<BTreeSet<OwnedServerName>, StorageError> {
        let mut servers = BTreeSet::new();
        let mut range = Range::all();
        while let Some(((server, ..), _)) = TO_DEVICE_OUT.scan(&self.db, &range, 1).await?.pop() {
            range = range.after(&(&*server, u64::MAX, u32::MAX));
            servers.insert(server);
        }
        let mut range = Range::all();
        while let Some(((server, _), _)) =
            DEVICE_LISTS_WAITING.scan(&self.db, &range, 1).await?.pop()
        {
            range = range.after(&(&*server, UserNumber(u64::MAX)));
            servers.insert(server);
        }
        Ok(servers)
    }

    /// Finds out which servers are to hear of changed keys: those with somebody in a room of the
    /// user whose they are.
    pub(super) async fn distribute_lasting(&self) -> Result<(), RoomError> {
        self.queued_for(self.e2ee.to_device.take_destinations());
        loop {
            let rows = DEVICE_LIST_OUTBOX.scan(&self.db, &Range::all(), STEP).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for (user, position) in rows {
                let servers = servers_sharing(&self.db, user, self.rooms.server_name()).await?;
                let mut batch = Batch::unsynced();
                for server in &servers {
                    DEVICE_LISTS_WAITING.put(&mut batch, &(&**server, user), &position);
                }
                DEVICE_LIST_OUTBOX.require_equals(&mut batch, &user, &position);
                DEVICE_LIST_OUTBOX.delete(&mut batch, &user);
                match self.db.commit(batch).await {
                    // They changed once more: that is in the next round.
                    Err(StorageError::Precondition { .. }) => {}
                    done => done?,
                }
                self.queued_for(servers);
            }
        }
    }

    /// What waits for a server, as much as one transaction holds.
    pub(super) async fn lasting_for(&self, server: &ServerName) -> Result<Lasting, RoomError> {
        let mut load = Lasting::default();
        // Devices are told of before the messages that they sent.
        let range = Range::prefix(&(server,));
        let lists = DEVICE_LISTS_WAITING.scan(&self.db, &range, MAX_LISTS).await?;
        load.more |= lists.len() == MAX_LISTS;
        for ((_, user), mark) in lists {
            let updates = self.e2ee.keys.updates_for_server(server, user).await;
            let (updates, told) = match updates {
                Ok(updates) => updates,
                Err(E2eeError::Storage(error)) => return Err(error.into()),
                Err(_) => continue,
            };
            if load.edus.len() + updates.len() + MAX_MESSAGES > MAX_EDUS {
                load.more = true;
                break;
            }
            let user_id = self.db.users().name(&self.db, user).await?;
            load.edus.extend(updates.into_iter().filter_map(|update| edu_of(&user_id, update)));
            load.told.lists.push((user, mark, told));
        }
        let range = Range::prefix(&(server,));
        let messages = TO_DEVICE_OUT.scan(&self.db, &range, MAX_MESSAGES).await?;
        load.more |= messages.len() == MAX_MESSAGES;
        for ((_, position, number), content) in messages {
            #[derive(Serialize)]
            struct Message {
                edu_type: &'static str,
                content: Box<RawValue>,
            }
            let corrupt = || StorageError::Corrupt { table: TO_DEVICE_OUT.id.name() };
            let content = String::from_utf8(content).map_err(|_| corrupt())?;
            let content = RawValue::from_string(content).map_err(|_| corrupt())?;
            let edu = Message { edu_type: "m.direct_to_device", content };
            let edu = Raw::new(&edu).map_err(|_| corrupt())?;
            load.edus.push(edu.cast_unchecked());
            load.told.messages.push((position, number));
        }
        Ok(load)
    }

    /// It has arrived.
    pub(super) async fn done_with(
        &self,
        server: &ServerName,
        told: &Told,
    ) -> Result<(), RoomError> {
        if !told.messages.is_empty() {
            // If this is lost they are sent again, and known by their IDs.
            let mut batch = Batch::unsynced();
            self.e2ee.to_device.arrived(&mut batch, server, &told.messages).await?;
            self.db.commit(batch).await?;
        }
        for (user, mark, known) in &told.lists {
            let mut batch = Batch::unsynced();
            self.e2ee.keys.queue_told(&mut batch, server, *user, *known).await?;
            self.db.commit(batch).await?;
            let mut batch = Batch::unsynced();
            let key = (server, *user);
            DEVICE_LISTS_WAITING.require_equals(&mut batch, &key, mark);
            DEVICE_LISTS_WAITING.delete(&mut batch, &key);
            match self.db.commit(batch).await {
                // They changed once more.
                Err(StorageError::Precondition { .. }) => {}
                done => done?,
            }
        }
        Ok(())
    }
}

fn edu_of(user_id: &OwnedUserId, update: DeviceUpdate) -> Option<Raw<Edu>> {
    let edu = match update {
        DeviceUpdate::Device { device_id, stream_id, prev_id, keys } => {
            let id = |id: u64| UInt::new_saturating(id);
            let user_id = user_id.clone();
            let mut content = DeviceListUpdateContent::new(user_id, device_id, id(stream_id));
            content.prev_id = prev_id.map(id).into_iter().collect();
            content.deleted = Some(keys.is_none());
            content.keys = keys.map(Raw::from_json);
            Edu::DeviceListUpdate(content)
        }
        DeviceUpdate::SigningKeys { master, self_signing } => {
            let mut content = SigningKeyUpdateContent::new(user_id.clone());
            content.master_key = master.map(Raw::from_json);
            content.self_signing_key = self_signing.map(Raw::from_json);
            Edu::SigningKeyUpdate(content)
        }
    };
    Raw::new(&edu).ok()
}
