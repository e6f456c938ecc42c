//! What a user is to a room at this moment.

use std::sync::Arc;

use ruma::{EventId, RoomId};

use super::{
    Room, RoomError, Rooms,
    record::Membership,
    relations::{RelatesTo, thread_of},
};
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
        let (_, _, event) = self.seen_event(self.db(), session, &room.id, event_id).await?;
        Ok(event.as_of())
    }

    /// The same for an event that is in a thread: the one of this root, or none for the main
    /// timeline. A root and what relates to it count as part of its thread as well.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`], [`RoomError::InvalidParam`] if it is in another thread.
    pub(crate) async fn position_in_thread(
        &self,
        session: &Session,
        room: &Room,
        event_id: &EventId,
        thread: Option<&EventId>,
    ) -> Result<u64, RoomError> {
        let (_, _, event) = self.seen_event(self.db(), session, &room.id, event_id).await?;
        let is_in = thread_of(self.db(), room.number, &event).await?;
        let related = RelatesTo::in_content(event.content()).map(|to| to.parent);
        let is_of_root =
            thread.is_some_and(|first| related.as_deref().unwrap_or(event_id) == first);
        if is_in.as_deref() != thread && !is_of_root {
            let why = "the event is not in that thread".to_owned();
            return Err(RoomError::InvalidParam { why });
        }
        Ok(event.as_of())
    }
}
