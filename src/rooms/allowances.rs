//! How often users may send, make rooms, come in and invite; for some as the operator says.

use ruma::UserId;
use serde::{Deserialize, Serialize};

use super::{Rooms, error::RoomError, room::Room};
use crate::{
    config::Rate,
    storage::{Batch, Json, intern::UserNumber, schema::RATE_OVERRIDES},
    users::{limits::Act, session::Session},
};

/// What the operator lets one user do, instead of what holds for all.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct RateOverride {
    /// How often, in the long run. 0: as often as they like.
    pub(crate) messages_per_second: u32,
    /// How often in a row. 0: as the other says.
    pub(crate) burst_count: u32,
}

impl RateOverride {
    /// The same as a rate; none if there is no limit.
    fn rate(self) -> Option<Rate> {
        let per_minute = self.messages_per_second.saturating_mul(60);
        let burst = self.burst_count.max(self.messages_per_second).max(1);
        (self.messages_per_second > 0).then_some(Rate { burst, per_minute })
    }
}

impl Rooms {
    /// Counts what a user does, unless the application service that does it is not limited.
    ///
    /// # Errors
    /// [`RoomError::Limit`] if that is too often.
    pub(crate) async fn allow(&self, session: &Session, act: Act) -> Result<(), RoomError> {
        match session.limited_as() {
            Some(user) => self.count(user, act, 1).await,
            None => Ok(()),
        }
    }

    /// The same for something done so many times at once.
    ///
    /// # Errors
    /// [`RoomError::Limit`] if that is too often.
    pub(super) async fn allow_many(
        &self,
        session: &Session,
        act: Act,
        times: usize,
    ) -> Result<(), RoomError> {
        match session.limited_as() {
            Some(user) if times > 0 => {
                self.count(user, act, u32::try_from(times).unwrap_or(u32::MAX)).await
            }
            _ => Ok(()),
        }
    }

    /// The same for a user of this server of whom only the ID is known.
    ///
    /// # Errors
    /// [`RoomError::Limit`] if that is too often.
    pub(crate) async fn allow_user(&self, user_id: &UserId, act: Act) -> Result<(), RoomError> {
        if let Some(registry) = self.appservices()
            && registry.owner_of_user(user_id).is_some_and(|owner| !owner.is_limited(user_id))
        {
            return Ok(());
        }
        self.count(self.user_number(user_id).await?, act, 1).await
    }

    async fn count(&self, user: UserNumber, act: Act, times: u32) -> Result<(), RoomError> {
        let limits = &self.shared.limits;
        if !limits.are_enabled() {
            return Ok(());
        }
        match self.rate_override(user).await? {
            None => Ok(limits.act(user, act, times, None)?),
            Some(own) => match own.rate() {
                Some(rate) => Ok(limits.act(user, act, times, Some(rate))?),
                None => Ok(()),
            },
        }
    }

    /// What the operator lets a user do; none if nothing was said.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn rate_override(
        &self,
        user: UserNumber,
    ) -> Result<Option<RateOverride>, RoomError> {
        let known = &self.shared.rate_overrides;
        if let Some(known) = known.get(&user) {
            return Ok(known);
        }
        let stored = RATE_OVERRIDES.get(self.db(), &user).await?.map(|Json(own)| own);
        // What was set in the meantime is newer.
        Ok(known.entry(user).or_insert(stored).into_value())
    }

    /// Sets that, or takes it back.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn set_rate_override(
        &self,
        user: UserNumber,
        own: Option<RateOverride>,
    ) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        match own {
            Some(own) => RATE_OVERRIDES.put(&mut batch, &user, &Json(own)),
            None => RATE_OVERRIDES.delete(&mut batch, &user),
        }
        self.db().commit(batch).await?;
        self.shared.rate_overrides.insert(user, own);
        Ok(())
    }

    /// Whether one more may come into a room.
    ///
    /// # Errors
    /// [`RoomError::Full`].
    pub(super) fn require_place(&self, room: &Room) -> Result<(), RoomError> {
        let Some(most) = self.settings().max_members else { return Ok(()) };
        if room.member_count() >= most {
            return Err(RoomError::Full { room: room.id.clone() });
        }
        Ok(())
    }
}
