//! What other servers send besides events: who types, has read, is there; and what is lost if it is
//! not taken care of: messages between devices, and whose keys changed.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#edus>

use std::time::Duration;

use ruma::{
    ServerName,
    api::federation::transactions::edu::{
        DirectDeviceContent, Edu, PresenceContent, ReceiptContent, TypingContent,
    },
    events::receipt::{ReceiptThread, ReceiptType},
    serde::Raw,
};

use super::Exchange;
use crate::{
    e2ee::{E2eeError, delivery},
    rooms::{RoomError, error::RoomError::InvalidParam, receipts::ReadUpTo},
    storage::{StorageError, schema::TRACKED_LISTS},
    users::presence::{Level, RemoteStatus},
};

/// How many rooms of one receipt are looked at, and how many users in each.
const MAX_RECEIPTS: usize = 100;
/// How many users' presence one EDU tells.
const MAX_PRESENCE: usize = 1_000;
/// How long somebody on another server types if their server says nothing more.
const TYPING: Duration = Duration::from_secs(30);

impl Exchange {
    /// Takes in what must not be lost, in the order in which it came. The other EDUs.
    ///
    /// # Errors
    /// [`RoomError::Storage`] if the database fails: then the transaction must come again.
    pub(super) async fn take_lasting_edus(
        &self,
        origin: &ServerName,
        edus: Vec<Raw<Edu>>,
    ) -> Result<Vec<Edu>, RoomError> {
        let mut passing = Vec::new();
        for edu in edus {
            let taken = match edu.deserialize() {
                Ok(Edu::DirectToDevice(messages)) => self.take_messages(origin, messages).await,
                Ok(Edu::DeviceListUpdate(update)) => {
                    self.e2ee.keys.take_device_update(origin, update).await
                }
                Ok(Edu::SigningKeyUpdate(update)) => {
                    self.e2ee.keys.take_signing_keys(origin, update).await
                }
                Ok(edu) => {
                    passing.push(edu);
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%origin, %error, "this is no EDU");
                    continue;
                }
            };
            match taken {
                Err(E2eeError::Storage(error)) => return Err(error.into()),
                Err(E2eeError::Busy) => {
                    let table = TRACKED_LISTS.id.name();
                    return Err(StorageError::Precondition { table }.into());
                }
                Err(error) => tracing::debug!(%origin, %error, "EDU not taken"),
                Ok(()) => {}
            }
        }
        Ok(passing)
    }

    async fn take_messages(
        &self,
        origin: &ServerName,
        content: DirectDeviceContent,
    ) -> Result<(), E2eeError> {
        let delivery = delivery(content.messages);
        let (event_type, id) = (content.ev_type.to_string(), content.message_id);
        let to_device = &self.e2ee.to_device;
        to_device.receive(origin, &content.sender, &event_type, id.as_str(), &delivery).await
    }

    /// Takes in what is soon replaced.
    pub(super) async fn take_passing_edus(&self, origin: &ServerName, edus: Vec<Edu>) {
        for edu in edus {
            let taken = match edu {
                Edu::Typing(typing) => self.take_typing(origin, &typing).await,
                Edu::Receipt(receipts) => self.take_receipts(origin, &receipts).await,
                Edu::Presence(presence) => self.take_presence(origin, presence).await,
                // What this server has nothing to do with.
                _ => Ok(()),
            };
            if let Err(error) = taken {
                tracing::debug!(%origin, %error, "EDU not taken");
            }
        }
    }

    async fn take_typing(
        &self,
        origin: &ServerName,
        typing: &TypingContent,
    ) -> Result<(), RoomError> {
        if typing.user_id.server_name() != origin {
            return Err(InvalidParam { why: "another server's user".to_owned() });
        }
        let room = self.rooms.room_with(&typing.room_id, origin).await?;
        let user = self.rooms.user_number(&typing.user_id).await?;
        // Their server is in the room; who of it is may not be known yet.
        if !room.is_partial() && !self.rooms.is_joined(&room, user).await? {
            return Err(RoomError::NotInRoom { room: room.id.clone() });
        }
        let timeout = typing.typing.then_some(TYPING);
        Ok(self.typing.set(room.number, user, timeout, room.local_members()).await?)
    }

    async fn take_receipts(
        &self,
        origin: &ServerName,
        receipts: &ReceiptContent,
    ) -> Result<(), RoomError> {
        for (room_id, map) in receipts.receipts.iter().take(MAX_RECEIPTS) {
            let Ok(room) = self.rooms.room_with(room_id, origin).await else { continue };
            for (user_id, receipt) in map.read.iter().take(MAX_RECEIPTS) {
                if user_id.server_name() != origin {
                    continue;
                }
                let user = self.rooms.user_number(user_id).await?;
                if !room.is_partial() && !self.rooms.is_joined(&room, user).await? {
                    continue;
                }
                let Some(event_id) = receipt.event_ids.last() else { continue };
                let Some((_, event)) = self.rooms.pdu(&room, event_id).await? else { continue };
                let thread = match &receipt.data.thread {
                    ReceiptThread::Main => "main",
                    ReceiptThread::Thread(thread) => thread.as_str(),
                    _ => "",
                };
                let up_to = ReadUpTo { event_id: event_id.clone(), position: event.as_of() };
                let members = room.local_members();
                self.receipts
                    .set(room.number, user, &ReceiptType::Read, thread, &up_to, &members)
                    .await?;
            }
        }
        Ok(())
    }

    async fn take_presence(
        &self,
        origin: &ServerName,
        presence: PresenceContent,
    ) -> Result<(), RoomError> {
        for update in presence.push.into_iter().take(MAX_PRESENCE) {
            if update.user_id.server_name() != origin {
                continue;
            }
            let Some(level) = Level::named(&update.presence) else { continue };
            let status = RemoteStatus {
                level,
                currently_active: update.currently_active,
                message: update.status_msg,
                active_ago_ms: update.last_active_ago.into(),
            };
            self.hear_of(&update.user_id, status).await?;
        }
        Ok(())
    }
}
