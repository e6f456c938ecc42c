//! Names and pictures in member events, and telling rooms when they change.

use ruma::{CanonicalJsonObject, OwnedMxcUri, UserId};
use serde::Deserialize;

use super::{Rooms, error::RoomError, event::Draft, record::Membership, writer::Sender};
use crate::storage::{
    Batch, Range,
    intern::{RoomNumber, UserNumber},
    schema::PROFILE_UPDATES,
};

/// How many users' changes are read at a time.
const STEP: usize = 100;
/// How long the worker rests after a failure.
const REST: std::time::Duration = std::time::Duration::from_secs(5);

/// What member events say about a user.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct Profile {
    /// `displayname`
    pub(crate) displayname: Option<String>,
    /// `avatar_url`
    pub(crate) avatar_url: Option<OwnedMxcUri>,
}

impl Profile {
    /// What the content of a member event says. Names that are no strings are none.
    pub(super) fn in_content(content: &str) -> Self {
        serde_json::from_str(content).unwrap_or_default()
    }
}

impl Rooms {
    /// The content of a member event about `user`: the profile of users of this server is in it.
    pub(super) async fn member_content(
        &self,
        membership: Membership,
        user: UserNumber,
        reason: Option<&str>,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let mut content = CanonicalJsonObject::new();
        content.insert("membership".to_owned(), membership.as_str().into());
        if let Some(reason) = reason {
            content.insert("reason".to_owned(), reason.into());
        }
        if matches!(membership, Membership::Join | Membership::Invite | Membership::Knock) {
            put_profile(&mut content, &(self.shared.profiles)(user).await?);
        }
        Ok(content)
    }

    /// Sends the user's member events again, with this name and picture. Rooms that say so already
    /// are left alone, so this may be done twice.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#events-on-change-of-profile-information>
    pub(crate) async fn propagate_profile(
        &self,
        user: UserNumber,
        profile: &Profile,
    ) -> Result<(), RoomError> {
        let user_id = self.db().users().name(self.db(), user).await?;
        for room in self.joined_rooms(user).await? {
            let outcome = self
                .retried(|| {
                    self.try_propagate(room, Sender { id: &user_id, number: user }, profile)
                })
                .await;
            match outcome {
                Ok(()) => {}
                // The room's rules stand against it (an unusual member event): its own affair.
                Err(
                    error @ (RoomError::Forbidden { .. }
                    | RoomError::BadEvent { .. }
                    | RoomError::TooLarge { .. }
                    | RoomError::Policy(_)),
                ) => tracing::debug!(%error, "a room keeps an old profile"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn try_propagate(
        &self,
        room: RoomNumber,
        me: Sender<'_>,
        profile: &Profile,
    ) -> Result<(), RoomError> {
        let room = self.numbered(room).await?;
        let mut writer = self.writer(&room).await?;
        let Some(member) = writer.state("m.room.member", me.id.as_str()).await? else {
            return Ok(());
        };
        if member.membership() != Some(Membership::Join) {
            return Ok(());
        }
        let old = super::event::content(member.content.get())?;
        let mut content = old.clone();
        // Why the user joined is not why the name changes.
        content.remove("reason");
        // The user is in the room: nobody has to answer for that any more.
        content.remove("join_authorised_via_users_server");
        put_profile(&mut content, profile);
        let says = |key: &str| old.get(key) == content.get(key);
        if says("displayname") && says("avatar_url") {
            return Ok(());
        }
        writer.append(me, Draft::state("m.room.member", me.id.as_str(), content)).await?;
        writer.commit().await
    }

    /// Tells the rooms about all profiles that changed; a change is noted as done when all of the
    /// user's rooms have it.
    pub(crate) async fn drain_profile_updates(&self) -> Result<(), RoomError> {
        loop {
            let rows = PROFILE_UPDATES.scan(self.db(), &Range::all(), STEP).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for (user, ()) in rows {
                loop {
                    let profile = (self.shared.profiles)(user).await?;
                    self.propagate_profile(user, &profile).await?;
                    let mut batch = Batch::new();
                    PROFILE_UPDATES.delete(&mut batch, &user);
                    self.db().commit(batch).await?;
                    // A change that came before the row was deleted is not forgotten with it.
                    if (self.shared.profiles)(user).await? == profile {
                        break;
                    }
                }
            }
        }
    }

    /// Says that a profile changed and the batch that says so is committed.
    pub(crate) fn profile_changed(&self) {
        self.shared.profile_changed.notify_one();
    }

    /// Tells rooms about changed profiles, those of before the start first, for as long as it is
    /// polled.
    pub(crate) async fn run_profile_updates(self) {
        loop {
            if let Err(error) = self.drain_profile_updates().await {
                tracing::error!(%error, "rooms could not be told of a changed profile");
                tokio::time::sleep(REST).await;
                continue;
            }
            self.shared.profile_changed.notified().await;
        }
    }
}

fn put_profile(content: &mut CanonicalJsonObject, profile: &Profile) {
    content.remove("displayname");
    content.remove("avatar_url");
    if let Some(name) = &profile.displayname {
        content.insert("displayname".to_owned(), name.as_str().into());
    }
    if let Some(url) = &profile.avatar_url {
        content.insert("avatar_url".to_owned(), url.as_str().into());
    }
}

/// Whether `user` could be on this server at all.
pub(super) fn is_plausible(user: &UserId) -> bool {
    user.as_bytes().len() <= super::event::MAX_FIELD_BYTES && !user.as_str().contains('\0')
}
