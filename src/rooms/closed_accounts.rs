//! Taking users out of their rooms whose account was closed.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>

use super::{Rooms, error::RoomError, policy::PolicyError, record::Membership, writer::Sender};
use crate::storage::{
    Batch, Range,
    intern::{RoomNumber, UserNumber},
    schema::CLOSED_ACCOUNTS,
};

/// How many users are read at a time.
const STEP: usize = 100;
/// How long the worker rests after a failure.
const REST: std::time::Duration = std::time::Duration::from_secs(5);

impl Rooms {
    /// Takes all users out of their rooms whose account was closed; one is noted as done when none
    /// of their rooms has them any more. One that fails does not keep the others waiting.
    ///
    /// # Errors
    /// The last [`RoomError`] of those whose turn is to come again.
    pub(crate) async fn drain_closed_accounts(&self) -> Result<(), RoomError> {
        let mut failed = None;
        let mut range = Range::all();
        loop {
            let rows = CLOSED_ACCOUNTS.scan(self.db(), &range, STEP).await?;
            let Some((last, ())) = rows.last() else { break };
            range = range.after(last);
            for (user, ()) in rows {
                if let Err(error) = self.leave_all(user).await {
                    failed = Some(error);
                    continue;
                }
                let mut batch = Batch::new();
                CLOSED_ACCOUNTS.delete(&mut batch, &user);
                self.db().commit(batch).await?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Leaves the user's rooms, refuses invitations and takes knocks back.
    async fn leave_all(&self, user: UserNumber) -> Result<(), RoomError> {
        let id = self.db().users().name(self.db(), user).await?;
        let me = Sender { id: &id, number: user };
        let mut failed = None;
        for (room, row) in self.user_rooms(self.db(), user).await? {
            match row.membership {
                Membership::Join | Membership::Invite | Membership::Knock => {}
                Membership::Leave | Membership::Ban => continue,
            }
            match self.leave_one(me, room).await {
                Ok(()) => {}
                // Thrown out at the same moment, or kept by rules that no trying again will change.
                Err(
                    error @ (RoomError::Forbidden { .. }
                    | RoomError::NotInRoom { .. }
                    | RoomError::Policy(PolicyError::Refused { .. })),
                ) => {
                    tracing::warn!(%error, user = %id, "a closed account can't leave a room");
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn leave_one(&self, me: Sender<'_>, room: RoomNumber) -> Result<(), RoomError> {
        let room = self.numbered(room).await?;
        self.leave(me, &room).await
    }

    /// Says that an account was closed and the batch that says so is committed.
    pub(crate) fn account_closed(&self) {
        self.shared.account_closed.notify_one();
    }

    /// Takes users out of their rooms whose account was closed, those of before the start first,
    /// for as long as it is polled.
    pub(crate) async fn run_closed_accounts(self) {
        loop {
            if let Err(error) = self.drain_closed_accounts().await {
                tracing::error!(%error, "a closed account could not be taken out of its rooms");
                tokio::time::sleep(REST).await;
                continue;
            }
            self.shared.account_closed.notified().await;
        }
    }
}
