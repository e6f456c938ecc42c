//! Creating rooms.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedUserId,
    RoomAliasId, RoomId, RoomVersionId, UserId,
    room_version_rules::{RoomIdFormatVersion, RoomVersionRules},
};
use serde_json::value::RawValue;

use super::{
    Rooms,
    auth::Powers,
    error::RoomError,
    event::{self, Draft, MAX_FIELD_BYTES, Place},
    record::{AliasRecord, Membership},
    room::Room,
    writer::{RoomWriter, Sender},
};
use crate::{
    storage::{
        StorageError,
        schema::{ALIASES, PUBLIC_ROOMS, ROOM_ALIASES, ROOMS},
    },
    users::{limits::Act, session::Session},
};

/// The version of rooms whose creator does not ask for one.
pub(crate) const DEFAULT_VERSION: RoomVersionId = RoomVersionId::V12;
/// The versions this server makes rooms of.
pub(crate) const SUPPORTED_VERSIONS: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];
/// How many users can be invited while a room is created.
const MAX_INVITES: usize = 1_000;
/// How many state events can be sent while a room is created.
const MAX_INITIAL_STATE: usize = 1_000;

/// What is set unless the creator says otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Preset {
    /// `private_chat`
    Private,
    /// `trusted_private_chat`
    TrustedPrivate,
    /// `public_chat`
    Public,
}

/// A room as its creator wants it.
#[derive(Clone, Debug)]
pub(crate) struct NewRoom {
    /// None: [`DEFAULT_VERSION`].
    pub(crate) version: Option<RoomVersionId>,
    /// What is set unless something here says otherwise.
    pub(crate) preset: Preset,
    /// Further keys of the create event.
    pub(crate) creation_content: CanonicalJsonObject,
    /// State events to send after those of the preset.
    pub(crate) initial_state: Vec<Draft>,
    /// Keys of the power levels event, over the usual ones.
    pub(crate) power_levels: CanonicalJsonObject,
    /// The room's name.
    pub(crate) name: Option<String>,
    /// The room's topic.
    pub(crate) topic: Option<String>,
    /// The localpart of its alias.
    pub(crate) alias_name: Option<String>,
    /// Whom to invite.
    pub(crate) invite: Vec<OwnedUserId>,
    /// Whether those are told that it is a direct chat.
    pub(crate) is_direct: bool,
    /// Whether the room directory lists it.
    pub(crate) public: bool,
}

impl Rooms {
    /// Creates a room. Users of other servers are not invited yet, but counted: their servers are
    /// asked once it is there.
    ///
    /// # Errors
    /// [`RoomError::UnsupportedRoomVersion`], [`RoomError::AliasTaken`],
    /// [`RoomError::InvalidRoomState`] if an event that is asked for fails the authorization rules.
    pub(crate) async fn create(
        &self,
        session: &Session,
        new: &NewRoom,
    ) -> Result<OwnedRoomId, RoomError> {
        if session.guest {
            return Err(RoomError::GuestAccess);
        }
        if new.invite.len() > MAX_INVITES || new.initial_state.len() > MAX_INITIAL_STATE {
            return Err(RoomError::InvalidParam {
                why: format!(
                    "at most {MAX_INVITES} invitations and {MAX_INITIAL_STATE} state events"
                ),
            });
        }
        self.allow(session, Act::Create).await?;
        let new = &self.without_refused(&session.user_id, new).await?;
        self.allow_many(session, Act::Invite, new.invite.len()).await?;
        let version = new.version.clone().unwrap_or(DEFAULT_VERSION);
        let unsupported = || RoomError::UnsupportedRoomVersion { version: version.to_string() };
        let rules = version
            .rules()
            .filter(|_| SUPPORTED_VERSIONS.contains(&version))
            .ok_or_else(unsupported)?;
        let alias = match &new.alias_name {
            Some(name) => {
                let alias = self.new_alias(name).await?;
                self.check_alias_owner(session, &alias)?;
                Some(alias)
            }
            None => None,
        };
        // Rooms that are named after their create event need a time of their own if the same user
        // made the same room in the same millisecond.
        let now = self.clock().now_ms();
        for origin_server_ts in now..now + 1_000 {
            let create = create_content(&session.user_id, &version, &rules, new)?;
            let create = Draft::state("m.room.create", "", create);
            let id = self.new_id(session, &create, origin_server_ts, &rules)?;
            let number = self.db().rooms().intern(self.db(), &*id).await?;
            if ROOMS.contains(self.db(), &number).await? {
                continue;
            }
            let room = Arc::new(Room::begun(number, id, version.clone(), rules.clone())?);
            match self
                .create_as(session, new, &room, create, origin_server_ts, alias.as_deref())
                .await
            {
                Err(RoomError::Storage(StorageError::Precondition { table }))
                    if table == ALIASES.id.name() =>
                {
                    let Some(alias) = alias else { break };
                    return Err(RoomError::AliasTaken { alias, creating: true });
                }
                Err(RoomError::Storage(StorageError::Precondition { .. })) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    room.audience.forget();
                    self.shared.loaded.insert(&room).await;
                    return Ok(room.id.clone());
                }
            }
        }
        Err(RoomError::BadState { why: "too many rooms at the same moment".to_owned() })
    }

    /// The whole room in one batch.
    async fn create_as(
        &self,
        session: &Session,
        new: &NewRoom,
        room: &Arc<Room>,
        create: Draft,
        origin_server_ts: u64,
        alias: Option<&RoomAliasId>,
    ) -> Result<(), RoomError> {
        let me = Sender::from(session);
        let mut writer = RoomWriter::new(self, Arc::clone(room)).await?;
        writer.founding = true;
        // What the rules have against an event is the request's fault.
        let invalid = |error| match error {
            RoomError::Forbidden { why } => RoomError::InvalidRoomState { why },
            error => error,
        };
        writer.append_at(me, create, origin_server_ts).await.map_err(invalid)?;
        let join = self.member_content(Membership::Join, session.user, None).await?;
        let join = Draft::state("m.room.member", session.user_id.as_str(), join);
        writer.append(me, join).await.map_err(invalid)?;
        let powers = writer.powers();
        for draft in first_state(&session.user_id, room, new, alias, &powers) {
            writer.append(me, draft).await.map_err(invalid)?;
        }
        for user in new.invite.iter().filter(|user| self.is_local(user)) {
            let number = self.db().users().intern(self.db(), &**user).await?;
            let mut invite = self.member_content(Membership::Invite, number, None).await?;
            if new.is_direct {
                invite.insert("is_direct".to_owned(), CanonicalJsonValue::Bool(true));
            }
            let invite = Draft::state("m.room.member", user.as_str(), invite);
            writer.append(me, invite).await.map_err(invalid)?;
        }
        if let Some(alias) = alias {
            let record = AliasRecord { room: room.number, creator: session.user };
            ALIASES.require_absent(&mut writer.batch, alias);
            ALIASES.put(&mut writer.batch, alias, &record);
            ROOM_ALIASES.put(&mut writer.batch, &(room.number, alias), &());
        }
        if new.public {
            PUBLIC_ROOMS.put(&mut writer.batch, &room.number, &());
        }
        writer.commit().await
    }

    /// A local alias that leads nowhere yet.
    async fn new_alias(&self, name: &str) -> Result<OwnedRoomAliasId, RoomError> {
        let invalid = || RoomError::InvalidParam { why: format!("{name:?} can't be an alias") };
        if name.contains([':', '\0', '#']) {
            return Err(invalid());
        }
        let alias = format!("#{name}:{}", self.server_name());
        let alias = RoomAliasId::parse(alias).map_err(|_| invalid())?;
        if alias.as_bytes().len() > MAX_FIELD_BYTES {
            return Err(invalid());
        }
        if ALIASES.contains(self.db(), &*alias).await? {
            return Err(RoomError::AliasTaken { alias, creating: true });
        }
        Ok(alias)
    }

    fn new_id(
        &self,
        session: &Session,
        create: &Draft,
        origin_server_ts: u64,
        rules: &RoomVersionRules,
    ) -> Result<OwnedRoomId, RoomError> {
        let id = if rules.room_id_format == RoomIdFormatVersion::V2 {
            let content = RawValue::from_string(event::json(&create.content))
                .map_err(|error| RoomError::BadEvent { why: error.to_string() })?;
            let place = Place {
                event_id: None,
                room_id: None,
                sender: &session.user_id,
                origin_server_ts,
                depth: 1,
                prev_events: &[],
                auth_events: &[],
            };
            let built = event::build(create, &content, place, self.key(), rules)?;
            built.event_id.as_str().replacen('$', "!", 1)
        } else {
            format!("!{}:{}", self.shared.random.token::<18>(), self.server_name())
        };
        RoomId::parse(id).map_err(|error| RoomError::BadEvent { why: error.to_string() })
    }
}

/// Canonical JSON of these entries.
pub(super) fn object<const N: usize>(
    entries: [(&str, CanonicalJsonValue); N],
) -> CanonicalJsonObject {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn create_content(
    creator: &UserId,
    version: &RoomVersionId,
    rules: &RoomVersionRules,
    new: &NewRoom,
) -> Result<CanonicalJsonObject, RoomError> {
    let mut content = new.creation_content.clone();
    // Both are the server's to set.
    content.remove("creator");
    content.insert("room_version".to_owned(), version.as_str().into());
    if !rules.authorization.use_room_create_sender {
        content.insert("creator".to_owned(), creator.as_str().into());
    }
    if rules.authorization.additional_room_creators && new.preset == Preset::TrustedPrivate {
        // Those invited get the same power as the creator.
        let mut creators = match content.remove("additional_creators") {
            None => Vec::new(),
            Some(CanonicalJsonValue::Array(creators)) => creators,
            Some(_) => {
                let why = "additional_creators is no array".to_owned();
                return Err(RoomError::BadEvent { why });
            }
        };
        for user in &new.invite {
            let user = CanonicalJsonValue::from(user.as_str());
            if !creators.contains(&user) {
                creators.push(user);
            }
        }
        if !creators.is_empty() {
            content.insert("additional_creators".to_owned(), creators.into());
        }
    }
    Ok(content)
}

/// What comes between the creator's join and the invitations, in the order of the spec.
fn first_state(
    creator: &UserId,
    room: &Room,
    new: &NewRoom,
    alias: Option<&RoomAliasId>,
    powers: &Powers,
) -> Vec<Draft> {
    let mut drafts = vec![Draft::state(
        "m.room.power_levels",
        "",
        power_levels(creator, &room.rules, new, powers),
    )];
    if let Some(alias) = alias {
        let content = object([("alias", alias.as_str().into())]);
        drafts.push(Draft::state("m.room.canonical_alias", "", content));
    }
    // What the preset says gives way to the initial state.
    let given = |event_type: &str| {
        let same = |draft: &&Draft| {
            draft.event_type == event_type && draft.state_key.as_deref() == Some("")
        };
        new.initial_state.iter().any(|draft| same(&draft))
    };
    let (join_rule, guest_access) = match new.preset {
        Preset::Public => ("public", "forbidden"),
        Preset::Private | Preset::TrustedPrivate => ("invite", "can_join"),
    };
    for (event_type, key, value) in [
        ("m.room.join_rules", "join_rule", join_rule),
        ("m.room.history_visibility", "history_visibility", "shared"),
        ("m.room.guest_access", "guest_access", guest_access),
    ] {
        if !given(event_type) {
            drafts.push(Draft::state(event_type, "", object([(key, value.into())])));
        }
    }
    drafts.extend(new.initial_state.iter().cloned());
    if let Some(name) = &new.name {
        let content = object([("name", name.as_str().into())]);
        drafts.push(Draft::state("m.room.name", "", content));
    }
    if let Some(topic) = &new.topic {
        let text = object([("body", topic.as_str().into())]);
        let rich = object([("m.text", vec![CanonicalJsonValue::from(text)].into())]);
        let content = object([("topic", topic.as_str().into()), ("m.topic", rich.into())]);
        drafts.push(Draft::state("m.room.topic", "", content));
    }
    drafts
}

fn power_levels(
    creator: &UserId,
    rules: &RoomVersionRules,
    new: &NewRoom,
    powers: &Powers,
) -> CanonicalJsonObject {
    let level = |level: i32| CanonicalJsonValue::Integer(level.into());
    let creators_are_above = rules.authorization.explicitly_privilege_room_creators;
    let mut users = CanonicalJsonObject::new();
    if !creators_are_above {
        users.insert(creator.to_string(), level(100));
        if new.preset == Preset::TrustedPrivate {
            users.extend(new.invite.iter().map(|user| (user.to_string(), level(100))));
        }
    }
    if creators_are_above {
        // The event may not name them.
        for creator in powers.creators() {
            users.remove(creator.as_str());
        }
    }
    // Upgrading takes the room away from everybody: where it can be, only creators may.
    let tombstone = if creators_are_above { 150 } else { 100 };
    let events = object([
        ("m.room.avatar", level(50)),
        ("m.room.canonical_alias", level(50)),
        ("m.room.encryption", level(100)),
        ("m.room.history_visibility", level(100)),
        ("m.room.name", level(50)),
        ("m.room.power_levels", level(100)),
        ("m.room.server_acl", level(100)),
        ("m.room.tombstone", level(tombstone)),
    ]);
    let invite = if new.preset == Preset::Public { 50 } else { 0 };
    let mut content = object([
        ("ban", level(50)),
        ("events", events.into()),
        ("events_default", level(0)),
        ("historical", level(100)),
        ("invite", level(invite)),
        ("kick", level(50)),
        ("redact", level(50)),
        ("state_default", level(50)),
        ("users", users.into()),
        ("users_default", level(0)),
    ]);
    content.extend(new.power_levels.clone());
    content
}
