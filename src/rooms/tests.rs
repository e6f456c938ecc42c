//! Rooms over the memory engine, with a clock that is moved by hand and seeded randomness.

mod creating;
mod graph;
mod history;
mod members;
mod purge;
mod search;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    api::Direction, server_name,
};
use serde_json::{Value as JsonValue, json, value::RawValue};

use super::{
    Boundary, Change, Draft, EventFilter, NewRoom, PageRequest, Preset, Profile, RoomError, Rooms,
    SUPPORTED_VERSIONS, Settings, keys::ServerKey, record::Membership, timeline::Page,
};
use crate::{
    clock::{Clock, Random},
    storage::{
        Db, Range,
        intern::UserNumber,
        schema::{CLOSED_ACCOUNTS, FORWARD_EXTREMITIES, PROFILE_UPDATES, TIMELINE},
    },
    users::session::Session,
};

/// A server with its users.
pub(super) struct Sim {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) rooms: Rooms,
    profiles: Arc<Mutex<HashMap<UserNumber, Profile>>>,
}

impl Sim {
    pub(super) async fn new() -> Self {
        Self::over(Db::in_memory().await).await
    }

    /// As after a restart, if `db` is not new.
    pub(super) async fn over(db: Db) -> Self {
        Self::with(db, Settings::default()).await
    }

    /// The same, with these settings.
    async fn with(db: Db, settings: Settings) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let random = Random::seeded(1);
        let key = ServerKey::load(&db, &random, server_name!("localhost")).await.unwrap();
        let profiles = Arc::<Mutex<HashMap<UserNumber, Profile>>>::default();
        let looked_up = Arc::clone(&profiles);
        let rooms = Rooms::new(
            db.clone(),
            clock.clone(),
            random,
            key,
            Box::new(move |user| {
                let profile = looked_up.lock().get(&user).cloned().unwrap_or_default();
                Box::pin(async move { Ok(profile) })
            }),
            settings,
        );
        Self { db, clock, rooms, profiles }
    }

    pub(super) async fn user(&self, name: &str) -> Session {
        let user_id: OwnedUserId = format!("@{name}:localhost").try_into().unwrap();
        let user = self.db.users().intern(&self.db, &*user_id).await.unwrap();
        Session {
            user_id,
            user,
            device_id: format!("{name}-device").into(),
            guest: false,
            appservice: None,
        }
    }

    pub(super) async fn room(&self, creator: &Session, preset: Preset) -> OwnedRoomId {
        self.rooms.create(creator, &new_room(preset)).await.unwrap()
    }

    pub(super) async fn change(
        &self,
        who: &Session,
        room: &OwnedRoomId,
        target: &Session,
        change: Change,
    ) -> Result<(), RoomError> {
        self.rooms.change_membership(who, room, &target.user_id, change, None).await
    }

    pub(super) async fn join(&self, who: &Session, room: &OwnedRoomId) -> Result<(), RoomError> {
        self.change(who, room, who, Change::Join).await
    }

    pub(super) async fn say(
        &self,
        who: &Session,
        room: &OwnedRoomId,
        text: &str,
    ) -> Result<OwnedEventId, RoomError> {
        let content = object(json!({ "msgtype": "m.text", "body": text }));
        self.rooms.send(who, room, "m.room.message", text.into(), content).await
    }

    pub(super) async fn state(
        &self,
        who: &Session,
        room: &OwnedRoomId,
        event_type: &str,
        content: JsonValue,
    ) -> Result<OwnedEventId, RoomError> {
        self.rooms.send_state(who, room, event_type, "", object(content)).await
    }

    async fn page(&self, who: &Session, room: &OwnedRoomId) -> Result<Page, RoomError> {
        self.rooms.messages(who, room, &back(100)).await
    }

    /// The texts of the messages that `who` sees, oldest first.
    pub(super) async fn texts(&self, who: &Session, room: &OwnedRoomId) -> Vec<String> {
        let page = self.page(who, room).await.unwrap();
        let mut texts: Vec<String> = page
            .chunk
            .iter()
            .filter_map(|event| Some(read(event)["content"]["body"].as_str()?.to_owned()))
            .collect();
        texts.reverse();
        texts
    }
}

pub(super) fn new_room(preset: Preset) -> NewRoom {
    NewRoom {
        version: None,
        preset,
        creation_content: CanonicalJsonObject::new(),
        initial_state: Vec::new(),
        power_levels: CanonicalJsonObject::new(),
        name: None,
        topic: None,
        alias_name: None,
        invite: Vec::new(),
        is_direct: false,
        public: false,
    }
}

fn back(limit: usize) -> PageRequest {
    PageRequest {
        from: None,
        to: None,
        direction: Direction::Backward,
        limit,
        filter: EventFilter::default(),
        only_live: false,
    }
}

pub(super) fn object(json: JsonValue) -> CanonicalJsonObject {
    serde_json::from_value(json).unwrap()
}

fn read(event: &RawValue) -> JsonValue {
    serde_json::from_str(event.get()).unwrap()
}

fn is_forbidden<T>(outcome: &Result<T, RoomError>) -> bool {
    matches!(outcome, Err(RoomError::Forbidden { .. }))
}
