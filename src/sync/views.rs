//! What users are to rooms and may see of them, kept in memory while it stays as it is.
//!
//! Who waits for messages is told of many in a row, and between two of them neither their membership
//! nor the room's state changes, nor whom they ignore: memory knows when one of these does.

use std::sync::Arc;

use quick_cache::sync::Cache;
use ruma::OwnedDeviceId;
use tokio::sync::OnceCell;

use super::v3::Sync;
use crate::{
    rooms::{Room, RoomError, Visibility, record::UserRoom},
    storage::{
        RoomChanges, Snapshot,
        intern::{RoomNumber, UserNumber},
        schema::USER_ROOMS,
    },
    users::{Ignored, session::Session},
};

/// Of how many (user, room) it is kept, about 300 bytes each.
const MAX_VIEWS: usize = 50_000;

/// Whom the user of a response ignores, read once for all of its rooms.
pub(super) type IgnoredOnce = OnceCell<Ignored>;

/// What was read lately.
pub(crate) struct Views {
    rooms: Cache<(UserNumber, RoomNumber), Arc<View>>,
    /// Devices that were given messages to them, which go when they come back, and the position up to
    /// which they were.
    given: Cache<(UserNumber, OwnedDeviceId), u64>,
}

/// What one user is to one room.
struct View {
    /// It holds everything up to this position.
    as_of: u64,
    user_room: UserRoom,
    visibility: Arc<Visibility>,
}

impl Default for Views {
    fn default() -> Self {
        Self { rooms: Cache::new(MAX_VIEWS), given: Cache::new(MAX_VIEWS) }
    }
}

impl Views {
    /// Notes that a device is given messages to it, up to this position.
    pub(super) fn give_messages(&self, session: &Session, upto: u64) {
        self.given.insert((session.user, session.device_id.clone()), upto);
    }

    /// Whether there may be some among them that it has, now that it has everything up to `upto`.
    /// Not once it has them all.
    pub(super) fn may_have_had_messages(&self, session: &Session, upto: u64) -> bool {
        let device = (session.user, session.device_id.clone());
        let Some(given) = self.given.get(&device) else { return false };
        if given <= upto {
            self.given.remove(&device);
        }
        true
    }
}

impl Sync {
    /// What the user is to the rooms in which something changed.
    pub(super) async fn user_rooms_among(
        &self,
        at: &Snapshot,
        user: UserNumber,
        changes: &RoomChanges,
    ) -> Result<Vec<(RoomNumber, UserRoom)>, RoomError> {
        let known = |room: &RoomNumber| {
            let view = self.views.rooms.get(&(user, *room))?;
            (view.as_of >= changes.settled).then(|| (*room, view.user_room.clone()))
        };
        if let Some(found) = changes.rooms.iter().map(known).collect() {
            return Ok(found);
        }
        let keys = changes.rooms.iter().map(|room| (user, *room));
        let rows = USER_ROOMS.multi_get(at, keys).await?;
        let found = changes.rooms.iter().zip(rows).filter_map(|(room, row)| Some((*room, row?)));
        Ok(found.collect())
    }

    /// What a user may see in a room, of everything up to `until`. With `settled` it has not changed
    /// since that position.
    pub(super) async fn visibility(
        &self,
        at: &Snapshot,
        room: &Room,
        (user, user_room): (UserNumber, &UserRoom),
        until: u64,
        settled: Option<u64>,
        ignored: &IgnoredOnce,
    ) -> Result<Arc<Visibility>, RoomError> {
        let key = (user, room.number);
        if let Some(settled) = settled
            && let Some(known) = self.views.rooms.get(&key)
            && known.as_of >= settled
        {
            return Ok(Arc::clone(&known.visibility));
        }
        let ignored = ignored.get_or_try_init(|| Ignored::load(at, user)).await?.clone();
        let visibility =
            Visibility::of(&self.rooms, at, room, user, Some(user_room), ignored).await?;
        let visibility = Arc::new(visibility);
        if settled.is_none() {
            return Ok(visibility);
        }
        let view = View {
            as_of: until,
            user_room: user_room.clone(),
            visibility: Arc::clone(&visibility),
        };
        self.views.rooms.insert(key, Arc::new(view));
        Ok(visibility)
    }
}
