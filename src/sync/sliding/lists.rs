//! Which rooms there are, in which order, and which of them a list shows.

use std::{cmp::Reverse, collections::HashSet, sync::Arc};

use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{
    Form, Sliding, SlidingError,
    connection::State,
    request::{Filters, List},
};
use crate::{
    rooms::record::{Membership, UserRoom},
    storage::{
        Range, Snapshot, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::{ACCOUNT_DATA, EVENTS, MEMBERSHIPS},
    },
    users::{GLOBAL, session::Session},
};

/// How many spaces a filter may name; more are not looked at.
const MAX_SPACES: usize = 100;

/// A room of the user.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub(super) number: RoomNumber,
    pub(super) user_room: &'a UserRoom,
    /// As of the position of the answer.
    pub(super) membership: Membership,
    /// The position of what happened there last.
    recency: u64,
    /// The user was made to leave it, and it stays among the others.
    pub(super) kept: bool,
}

impl Entry<'_> {
    /// Whether the user has left it, or was made to.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.membership, Membership::Leave | Membership::Ban)
    }
}

/// The rooms that belong to a list with filters.
pub(super) type Matching = Arc<HashSet<RoomNumber>>;

/// Rooms that are conversations with one person.
pub(super) type DirectRooms = HashSet<OwnedRoomId>;

/// What filters ask for.
#[derive(Clone, Debug, Default)]
struct Facts {
    room_type: Option<String>,
    encrypted: bool,
}

impl Sliding {
    /// The rooms that the user is in, invited to or knocking on, latest first; and those that the
    /// client still has and the user is no longer in. In the merged form these are among the others,
    /// as are rooms that others made the user leave.
    pub(super) async fn entries<'a>(
        &self,
        at: &Snapshot,
        session: &Session,
        form: Form,
        until: u64,
        user_rooms: &'a [(RoomNumber, UserRoom)],
        state: &State,
    ) -> Result<(Vec<Entry<'a>>, Vec<Entry<'a>>), SlidingError> {
        let rooms = &self.sync.rooms;
        let (mut entries, mut gone) = (Vec::new(), Vec::new());
        for (number, user_room) in user_rooms {
            let membership = if user_room.position > until {
                // A member event on its way is told of when it is visible; until then, a user who
                // was in the room still is.
                let Some(room) = rooms.room_if_here(*number).await? else { continue };
                let visibility = rooms.visibility(at, &room, session.user).await?;
                match visibility.membership_at(until) {
                    Some(Membership::Join) => Membership::Join,
                    _ => continue,
                }
            } else {
                user_room.membership
            };
            let (number, recency) = (*number, user_room.position);
            let mut entry = Entry { number, user_room, membership, recency, kept: false };
            match membership {
                Membership::Join => {
                    entry.recency = rooms.last_position(number).await?;
                    entries.push(entry);
                }
                Membership::Invite | Membership::Knock => entries.push(entry),
                Membership::Leave | Membership::Ban => {
                    let has = state.rooms.get(&number);
                    match form {
                        Form::Merged if !user_room.forgotten => {
                            entry.kept = self.was_thrown_out(at, session.user, &entry).await?;
                            // Of a room that was removed nothing is left to show.
                            let came_in = entry.kept || has.is_some_and(|sent| sent.came_in);
                            let here = !came_in || rooms.room_if_here(number).await?.is_some();
                            if here && (has.is_some() || entry.kept) {
                                entries.push(entry);
                            }
                        }
                        _ if has.is_some() => gone.push(entry),
                        _ => {}
                    }
                }
            }
        }
        entries.sort_by_key(|entry| (Reverse(entry.recency), entry.number));
        Ok((entries, gone))
    }

    /// Whether somebody else ended the user's membership of a room that they had come into.
    async fn was_thrown_out(
        &self,
        at: &Snapshot,
        user: UserNumber,
        entry: &Entry<'_>,
    ) -> Result<bool, SlidingError> {
        let UserRoom { position, event, was_joined, .. } = *entry.user_room;
        if !was_joined && entry.membership == Membership::Leave {
            return Ok(false);
        }
        let key = (user, entry.number);
        if let Some((_, known)) = self.thrown_out.get(&key).filter(|(at, _)| *at == position) {
            return Ok(known);
        }
        let came_in = || async {
            let range = Range::prefix(&(entry.number, user));
            let rows = MEMBERSHIPS.scan(at, &range, usize::MAX).await?;
            Ok::<_, StorageError>(rows.iter().any(|(_, was)| *was == Membership::Join))
        };
        let by_others =
            EVENTS.get(at, &(entry.number, event)).await?.is_some_and(|event| event.sender != user);
        let thrown_out = by_others && (was_joined || came_in().await?);
        self.thrown_out.insert(key, (position, thrown_out));
        Ok(thrown_out)
    }

    /// The rooms that belong to a list, and which they are if it has filters: those that `known`
    /// says, if it does.
    pub(super) async fn filtered<'e, 'a>(
        &self,
        at: &Snapshot,
        session: &Session,
        entries: &'e [Entry<'a>],
        direct: &DirectRooms,
        (list, known): (&List, Option<&Matching>),
        until: u64,
    ) -> Result<(Vec<&'e Entry<'a>>, Option<Matching>), SlidingError> {
        let Some(filters) = &list.filters else { return Ok((entries.iter().collect(), None)) };
        if let Some(known) = known {
            let found = entries.iter().filter(|entry| known.contains(&entry.number)).collect();
            return Ok((found, Some(Arc::clone(known))));
        }
        let in_spaces = match &filters.spaces {
            Some(spaces) => Some(self.children(at, session, spaces, until).await?),
            None => None,
        };
        let mut found = Vec::new();
        for entry in entries {
            let id = self.sync.rooms.room_id(entry.number).await?;
            let keep = filters.is_dm.is_none_or(|wanted| direct.contains(&id) == wanted)
                && filters
                    .is_invite
                    .is_none_or(|wanted| (entry.membership == Membership::Invite) == wanted)
                && in_spaces.as_ref().is_none_or(|children| children.contains(id.as_str()))
                && self.has_facts(at, entry, filters, until).await?
                && self.has_tags(at, session.user, entry.number, filters).await?;
            if keep {
                found.push(entry);
            }
        }
        let numbers = found.iter().map(|entry| entry.number).collect();
        Ok((found, Some(Arc::new(numbers))))
    }

    async fn has_facts(
        &self,
        at: &Snapshot,
        entry: &Entry<'_>,
        filters: &Filters,
        until: u64,
    ) -> Result<bool, SlidingError> {
        if filters.is_encrypted.is_none()
            && filters.room_types.is_none()
            && filters.not_room_types.is_none()
        {
            return Ok(true);
        }
        let facts = match entry.membership {
            _ if entry.membership == Membership::Join
                || entry.kept
                || entry.user_room.was_joined =>
            {
                self.facts(at, entry.number, until).await?
            }
            _ => stripped_facts(&entry.user_room.stripped_state),
        };
        let is_of = |types: &Vec<Option<String>>| types.contains(&facts.room_type);
        Ok(filters.is_encrypted.is_none_or(|wanted| wanted == facts.encrypted)
            && filters.room_types.as_ref().is_none_or(is_of)
            && !filters.not_room_types.as_ref().is_some_and(is_of))
    }

    /// What filters ask of a room that the user is in.
    async fn facts(
        &self,
        at: &Snapshot,
        number: RoomNumber,
        until: u64,
    ) -> Result<Facts, SlidingError> {
        let rooms = &self.sync.rooms;
        let encrypted = self.encrypted.contains_key(&number);
        if let (true, Some(room_type)) = (encrypted, self.room_types.get(&number)) {
            return Ok(Facts { room_type, encrypted });
        }
        let room = rooms.numbered(number).await?;
        let encrypted = encrypted
            || rooms.state_event_at(at, &room, "m.room.encryption", "", until).await?.is_some();
        if encrypted {
            self.encrypted.insert(number, ());
        }
        let room_type = if let Some(room_type) = self.room_types.get(&number) {
            room_type
        } else {
            let create = rooms.state_event_at(at, &room, "m.room.create", "", until).await?;
            let room_type = create.and_then(|create| type_in(create.content()));
            self.room_types.insert(number, room_type.clone());
            room_type
        };
        Ok(Facts { room_type, encrypted })
    }

    async fn has_tags(
        &self,
        at: &Snapshot,
        user: UserNumber,
        room: RoomNumber,
        filters: &Filters,
    ) -> Result<bool, StorageError> {
        #[derive(Default, Deserialize)]
        struct Content {
            #[serde(default)]
            tags: std::collections::BTreeMap<String, serde_json::Value>,
        }
        if filters.tags.is_none() && filters.not_tags.is_none() {
            return Ok(true);
        }
        let datum = ACCOUNT_DATA.get(at, &(user, room, "m.tag")).await?;
        let content: Content =
            datum.and_then(|datum| serde_json::from_slice(&datum.content).ok()).unwrap_or_default();
        let has = |wanted: &Vec<String>| wanted.iter().any(|tag| content.tags.contains_key(tag));
        Ok(filters.tags.as_ref().is_none_or(has) && !filters.not_tags.as_ref().is_some_and(has))
    }

    /// The rooms in spaces that the user is in.
    async fn children(
        &self,
        at: &Snapshot,
        session: &Session,
        spaces: &[OwnedRoomId],
        until: u64,
    ) -> Result<HashSet<String>, SlidingError> {
        #[derive(Deserialize)]
        struct Content {
            via: Vec<serde::de::IgnoredAny>,
        }
        let rooms = &self.sync.rooms;
        let mut children = HashSet::new();
        for space in spaces.iter().take(MAX_SPACES) {
            let Some(number) = self.sync.db.rooms().find(&self.sync.db, &**space).await? else {
                continue;
            };
            let joined = rooms.user_room(session.user, number).await?;
            if joined.is_none_or(|row| row.membership != Membership::Join) {
                continue;
            }
            let room = rooms.numbered(number).await?;
            for (_, event) in rooms.state_at(at, &room, until).await? {
                let is_child = event.event_type == "m.space.child"
                    && serde_json::from_str(event.content())
                        .is_ok_and(|content: Content| !content.via.is_empty());
                children.extend(event.state_key.clone().filter(|_| is_child));
            }
        }
        Ok(children)
    }

    /// The rooms that the user keeps as direct conversations.
    pub(super) async fn direct_rooms(
        &self,
        at: &Snapshot,
        user: UserNumber,
    ) -> Result<DirectRooms, StorageError> {
        let datum = ACCOUNT_DATA.get(at, &(user, GLOBAL, "m.direct")).await?;
        let by_user: std::collections::BTreeMap<String, serde_json::Value> =
            datum.and_then(|datum| serde_json::from_slice(&datum.content).ok()).unwrap_or_default();
        Ok(by_user
            .into_values()
            .filter_map(|rooms| serde_json::from_value::<Vec<OwnedRoomId>>(rooms).ok())
            .flatten()
            .collect())
    }

    /// All account data of a room.
    pub(super) async fn room_account_data(
        &self,
        at: &Snapshot,
        user: UserNumber,
        room: RoomNumber,
    ) -> Result<Vec<Box<serde_json::value::RawValue>>, StorageError> {
        let range = Range::prefix(&(user, room));
        ACCOUNT_DATA
            .scan(at, &range, usize::MAX)
            .await?
            .into_iter()
            .map(|((_, _, kind), datum)| {
                crate::sync::account_data::account_data_event(&kind, &datum.content)
            })
            .collect()
    }
}

/// The type in a create event's content.
fn type_in(content: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "type")]
        room_type: Option<String>,
    }
    serde_json::from_str::<Content>(content).ok()?.room_type
}

/// What filters ask of a room that the user knows by stripped state only.
fn stripped_facts(state: &str) -> Facts {
    #[derive(Deserialize)]
    struct Stripped<'a> {
        #[serde(rename = "type")]
        event_type: String,
        #[serde(borrow)]
        content: &'a serde_json::value::RawValue,
    }
    let state: Vec<Stripped<'_>> = serde_json::from_str(state).unwrap_or_default();
    let mut facts = Facts::default();
    for event in state {
        match event.event_type.as_str() {
            "m.room.create" => facts.room_type = type_in(event.content.get()),
            "m.room.encryption" => facts.encrypted = true,
            _ => {}
        }
    }
    facts
}
