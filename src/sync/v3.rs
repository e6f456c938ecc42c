//! `/v3/sync`: what happened since a token, now or as soon as something does.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};

use super::{
    SyncError,
    account_data::{RoomAccountData, account_data},
    filter::SyncFilter,
    response::{
        Events, Invited, Knocked, Left, Response, Rooms as RoomsResponse, StateForm, Stripped,
    },
    room::RoomReader,
    token::SyncToken,
    views::{IgnoredOnce, Views},
};
use crate::{
    e2ee::{Counts, DELIVERED_AT_ONCE, E2ee},
    push::Unread,
    rooms::{
        Rooms,
        receipts::Receipts,
        record::{Membership, UserRoom},
        sent_members::Sending,
        timeline_key::TimelineKey,
        typing::Typing,
    },
    shutdown::Stopping,
    storage::{
        Changes, Db, RoomChanges, Snapshot, StorageError, Waiter, intern::RoomNumber,
        schema::USER_ROOMS,
    },
    users::{
        presence::{Level, Presence},
        session::{Session, Sessions},
    },
};

/// The longest a request waits, whatever the client asks for.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(2);

/// Answers syncs.
pub(crate) struct Sync {
    pub(super) db: Db,
    pub(super) rooms: Rooms,
    pub(super) typing: Typing,
    pub(super) receipts: Receipts,
    pub(super) e2ee: E2ee,
    pub(super) unread: Unread,
    pub(super) presence: Presence,
    /// What users who wait were to rooms lately.
    pub(super) views: Views,
    sessions: Sessions,
    stopping: Stopping,
}

/// What a client asks for.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// Up to where it has seen everything; none for all there is.
    pub(crate) since: Option<SyncToken>,
    /// What it wants of it.
    pub(crate) filter: SyncFilter,
    /// The whole state of every room again.
    pub(crate) full_state: bool,
    /// State as of the end of the timelines rather than their start.
    pub(crate) state_form: StateForm,
    /// What the request says of the user.
    pub(crate) presence: Level,
    /// How long to wait for something to happen.
    pub(crate) timeout: Duration,
    /// The token says what the client was sent, not what it has: nothing counts as delivered by it.
    pub(crate) unconfirmed: bool,
}

impl Sync {
    /// Syncs over these areas.
    #[expect(clippy::too_many_arguments, reason = "the areas of which a response is made")]
    pub(crate) fn new(
        db: Db,
        rooms: Rooms,
        typing: Typing,
        receipts: Receipts,
        e2ee: E2ee,
        unread: Unread,
        presence: Presence,
        sessions: Sessions,
        stopping: Stopping,
    ) -> Self {
        Self {
            db,
            rooms,
            typing,
            receipts,
            e2ee,
            unread,
            presence,
            views: Views::default(),
            sessions,
            stopping,
        }
    }

    /// Whether the server stops.
    pub(super) fn stopping(&self) -> &Stopping {
        &self.stopping
    }

    /// What happened since the token: at once if there is something, or when something happens, or
    /// nothing when the time is over.
    ///
    /// # Errors
    /// [`SyncError::FromTheFuture`] for a token that this server has not given out,
    /// [`SyncError::LoggedOut`] if the device goes while the request waits.
    pub(crate) async fn v3(
        &self,
        session: &Session,
        request: &Request,
    ) -> Result<Response, SyncError> {
        let deadline = Instant::now() + request.timeout.min(LONGEST_WAIT);
        if let Some(since) = request.since.filter(|_| !request.unconfirmed) {
            self.acknowledge(session, since).await?;
        }
        let _there = self.presence.syncing(session, request.presence);
        // Subscribed before reading: what is committed in between wakes too.
        let waiter = self.db.wait_for(session.user);
        let told = Box::pin(self.e2ee.keys.told(session.user, &session.device_id)).await?;
        loop {
            // The position first: what is remembered has everything up to it.
            let until = self.db.visible_position();
            // What reads is boxed: one that waits, as most do, is small.
            let (response, position, sending) = match (request.since, changes(request, &waiter)) {
                (Some(since), Changes::Nothing) => {
                    let fewer = Box::pin(self.has_fewer_keys(session, &told)).await?;
                    if !fewer && self.wait(session, &waiter, deadline).await? {
                        continue;
                    }
                    // The device keeps its token, so that whatever memory did not know of is told
                    // with what comes next.
                    return Box::pin(self.empty(session, since, &told)).await;
                }
                (_, Changes::InRooms(only)) => {
                    Box::pin(self.now(session, request, until, &told, Some(&only))).await?
                }
                _ => Box::pin(self.now(session, request, until, &told, None)).await?,
            };
            let first = request.since.is_none() || request.full_state;
            let complete = first || !response.is_empty();
            if complete || !self.wait(session, &waiter, deadline).await? {
                if let Some(sending) = sending {
                    self.rooms.sent_members().finish(sending, TimelineKey::live(position));
                }
                return Ok(response);
            }
        }
    }

    /// Notes that a device has everything up to a token: it is not given messages to it again, and
    /// their senders hear that what they wrote was delivered.
    ///
    /// # Errors
    /// [`SyncError::FromTheFuture`] for a token that this server has not given out.
    pub(crate) async fn acknowledge(
        &self,
        session: &Session,
        token: SyncToken,
    ) -> Result<(), SyncError> {
        if token.position.max(token.to_device) > self.db.visible_position() {
            return Err(SyncError::FromTheFuture);
        }
        self.receipts.acknowledge(session, token.position);
        if self.views.may_have_had_messages(session, token.to_device) {
            let to_device = &self.e2ee.to_device;
            to_device.delivered(session.user, &session.device_id, token.to_device).await?;
        }
        Ok(())
    }

    /// Waits until something happens that may concern the user; false if the time is over.
    ///
    /// # Errors
    /// [`SyncError::LoggedOut`] if the device goes meanwhile.
    pub(super) async fn wait(
        &self,
        session: &Session,
        waiter: &Waiter,
        deadline: Instant,
    ) -> Result<bool, SyncError> {
        // The timer would take a millisecond to find that there is nothing to wait for.
        if deadline <= Instant::now() {
            return Ok(false);
        }
        tokio::select! {
            () = waiter.woken() => {
                // What woke it may be that its device is gone.
                if !self.sessions.has_device(session.user, &session.device_id).await? {
                    return Err(SyncError::LoggedOut);
                }
                Ok(true)
            }
            () = sleep_until(deadline) => Ok(false),
            // A server that stops lets its clients go at once.
            () = self.stopping.wait() => Ok(false),
        }
    }

    /// Whether the device has fewer keys left than it was told: somebody was given one.
    pub(super) async fn has_fewer_keys(
        &self,
        session: &Session,
        told: &Counts,
    ) -> Result<bool, SyncError> {
        let counts = self.e2ee.keys.counts(session.user, &session.device_id).await?;
        Ok(counts.are_fewer_than(told))
    }

    /// A response with nothing in it but where the client goes on, and what keys its device has left.
    async fn empty(
        &self,
        session: &Session,
        next: SyncToken,
        told: &Counts,
    ) -> Result<Response, SyncError> {
        let keys = &self.e2ee.keys;
        let counts = keys.counts(session.user, &session.device_id).await?;
        let mut response = Response::new(next, &counts);
        response.fewer_keys = counts.are_fewer_than(told);
        keys.tell(session.user, &session.device_id, &counts);
        Ok(response)
    }

    /// What there is to tell up to `until`, the position up to which that is, and what it tells of
    /// members. With `only`, nothing else changed.
    async fn now(
        &self,
        session: &Session,
        request: &Request,
        until: u64,
        told: &Counts,
        only: Option<&RoomChanges>,
    ) -> Result<(Response, u64, Option<Sending>), SyncError> {
        // Taken after the position: it holds everything up to it.
        let at = self.db.snapshot();
        let since = request.since.map(|token| token.position);
        let next = SyncToken { position: until, to_device: until };
        let mut response = self.empty(session, next, told).await?;
        let mut by_room = RoomAccountData::new();
        let user_rooms = if let Some(only) = only {
            self.user_rooms_among(&at, session.user, only).await?
        } else {
            let user_rooms = self.rooms.user_rooms(&at, session.user).await?;
            by_room = self
                .add_all_but_rooms(&mut response, &at, session, request, until, &user_rooms)
                .await?;
            user_rooms
        };
        let mut sending = (!request.filter.redundant_members())
            .then(|| self.rooms.sent_members().begin(session, None, since.map(TimelineKey::live)));
        let ignored = IgnoredOnce::new();
        for (room, user_room) in user_rooms {
            let account_data = Events { events: by_room.remove(&room).unwrap_or_default() };
            self.add_room(
                &mut response.rooms,
                &at,
                session,
                request,
                &mut sending,
                (until, only.map(|only| only.settled), &ignored),
                (room, user_room),
                account_data,
            )
            .await?;
        }
        Ok((response, until, sending))
    }

    /// Adds the account data, the messages to the device, whose keys changed and who is there.
    /// Returns the account data of rooms.
    async fn add_all_but_rooms(
        &self,
        response: &mut Response,
        at: &Snapshot,
        session: &Session,
        request: &Request,
        until: u64,
        user_rooms: &[(RoomNumber, UserRoom)],
    ) -> Result<RoomAccountData, SyncError> {
        let since = request.since.map(|token| token.position);
        let (global, by_room) =
            account_data(at, session.user, since, until, &request.filter).await?;
        response.account_data.events = global;
        if let Some(since) = since {
            response.device_lists =
                self.device_lists(at, session, (since, until), user_rooms).await?;
        }
        let inbox = (request.since.map_or(0, |token| token.to_device), until);
        let to_device = &self.e2ee.to_device;
        let (user, device_id) = (session.user, &session.device_id);
        let inbox = if request.unconfirmed {
            to_device.inbox(at, user, device_id, inbox, DELIVERED_AT_ONCE).await?
        } else {
            // The device has what it was given with its token.
            to_device.exchange(at, user, device_id, inbox, DELIVERED_AT_ONCE).await?
        };
        if !inbox.events.is_empty() {
            self.views.give_messages(session, inbox.upto);
        }
        response.to_device.events = inbox.events;
        response.next_batch = SyncToken { position: until, to_device: inbox.upto }.to_string();
        let (span, lists) = ((since, until), &response.device_lists);
        response.presence.events =
            self.presence_events(at, session, span, user_rooms, lists, &request.filter).await?;
        Ok(by_room)
    }

    /// Adds one room, if there is something to tell of it.
    #[expect(clippy::too_many_arguments, reason = "the parts of one response")]
    async fn add_room(
        &self,
        rooms: &mut RoomsResponse,
        at: &Snapshot,
        session: &Session,
        request: &Request,
        sending: &mut Option<Sending>,
        (until, settled, ignored): (u64, Option<u64>, &IgnoredOnce),
        (number, user_room): (RoomNumber, UserRoom),
        account_data: Events,
    ) -> Result<(), SyncError> {
        let since = request.since.map(|token| token.position);
        let membership = if user_room.position > until {
            // A member event on its way is told of when it is visible; until then, a user who was
            // in the room still is.
            let Some(room) = self.rooms.room_if_here(number).await? else { return Ok(()) };
            let visibility = self.rooms.visibility(at, &room, session.user).await?;
            match visibility.membership_at(until) {
                Some(Membership::Join) => Membership::Join,
                _ => return Ok(()),
            }
        } else {
            user_room.membership
        };
        let changed = since.is_none_or(|since| user_room.position > since);
        let gone = matches!(membership, Membership::Leave | Membership::Ban);
        let left_unasked = since.is_none() && !request.filter.include_leave;
        if (gone && (!changed || user_room.forgotten || left_unasked))
            || (!changed && membership != Membership::Join)
        {
            return Ok(());
        }
        // Most rooms of most syncs: nothing happened, and memory knows it.
        if let Some(since) = since
            && !changed
            && !request.full_state
            && account_data.is_empty()
            && self.rooms.last_position(number).await? <= since
            && !self.receipts.may_have_changed(number, session.user, since)
            && self.typing.changed_since(number, since).is_none()
        {
            return Ok(());
        }
        // This server need not be in a room that somebody is invited to.
        let room = self.rooms.room_if_here(number).await?;
        let room_id = match &room {
            Some(room) => room.id.clone(),
            None => self.rooms.room_id(number).await?,
        };
        if !request.filter.wants_room(&room_id) {
            return Ok(());
        }
        match membership {
            Membership::Invite => {
                if self.rooms.hides_invite(at, session.user, number, &user_room).await? {
                    return Ok(());
                }
                let events = stripped(&user_room.stripped_state)?;
                rooms.invite.insert(room_id, Invited { invite_state: Stripped { events } });
                return Ok(());
            }
            Membership::Knock => {
                let events = stripped(&user_room.stripped_state)?;
                rooms.knock.insert(room_id, Knocked { knock_state: Stripped { events } });
                return Ok(());
            }
            Membership::Join | Membership::Leave | Membership::Ban => {}
        }
        let Some(room) = room else {
            // An invitation refused or withdrawn, in a room of which nothing is known.
            let state = request.state_form.of(Events::default());
            rooms.leave.insert(room_id, Left { state, account_data, ..Left::default() });
            return Ok(());
        };
        // Clients that count on all members get the room when it is whole.
        if membership == Membership::Join
            && !request.filter.lazy_load_members()
            && room.whole_since() > until
        {
            return Ok(());
        }
        let user_room = &user_room;
        let mut reader = RoomReader {
            sync: self,
            at,
            session,
            request,
            sending,
            room,
            user_room,
            until,
            settled,
            ignored,
        };
        if membership == Membership::Join {
            let joined = reader.joined(since, account_data).await?;
            // A room that is new to the client is told of even if a filter leaves nothing.
            if changed || !joined.is_empty() {
                rooms.join.insert(room_id, joined);
            }
        } else {
            rooms.leave.insert(room_id, reader.left(since, account_data).await?);
        }
        Ok(())
    }
}

/// What there may be to tell. Messages to the device that it has not had yet, or has and that are to
/// be removed, stand behind the position of its token.
fn changes(request: &Request, waiter: &Waiter) -> Changes {
    match request.since {
        Some(since) if !request.full_state && since.to_device >= since.position => {
            waiter.changes_after(since.position)
        }
        _ => Changes::Anything,
    }
}

fn stripped(state: &str) -> Result<Box<RawValue>, StorageError> {
    RawValue::from_string(state.to_owned())
        .map_err(|_| StorageError::Corrupt { table: USER_ROOMS.id.name() })
}
