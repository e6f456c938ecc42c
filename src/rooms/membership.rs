//! Joining, leaving, inviting, kicking, banning, knocking, forgetting.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-membership>

use std::sync::Arc;

use ruma::{OwnedUserId, RoomId, UserId};
use serde::Deserialize;

use super::{
    Rooms,
    auth::Action,
    error::RoomError,
    event::Draft,
    profile::is_plausible,
    record::Membership,
    room::Room,
    subscriptions::clear_subscriptions,
    writer::{RoomWriter, Sender},
};
use crate::{
    storage::{Batch, StorageError, intern::UserNumber, schema::USER_ROOMS},
    users::{limits::Act, session::Session},
};

/// How many rooms a join rule may name that are looked at.
const MAX_ALLOWED_ROOMS: usize = 100;
/// How many members are looked at for one who may let others in.
const MAX_CANDIDATES: usize = 1_000;

/// What somebody does to a membership, their own or another's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// Comes in.
    Join,
    /// Asks to be let in.
    Knock,
    /// Goes, refuses an invitation, or takes a knock back.
    Leave,
    /// Asks another in.
    Invite,
    /// Throws another out.
    Kick,
    /// Throws another out for good.
    Ban,
    /// Ends a ban.
    Unban,
}

impl Change {
    fn becomes(self) -> Membership {
        match self {
            Self::Join => Membership::Join,
            Self::Knock => Membership::Knock,
            Self::Leave | Self::Kick | Self::Unban => Membership::Leave,
            Self::Invite => Membership::Invite,
            Self::Ban => Membership::Ban,
        }
    }
}

/// Whether a restricted room lets somebody in.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms>
pub(super) enum Admission {
    /// By the word of this member of this server.
    By(OwnedUserId),
    /// Nobody's word is needed, or would help.
    ByTheRules,
    /// Nobody of this server knows who is in any of the rooms that the join rule names.
    Unknown,
    /// By the word of a member who may invite, of whom there is none on this server.
    NobodyMayInvite,
}

impl Rooms {
    /// Changes the membership of `target` in a room. A change to what already is changes nothing.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] if the room's rules do not allow it, [`RoomError::GuestAccess`] if
    /// they let no guests in, [`RoomError::RemoteUser`] for an invitation to another server.
    pub(crate) async fn change_membership(
        &self,
        session: &Session,
        room_id: &RoomId,
        target: &UserId,
        change: Change,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        if !is_plausible(target) {
            return Err(RoomError::InvalidParam { why: "this is no user ID".to_owned() });
        }
        if session.guest && !matches!(change, Change::Join | Change::Leave) {
            return Err(RoomError::GuestAccess);
        }
        if change == Change::Invite && !self.is_local(target) {
            return Err(RoomError::RemoteUser { user: target.to_owned() });
        }
        if matches!(change, Change::Join | Change::Knock | Change::Invite) {
            self.require_unblocked(room_id).await?;
            let act = if change == Change::Invite { Act::Invite } else { Act::Join };
            self.allow(session, act).await?;
        }
        if change == Change::Invite {
            self.check_invite(&session.user_id, target).await?;
        }
        let room = self.room(room_id).await?;
        self.wait_for_member(&room, target).await?;
        let (me, guest) = (Sender::from(session), session.guest);
        self.retried(|| self.try_change(me, guest, &room, target, change, reason)).await
    }

    /// Has a user of this server leave a room, refuse an invitation or take a knock back, on the
    /// server's own account: nobody has to be logged in.
    pub(super) async fn leave(&self, me: Sender<'_>, room: &Arc<Room>) -> Result<(), RoomError> {
        self.retried(|| self.try_change(me, false, room, me.id, Change::Leave, None)).await
    }

    async fn try_change(
        &self,
        me: Sender<'_>,
        guest: bool,
        room: &Arc<Room>,
        target: &UserId,
        change: Change,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let forbidden = |why: &str| Err(RoomError::Forbidden { why: why.to_owned() });
        // Looked up before the room is locked.
        let number = self.db().users().intern(self.db(), target).await?;
        let mut content = self.member_content(change.becomes(), number, reason).await?;
        let mut writer = self.writer(room).await?;
        let old = writer.membership(target);
        match (change, old) {
            (Change::Join, Some(Membership::Join))
            | (Change::Knock, Some(Membership::Knock))
            | (Change::Leave, Some(Membership::Leave))
            | (Change::Ban, Some(Membership::Ban)) => return Ok(()),
            (Change::Leave, None) => {
                return Err(RoomError::NotInRoom { room: room.id.clone() });
            }
            // The rules would let somebody with enough power do both of these.
            (Change::Kick, None | Some(Membership::Leave | Membership::Ban)) => {
                return forbidden("the user is not in the room");
            }
            (
                Change::Unban,
                None
                | Some(Membership::Join | Membership::Invite | Membership::Knock | Membership::Leave),
            ) => {
                return forbidden("the user is not banned");
            }
            _ => {}
        }
        if change == Change::Join {
            self.require_place(room)?;
            if guest && !guests_may_join(&mut writer).await? {
                return Err(RoomError::GuestAccess);
            }
            if old != Some(Membership::Invite)
                && let Admission::By(authorised_by) = self.lets_in(&mut writer, me.number).await?
            {
                let key = "join_authorised_via_users_server".to_owned();
                content.insert(key, authorised_by.as_str().into());
            }
        }
        writer.append(me, Draft::state("m.room.member", target.as_str(), content)).await?;
        writer.commit().await
    }

    /// For a restricted room: by whose word it lets the user in, because the user is in a room that
    /// the join rule names.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>
    pub(super) async fn lets_in(
        &self,
        writer: &mut RoomWriter,
        user: UserNumber,
    ) -> Result<Admission, RoomError> {
        #[derive(Deserialize)]
        struct JoinRules {
            join_rule: String,
            #[serde(default)]
            allow: Vec<serde_json::Value>,
        }
        let Some(event) = writer.state("m.room.join_rules", "").await? else {
            return Ok(Admission::ByTheRules);
        };
        let Ok(rule) = serde_json::from_str::<JoinRules>(event.content.get()) else {
            return Ok(Admission::ByTheRules);
        };
        if !matches!(rule.join_rule.as_str(), "restricted" | "knock_restricted") {
            return Ok(Admission::ByTheRules);
        }
        let mut is_member = false;
        let mut is_known = false;
        for allowed in rule.allow.iter().take(MAX_ALLOWED_ROOMS) {
            let text = |key: &str| allowed.get(key).and_then(serde_json::Value::as_str);
            if text("type") != Some("m.room_membership") {
                continue;
            }
            let Some(id) = text("room_id").and_then(|id| RoomId::parse(id).ok()) else { continue };
            let Some(number) = self.db().rooms().find(self.db(), &*id).await? else { continue };
            let found = USER_ROOMS.get(self.db(), &(user, number)).await?;
            let room = self.room(&id).await.ok();
            // What is known of other servers' users before a room is whole may not hold.
            let is_sure = room.as_ref().is_none_or(|room| {
                !room.is_partial() || room.local_members().binary_search(&user).is_ok()
            });
            if is_sure && found.is_some_and(|row| row.membership == Membership::Join) {
                is_member = true;
                break;
            }
            // Of rooms without anybody of this server it is not known who is in them.
            is_known |=
                room.is_some_and(|room| !room.is_partial() && !room.local_members().is_empty());
        }
        if !is_member {
            return Ok(if is_known { Admission::ByTheRules } else { Admission::Unknown });
        }
        let powers = writer.powers();
        let needed = powers.needed(Action::Invite);
        let local = writer.room.local_members();
        let local = local.get(..local.len().min(MAX_CANDIDATES)).unwrap_or_default();
        let mut candidates = powers.creators();
        candidates.extend(powers.named());
        candidates.extend(self.db().users().names(self.db(), local).await?);
        for candidate in candidates {
            if self.is_local(&candidate)
                && powers.of(&candidate) >= needed
                && writer.membership(&candidate) == Some(Membership::Join)
            {
                return Ok(Admission::By(candidate));
            }
        }
        Ok(Admission::NobodyMayInvite)
    }

    /// Forgets a room that the user left: it is no longer theirs to read.
    ///
    /// # Errors
    /// [`RoomError::NotLeft`] while the user is in it, or invited.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#leaving-rooms>
    pub(crate) async fn forget(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<(), RoomError> {
        let room = self.room(room_id).await?;
        let key = (session.user, room.number);
        loop {
            let row = USER_ROOMS.get(self.db(), &key).await?;
            let Some(row) = row else { return Err(RoomError::NotInRoom { room: room.id.clone() }) };
            if !matches!(row.membership, Membership::Leave | Membership::Ban) {
                return Err(RoomError::NotLeft { room: room.id.clone() });
            }
            if row.forgotten {
                return Ok(());
            }
            let mut batch = Batch::new();
            // Somebody may invite the user in this very moment.
            USER_ROOMS.require_equals(&mut batch, &key, &row);
            let mut forgotten = row;
            forgotten.forgotten = true;
            USER_ROOMS.put(&mut batch, &key, &forgotten);
            clear_subscriptions(self.db(), &mut batch, session.user, Some(room.number)).await?;
            match self.db().commit(batch).await {
                Err(StorageError::Precondition { .. }) => {}
                outcome => return Ok(outcome?),
            }
        }
    }
}

async fn guests_may_join(writer: &mut RoomWriter) -> Result<bool, RoomError> {
    let event = writer.state("m.room.guest_access", "").await?;
    Ok(event.and_then(|event| event.content_text("guest_access")).as_deref() == Some("can_join"))
}
