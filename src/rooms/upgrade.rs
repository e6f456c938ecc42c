//! Moving a room to another version: a new room in its place.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
};

use super::{
    NewRoom, Preset, Rooms,
    create::object,
    error::RoomError,
    event::Draft,
    record::{AliasRecord, Membership, SharedEvent},
    room::Room,
};
use crate::{
    storage::{
        Batch, Range, StorageError,
        schema::{ALIASES, PUBLIC_ROOMS, ROOM_ALIASES},
    },
    users::session::Session,
};

/// What a new room takes over as it is.
const COPIED: [&str; 10] = [
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.pinned_events",
    "m.room.policy",
];
/// What a room without these events means, said aloud: other defaults apply when a room is made.
const UNSAID: [(&str, &str, &str); 3] = [
    ("m.room.join_rules", "join_rule", "invite"),
    ("m.room.history_visibility", "history_visibility", "shared"),
    ("m.room.guest_access", "guest_access", "forbidden"),
];
/// The most bans and space children that move along.
const MAX_COPIED: usize = 900;
/// How many aliases are moved at a time.
const STEP: usize = 1_000;

impl Rooms {
    /// Makes a room of another version that takes this one's place, and closes this one.
    ///
    /// # Errors
    /// [`RoomError::NotInRoom`], [`RoomError::Forbidden`] without the power to send a tombstone,
    /// [`RoomError::UnsupportedRoomVersion`].
    pub(crate) async fn upgrade(
        &self,
        session: &Session,
        room_id: &RoomId,
        version: &RoomVersionId,
        additional_creators: &[OwnedUserId],
    ) -> Result<OwnedRoomId, RoomError> {
        if session.guest {
            return Err(RoomError::GuestAccess);
        }
        let unsupported = || RoomError::UnsupportedRoomVersion { version: version.to_string() };
        let rules = version
            .rules()
            .filter(|_| super::SUPPORTED_VERSIONS.contains(version))
            .ok_or_else(unsupported)?;
        let creators_are_above = rules.authorization.explicitly_privilege_room_creators;
        // "When upgrading to a room version which doesn't support additional creators, this field is
        // ignored and has no effect".
        let additional_creators =
            if rules.authorization.additional_room_creators { additional_creators } else { &[] };
        let old = self.joined(session, room_id).await?;
        let powers = self.powers(&old).await?;
        if powers.of(&session.user_id) < powers.needed_for_state("m.room.tombstone") {
            let why = "you have not the power to upgrade the room".to_owned();
            return Err(RoomError::Forbidden { why });
        }
        let state = self.state_at(self.db(), &old, u64::MAX).await?;
        let state: Vec<SharedEvent> = state.into_iter().map(|(_, event)| event).collect();
        let create = content_of(&state, "m.room.create").unwrap_or_default();
        let is_space = create.get("type").and_then(|value| value.as_str()) == Some("m.space");

        let mut creation_content = create;
        for key in ["creator", "room_version", "predecessor", "additional_creators"] {
            creation_content.remove(key);
        }
        creation_content.insert("predecessor".to_owned(), self.predecessor(&old, version).await?);
        if !additional_creators.is_empty() {
            let creators: Vec<CanonicalJsonValue> =
                additional_creators.iter().map(|user| user.as_str().into()).collect();
            creation_content.insert("additional_creators".to_owned(), creators.into());
        }
        let mut creators: Vec<&str> = vec![session.user_id.as_str()];
        creators.extend(additional_creators.iter().map(|user| user.as_str()));
        // Creators of the old room who will be none of the new one keep what power can be given.
        let mut final_levels = content_of(&state, "m.room.power_levels").unwrap_or_default();
        let above = old.rules.authorization.explicitly_privilege_room_creators;
        if above || !state.iter().any(|event| event.event_type == "m.room.power_levels") {
            for creator in powers.creators() {
                give_level(&mut final_levels, creator.as_str(), 100);
            }
        }
        if creators_are_above {
            take_levels(&mut final_levels, &creators);
            raise_tombstone(&mut final_levels);
        }
        say_defaults(&mut final_levels);
        // All that is copied is sent by whoever upgrades, so they need all the power at first.
        let mut first_levels = final_levels.clone();
        if !creators_are_above {
            give_level(
                &mut first_levels,
                session.user_id.as_str(),
                highest(&final_levels).max(100),
            );
        }
        let new = NewRoom {
            version: Some(version.clone()),
            preset: Preset::Private,
            creation_content,
            initial_state: copied_state(&state, is_space),
            power_levels: first_levels.clone(),
            name: None,
            topic: None,
            alias_name: None,
            invite: Vec::new(),
            is_direct: false,
            public: false,
        };
        let new_id = self.create(session, &new).await?;
        self.move_names(session, &old, &new_id, &state).await?;
        if first_levels != final_levels {
            let outcome =
                self.send_state(session, &new_id, "m.room.power_levels", "", final_levels);
            permitted(outcome.await)?;
        }
        let tombstone = object([
            ("body", "This room has been replaced".into()),
            ("replacement_room", new_id.as_str().into()),
        ]);
        self.send_state(session, &old.id, "m.room.tombstone", "", tombstone).await?;
        self.close(session, &old, &state).await?;
        Ok(new_id)
    }

    /// What the new room says of the old one.
    async fn predecessor(
        &self,
        old: &Room,
        version: &RoomVersionId,
    ) -> Result<CanonicalJsonValue, RoomError> {
        let mut predecessor = object([("room_id", old.id.as_str().into())]);
        // The event is deprecated, and left out where the new room can be known before its end.
        if *version != RoomVersionId::V12
            && let Some(last) = self.forward_extremities(old).await?.pop()
        {
            predecessor.insert("event_id".to_owned(), last.as_str().into());
        }
        Ok(predecessor.into())
    }

    /// Has the aliases lead to the new room, and the directory list it.
    async fn move_names(
        &self,
        session: &Session,
        old: &Room,
        new_id: &RoomId,
        state: &[SharedEvent],
    ) -> Result<(), RoomError> {
        let new = self.room(new_id).await?;
        let range = Range::prefix(&(old.number,));
        loop {
            let rows = ROOM_ALIASES.scan(self.db(), &range, STEP).await?;
            if rows.is_empty() {
                break;
            }
            let mut batch = Batch::new();
            for ((_, alias), ()) in &rows {
                ROOM_ALIASES.delete(&mut batch, &(old.number, alias));
                let Some(record) = ALIASES.get(self.db(), alias).await? else { continue };
                ALIASES.require_equals(&mut batch, alias, &record);
                ALIASES.put(&mut batch, alias, &AliasRecord { room: new.number, ..record });
                ROOM_ALIASES.put(&mut batch, &(new.number, alias), &());
            }
            match self.db().commit(batch).await {
                // One was taken away in this very moment.
                Err(StorageError::Precondition { .. }) => {}
                outcome => outcome?,
            }
        }
        if PUBLIC_ROOMS.contains(self.db(), &old.number).await? {
            let mut batch = Batch::new();
            PUBLIC_ROOMS.delete(&mut batch, &old.number);
            PUBLIC_ROOMS.put(&mut batch, &new.number, &());
            self.db().commit(batch).await?;
        }
        if let Some(canonical) = content_of(state, "m.room.canonical_alias") {
            const ALIAS: &str = "m.room.canonical_alias";
            let moved = self.send_state(session, new_id, ALIAS, "", canonical).await;
            // One that leads elsewhere by now is not taken along.
            if !matches!(moved, Err(RoomError::BadAlias { .. })) {
                permitted(moved)?;
            }
            let nothing = CanonicalJsonObject::new();
            permitted(self.send_state(session, &old.id, ALIAS, "", nothing).await)?;
        }
        Ok(())
    }

    /// Makes it harder to speak in the old room, and to invite to it.
    async fn close(
        &self,
        session: &Session,
        old: &Room,
        state: &[SharedEvent],
    ) -> Result<(), RoomError> {
        let Some(mut levels) = content_of(state, "m.room.power_levels") else { return Ok(()) };
        let level = |key: &str, default: i64| number(levels.get(key)).unwrap_or(default);
        let restricted = 50.max(level("users_default", 0).saturating_add(1));
        let changes = [
            ("events_default", level("events_default", 0).max(restricted)),
            ("invite", level("invite", 0).max(restricted)),
        ];
        for (key, level) in changes {
            set(&mut levels, key, level);
        }
        permitted(self.send_state(session, &old.id, "m.room.power_levels", "", levels).await)
    }
}

/// What the user has not the power to do in the old room, or in the new one, is left undone.
fn permitted<T>(outcome: Result<T, RoomError>) -> Result<(), RoomError> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error @ RoomError::Forbidden { .. }) => {
            tracing::info!(%error, "an upgraded room is not changed as it could be");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn content_of(state: &[SharedEvent], event_type: &str) -> Option<CanonicalJsonObject> {
    let event = state.iter().find(|event| event.is_state_of(event_type, ""))?;
    serde_json::from_str(event.content()).ok()
}

/// The state events of the new room, in an order in which each may be sent.
fn copied_state(state: &[SharedEvent], is_space: bool) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for event_type in COPIED {
        if let Some(content) = content_of(state, event_type) {
            drafts.push(Draft::state(event_type, "", content));
        }
    }
    for (event_type, key, value) in UNSAID {
        if !drafts.iter().any(|draft| draft.event_type == event_type) {
            drafts.push(Draft::state(event_type, "", object([(key, value.into())])));
        }
    }
    let moves = |event: &&SharedEvent| match event.event_type.as_str() {
        "m.space.child" => is_space && event.content() != "{}",
        "m.room.member" => super::auth::membership_in(event.content()) == Some(Membership::Ban),
        _ => false,
    };
    for event in state.iter().filter(moves).take(MAX_COPIED) {
        let key = event.state_key.as_deref().unwrap_or_default();
        if let Ok(content) = serde_json::from_str(event.content()) {
            drafts.push(Draft::state(&event.event_type, key, content));
        }
    }
    drafts
}

fn number(value: Option<&CanonicalJsonValue>) -> Option<i64> {
    match value? {
        CanonicalJsonValue::Integer(level) => Some(i64::from(*level)),
        // Old room versions take strings too.
        CanonicalJsonValue::String(level) => level.trim().parse().ok(),
        _ => None,
    }
}

fn set(levels: &mut CanonicalJsonObject, key: &str, level: i64) {
    if let Ok(level) = level.try_into() {
        levels.insert(key.to_owned(), CanonicalJsonValue::Integer(level));
    }
}

fn map<'a>(levels: &'a mut CanonicalJsonObject, key: &str) -> Option<&'a mut CanonicalJsonObject> {
    let entry = levels
        .entry(key.to_owned())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    match entry {
        CanonicalJsonValue::Object(map) => Some(map),
        _ => None,
    }
}

/// Raises a user to a level.
fn give_level(levels: &mut CanonicalJsonObject, user: &str, level: i64) {
    if let Some(users) = map(levels, "users") {
        let level = number(users.get(user)).map_or(level, |old| old.max(level));
        set(users, user, level);
    }
}

/// The power levels of a version that puts creators above all may not name them.
fn take_levels(levels: &mut CanonicalJsonObject, creators: &[&str]) {
    if let Some(users) = map(levels, "users") {
        for creator in creators {
            users.remove(*creator);
        }
    }
}

/// Where creators are above all, only they are to upgrade, unless the room said otherwise.
fn raise_tombstone(levels: &mut CanonicalJsonObject) {
    if let Some(events) = map(levels, "events")
        && number(events.get("m.room.tombstone")).is_none_or(|level| level == 100)
    {
        set(events, "m.room.tombstone", 150);
    }
}

/// Writes down what holds where the content says nothing, in the notation of all versions.
fn say_defaults(levels: &mut CanonicalJsonObject) {
    for (key, default) in [
        ("ban", 50),
        ("events_default", 0),
        ("invite", 0),
        ("kick", 50),
        ("redact", 50),
        ("state_default", 50),
        ("users_default", 0),
    ] {
        let level = number(levels.get(key)).unwrap_or(default);
        set(levels, key, level);
    }
    for key in ["users", "events", "notifications"] {
        if let Some(map) = map(levels, key) {
            let numbers: Vec<(String, Option<i64>)> =
                map.iter().map(|(key, level)| (key.clone(), number(Some(level)))).collect();
            for (key, level) in numbers {
                match level {
                    Some(level) => set(map, &key, level),
                    None => drop(map.remove(&key)),
                }
            }
        }
    }
}

/// The highest level that anything takes or anybody has.
fn highest(levels: &CanonicalJsonObject) -> i64 {
    let inner = ["users", "events"].into_iter().filter_map(|key| levels.get(key)?.as_object());
    let inner = inner.flat_map(CanonicalJsonObject::values);
    levels.values().chain(inner).filter_map(|level| number(Some(level))).max().unwrap_or(0)
}
