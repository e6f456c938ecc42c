//! Who is online, as a sync tells it.

use std::collections::BTreeSet;

use serde_json::value::RawValue;

use super::{SyncError, e2ee::DeviceLists, filter::SyncFilter, v3::Sync};
use crate::{
    rooms::record::{Membership, UserRoom},
    storage::{
        Snapshot,
        intern::{RoomNumber, UserNumber},
    },
    users::{presence::presence_event, session::Session},
};

impl Sync {
    /// The presence of those who share a room with the user, as far as it changed after `since`;
    /// without `since` that of all who are there. Of those in `lists`, with whom the user may share
    /// a room since now, it is told in any case.
    pub(super) async fn presence_events(
        &self,
        at: &Snapshot,
        session: &Session,
        (since, until): (Option<u64>, u64),
        rooms: &[(RoomNumber, UserRoom)],
        lists: &DeviceLists,
        filter: &SyncFilter,
    ) -> Result<Vec<Box<RawValue>>, SyncError> {
        let mut events = Vec::new();
        if !filter.presence.wants("m.presence") {
            return Ok(events);
        }
        let mut users: BTreeSet<UserNumber> =
            self.presence.changed(since, until).into_iter().collect();
        for user_id in &lists.changed {
            let user = self.db.users().find(&self.db, &**user_id).await?;
            users.extend(user.filter(|user| self.presence.status(*user).is_some()));
        }
        if users.is_empty() {
            return Ok(events);
        }
        let joined: BTreeSet<RoomNumber> = rooms
            .iter()
            .filter(|(_, row)| row.membership == Membership::Join)
            .map(|(room, _)| *room)
            .collect();
        for user in users {
            // Users know where they are themselves; their client learns what it says of them when it
            // begins.
            let is_told = if user == session.user {
                since.is_none()
            } else {
                self.presence.is_seen(at, &joined, user).await?
            };
            if !is_told {
                continue;
            }
            let Some((status, ago)) = self.presence.status(user) else { continue };
            let user_id = self.db.users().name(&self.db, user).await?;
            if !filter.wants_presence_of(&user_id) {
                continue;
            }
            events.push(presence_event(&user_id, &status, ago));
        }
        Ok(events)
    }
}
