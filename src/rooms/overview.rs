//! Rooms as those see them who are not in: lists of public rooms, summaries, spaces.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias>

use std::sync::Arc;

use moka::sync::Cache;
use ruma::{
    OwnedRoomId, RoomId, ServerName,
    room::{JoinRuleSummary, RoomSummary},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    Room, RoomError, Rooms,
    record::{EventNumber, Membership, SharedEvent},
    room::stored_state,
};
use crate::storage::{
    Range, Read,
    intern::{RoomNumber, UserNumber},
    schema::{CURRENT_STATE, CURRENT_STATES, USER_ROOMS},
    shared_events,
};

/// Of how many rooms the overview is kept in memory.
const MAX_OVERVIEWS: u64 = 20_000;
/// How many rooms of a join rule are looked at.
const MAX_ALLOWED: usize = 100;

/// What an overview is made of.
const SHOWN: [&str; 9] = [
    "m.room.create",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
];

/// A room in a few words, as it is written to the wire.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Overview {
    pub(crate) room_id: OwnedRoomId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) canonical_alias: Option<String>,
    pub(crate) num_joined_members: usize,
    pub(crate) world_readable: bool,
    guest_can_join: bool,
    pub(crate) join_rule: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allowed_room_ids: Vec<OwnedRoomId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) room_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<String>,
    /// The stream position of the last change of the room's state.
    #[serde(skip)]
    as_of: u64,
}

impl Overview {
    /// A room as another server describes it.
    pub(crate) fn told(summary: RoomSummary) -> Self {
        let allowed_room_ids = match &summary.join_rule {
            JoinRuleSummary::Restricted(rule) | JoinRuleSummary::KnockRestricted(rule) => {
                rule.allowed_room_ids.clone()
            }
            _ => Vec::new(),
        };
        Self {
            room_id: summary.room_id,
            name: summary.name,
            topic: summary.topic,
            avatar_url: summary.avatar_url.map(|url| url.to_string()),
            canonical_alias: summary.canonical_alias.map(|alias| alias.to_string()),
            num_joined_members: usize::try_from(u64::from(summary.num_joined_members))
                .unwrap_or(usize::MAX),
            world_readable: summary.world_readable,
            guest_can_join: summary.guest_can_join,
            join_rule: summary.join_rule.as_str().to_owned(),
            allowed_room_ids,
            room_type: summary.room_type.map(|kind| kind.to_string()),
            room_version: summary.room_version.map(|version| version.to_string()),
            encryption: summary.encryption.map(|algorithm| algorithm.to_string()),
            as_of: 0,
        }
    }

    /// Whether it is a space.
    pub(super) fn is_space(&self) -> bool {
        self.room_type.as_deref() == Some("m.space")
    }

    /// Whether everybody may know of the room.
    fn is_open(&self) -> bool {
        self.world_readable
            || matches!(self.join_rule.as_str(), "public" | "knock" | "knock_restricted")
    }
}

/// Overviews, kept until the state of their room changes.
#[derive(Clone)]
pub(crate) struct Overviews {
    rooms: Rooms,
    kept: Cache<RoomNumber, Arc<Overview>>,
}

impl Overviews {
    /// Overviews of these rooms.
    pub(crate) fn new(rooms: Rooms) -> Self {
        Self { rooms, kept: Cache::new(MAX_OVERVIEWS) }
    }

    /// This server's name.
    pub(crate) fn server_name(&self) -> &ServerName {
        self.rooms.server_name()
    }

    /// The rooms.
    pub(super) fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// A room as it is now.
    pub(super) async fn of(
        &self,
        at: &impl Read,
        room: RoomNumber,
    ) -> Result<Arc<Overview>, RoomError> {
        let last = CURRENT_STATES.scan_back(at, &Range::prefix(&(room,)), 1).await?;
        let as_of = last.first().map_or(0, |((_, position), _)| *position);
        if let Some(kept) = self.kept.get(&room).filter(|kept| kept.as_of == as_of) {
            return Ok(kept);
        }
        let loaded = self.rooms.numbered(room).await?;
        let overview = Arc::new(load(&self.rooms, at, &loaded, as_of).await?);
        self.kept.insert(room, Arc::clone(&overview));
        Ok(overview)
    }

    /// Whether a user, or anybody, may know of the room: they are or may come in, or all may read.
    /// A room that nobody here has heard of has no number.
    pub(super) async fn may_see(
        &self,
        at: &impl Read,
        overview: &Overview,
        room: Option<RoomNumber>,
        user: Option<UserNumber>,
    ) -> Result<bool, RoomError> {
        if overview.is_open() {
            return Ok(true);
        }
        let Some(user) = user else { return Ok(false) };
        let membership = match room {
            Some(room) => self.membership(at, user, room).await?,
            None => None,
        };
        if let Some(membership) = membership {
            let known = [Membership::Join, Membership::Invite, Membership::Knock];
            if known.contains(&membership) {
                return Ok(true);
            }
        }
        for room in self.let_in_from(overview).await? {
            if self.membership(at, user, room).await? == Some(Membership::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether another server may know of the room: all may, or somebody of it is or may come in.
    pub(super) async fn server_may_see(
        &self,
        overview: &Overview,
        room: RoomNumber,
        server: &ServerName,
    ) -> Result<bool, RoomError> {
        if overview.is_open() || self.has_member_of(room, server, true).await? {
            return Ok(true);
        }
        for room in self.let_in_from(overview).await? {
            if self.has_member_of(room, server, false).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rooms whose members may come into the room, as far as they are known here.
    async fn let_in_from(&self, overview: &Overview) -> Result<Vec<RoomNumber>, RoomError> {
        let db = self.rooms.db();
        let mut rooms = Vec::new();
        if overview.join_rule == "restricted" {
            for allowed in overview.allowed_room_ids.iter().take(MAX_ALLOWED) {
                rooms.extend(db.rooms().find(db, &**allowed).await?);
            }
        }
        Ok(rooms)
    }

    /// Whether somebody of `server` is in a room, or else is invited.
    async fn has_member_of(
        &self,
        room: RoomNumber,
        server: &ServerName,
        or_invited: bool,
    ) -> Result<bool, RoomError> {
        let Some(room) = self.rooms.room_if_here(room).await? else { return Ok(false) };
        if room.servers().iter().any(|other| other == server) {
            return Ok(true);
        }
        if !or_invited {
            return Ok(false);
        }
        let db = self.rooms.db();
        let invited = self.rooms.members(db, room.number, Membership::Invite).await?;
        let invited = db.users().names(db, &invited).await?;
        Ok(invited.iter().any(|user| user.server_name() == server))
    }

    /// What the user is to the room.
    pub(super) async fn membership(
        &self,
        at: &impl Read,
        user: UserNumber,
        room: RoomNumber,
    ) -> Result<Option<Membership>, RoomError> {
        Ok(USER_ROOMS.get(at, &(user, room)).await?.map(|row| row.membership))
    }

    /// The number of a room that is here.
    pub(super) async fn number(&self, room: &RoomId) -> Result<Option<RoomNumber>, RoomError> {
        match self.rooms.room(room).await {
            Ok(room) => Ok(Some(room.number)),
            Err(RoomError::UnknownRoom { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Rooms {
    /// The state event that holds this (type, state key) now.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn current_state_event(
        &self,
        at: &impl Read,
        room: &Room,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<SharedEvent>, RoomError> {
        let found = stored_state(at, room.number, event_type, state_key).await?;
        Ok(found.map(|(_, record)| Arc::new(record)))
    }
}

async fn load(
    rooms: &Rooms,
    at: &impl Read,
    room: &Room,
    as_of: u64,
) -> Result<Overview, RoomError> {
    let state = state_events(at, room, &SHOWN).await?;
    let content = |event_type: &str| -> Value {
        let event = state.iter().find(|event| event.event_type == event_type);
        event.and_then(|event| serde_json::from_str(event.content()).ok()).unwrap_or_default()
    };
    let text = |event_type: &str, key: &str| {
        let content = content(event_type);
        let text = content.get(key).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let join_rules = content("m.room.join_rules");
    let allowed_room_ids = join_rules
        .get("allow")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|allow| allow.get("type").and_then(Value::as_str) == Some("m.room_membership"))
        .filter_map(|allow| RoomId::parse(allow.get("room_id")?.as_str()?).ok())
        .collect();
    Ok(Overview {
        room_id: room.id.clone(),
        name: text("m.room.name", "name"),
        topic: text("m.room.topic", "topic"),
        avatar_url: text("m.room.avatar", "url"),
        canonical_alias: text("m.room.canonical_alias", "alias"),
        num_joined_members: rooms.joined_count(at, room.number).await?,
        world_readable: text("m.room.history_visibility", "history_visibility").as_deref()
            == Some("world_readable"),
        guest_can_join: text("m.room.guest_access", "guest_access").as_deref() == Some("can_join"),
        join_rule: text("m.room.join_rules", "join_rule").unwrap_or_else(|| "invite".to_owned()),
        allowed_room_ids,
        room_type: text("m.room.create", "type"),
        room_version: Some(room.version.to_string()),
        encryption: text("m.room.encryption", "algorithm"),
        as_of,
    })
}

/// The current state events of these types with an empty state key.
async fn state_events(
    at: &impl Read,
    room: &Room,
    types: &[&str],
) -> Result<Vec<SharedEvent>, RoomError> {
    let keys = types.iter().map(|event_type| (room.number, *event_type, ""));
    let numbers: Vec<EventNumber> =
        CURRENT_STATE.multi_get(at, keys).await?.into_iter().flatten().collect();
    Ok(shared_events(at, room.number, &numbers).await?.into_iter().flatten().collect())
}

/// Up to `limit` current state events of one type, whatever their state key.
pub(super) async fn state_of_type(
    at: &impl Read,
    room: RoomNumber,
    event_type: &str,
    limit: usize,
) -> Result<Vec<SharedEvent>, RoomError> {
    let rows = CURRENT_STATE.scan(at, &Range::prefix(&(room, event_type)), limit).await?;
    let numbers: Vec<EventNumber> = rows.into_iter().map(|(_, number)| number).collect();
    Ok(shared_events(at, room, &numbers).await?.into_iter().flatten().collect())
}
