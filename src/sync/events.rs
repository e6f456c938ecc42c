//! How clients synced before there was `/sync`: a snapshot, then a stream of events. Both are made of
//! what `/sync` says.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3events>

use std::time::Duration;

use ruma::{OwnedRoomId, RoomId, api::Direction};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use super::{
    SyncError, SyncFilter,
    account_data::account_data_event,
    response::{Events, State, StateForm, Timeline},
    token::SyncToken,
    v3::{LONGEST_WAIT, Request, Sync},
};
use crate::{
    rooms::{Boundary, EventFilter, PageRequest, RoomError, record::Membership},
    storage::{Range, StorageError, schema::ACCOUNT_DATA},
    users::{presence::Level, session::Session},
};

/// How many events of each room a snapshot has, if the client does not say.
const DEFAULT_LIMIT: u64 = 10;
/// How many events of one room the stream brings at a time.
const EVENTS_AT_ONCE: u64 = 1_000;
/// How often memory is asked for news of a room that the user is not in: nobody is woken for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A stretch of the stream.
#[derive(Debug, Serialize)]
pub(crate) struct EventStream {
    start: String,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

/// All that a user is told to begin with.
#[derive(Debug, Serialize)]
pub(crate) struct InitialSync {
    end: String,
    presence: Vec<Box<RawValue>>,
    account_data: Vec<Box<RawValue>>,
    rooms: Vec<InitialRoom>,
}

/// One room in it, or by itself.
#[derive(Debug, Serialize)]
pub(crate) struct InitialRoom {
    room_id: OwnedRoomId,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<Membership>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Messages>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: Vec<Box<RawValue>>,
    visibility: &'static str,
    account_data: Vec<Box<RawValue>>,
    /// The invitation, as a stripped state event.
    #[serde(skip_serializing_if = "Option::is_none")]
    invite: Option<Box<RawValue>>,
}

/// The latest events of a room, oldest first.
#[derive(Debug, Serialize)]
struct Messages {
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

impl Sync {
    /// What happened after `from`, or from now on, as one stream: at once if there is something, or
    /// when something happens, or nothing when the time is over.
    ///
    /// # Errors
    /// As [`Self::v3`].
    pub(crate) async fn events(
        &self,
        session: &Session,
        from: Option<SyncToken>,
        timeout: Duration,
    ) -> Result<EventStream, SyncError> {
        let now = self.db.visible_position();
        let from = from.unwrap_or(SyncToken { position: now, to_device: now });
        let filter = SyncFilter::with_limit(EVENTS_AT_ONCE);
        let presence = Level::Online;
        let since = Some(from);
        let request = Request { since, filter, presence, timeout, ..Request::default() };
        let response = self.v3(session, &request).await?;
        let mut chunk = response.presence.events;
        for (room_id, room) in response.rooms.join {
            chunk.extend(in_room(&room_id, room.timeline.events)?);
            chunk.extend(in_room(&room_id, room.ephemeral.events)?);
        }
        for (room_id, room) in response.rooms.leave {
            chunk.extend(in_room(&room_id, room.timeline.events)?);
        }
        for (room_id, room) in response.rooms.invite {
            chunk.extend(in_room(&room_id, invitation(&room.invite_state.events, session))?);
        }
        Ok(EventStream { start: from.to_string(), end: response.next_batch, chunk })
    }

    /// The events of one room after `from`, or from now on, for somebody who looks in from outside.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`] if the user may not read it.
    pub(crate) async fn events_of(
        &self,
        session: &Session,
        room_id: &RoomId,
        from: Option<SyncToken>,
        timeout: Duration,
    ) -> Result<EventStream, SyncError> {
        let deadline = Instant::now() + timeout.min(LONGEST_WAIT);
        let now = self.db.visible_position();
        if from.is_some_and(|from| from.position > now) {
            return Err(SyncError::FromTheFuture);
        }
        let from = from.unwrap_or(SyncToken { position: now, to_device: now });
        let mut after = Boundary::at_position(from.position);
        loop {
            let until = self.db.visible_position();
            let page = PageRequest {
                from: Some(after),
                to: Some(Boundary::at_position(until)),
                direction: Direction::Forward,
                limit: usize::try_from(EVENTS_AT_ONCE).unwrap_or(usize::MAX),
                filter: EventFilter::default(),
            };
            let page = self.rooms.messages(session, room_id, &page).await?;
            let end = match page.end.map(|end| u64::try_from(end.0).unwrap_or(0)) {
                Some(end) => end,
                None => until.max(from.position),
            };
            let is_over = Instant::now() >= deadline || self.stopping().is_stopping();
            if !page.chunk.is_empty() || is_over {
                let end = SyncToken { position: end, to_device: from.to_device };
                let (start, end) = (from.to_string(), end.to_string());
                return Ok(EventStream { start, end, chunk: page.chunk });
            }
            after = Boundary::at_position(end);
            let room = self.rooms.room(room_id).await?;
            loop {
                sleep(LOOK_EVERY.min(deadline.saturating_duration_since(Instant::now()))).await;
                let is_over = Instant::now() >= deadline || self.stopping().is_stopping();
                if is_over || self.rooms.last_position(room.number).await? > end {
                    break;
                }
            }
        }
    }

    /// Everything there is for a user, with at most `limit` events of each room.
    ///
    /// # Errors
    /// As [`Self::v3`].
    pub(crate) async fn initial(
        &self,
        session: &Session,
        limit: Option<u64>,
        archived: bool,
    ) -> Result<InitialSync, SyncError> {
        let mut filter = SyncFilter::with_limit(limit.unwrap_or(DEFAULT_LIMIT));
        filter.include_leave = archived;
        let presence = Level::Online;
        let state_form = StateForm::After;
        let request = Request { filter, state_form, presence, ..Request::default() };
        let response = self.v3(session, &request).await?;
        let end = response.next_batch;
        let mut rooms = Vec::new();
        for (room_id, room) in response.rooms.join {
            let account_data = room.account_data;
            let parts = (room.timeline, room.state, account_data);
            rooms.push(self.initial_room(room_id, Membership::Join, parts, &end).await?);
        }
        for (room_id, room) in response.rooms.leave {
            let found = self.db.rooms().find(&self.db, &*room_id).await?;
            let row = match found {
                Some(number) => self.rooms.user_room(session.user, number).await?,
                None => None,
            };
            let membership = row.map_or(Membership::Leave, |row| row.membership);
            let parts = (room.timeline, room.state, room.account_data);
            rooms.push(self.initial_room(room_id, membership, parts, &end).await?);
        }
        for (room_id, room) in response.rooms.invite {
            let invite = invitation(&room.invite_state.events, session).pop();
            rooms.push(InitialRoom {
                room_id,
                membership: Some(Membership::Invite),
                messages: None,
                state: Vec::new(),
                visibility: "private",
                account_data: Vec::new(),
                invite,
            });
        }
        let presence = response.presence.events;
        Ok(InitialSync { end, presence, account_data: response.account_data.events, rooms })
    }

    async fn initial_room(
        &self,
        room_id: OwnedRoomId,
        membership: Membership,
        (timeline, state, account_data): (Timeline, State, Events),
        end: &str,
    ) -> Result<InitialRoom, SyncError> {
        let chunk = in_room(&room_id, timeline.events)?;
        Ok(InitialRoom {
            membership: Some(membership),
            messages: Some(Messages { start: timeline.prev_batch, end: end.to_owned(), chunk }),
            state: in_room(&room_id, state.into_events())?,
            visibility: self.visibility_of(&room_id).await?,
            account_data: account_data.events,
            invite: None,
            room_id,
        })
    }

    /// One room as it is now, or as it was when the user left.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`] if the user may not read it.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidinitialsync>
    pub(crate) async fn initial_of(
        &self,
        session: &Session,
        room_id: &RoomId,
        limit: Option<u64>,
    ) -> Result<InitialRoom, SyncError> {
        let now = self.db.visible_position();
        let page = PageRequest {
            from: Some(Boundary::at_position(now)),
            to: None,
            direction: Direction::Backward,
            limit: usize::try_from(limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(usize::MAX),
            filter: EventFilter::default(),
        };
        let mut page = self.rooms.messages(session, room_id, &page).await?;
        page.chunk.reverse();
        let state = self.rooms.readable_state(session, room_id).await?;
        let room = self.rooms.room(room_id).await?;
        let membership = self.rooms.user_room(session.user, room.number).await?;
        let range = Range::prefix(&(session.user, room.number));
        let account_data = ACCOUNT_DATA.scan(&self.db, &range, usize::MAX).await?;
        let account_data = account_data
            .into_iter()
            .map(|((_, _, kind), datum)| account_data_event(&kind, &datum.content))
            .collect::<Result<_, StorageError>>()?;
        let end = SyncToken { position: now, to_device: now }.to_string();
        Ok(InitialRoom {
            room_id: room.id.clone(),
            membership: membership.map(|row| row.membership),
            messages: Some(Messages {
                start: page.end.map(|end| end.to_string()),
                end,
                chunk: page.chunk,
            }),
            state,
            visibility: self.visibility_of(room_id).await?,
            account_data,
            invite: None,
        })
    }

    /// Whether the room directory lists the room.
    async fn visibility_of(&self, room_id: &RoomId) -> Result<&'static str, SyncError> {
        match self.rooms.is_public(room_id).await {
            Ok(true) => Ok("public"),
            Ok(false) | Err(RoomError::UnknownRoom { .. }) => Ok("private"),
            Err(error) => Err(error.into()),
        }
    }
}

/// Events that say in which room they are.
fn in_room(room_id: &RoomId, events: Vec<Box<RawValue>>) -> Result<Vec<Box<RawValue>>, RoomError> {
    const CORRUPT: RoomError = RoomError::Corrupt { what: "the JSON of an event" };
    let room_id = serde_json::to_string(room_id).map_err(|_| CORRUPT)?;
    events
        .into_iter()
        .map(|event| {
            let rest = event.get().strip_prefix('{').ok_or(CORRUPT)?;
            let json = format!("{{\"room_id\":{room_id},{rest}");
            RawValue::from_string(json).map_err(|_| CORRUPT)
        })
        .collect()
}

/// The user's own member event among stripped state events: one or none.
fn invitation(stripped: &RawValue, session: &Session) -> Vec<Box<RawValue>> {
    #[derive(serde::Deserialize)]
    struct Key {
        #[serde(rename = "type")]
        event_type: String,
        state_key: String,
    }
    let events: Vec<Box<RawValue>> = serde_json::from_str(stripped.get()).unwrap_or_default();
    let is_own = |event: &RawValue| {
        serde_json::from_str::<Key>(event.get()).is_ok_and(|key| {
            key.event_type == "m.room.member" && key.state_key == session.user_id.as_str()
        })
    };
    events.into_iter().find(|event| is_own(event)).into_iter().collect()
}
