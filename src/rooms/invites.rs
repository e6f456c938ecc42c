//! Invitations that those who are invited do not want.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#invite-permission>

use ruma::UserId;

use super::{
    NewRoom, Rooms,
    error::RoomError,
    record::{EventRecord, Membership, UserRoom},
};
use crate::{
    storage::{
        Read,
        intern::{RoomNumber, UserNumber},
        schema::{ACCOUNTS, EVENTS},
    },
    users::{InviteRules, Verdict},
};

impl Rooms {
    /// Whether `inviter` may invite `target`.
    ///
    /// # Errors
    /// [`RoomError::InviteBlocked`] if `target` is of this server and does not want it.
    pub(crate) async fn check_invite(
        &self,
        inviter: &UserId,
        target: &UserId,
    ) -> Result<(), RoomError> {
        if !self.is_local(target) {
            return Ok(());
        }
        let Some(user) = self.invited(target).await? else { return Ok(()) };
        match InviteRules::load(self.db(), user).await?.judge(inviter) {
            Verdict::Refuse => Err(RoomError::InviteBlocked { user: target.to_owned() }),
            Verdict::Show | Verdict::Hide => Ok(()),
        }
    }

    /// The number of a user of this server, who may be made on the spot by an application service.
    async fn invited(&self, target: &UserId) -> Result<Option<UserNumber>, RoomError> {
        let user = self.db().users().find(self.db(), target).await?;
        let Some(appservices) = self.shared.appservices.get() else { return Ok(user) };
        let known = match user {
            Some(user) => ACCOUNTS.contains(self.db(), &user).await?,
            None => false,
        };
        if known || !appservices.user_exists(target).await {
            return Ok(user);
        }
        Ok(self.db().users().find(self.db(), target).await?)
    }

    /// The room without the invitations that would be refused: it is made all the same, unless it
    /// was for nobody else.
    ///
    /// # Errors
    /// [`RoomError::InviteBlocked`] if nobody who was to be invited wants it.
    pub(super) async fn without_refused(
        &self,
        inviter: &UserId,
        new: &NewRoom,
    ) -> Result<NewRoom, RoomError> {
        let mut new = new.clone();
        let mut invite = Vec::with_capacity(new.invite.len());
        let mut refused = None;
        for user in std::mem::take(&mut new.invite) {
            match self.check_invite(inviter, &user).await {
                Ok(()) => invite.push(user),
                Err(error @ RoomError::InviteBlocked { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = refused.filter(|_| invite.is_empty()) {
            return Err(error);
        }
        new.invite = invite;
        Ok(new)
    }

    /// The event that invites a user to a room, whether or not this server is in it.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn invite_event(
        &self,
        at: &impl Read,
        user: UserNumber,
        room: RoomNumber,
        invite: &UserRoom,
    ) -> Result<Option<EventRecord>, RoomError> {
        match EVENTS.get(at, &(room, invite.event)).await? {
            Some(event) => Ok(Some(event)),
            None => self.outside_record(at, user, room, invite.position).await,
        }
    }

    /// Whether the user does not want to see an invitation that was made.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn hides_invite(
        &self,
        at: &impl Read,
        user: UserNumber,
        room: RoomNumber,
        invite: &UserRoom,
    ) -> Result<bool, RoomError> {
        if invite.membership != Membership::Invite {
            return Ok(false);
        }
        let Some(event) = EVENTS.get(at, &(room, invite.event)).await? else { return Ok(false) };
        let rules = InviteRules::load(at, user).await?;
        Ok(rules.judge(&event.sender_id) != Verdict::Show)
    }
}
