//! Delayed state events that others overtake.

use std::collections::HashSet;

use parking_lot::RwLock;

use super::{
    super::{error::RoomError, record::EventNumber, writer::RoomWriter},
    row::Ending,
};
use crate::storage::{
    Db, Json, Range, StorageError,
    intern::RoomNumber,
    schema::{DELAYED_EVENTS, DELAYED_STATE},
};

/// The rooms for which state events wait, or did since the start: all others need not look.
#[derive(Debug, Default)]
pub(in crate::rooms) struct Watched {
    rooms: RwLock<HashSet<RoomNumber>>,
}

impl Watched {
    /// Finds them.
    pub(super) async fn load(&self, db: &Db) -> Result<(), StorageError> {
        let mut range = Range::all();
        loop {
            // From room to room: of each, the first is enough.
            let first = DELAYED_STATE.scan(db, &range, 1).await?.into_iter().next();
            let Some(((room, ..), ())) = first else { return Ok(()) };
            self.add(room);
            let next = RoomNumber(room.0.saturating_add(1));
            range = Range::all().from(&(next, String::new(), String::new(), String::new()));
        }
    }

    /// Before the event waits, so that nothing overtakes it unseen.
    pub(super) fn add(&self, room: RoomNumber) {
        self.rooms.write().insert(room);
    }

    fn contains(&self, room: RoomNumber) -> bool {
        self.rooms.read().contains(&room)
    }
}

impl RoomWriter {
    /// Ends the delayed events that were to change this state, if it is somebody else who changes it
    /// now: whoever put an end to somebody's state wants it to stay so.
    pub(in crate::rooms) async fn overtake_delayed(
        &mut self,
        event_type: &str,
        state_key: &str,
        new: Option<EventNumber>,
    ) -> Result<(), RoomError> {
        let room = self.room.number;
        if !self.rooms.shared.watched.contains(room) {
            return Ok(());
        }
        let range = Range::prefix(&(room, event_type.to_owned(), state_key.to_owned()));
        let rows = DELAYED_STATE.scan(self.rooms.db(), &range, usize::MAX).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let sender = match new {
            Some(event) => Some(self.state_event(event).await?.sender.clone()),
            None => None,
        };
        let now_ms = self.rooms.clock().now_ms();
        for ((.., id), ()) in rows {
            let Some(Json(event)) = DELAYED_EVENTS.get(self.rooms.db(), &*id).await? else {
                continue;
            };
            let users = self.rooms.db().users();
            let of = users.name(self.rooms.db(), event.user()).await?;
            if event.ended.is_none() && sender.as_ref() != Some(&of) {
                // Without a condition: the state changes, whatever becomes of the delayed event.
                let ended = event.ended(Ending::Overtaken, now_ms);
                ended.put_over(&mut self.batch, &id, &event);
            }
        }
        Ok(())
    }
}
