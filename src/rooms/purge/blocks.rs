//! Rooms that nobody of this server may come into.

use ruma::{OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    rooms::{Rooms, error::RoomError},
    storage::{Batch, Json, schema::BLOCKED_ROOMS},
};

/// Why a room is blocked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Block {
    /// Who blocked it.
    pub(crate) by: OwnedUserId,
    /// It is blocked while it is deleted only.
    #[serde(default)]
    pub(crate) passing: bool,
}

impl Rooms {
    /// Who blocked a room, known here or not; none if nobody did.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn block_of(&self, room: &RoomId) -> Result<Option<Block>, RoomError> {
        Ok(BLOCKED_ROOMS.get(self.db(), room).await?.map(|Json(block)| block))
    }

    /// Blocks a room, or no longer.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn set_blocked(
        &self,
        room: &RoomId,
        by: &UserId,
        blocked: bool,
    ) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        if blocked {
            let block = Block { by: by.to_owned(), passing: false };
            BLOCKED_ROOMS.put(&mut batch, room, &Json(block));
        } else {
            BLOCKED_ROOMS.delete(&mut batch, room);
        }
        Ok(self.db().commit(batch).await?)
    }

    /// Whether users of this server may come into a room.
    ///
    /// # Errors
    /// [`RoomError::Blocked`].
    pub(crate) async fn require_unblocked(&self, room: &RoomId) -> Result<(), RoomError> {
        match self.block_of(room).await? {
            Some(_) => Err(RoomError::Blocked { room: room.to_owned() }),
            None => Ok(()),
        }
    }
}
