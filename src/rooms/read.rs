//! Reading rooms: their state, their members, single events.

use std::sync::Arc;

use ruma::{EventId, OwnedRoomId, OwnedUserId, RoomId, api::Direction};
use serde_json::value::RawValue;
use state_resolution::StateMap;

use super::{
    Rooms,
    auth::membership_in,
    error::RoomError,
    profile::Profile,
    record::{EventNumber, EventRecord, Membership, SharedEvent, UserRoom},
    room::{self, Room},
    show::Viewer,
    state::differences,
    timeline_key::{Boundary, live_events},
    visibility::{StateAccess, Visibility},
};
use crate::{
    storage::{
        Range, Read, Snapshot,
        intern::{RoomNumber, UserNumber},
        schema::{ROOM_MEMBERS, ROOM_SERVERS, USER_ROOMS},
        shared_events,
    },
    users::session::Session,
};

/// What changed in a room's state.
#[derive(Debug, Default)]
pub(crate) struct StateChanges {
    /// In the order of arrival.
    pub(crate) events: Vec<SharedEvent>,
    /// Types and state keys of what is gone: the resolution of forks can undo state.
    pub(crate) removed: Vec<(String, String)>,
}

impl StateChanges {
    /// Whether nothing changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.removed.is_empty()
    }

    /// Whether state of this type changed.
    pub(crate) fn touch(&self, event_type: &str) -> bool {
        self.events.iter().any(|event| event.event_type == event_type)
            || self.removed.iter().any(|(of, _)| of == event_type)
    }
}

/// How many rows one step of a long reading takes.
const STEP: usize = 5_000;

impl Rooms {
    /// A room to read; that it is not here is not told apart from that it may not be read.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`].
    pub(super) async fn readable(&self, room_id: &RoomId) -> Result<Arc<Room>, RoomError> {
        self.room(room_id).await.map_err(|error| match error {
            RoomError::UnknownRoom { .. } => RoomError::NotInRoom { room: room_id.to_owned() },
            error => error,
        })
    }

    /// What `user` may read of `room`, as of `at`.
    pub(crate) async fn visibility(
        &self,
        at: &impl Read,
        room: &Room,
        user: UserNumber,
    ) -> Result<Visibility, RoomError> {
        Visibility::load(self, at, room, user).await
    }

    /// Every room that the user has or had something to do with, in the order of their numbers.
    pub(crate) async fn user_rooms(
        &self,
        at: &impl Read,
        user: UserNumber,
    ) -> Result<Vec<(RoomNumber, UserRoom)>, RoomError> {
        let mut found: Vec<(RoomNumber, UserRoom)> = Vec::new();
        let mut range = Range::prefix(&(user,));
        loop {
            let rows = USER_ROOMS.scan(at, &range, STEP).await?;
            let more = rows.len() == STEP;
            found.extend(rows.into_iter().map(|((_, room), row)| (room, row)));
            let Some((last, _)) = found.last().filter(|_| more) else { return Ok(found) };
            range = range.after(&(user, *last));
        }
    }

    /// What the user is to one room.
    pub(crate) async fn user_room(
        &self,
        user: UserNumber,
        room: RoomNumber,
    ) -> Result<Option<UserRoom>, RoomError> {
        Ok(USER_ROOMS.get(self.db(), &(user, room)).await?)
    }

    /// The rooms that the user is joined to.
    pub(crate) async fn joined_rooms(
        &self,
        user: UserNumber,
    ) -> Result<Vec<RoomNumber>, RoomError> {
        let rooms = self.user_rooms(self.db(), user).await?;
        Ok(rooms
            .into_iter()
            .filter_map(|(room, row)| (row.membership == Membership::Join).then_some(room))
            .collect())
    }

    /// The IDs of the rooms that the user is joined to.
    pub(crate) async fn joined_room_ids(
        &self,
        user: UserNumber,
    ) -> Result<Vec<OwnedRoomId>, RoomError> {
        let rooms = self.joined_rooms(user).await?;
        Ok(self.db().rooms().names(self.db(), &rooms).await?)
    }

    /// Whoever has this membership in a room, in the order of their numbers.
    pub(crate) async fn members(
        &self,
        at: &impl Read,
        room: RoomNumber,
        membership: Membership,
    ) -> Result<Vec<UserNumber>, RoomError> {
        room::members(at, room, membership).await
    }

    /// The first `limit` of those with `membership` in a room, in ascending order.
    pub(crate) async fn first_members(
        &self,
        at: &impl Read,
        room: RoomNumber,
        membership: Membership,
        limit: usize,
    ) -> Result<Vec<UserNumber>, RoomError> {
        let rows = ROOM_MEMBERS.scan(at, &Range::prefix(&(room, membership)), limit).await?;
        Ok(rows.into_iter().map(|((_, _, user), _)| user).collect())
    }

    /// How many are joined to a room: a row for each of their servers is read, not one for each.
    pub(crate) async fn joined_count(
        &self,
        at: &impl Read,
        room: RoomNumber,
    ) -> Result<usize, RoomError> {
        let servers = ROOM_SERVERS.scan(at, &Range::prefix(&(room,)), usize::MAX).await?;
        let count: u64 = servers.into_iter().map(|(_, count)| count).sum();
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// A room's whole state once everything up to `position` had happened, in the order of arrival.
    pub(crate) async fn state_at(
        &self,
        at: &impl Read,
        room: &Room,
        position: u64,
    ) -> Result<Vec<(EventNumber, SharedEvent)>, RoomError> {
        self.state_of_types_at(at, room, position, |_| true).await
    }

    /// The part of a room's state that has one of these types.
    async fn state_of_types_at(
        &self,
        at: &impl Read,
        room: &Room,
        position: u64,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(EventNumber, SharedEvent)>, RoomError> {
        let map = self.map_at(at, room, position).await?;
        self.events_of(at, room, &map, wanted).await
    }

    /// A room's whole state after an event, in the order of arrival.
    pub(super) async fn state_after_event(
        &self,
        at: &impl Read,
        room: &Room,
        event: &EventId,
    ) -> Result<Vec<(EventNumber, SharedEvent)>, RoomError> {
        let (number, _) = self.stored(room, event).await?;
        let id = self.event_state(at, room.number, number).await?.after;
        let map = self.state_map(at, room, id).await?;
        self.events_of(at, room, &map, |_| true).await
    }

    /// The events of a state that have one of these types.
    async fn events_of(
        &self,
        at: &impl Read,
        room: &Room,
        map: &StateMap,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(EventNumber, SharedEvent)>, RoomError> {
        let numbers = {
            let table = room.ledger(self.db()).await?.table.read();
            map.iter()
                .filter(|(key, _)| wanted(table.room().key_name(*key).0))
                .map(|(_, event)| table.number(event))
                .collect()
        };
        self.records(at, room, numbers).await
    }

    /// These events, in the order of their numbers.
    pub(crate) async fn records(
        &self,
        at: &impl Read,
        room: &Room,
        mut numbers: Vec<EventNumber>,
    ) -> Result<Vec<(EventNumber, SharedEvent)>, RoomError> {
        numbers.sort_unstable();
        let records = shared_events(at, room.number, &numbers).await?;
        let records = numbers.into_iter().zip(records);
        records
            .map(|(number, record)| {
                let record =
                    record.ok_or(RoomError::Corrupt { what: "state names an unknown event" })?;
                Ok((number, record))
            })
            .collect()
    }

    /// The state that changed after the stream position `after` and up to `upto`, as it was at
    /// `upto`, in the order of arrival.
    pub(crate) async fn state_delta(
        &self,
        at: &impl Read,
        room: &Room,
        after: u64,
        upto: u64,
    ) -> Result<Vec<(EventNumber, SharedEvent)>, RoomError> {
        let (numbers, _) = self.state_differences(at, room, after, upto).await?;
        self.records(at, room, numbers).await
    }

    /// The same, and which state there is no longer.
    pub(crate) async fn state_changes(
        &self,
        at: &impl Read,
        room: &Room,
        after: u64,
        upto: u64,
    ) -> Result<StateChanges, RoomError> {
        let (numbers, removed) = self.state_differences(at, room, after, upto).await?;
        let records = self.records(at, room, numbers).await?;
        Ok(StateChanges { events: records.into_iter().map(|(_, event)| event).collect(), removed })
    }

    /// The events that became state between two stream positions, and the keys that ceased to be.
    async fn state_differences(
        &self,
        at: &impl Read,
        room: &Room,
        after: u64,
        upto: u64,
    ) -> Result<(Vec<EventNumber>, Vec<(String, String)>), RoomError> {
        let (mut numbers, mut removed) = (Vec::new(), Vec::new());
        let old = self.snapshot_at(at, room, after).await?;
        let new = self.snapshot_at(at, room, upto).await?;
        if old != new {
            let old = self.map_at(at, room, after).await?;
            let new = self.map_at(at, room, upto).await?;
            let table = room.ledger(self.db()).await?.table.read();
            for (key, _, event) in differences(&old, &new) {
                if let Some(event) = event {
                    numbers.push(table.number(event));
                } else {
                    let (event_type, state_key) = table.room().key_name(key);
                    removed.push((event_type.to_owned(), state_key.to_owned()));
                }
            }
        }
        Ok((numbers, removed))
    }

    /// The event that held this (type, state key) once everything up to `position` had happened.
    pub(crate) async fn state_event_at(
        &self,
        at: &impl Read,
        room: &Room,
        event_type: &str,
        state_key: &str,
        position: u64,
    ) -> Result<Option<SharedEvent>, RoomError> {
        let found = self.state_events_at(at, room, event_type, &[state_key], position).await?;
        Ok(found.into_iter().next())
    }

    /// The events that held these state keys of one type.
    pub(crate) async fn state_events_at(
        &self,
        at: &impl Read,
        room: &Room,
        event_type: &str,
        state_keys: &[&str],
        position: u64,
    ) -> Result<Vec<SharedEvent>, RoomError> {
        let numbers = self.state_numbers_at(at, room, event_type, state_keys, position).await?;
        let records = self.records(at, room, numbers).await?;
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    /// Which events those were.
    pub(crate) async fn state_numbers_at(
        &self,
        at: &impl Read,
        room: &Room,
        event_type: &str,
        state_keys: &[&str],
        position: u64,
    ) -> Result<Vec<EventNumber>, RoomError> {
        let map = self.map_at(at, room, position).await?;
        let table = room.ledger(self.db()).await?.table.read();
        let found = state_keys.iter().filter_map(|key| table.find(&map, event_type, key));
        Ok(found.map(|event| table.number(event)).collect())
    }

    /// A room whose timeline the user may read, where that ends, and what else reading needs.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`].
    pub(super) async fn open_timeline(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<(Arc<Room>, Snapshot, Visibility, Boundary), RoomError> {
        let room = self.readable(room_id).await?;
        let now = Boundary::at_position(self.db().visible_position());
        let at = self.db().snapshot();
        let visibility = Visibility::load(self, &at, &room, session.user).await?;
        if !visibility.may_read() {
            return Err(RoomError::NotInRoom { room: room.id.clone() });
        }
        Ok((room, at, visibility, now))
    }

    /// A room whose state the user may read, the state's position, and what else reading needs.
    async fn open(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<(Arc<Room>, Snapshot, Visibility, u64), RoomError> {
        let room = self.readable(room_id).await?;
        let now = self.db().visible_position();
        let at = self.db().snapshot();
        let visibility = Visibility::load(self, &at, &room, session.user).await?;
        let position = match visibility.state_access() {
            Some(StateAccess::Now) => now,
            Some(StateAccess::At(position)) => position,
            None => return Err(RoomError::NotInRoom { room: room.id.clone() }),
        };
        Ok((room, at, visibility, position))
    }

    /// The same where all members must be known.
    ///
    /// # Errors
    /// [`RoomError::NotWhole`] besides.
    async fn open_whole(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<(Arc<Room>, Snapshot, Visibility, u64), RoomError> {
        let opened = self.open(session, room_id).await?;
        if opened.0.whole_since() <= self.db().visible_position()
            || opened.2.membership() != Some(Membership::Join)
        {
            return Ok(opened);
        }
        self.wait_until_whole(&opened.0).await?;
        self.open(session, room_id).await
    }

    /// A part of a room's state at a position, with all members: what was not known then but is
    /// now belongs to it.
    async fn whole_state_at(
        &self,
        at: &impl Read,
        room: &Room,
        position: u64,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(EventNumber, SharedEvent)>, RoomError> {
        if position < room.whole_since() && !room.is_partial() {
            let window = (0, position);
            let last = live_events(at, room.number, window, 1, Direction::Backward).await?.pop();
            if let Some((_, event)) = last {
                let id = self.event_state(at, room.number, event).await?.after;
                let map = self.state_map(at, room, id).await?;
                return self.events_of(at, room, &map, wanted).await;
            }
        }
        self.state_of_types_at(at, room, position, wanted).await
    }

    /// The state that the user may read: the current one, or that of when they left.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`].
    pub(crate) async fn readable_state(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let (room, at, visibility, position) = self.open_whole(session, room_id).await?;
        let state = self.whole_state_at(&at, &room, position, |_| true).await?;
        let state: Vec<SharedEvent> = state.into_iter().map(|(_, event)| event).collect();
        let viewer = Viewer::from(session);
        self.client_events(&at, &viewer, &room, &visibility, &state, true).await
    }

    /// One state event that the user may read: its content, or all of it.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`], [`RoomError::NoSuchState`].
    pub(crate) async fn readable_state_event(
        &self,
        session: &Session,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
        whole: bool,
    ) -> Result<Box<RawValue>, RoomError> {
        let (room, mut at, mut visibility, mut position) = self.open(session, room_id).await?;
        let find = async |at: &Snapshot, position: u64| {
            self.state_event_at(at, &room, event_type, state_key, position).await
        };
        let mut event = find(&at, position).await?;
        if event.is_none() && event_type == "m.room.member" && room.is_partial() {
            (_, at, visibility, position) = self.open_whole(session, room_id).await?;
            event = find(&at, position).await?;
        }
        let event = event.ok_or(RoomError::NoSuchState)?;
        if !whole {
            return super::show::raw(event.content().to_owned());
        }
        let viewer = Viewer::from(session);
        let events = [event];
        let shown = self.client_events(&at, &viewer, &room, &visibility, &events, true).await?;
        shown.into_iter().next().ok_or(RoomError::NoSuchState)
    }

    /// The member events of a room, as of `position` if that is given, with or without one
    /// membership.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`].
    pub(crate) async fn member_events(
        &self,
        session: &Session,
        room_id: &RoomId,
        position: Option<u64>,
        membership: Option<&str>,
        not_membership: Option<&str>,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let (room, at, visibility, last) = self.open_whole(session, room_id).await?;
        let position = position.unwrap_or(last).min(last);
        let members: Vec<SharedEvent> = self
            .whole_state_at(&at, &room, position, |event_type| event_type == "m.room.member")
            .await?
            .into_iter()
            .map(|(_, event)| event)
            .filter(|event| {
                let is = membership_in(event.content()).map(Membership::as_str);
                membership.is_none_or(|wanted| is == Some(wanted))
                    && not_membership.is_none_or(|unwanted| is != Some(unwanted))
            })
            .collect();
        let viewer = Viewer::from(session);
        self.client_events(&at, &viewer, &room, &visibility, &members, true).await
    }

    /// Who is in a room, with names and pictures. Only for its members.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`].
    pub(crate) async fn joined_members(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<Vec<(OwnedUserId, Profile)>, RoomError> {
        let (room, at, visibility, position) = self.open_whole(session, room_id).await?;
        if visibility.membership() != Some(Membership::Join) {
            return Err(RoomError::NotInRoom { room: room.id.clone() });
        }
        let mut members = Vec::new();
        let is_member = |event_type: &str| event_type == "m.room.member";
        for (_, event) in self.state_of_types_at(&at, &room, position, is_member).await? {
            let key = event.state_key.as_deref().unwrap_or_default();
            let Ok(user) = ruma::UserId::parse(key) else { continue };
            if membership_in(event.content()) == Some(Membership::Join) {
                members.push((user, Profile::in_content(event.content())));
            }
        }
        Ok(members)
    }

    /// One event that the user may see.
    ///
    /// # Errors
    /// [`RoomError::UnknownEvent`].
    pub(crate) async fn event(
        &self,
        session: &Session,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Box<RawValue>, RoomError> {
        let at = self.db().snapshot();
        let (room, visibility, event) = self.seen_event(&at, session, room_id, event_id).await?;
        let viewer = Viewer::from(session);
        let events = [Arc::new(event)];
        let shown = self.client_events(&at, &viewer, &room, &visibility, &events, true).await?;
        let unknown = || RoomError::UnknownEvent { event: event_id.to_owned() };
        shown.into_iter().next().ok_or_else(unknown)
    }

    /// One event that the user may see, as it is stored, and what shows it.
    pub(super) async fn seen_event(
        &self,
        at: &impl Read,
        session: &Session,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(Arc<Room>, Visibility, EventRecord), RoomError> {
        let unknown = || RoomError::UnknownEvent { event: event_id.to_owned() };
        let room = self.room(room_id).await.map_err(|error| match error {
            RoomError::UnknownRoom { .. } => unknown(),
            error => error,
        })?;
        let visibility = Visibility::load(self, at, &room, session.user).await?;
        let (_, event) = self.stored(&room, event_id).await?;
        if visibility.allows(&event) { Ok((room, visibility, event)) } else { Err(unknown()) }
    }
}
