//! What a client may not relate to what.

use ruma::EventId;

use super::{RelatesTo, RelationKind};
use crate::{
    rooms::{
        Rooms,
        error::RoomError,
        event::{self, Draft},
        room::Room,
    },
    storage::{
        Batch,
        intern::UserNumber,
        schema::{ANNOTATIONS, EVENT_IDS, EVENTS},
    },
};

impl Rooms {
    /// Looks at the relation of an event that a client wants to send.
    ///
    /// # Errors
    /// [`RoomError::DuplicateAnnotation`] for the same annotation again; [`RoomError::BadThread`]
    /// for a thread whose root relates to another event.
    pub(in crate::rooms) async fn check_relation(
        &self,
        room: &Room,
        sender: UserNumber,
        draft: &Draft,
    ) -> Result<(), RoomError> {
        let Some(to) = relation(draft) else { return Ok(()) };
        match to.kind() {
            RelationKind::Annotation => {
                let Some(hash) = to.annotation(&draft.event_type) else { return Ok(()) };
                let key = (room.number, &*to.parent, sender, hash);
                if ANNOTATIONS.contains(self.db(), &key).await? {
                    return Err(RoomError::DuplicateAnnotation);
                }
                Ok(())
            }
            RelationKind::Thread => self.check_thread_root(room, &to.parent).await,
            _ => Ok(()),
        }
    }

    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#validation-of-mthread-relationships>
    async fn check_thread_root(&self, room: &Room, first: &EventId) -> Result<(), RoomError> {
        // A root that is not known here can't be judged.
        let Some((in_room, number)) = EVENT_IDS.get(self.db(), first).await? else { return Ok(()) };
        if in_room != room.number {
            return Err(RoomError::BadThread);
        }
        match EVENTS.get(self.db(), &(in_room, number)).await? {
            Some(first) if RelatesTo::in_content(first.content()).is_some() => {
                Err(RoomError::BadThread)
            }
            _ => Ok(()),
        }
    }
}

fn relation(draft: &Draft) -> Option<RelatesTo> {
    // The content as text is made again when the event is built: only for the few that relate.
    draft.content.contains_key("m.relates_to").then_some(())?;
    RelatesTo::in_content(&event::json(&draft.content)).filter(|_| draft.state_key.is_none())
}

/// The batch fails if the sender's annotation is there already: of two sent at once, one counts.
pub(in crate::rooms) fn require_new_annotation(
    batch: &mut Batch,
    room: &Room,
    sender: UserNumber,
    draft: &Draft,
) {
    let Some(to) = relation(draft) else { return };
    if let Some(hash) = to.annotation(&draft.event_type) {
        ANNOTATIONS.require_absent(batch, &(room.number, &*to.parent, sender, hash));
    }
}
