//! How a room is called and looks.

use ruma::OwnedUserId;
use serde::Deserialize;

use super::{SlidingError, response::Hero, room::Reader};
use crate::{
    rooms::{Room, record::Membership},
    sync::heroes::{HEROES, former_heroes},
};

impl Reader<'_> {
    /// The name that the room was given.
    pub(super) async fn name(
        &self,
        room: &Room,
        upto: u64,
    ) -> Result<Option<String>, SlidingError> {
        self.text(room, "m.room.name", upto, |content| content.name).await
    }

    /// Its picture.
    pub(super) async fn avatar(
        &self,
        room: &Room,
        upto: u64,
    ) -> Result<Option<String>, SlidingError> {
        self.text(room, "m.room.avatar", upto, |content| content.url).await
    }

    /// A text in the content of a state event with an empty state key; none if it is empty.
    async fn text(
        &self,
        room: &Room,
        event_type: &str,
        upto: u64,
        take: impl Fn(Content) -> Option<String>,
    ) -> Result<Option<String>, SlidingError> {
        let event = self.sync.rooms.state_event_at(self.at, room, event_type, "", upto).await?;
        let content = event.and_then(|event| serde_json::from_str(event.content()).ok());
        Ok(content.and_then(take).filter(|text| !text.is_empty()))
    }

    /// Some of those whose names stand for a room that has none.
    pub(super) async fn heroes(&self, room: &Room) -> Result<Vec<Hero>, SlidingError> {
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
