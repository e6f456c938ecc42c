//! One room in an answer.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, api::Direction};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    SlidingError,
    connection::{SentRoom, State},
    lists::{DirectRooms, Entry},
    request::Details,
    response::{Hero, Room as RoomResponse},
    state::{is_lazy, requires, wants_all_members},
};
use crate::{
    push::Whose,
    rooms::{
        Boundary, EventFilter, Room, Viewer, Visibility,
        record::{Membership, SharedEvent},
    },
    storage::{Snapshot, StorageError, schema::USER_ROOMS},
    sync::{
        heroes::{HEROES, former_heroes},
        timeline::latest,
        v3::Sync,
    },
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
    pub(super) session: &'a Session,
    pub(super) until: u64,
    pub(super) state: &'a State,
    pub(super) direct: &'a DirectRooms,
}

/// A room as it is sent, and what the client has of it then.
pub(super) struct Sent {
    pub(super) id: OwnedRoomId,
    pub(super) room: RoomResponse,
    pub(super) state: SentRoom,
}

impl Reader<'_> {
    /// A room, if there is something to tell of it.
    pub(super) async fn room(
        &self,
        entry: &Entry<'_>,
        details: &Details,
    ) -> Result<Option<Sent>, SlidingError> {
        let rooms = &self.sync.rooms;
        match entry.membership {
            // Who wants all members gets the room when they are known.
            Membership::Join
                if wants_all_members(&details.required_state)
                    && rooms.numbered(entry.number).await?.whole_since() > self.until =>
            {
                Ok(None)
            }
            Membership::Join => self.joined(entry, details).await,
            _ => self.invited(entry).await,
        }
    }

    /// What the client has of a room in which the user was the same as now.
    fn sent(&self, entry: &Entry<'_>) -> Option<&SentRoom> {
        let sent = self.state.rooms.get(&entry.number)?;
        (sent.membership == entry.membership).then_some(&**sent)
    }

    async fn invited(&self, entry: &Entry<'_>) -> Result<Option<Sent>, SlidingError> {
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
        let stripped = RawValue::from_string(entry.user_room.stripped_state.to_string())
            .map_err(|_| StorageError::Corrupt { table: USER_ROOMS.id.name() })?;
        let room = RoomResponse {
            initial: true,
            is_dm: self.direct.contains(&id).then_some(true),
            invite_state: Some(stripped),
            bump_stamp: Some(position),
            ..RoomResponse::default()
        };
        let sent = SentRoom {
            membership: entry.membership,
            upto: position,
            timeline_limit: 0,
            required_state: BTreeSet::new(),
            members: BTreeSet::new(),
        };
        Ok(Some(Sent { id, room, state: sent }))
    }

    async fn joined(
        &self,
        entry: &Entry<'_>,
        details: &Details,
    ) -> Result<Option<Sent>, SlidingError> {
        let rooms = &self.sync.rooms;
        let before = self.sent(entry);
        let expanded = before.is_some_and(|sent| details.timeline_limit > sent.timeline_limit);
        let added: BTreeSet<_> = match before {
            Some(sent) => {
                details.required_state.difference(&sent.required_state).cloned().collect()
            }
            None => details.required_state.clone(),
        };
        // Most rooms of most syncs: nothing happened, and memory knows it.
        if let Some(sent) = before
            && !expanded
            && added.is_empty()
            && rooms.last_position(entry.number).await? <= sent.upto
        {
            return Ok(None);
        }
        let room = rooms.numbered(entry.number).await?;
        let visibility = rooms.visibility(self.at, &room, self.session.user).await?;
        let after = before.filter(|_| !expanded).map_or(0, |sent| sent.upto);
        let filter = EventFilter::any(details.timeline_limit);
        let window = (Boundary::at_position(after), Boundary::at_position(self.until));
        let stretch = latest(rooms, self.at, &room, &visibility, window, &filter).await?;
        let timeline: Vec<SharedEvent> =
            stretch.events.into_iter().map(|(_, event)| event).collect();

        let changes: Vec<SharedEvent> = match before {
            Some(sent) => rooms
                .state_delta(self.at, &room, sent.upto, self.until)
                .await?
                .into_iter()
                .map(|(_, event)| event)
                .collect(),
            None => Vec::new(),
        };
        // An event on its way to the disk is known of before it can be told of.
        let nothing_new = timeline.is_empty() && changes.is_empty() && !stretch.limited;
        if before.is_some() && !expanded && added.is_empty() && nothing_new {
            return Ok(None);
        }
        let touched =
            |of: &str| before.is_none() || changes.iter().any(|event| event.event_type == of);
        let members_changed = touched("m.room.member");
        let mut response = RoomResponse {
            initial: before.is_none(),
            is_dm: self.direct.contains(&room.id).then_some(true),
            limited: stretch.limited,
            unstable_expanded_timeline: expanded,
            prev_batch: stretch.start.map(|start| start.to_string()),
            num_live: Some(self.live(&timeline)),
            bump_stamp: Some(self.bump_stamp(&room, &timeline).await?),
            ..RoomResponse::default()
        };
        if touched("m.room.avatar") {
            response.avatar = self.text(&room, "m.room.avatar", |content| content.url).await?;
        }
        if members_changed || touched("m.room.name") {
            response.name = self.text(&room, "m.room.name", |content| content.name).await?;
            if response.name.is_none() {
                response.heroes = Some(self.heroes(&room).await?);
            }
        }
        if members_changed {
            let count = async |membership| {
                Ok::<_, SlidingError>(rooms.members(self.at, room.number, membership).await?.len())
            };
            response.joined_count = Some(count(Membership::Join).await?);
            response.invited_count = Some(count(Membership::Invite).await?);
        }

        let Session { user, user_id, .. } = self.session;
        let member = entry.user_room.position;
        let unread = &self.sync.unread;
        let whose = Whose { user: *user, user_id, member, settled: None, receipts: None };
        let tally = unread.count(self.at, &room, whose, self.until).await?;
        response.unread = Some(tally.total().into());

        let mut members = before.map(|sent| sent.members.clone()).unwrap_or_default();
        let lazy = is_lazy(&details.required_state);
        let mut state = self.required_state(&room, &added).await?;
        let me = self.session.user_id.as_str();
        for event in changes {
            let key = event.state_key.as_deref().unwrap_or_default();
            let known = lazy && event.event_type == "m.room.member" && members.contains(key);
            let there = state.iter().any(|other| other.event_id == event.event_id);
            if !there && (known || requires(&details.required_state, &event.event_type, key, me)) {
                state.push(event);
            }
        }
        if lazy {
            self.add_senders(&room, &timeline, &mut state, &mut members).await?;
        }
        response.required_state = self.show(&room, &visibility, &state).await?;
        self.sync.receipts.note_delivery(self.session, &room, &timeline, self.until);
        response.timeline = self.show(&room, &visibility, &timeline).await?;
        let sent = SentRoom {
            membership: Membership::Join,
            upto: self.until,
            timeline_limit: details.timeline_limit,
            required_state: details.required_state.clone(),
            members,
        };
        Ok(Some(Sent { id: room.id.clone(), room: response, state: sent }))
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
            let response = RoomResponse { bump_stamp: Some(until), ..RoomResponse::default() };
            return Ok(Some((rooms.room_id(entry.number).await?, response)));
        };
        let visibility = rooms.visibility(self.at, &room, self.session.user).await?;
        let own = rooms
            .state_event_at(self.at, &room, "m.room.member", self.session.user_id.as_str(), until)
            .await?;
        let own: Vec<SharedEvent> = own.into_iter().collect();
        let mut response = RoomResponse {
            required_state: self.show(&room, &visibility, &own).await?,
            bump_stamp: Some(until),
            ..RoomResponse::default()
        };
        if sent.membership == Membership::Join {
            let filter = EventFilter::any(sent.timeline_limit.max(1));
            let window = (Boundary::at_position(sent.upto), Boundary::at_position(until));
            let stretch = latest(rooms, self.at, &room, &visibility, window, &filter).await?;
            let timeline: Vec<SharedEvent> =
                stretch.events.into_iter().map(|(_, event)| event).collect();
            response.limited = stretch.limited;
            response.prev_batch = stretch.start.map(|start| start.to_string());
            response.num_live = Some(self.live(&timeline));
            self.sync.receipts.note_delivery(self.session, &room, &timeline, self.until);
            response.timeline = self.show(&room, &visibility, &timeline).await?;
        }
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

    /// Adds the member events of senders that the client has not got.
    async fn add_senders(
        &self,
        room: &Room,
        timeline: &[SharedEvent],
        state: &mut Vec<SharedEvent>,
        members: &mut BTreeSet<String>,
    ) -> Result<(), SlidingError> {
        let there: BTreeSet<String> = state
            .iter()
            .filter(|event| event.event_type == "m.room.member")
            .filter_map(|event| event.state_key.clone())
            .collect();
        members.extend(there);
        for event in timeline {
            let sender = event.sender_id.as_str();
            if !members.insert(sender.to_owned()) {
                continue;
            }
            let member = self
                .sync
                .rooms
                .state_event_at(self.at, room, "m.room.member", sender, self.until)
                .await?;
            state.extend(member);
        }
        Ok(())
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

    /// A text in the content of a state event with an empty state key; none if it is empty.
    async fn text(
        &self,
        room: &Room,
        event_type: &str,
        take: impl Fn(Content) -> Option<String>,
    ) -> Result<Option<String>, SlidingError> {
        let event =
            self.sync.rooms.state_event_at(self.at, room, event_type, "", self.until).await?;
        let content = event.and_then(|event| serde_json::from_str(event.content()).ok());
        Ok(content.and_then(take).filter(|text| !text.is_empty()))
    }

    async fn heroes(&self, room: &Room) -> Result<Vec<Hero>, SlidingError> {
        let rooms = &self.sync.rooms;
        let mut others = Vec::new();
        for membership in [Membership::Join, Membership::Invite] {
            if others.len() <= HEROES {
                others.extend(rooms.members(self.at, room.number, membership).await?);
            }
        }
        others.retain(|member| *member != self.session.user);
        others.truncate(HEROES);
        if others.is_empty() {
            others = former_heroes(rooms, self.at, room.number, self.session.user).await?;
        }
        let db = &self.sync.db;
        let mut heroes = Vec::new();
        for user_id in db.users().names(db, &others).await? {
            heroes.push(self.hero(room, user_id).await?);
        }
        Ok(heroes)
    }

    async fn hero(&self, room: &Room, user_id: OwnedUserId) -> Result<Hero, SlidingError> {
        let member = self
            .sync
            .rooms
            .state_event_at(self.at, room, "m.room.member", user_id.as_str(), self.until)
            .await?;
        let content: Content = member
            .and_then(|member| serde_json::from_str(member.content()).ok())
            .unwrap_or_default();
        Ok(Hero { user_id, displayname: content.displayname, avatar_url: content.avatar_url })
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

/// What is looked for in contents. What is no text is none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Content {
    #[serde(deserialize_with = "text")]
    name: Option<String>,
    #[serde(deserialize_with = "text")]
    url: Option<String>,
    #[serde(deserialize_with = "text")]
    displayname: Option<String>,
    #[serde(deserialize_with = "text")]
    avatar_url: Option<String>,
}

fn text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(from)? {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    })
}
