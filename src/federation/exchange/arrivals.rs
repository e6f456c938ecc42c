//! Who comes into a room, from here or from elsewhere, and who is there: a server that is new in a
//! room is told of those in it who are there, and the others of who has come.
//!
//! Such news travels beside the join itself and may overtake it. So what is said of somebody who
//! shares no room with anybody here is kept for a moment, until one of the two has come in.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#presence>

use std::time::Duration;

use moka::sync::Cache;
use ruma::{OwnedUserId, ServerName, UserId};

use super::Exchange;
use crate::{
    rooms::{Room, pdu::Pdu},
    storage::{StorageError, intern::UserNumber},
    users::presence::{MAX_STATUS_BYTES, RemoteStatus},
};

/// How long what is said of strangers is kept: as long as a join may take.
const KEPT: Duration = Duration::from_mins(5);
/// Of how many strangers. Whoever floods this keeps others from being seen for up to 20 minutes,
/// when those are spoken of again.
const MAX_KEPT: u64 = 5_000;

/// What other servers said of users who share no room with anybody here.
pub(super) struct Strangers {
    said: Cache<OwnedUserId, RemoteStatus>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self { said: Cache::builder().max_capacity(MAX_KEPT).time_to_live(KEPT).build() }
    }
}

impl Exchange {
    /// Notes what another server says of its user.
    ///
    /// # Errors
    /// [`StorageError`] if the database fails.
    pub(super) async fn hear_of(
        &self,
        user: &UserId,
        mut status: RemoteStatus,
    ) -> Result<(), StorageError> {
        if !self.presence.is_federated() || self.is_heard(user, &status).await? {
            return Ok(());
        }
        status.message.take_if(|message| message.len() > MAX_STATUS_BYTES);
        self.shared.strangers.said.insert(user.to_owned(), status.clone());
        // The join may have been taken in since, and have found nothing.
        if self.is_heard(user, &status).await? {
            self.shared.strangers.said.invalidate(user);
        }
        Ok(())
    }

    async fn is_heard(&self, user: &UserId, status: &RemoteStatus) -> Result<bool, StorageError> {
        match self.db.users().find(&self.db, user).await? {
            Some(number) => self.presence.heard(number, status.clone()).await,
            None => Ok(false),
        }
    }

    /// The server of somebody whose member event this is, if it is not in the room yet.
    pub(super) fn new_server<'a>(&self, room: &Room, pdu: &'a Pdu) -> Option<&'a ServerName> {
        let server = pdu.sender().server_name();
        let is_new = pdu.event_type() == "m.room.member"
            && !self.rooms.other_servers(room).iter().any(|other| other == server);
        is_new.then_some(server)
    }

    /// A member event of another server's user was taken in; `new_server` as it was before.
    pub(super) async fn came_in(&self, room: &Room, pdu: &Pdu, new_server: Option<&ServerName>) {
        if pdu.event_type() != "m.room.member" {
            return;
        }
        let told = async {
            if let Some(status) = self.shared.strangers.said.remove(pdu.sender()) {
                self.hear_of(pdu.sender(), status).await?;
            }
            match new_server {
                Some(server)
                    if self.rooms.other_servers(room).iter().any(|other| other == server) =>
                {
                    let servers = vec![server.to_owned()];
                    self.tell_who_is_there(room, &room.local_members(), servers).await
                }
                _ => Ok(()),
            }
        };
        note(told.await);
    }

    /// A user of this server has come into a room of others.
    pub(super) async fn went_in(&self, room: &Room, user: UserNumber) {
        let told = async {
            for (user, status) in &self.shared.strangers.said {
                if self.is_heard(&user, &status).await? {
                    self.shared.strangers.said.invalidate(&*user);
                }
            }
            self.tell_who_is_there(room, &[user], self.rooms.other_servers(room)).await
        };
        note(told.await);
    }
}

fn note(told: Result<(), StorageError>) {
    if let Err(error) = told {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "who is in a room is not told");
    }
}
