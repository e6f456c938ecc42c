//! What users report to those who run the server: events, rooms and users.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#reporting-content>

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use super::{Rooms, Visibility, error::RoomError};
use crate::{
    storage::{Batch, Json, schema::REPORTS},
    users::session::Session,
};

/// The longest reason that is kept; what is beyond is cut off.
const MAX_REASON_BYTES: usize = 16 * 1024;

/// What was reported.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reported {
    /// An event of a room.
    Event {
        /// The room.
        room_id: OwnedRoomId,
        /// The event.
        event_id: OwnedEventId,
    },
    /// A room.
    Room {
        /// Which.
        room_id: OwnedRoomId,
    },
    /// A user.
    User {
        /// Who.
        user_id: OwnedUserId,
    },
}

/// A report: who, when, what and why.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Who reports.
    pub(crate) reporter: OwnedUserId,
    /// When, in ms since the Unix epoch.
    pub(crate) ts_ms: u64,
    /// What.
    pub(crate) reported: Reported,
    /// Why; empty if that was not said.
    pub(crate) reason: String,
}

impl Rooms {
    /// Keeps the report of an event that the user may see.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`].
    pub(crate) async fn report_event(
        &self,
        session: &Session,
        room_id: &RoomId,
        event_id: &EventId,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let unknown = || RoomError::UnknownEvent { event: event_id.to_owned() };
        let room = self.room(room_id).await.map_err(|error| match error {
            RoomError::UnknownRoom { .. } => unknown(),
            error => error,
        })?;
        let (_, event) = self.stored(&room, event_id).await?;
        let visibility = Visibility::load(self, self.db(), &room, session.user).await?;
        // Also of somebody who is ignored by now.
        if !visibility.allows_whoever_sent(&event) {
            return Err(unknown());
        }
        let (room_id, event_id) = (room.id.clone(), event.event_id);
        self.keep(session, Reported::Event { room_id, event_id }, reason).await
    }

    /// Keeps the report of a room; nobody has to be in it.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`].
    pub(crate) async fn report_room(
        &self,
        session: &Session,
        room_id: &RoomId,
        reason: &str,
    ) -> Result<(), RoomError> {
        let room_id = self.room(room_id).await?.id.clone();
        self.keep(session, Reported::Room { room_id }, Some(reason)).await
    }

    /// Keeps the report of a user. Whether there is such a user is not told.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn report_user(
        &self,
        session: &Session,
        user_id: &UserId,
        reason: &str,
    ) -> Result<(), RoomError> {
        self.keep(session, Reported::User { user_id: user_id.to_owned() }, Some(reason)).await
    }

    async fn keep(
        &self,
        session: &Session,
        reported: Reported,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let reason = reason.unwrap_or_default();
        let report = Report {
            reporter: session.user_id.clone(),
            ts_ms: self.clock().now_ms(),
            reported,
            reason: reason
                .get(..reason.floor_char_boundary(MAX_REASON_BYTES))
                .unwrap_or_default()
                .to_owned(),
        };
        // A position is a number nobody else has, and rises.
        let position = self.db().position().await?;
        let mut batch = Batch::new();
        REPORTS.put(&mut batch, &position.value(), &Json(report));
        batch.hold(position);
        Ok(self.db().commit(batch).await?)
    }
}
