//! What a user is to a room at this moment.

use std::sync::Arc;

use ruma::{EventId, RoomId};

use super::{Room, RoomError, Rooms, record::Membership};
use crate::users::session::Session;

impl Rooms {
    /// The room, for somebody who is joined to it.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`] for everybody else, also if there is no such room.
    pub(crate) async fn joined(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<Arc<Room>, RoomError> {
        let room = self.readable(room_id).await?;
        match self.user_room(session.user, room.number).await? {
            Some(row) if row.membership == Membership::Join => Ok(room),
            _ => Err(RoomError::NotInRoom { room: room_id.to_owned() }),
        }
    }

    /// The stream position that an event which the user may see stands at.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`]
    pub(crate) async fn position_of(
        &self,
        session: &Session,
        room: &Room,
        event_id: &EventId,
    ) -> Result<u64, RoomError> {
        let (_, event) = self.stored(room, event_id).await?;
        let visibility = self.visibility(self.db(), room, session.user).await?;
        if !visibility.allows(&event) {
            return Err(RoomError::UnknownEvent { event: event_id.to_owned() });
        }
        Ok(event.as_of())
    }
}
