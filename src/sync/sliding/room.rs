//! One room in an answer.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, api::Direction};
use serde_json::value::RawValue;

use super::{
    Form, SlidingError, Wanted,
    connection::{SentRoom, State},
    lists::{DirectRooms, Entry},
    response::{Common, Field, Room as RoomResponse},
    state::{News, Required},
};
use crate::{
    push::Whose,
    rooms::{
        Boundary, EventFilter, Room, StateChanges, Viewer, Visibility,
        record::{Membership, SharedEvent},
    },
    storage::{Snapshot, StorageError, schema::USER_ROOMS},
    sync::{response::Counts, timeline::latest, v3::Sync},
    users::session::Session,
};

/// How many events are looked at for one that moves the room up.
const BUMP_LOOKED_AT: usize = 50;
/// Events that people want to see: a room moves up by them.
const BUMPING: [&str; 9] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];

/// Reads rooms for one answer.
pub(super) struct Reader<'a> {
    pub(super) sync: &'a Sync,
    pub(super) at: &'a Snapshot,
    pub(super) form: Form,
    pub(super) session: &'a Session,
    pub(super) until: u64,
    pub(super) state: &'a State,
    pub(super) direct: &'a DirectRooms,
    /// Nothing changed but what memory knows of: messages.
    pub(super) settled: bool,
}

/// A room as it is sent, and what the client has of it then.
pub(super) struct Sent {
    pub(super) id: OwnedRoomId,
    /// None if there is nothing to tell up to there.
    pub(super) room: Option<RoomResponse>,
    pub(super) state: SentRoom,
}

impl Reader<'_> {
    /// A room, if there is something to tell of it.
    pub(super) async fn room(
        &self,
        entry: &Entry<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Sent>, SlidingError> {
        let was_in = || {
            let sent = self.state.rooms.get(&entry.number);
            entry.kept || sent.is_some_and(|sent| sent.came_in)
        };
        // Who wants all members gets the room when they are known.
        if entry.membership == Membership::Join
            && wanted.details.required_state.wants_all_members()
            && self.sync.rooms.numbered(entry.number).await?.whole_since() > self.until
        {
            return Ok(None);
        }
        let is_seen = entry.membership == Membership::Join || entry.is_gone() && was_in();
        let sent =
            if is_seen { self.seen(entry, wanted).await? } else { self.stripped(entry).await? };
        Ok(sent.map(|mut sent| {
            if let Some(room) = &mut sent.room {
                room.membership = Some(entry.membership);
                room.lists = wanted.lists.iter().map(|name| (*name).to_owned()).collect();
            }
            sent
        }))
    }

    /// What the client has of a room in which the user was the same as now, or of which they are no
    /// longer a member.
    fn sent(&self, entry: &Entry<'_>) -> Option<&SentRoom> {
        let sent = self.state.rooms.get(&entry.number)?;
        let was_there = entry.is_gone() && sent.came_in;
        (sent.membership == entry.membership || was_there).then_some(&**sent)
    }

    /// A room that the user has not come into: invited, knocking, or no longer so.
    async fn stripped(&self, entry: &Entry<'_>) -> Result<Option<Sent>, SlidingError> {
        let position = entry.user_room.position;
        if self.sent(entry).is_some_and(|sent| sent.upto >= position) {
            return Ok(None);
        }
        let rooms = &self.sync.rooms;
        let user = self.session.user;
        if rooms.hides_invite(self.at, user, entry.number, entry.user_room).await? {
            return Ok(None);
        }
        let id = rooms.room_id(entry.number).await?;
        let stripped = Some(&*entry.user_room.stripped_state).filter(|state| !state.is_empty());
        let stripped = stripped
            .map(|state| RawValue::from_string(state.to_owned()))
            .transpose()
            .map_err(|_| StorageError::Corrupt { table: USER_ROOMS.id.name() })?;
        let direct = self.direct.contains(&id);
        let common = Common {
            initial: !entry.is_gone(),
            is_dm: direct.then_some(true),
            bump_stamp: Some(position),
            ..Common::default()
        };
        let room = RoomResponse { common, stripped_state: stripped, ..RoomResponse::default() };
        let sent = SentRoom {
            membership: entry.membership,
            upto: position,
            timeline_limit: 0,
            required_state: Required::default(),
            direct,
            came_in: false,
            members: BTreeSet::new(),
            unread: None,
        };
        Ok(Some(Sent { id, room: Some(room), state: sent }))
    }

    /// A room of whose timeline the user may see something: all of it, or up to their leaving.
    async fn seen(
        &self,
        entry: &Entry<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Sent>, SlidingError> {
        let rooms = &self.sync.rooms;
        let details = &wanted.details;
        let before = self.sent(entry);
        let expanded = before.is_some_and(|sent| details.timeline_limit > sent.timeline_limit);
        let added = match before {
            Some(sent) => details.required_state.beyond(&sent.required_state),
            None => details.required_state.clone(),
        };
        let upto = self.upto(entry);
        let last = if entry.is_gone() { upto } else { rooms.last_position(entry.number).await? };
        let direct = match before {
            Some(sent) if self.settled => sent.direct,
            _ => self.direct.contains(&rooms.room_id(entry.number).await?),
        };
        // What is told of the room is the same as ever, but for what happened in it.
        let as_before = !expanded
            && added.is_empty()
            && before
                .is_some_and(|sent| sent.direct == direct && sent.membership == entry.membership);
        // What was read changes the counts, on another device too.
        let was_read = !entry.is_gone()
            && before.is_some_and(|sent| self.sync.receipts.last_read(entry.number) > sent.upto);
        // Most rooms of most syncs: nothing happened, and memory knows it.
        if as_before && !was_read && before.is_some_and(|sent| last <= sent.upto) {
            return Ok(None);
        }
        let room = rooms.numbered(entry.number).await?;
        let visibility = rooms.visibility(self.at, &room, self.session.user).await?;
        let after = before.filter(|_| !expanded).map_or(0, |sent| sent.upto);
        let filter = EventFilter::any(details.timeline_limit);
        let window = (Boundary::at_position(after), Boundary::at_position(upto));
        let stretch = latest(rooms, self.at, &room, &visibility, window, &filter).await?;
        let timeline: Vec<SharedEvent> =
            stretch.events.into_iter().map(|(_, event)| event).collect();
        let changes = match before {
            Some(sent) => rooms.state_changes(self.at, &room, sent.upto, upto).await?,
            None => StateChanges::default(),
        };
        // An event on its way to the disk is known of before it can be told of.
        if as_before
            && timeline.is_empty()
            && changes.is_empty()
            && !stretch.limited
            && let Some(before) = before
        {
            if !was_read {
                return Ok(None);
            }
            if before.unread == Some(self.unread(&room, entry).await?) {
                let state = SentRoom { upto, ..before.clone() };
                return Ok(Some(Sent { id: room.id.clone(), room: None, state }));
            }
        }
        let mut response = RoomResponse { expanded_timeline: expanded, ..RoomResponse::default() };
        self.describe(&mut response, &room, entry, before, &changes).await?;
        let common = &mut response.common;
        let was_direct = before.is_some_and(|sent| sent.direct);
        common.is_dm = (direct || was_direct).then_some(direct);
        common.limited = stretch.limited;
        common.prev_batch = stretch.start.map(|start| start.to_string());
        common.num_live = Some(self.live(&timeline));
        common.bump_stamp =
            Some(if entry.is_gone() { upto } else { self.bump_stamp(&room, &timeline).await? });
        let mut members = before.map(|sent| sent.members.clone()).unwrap_or_default();
        let news = News {
            before: before.map(|sent| &sent.required_state),
            wanted: &details.required_state,
            added: &added,
            changes,
            timeline: &timeline,
            limited: stretch.limited,
            upto,
        };
        let (state, stubs) = self.state_to_send(&room, news, &mut members).await?;
        common.required_state = self.show(&room, &visibility, &state).await?;
        common.required_state.extend(stubs);
        self.sync.receipts.note_delivery(self.session, &room, &timeline, self.until);
        response.timeline = self.show(&room, &visibility, &timeline).await?;
        let sent = SentRoom {
            membership: entry.membership,
            upto,
            timeline_limit: details.timeline_limit,
            required_state: details.required_state.clone(),
            direct,
            came_in: true,
            members,
            unread: response.common.unread,
        };
        Ok(Some(Sent { id: room.id.clone(), room: Some(response), state: sent }))
    }

    /// Up to which stream position the user may know of the room.
    fn upto(&self, entry: &Entry<'_>) -> u64 {
        if entry.is_gone() { entry.user_room.position.min(self.until) } else { self.until }
    }

    /// Adds the room's name and picture, who is in it and what is not read, as far as that changed.
    async fn describe(
        &self,
        response: &mut RoomResponse,
        room: &Room,
        entry: &Entry<'_>,
        before: Option<&SentRoom>,
        changes: &StateChanges,
    ) -> Result<(), SlidingError> {
        let rooms = &self.sync.rooms;
        let (is_new, is_in, upto) = (before.is_none(), !entry.is_gone(), self.upto(entry));
        let touched = |of: &str| is_new || changes.touch(of);
        let field = |text: Option<String>| match text {
            Some(text) => Field::Is(text),
            None if is_new => Field::Same,
            None => Field::Removed,
        };
        response.common.initial = is_new;
        if touched("m.room.avatar") {
            response.avatar = field(self.avatar(room, upto).await?);
        }
        let (named, members) = (touched("m.room.name"), is_in && touched("m.room.member"));
        if named || members {
            let name = self.name(room, upto).await?;
            if name.is_none() && is_in {
                response.common.heroes = Some(self.heroes(room).await?);
            }
            response.name = if named { field(name) } else { name.map_or(Field::Same, Field::Is) };
        }
        if members {
            let count = async |membership| {
                Ok::<_, SlidingError>(rooms.members(self.at, room.number, membership).await?.len())
            };
            response.common.joined_count = Some(count(Membership::Join).await?);
            response.common.invited_count = Some(count(Membership::Invite).await?);
        }
        if is_in {
            response.common.unread = Some(self.unread(room, entry).await?);
        }
        Ok(())
    }

    /// How much the user has not read.
    async fn unread(&self, room: &Room, entry: &Entry<'_>) -> Result<Counts, SlidingError> {
        let Session { user, user_id, .. } = self.session;
        let member = entry.user_room.position;
        let whose = Whose { user: *user, user_id, member, settled: None, receipts: None };
        let tally = self.sync.unread.count(self.at, room, whose, self.until).await?;
        Ok(tally.total().into())
    }

    /// A room that the user has left, or was made to leave, since the client got it.
    pub(super) async fn gone(
        &self,
        entry: &Entry<'_>,
    ) -> Result<Option<(OwnedRoomId, RoomResponse)>, SlidingError> {
        let Some(sent) = self.state.rooms.get(&entry.number) else { return Ok(None) };
        let rooms = &self.sync.rooms;
        let until = entry.user_room.position.min(self.until);
        // An invitation by another server that came to nothing: the room was never here.
        let Some(room) = rooms.room_if_here(entry.number).await? else {
            let common = Common { bump_stamp: Some(until), ..Common::default() };
            let response = RoomResponse { common, ..RoomResponse::default() };
            return Ok(Some((rooms.room_id(entry.number).await?, response)));
        };
        let visibility = rooms.visibility(self.at, &room, self.session.user).await?;
        let own = rooms
            .state_event_at(self.at, &room, "m.room.member", self.session.user_id.as_str(), until)
            .await?;
        let own: Vec<SharedEvent> = own.into_iter().collect();
        let mut common = Common {
            required_state: self.show(&room, &visibility, &own).await?,
            bump_stamp: Some(until),
            ..Common::default()
        };
        let mut shown = Vec::new();
        if sent.membership == Membership::Join {
            let filter = EventFilter::any(sent.timeline_limit.max(1));
            let window = (Boundary::at_position(sent.upto), Boundary::at_position(until));
            let stretch = latest(rooms, self.at, &room, &visibility, window, &filter).await?;
            let timeline: Vec<SharedEvent> =
                stretch.events.into_iter().map(|(_, event)| event).collect();
            common.limited = stretch.limited;
            common.prev_batch = stretch.start.map(|start| start.to_string());
            common.num_live = Some(self.live(&timeline));
            self.sync.receipts.note_delivery(self.session, &room, &timeline, self.until);
            shown = self.show(&room, &visibility, &timeline).await?;
        }
        let response = RoomResponse { common, timeline: shown, ..RoomResponse::default() };
        Ok(Some((room.id.clone(), response)))
    }

    /// How many of these events happened since the last answer; none counts on a new connection.
    fn live(&self, timeline: &[SharedEvent]) -> usize {
        let since = self.state.position;
        if since == 0 {
            return 0;
        }
        timeline.iter().filter(|event| event.position > since).count()
    }

    /// The position of the last event that moves the room up.
    async fn bump_stamp(&self, room: &Room, timeline: &[SharedEvent]) -> Result<u64, SlidingError> {
        let bumps = |event: &&SharedEvent| BUMPING.contains(&event.event_type.as_str());
        if let Some(event) = timeline.iter().rev().find(bumps) {
            return Ok(event.position);
        }
        let (after, upto) = (Boundary::at_position(0), Boundary::at_position(self.until));
        let rows = self
            .sync
            .rooms
            .timeline(self.at, room, after, upto, BUMP_LOOKED_AT, Direction::Backward)
            .await?;
        let found = rows.iter().map(|(_, _, event)| event).find(bumps);
        Ok(found.or(rows.last().map(|(_, _, event)| event)).map_or(0, |event| event.position))
    }

    async fn show(
        &self,
        room: &Room,
        visibility: &Visibility,
        events: &[SharedEvent],
    ) -> Result<Vec<Box<RawValue>>, SlidingError> {
        let viewer = Viewer::from(self.session);
        let rooms = &self.sync.rooms;
        Ok(rooms.client_events(self.at, &viewer, room, visibility, events, false).await?)
    }
}
