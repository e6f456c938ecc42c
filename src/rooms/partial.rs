//! Rooms that were joined without most of their members: what is known of them is their *partial
//! state*, until all of it has been fetched in the background.
//!
//! Meanwhile members come to be known by the events that cite them, verdicts are provisional, and
//! the servers that are said to be in the room count as being there, with no members known.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
//! (`omit_members`)

use std::{sync::Arc, time::Duration};

use ruma::{OwnedEventId, OwnedServerName, UserId};
use serde::{Deserialize, Serialize};
use state_resolution::snapshot::Change;
use tokio::time::{Instant, timeout_at};

use super::{
    Rooms,
    error::RoomError,
    pdu::Pdu,
    record::EventNumber,
    room::Room,
    state::State,
    writer::{Added, RoomWriter, Shown},
};
use crate::storage::{
    Json, Range,
    intern::RoomNumber,
    schema::{PARTIAL_ROOMS, ROOM_SERVERS},
};

/// How long a request waits for what is not known yet of a room.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether what was committed can be seen.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How many servers that are said to be in a room are believed to be.
const MAX_SERVERS: usize = 20_000;
/// How many events a room may get until all its members are known: they are judged again then, in one
/// change. From there on nothing new is let in, but for what this server's users change of the state;
/// of what other servers sent no more than twice as many are taken in.
const MAX_EVENTS: u64 = 20_000;

/// That a room was joined without most of its members.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PartialRoom {
    /// The join, before which not all of the state is known.
    pub(crate) join: OwnedEventId,
    /// Through whom.
    pub(crate) via: OwnedServerName,
    /// Later joins from outside, with all of the state before them.
    #[serde(default)]
    pub(crate) rejoined: Vec<OwnedEventId>,
    /// The stream position from which on all members are known; none: they are not.
    #[serde(default)]
    pub(crate) whole_since: Option<u64>,
    /// How many events came since the join.
    #[serde(default)]
    pub(super) events: u64,
}

/// What the server that a room is joined through says besides the state.
#[derive(Clone, Debug)]
pub(crate) struct Omitted {
    /// That server.
    pub(crate) via: OwnedServerName,
    /// Who is in the room.
    pub(crate) servers: Vec<OwnedServerName>,
}

impl Room {
    /// How it was joined without most of its members, as long as these are not known.
    pub(crate) fn partial(&self) -> Option<PartialRoom> {
        self.partial.read().clone().filter(|partial| partial.whole_since.is_none())
    }

    /// Whether most of its members may not be known.
    pub(crate) fn is_partial(&self) -> bool {
        self.whole_since() == u64::MAX
    }

    /// Whether no more may happen in it before all members are known.
    pub(crate) fn is_held_up(&self) -> bool {
        self.has_partial_events(MAX_EVENTS)
    }

    /// Whether not even what came before that may still be taken in.
    pub(super) fn is_full(&self) -> bool {
        self.has_partial_events(2 * MAX_EVENTS)
    }

    /// As if so many events had come since the join: `share` of what is the most that are let in.
    #[cfg(test)]
    pub(crate) fn pretend_partial_events(&self, share: u64) {
        if let Some(partial) = self.partial.write().as_mut() {
            partial.events = share * MAX_EVENTS;
        }
    }

    fn has_partial_events(&self, count: u64) -> bool {
        let partial = self.partial.read();
        partial.as_ref().is_some_and(|one| one.whole_since.is_none() && one.events >= count)
    }

    /// The stream position from which on all members are known: 0 if they always were, the greatest
    /// there is if they are not.
    pub(crate) fn whole_since(&self) -> u64 {
        match &*self.partial.read() {
            None => 0,
            Some(partial) => partial.whole_since.unwrap_or(u64::MAX),
        }
    }
}

impl Rooms {
    /// The rooms of which not all members are known.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn partial_rooms(&self) -> Result<Vec<RoomNumber>, RoomError> {
        let rows = PARTIAL_ROOMS.scan(self.db(), &Range::all(), usize::MAX).await?;
        let partial = rows.into_iter().filter(|(_, Json(row))| row.whole_since.is_none());
        Ok(partial.map(|(room, _)| room).collect())
    }

    /// Waits until all members of a room are known, but not for ever. Where nobody of this server is
    /// in the room, nobody fetches them, and what is known has to do.
    ///
    /// # Errors
    /// [`RoomError::NotWhole`] if they are not known by then.
    pub(crate) async fn wait_until_whole(&self, room: &Arc<Room>) -> Result<(), RoomError> {
        if room.whole_since() == 0 {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        let mut room = Arc::clone(room);
        loop {
            let changed = self.shared.became_whole.notified();
            // One that failed meanwhile was loaded again.
            room = self.numbered(room.number).await?;
            if room.whole_since() <= self.db().visible_position() || room.local_members().is_empty()
            {
                return Ok(());
            }
            let look = (Instant::now() + LOOK_EVERY).min(deadline);
            if timeout_at(look, changed).await.is_err() && Instant::now() >= deadline {
                return Err(RoomError::NotWhole { room: room.id.clone() });
            }
        }
    }

    /// The same before the membership of a user is changed by somebody else, or from nothing: whether
    /// the rules allow it depends on what they are to the room.
    ///
    /// # Errors
    /// As [`Rooms::wait_until_whole`].
    pub(crate) async fn wait_for_member(
        &self,
        room: &Arc<Room>,
        user: &UserId,
    ) -> Result<(), RoomError> {
        if !room.is_partial() {
            return Ok(());
        }
        let number = self.user_number(user).await?;
        match self.user_room(number, room.number).await? {
            Some(row) if row.event != EventNumber(0) => Ok(()),
            _ => self.wait_until_whole(room).await,
        }
    }
}

impl RoomWriter {
    /// Notes that the room is joined without most of its members.
    pub(super) fn begin_partial(&mut self, join: &Pdu, omitted: &Omitted) {
        let partial = PartialRoom {
            join: join.event_id().to_owned(),
            via: omitted.via.clone(),
            rejoined: Vec::new(),
            whole_since: None,
            events: 0,
        };
        self.dirty = true;
        PARTIAL_ROOMS.put(&mut self.batch, &self.room.number, &Json(partial.clone()));
        *self.room.partial.write() = Some(partial);
        let mut servers = self.room.servers.write();
        let named = [&omitted.via].into_iter().chain(&omitted.servers).take(MAX_SERVERS);
        for server in named.filter(|server| *server != self.rooms.server_name()) {
            ROOM_SERVERS.put(&mut self.batch, &(self.room.number, &**server), &0);
            servers.insert(server.clone(), 0);
        }
    }

    /// Notes that the room was joined once more before all members of the first time were known.
    pub(super) fn note_rejoin(&mut self, join: &Pdu) {
        let mut partial = self.room.partial.write();
        if let Some(partial) = partial.as_mut().filter(|partial| partial.whole_since.is_none()) {
            partial.rejoined.push(join.event_id().to_owned());
            self.dirty = true;
            PARTIAL_ROOMS.put(&mut self.batch, &self.room.number, &Json(partial.clone()));
        }
    }

    /// Counts what the change adds to a room that is not whole.
    pub(super) fn count_partial(&mut self) {
        let counts =
            |added: &&Added| !added.record.outlier && !matches!(added.shown, Shown::Backfilled(_));
        let count = self.added.iter().filter(counts).count() as u64;
        let mut partial = self.room.partial.write();
        let partial = partial.as_mut().filter(|partial| partial.whole_since.is_none());
        if let Some(partial) = partial.filter(|_| count > 0) {
            partial.events += count;
            PARTIAL_ROOMS.put(&mut self.batch, &self.room.number, &Json(partial.clone()));
        }
    }

    /// A state in which members are missing, with those that an event cites.
    pub(super) async fn with_cited_members(
        &mut self,
        before: State,
        pdu: &Pdu,
    ) -> Result<State, RoomError> {
        let mut map = before.map.clone();
        let mut added: Vec<Change> = Vec::new();
        {
            let table = self.table.read();
            for id in &pdu.auth_events {
                let Some(event) = table.room().event(id.as_str()) else { continue };
                let Some(key) = table.room().key_of(event) else { continue };
                let is_missing = table.room().key_name(key).0 == "m.room.member"
                    && map.get(key).is_none()
                    && !table.room().is_rejected(event);
                if is_missing {
                    map.insert(key, event);
                    added.push((key, Some(event)));
                }
            }
        }
        if added.is_empty() {
            return Ok(before);
        }
        self.new_state(&before, map, &added).await
    }
}
