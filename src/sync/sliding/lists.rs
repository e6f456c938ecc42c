//! Which rooms there are, in which order, and which of them a list shows.

use std::{cmp::Reverse, collections::HashSet};

use ruma::OwnedRoomId;
use serde::Deserialize;

use super::{
    Sliding, SlidingError,
    connection::State,
    request::{Filters, List},
};
use crate::{
    rooms::record::{Membership, UserRoom},
    storage::{
        Range, Snapshot, StorageError,
        intern::{RoomNumber, UserNumber},
        schema::ACCOUNT_DATA,
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
}

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
    /// client still has and the user is no longer in.
    pub(super) async fn entries<'a>(
        &self,
        at: &Snapshot,
        session: &Session,
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
            match membership {
                Membership::Join => {
                    let recency = rooms.last_position(number).await?;
                    entries.push(Entry { number, user_room, membership, recency });
                }
                Membership::Invite | Membership::Knock => {
                    entries.push(Entry { number, user_room, membership, recency });
                }
                Membership::Leave | Membership::Ban => {
                    if state.rooms.contains_key(&number) {
                        gone.push(Entry { number, user_room, membership, recency });
                    }
                }
            }
        }
        entries.sort_by_key(|entry| (Reverse(entry.recency), entry.number));
        Ok((entries, gone))
    }

    /// The rooms that belong to a list.
    pub(super) async fn filtered<'e, 'a>(
        &self,
        at: &Snapshot,
        session: &Session,
        entries: &'e [Entry<'a>],
        direct: &DirectRooms,
        list: &List,
        until: u64,
    ) -> Result<Vec<&'e Entry<'a>>, SlidingError> {
        let Some(filters) = &list.filters else { return Ok(entries.iter().collect()) };
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
        Ok(found)
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
            Membership::Join => self.facts(at, entry.number, until).await?,
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
                children.extend(event.state_key.filter(|_| is_child));
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
