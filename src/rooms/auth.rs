//! The authorization rules: which state an event is judged by, and whether it passes.
//!
//! The only module that knows who implements the rules.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v12/#authorization-rules>

use std::sync::Arc;

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res::{
        Event, auth_types_for_event, check_state_dependent_auth_rules,
        check_state_independent_auth_rules,
        events::{RoomCreateEvent, RoomPowerLevelsEvent},
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    error::RoomError,
    record::{EventNumber, EventRecord, Membership},
};

/// An event with what the rules look at.
#[derive(Clone, Debug)]
pub(crate) struct AuthEvent {
    /// Its number in the room.
    pub(crate) number: EventNumber,
    /// Its ID.
    pub(crate) event_id: OwnedEventId,
    /// `room_id`; none for a create event that the room is named after.
    pub(crate) room_id: Option<OwnedRoomId>,
    /// `sender`
    pub(crate) sender: OwnedUserId,
    /// `origin_server_ts`
    pub(crate) origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// `type`
    pub(crate) event_type: TimelineEventType,
    /// `state_key`
    pub(crate) state_key: Option<String>,
    /// `content`
    pub(crate) content: Box<RawValue>,
    /// `prev_events`; empty for an event that is looked at as state.
    pub(crate) prev_events: Vec<OwnedEventId>,
    /// `auth_events`; empty for an event that is looked at as state.
    pub(crate) auth_events: Vec<OwnedEventId>,
    /// It failed the rules itself.
    pub(crate) rejected: bool,
}

impl AuthEvent {
    /// A stored event, to be looked at as state of its room.
    ///
    /// # Errors
    /// [`RoomError::Corrupt`] if its content is no JSON.
    pub(crate) fn stored(
        number: EventNumber,
        room_id: &RoomId,
        record: &EventRecord,
        rules: &RoomVersionRules,
    ) -> Result<Self, RoomError> {
        let named_after_it = record.is_state_of("m.room.create", "")
            && rules.authorization.room_create_event_id_as_room_id;
        Ok(Self {
            number,
            event_id: record.event_id.clone(),
            room_id: (!named_after_it).then(|| room_id.to_owned()),
            sender: record.sender_id.clone(),
            origin_server_ts: milliseconds(record.origin_server_ts),
            event_type: record.event_type.as_str().into(),
            state_key: record.state_key.clone(),
            content: RawValue::from_string(record.content().to_owned())
                .map_err(|_| RoomError::Corrupt { what: "the content of a state event" })?,
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            rejected: record.rejected,
        })
    }

    /// One string of its content; none if there is no such string.
    pub(crate) fn content_text(&self, key: &str) -> Option<String> {
        let content: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(self.content.get()).ok()?;
        content.get(key)?.as_str().map(str::to_owned)
    }

    /// The membership that this member event gives.
    pub(crate) fn membership(&self) -> Option<Membership> {
        membership_in(self.content.get())
    }
}

/// The membership in the content of a member event.
pub(crate) fn membership_in(content: &str) -> Option<Membership> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        membership: std::borrow::Cow<'a, str>,
    }
    let content: Content<'_> = serde_json::from_str(content).ok()?;
    Membership::named(&content.membership)
}

/// A time that an event can carry; a later one is the last there is.
pub(crate) fn milliseconds(ms: u64) -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch(ms.try_into().unwrap_or(ruma::UInt::MAX))
}

impl Event for AuthEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    // Looked at by the rules of versions 1 and 2 only.
    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// The (type, state key) pairs of the state that an event is judged by and refers to.
///
/// # Errors
/// [`RoomError::BadEvent`] if the content of a member event is none.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection>
pub(crate) fn selection(
    event_type: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &RoomVersionRules,
) -> Result<Vec<(String, String)>, RoomError> {
    let types = auth_types_for_event(event_type, sender, state_key, content, &rules.authorization)
        .map_err(|why| RoomError::BadEvent { why })?;
    Ok(types.into_iter().map(|(event_type, key)| (event_type.to_string(), key)).collect())
}

/// Whether `event` passes, given the state before it. It refers to its auth events already.
///
/// # Errors
/// [`RoomError::Forbidden`] with the rule that it fails.
pub(crate) fn check(
    event: &AuthEvent,
    rules: &RoomVersionRules,
    state: impl Fn(&str, &str) -> Option<Arc<AuthEvent>>,
) -> Result<(), RoomError> {
    let forbidden = |why| RoomError::Forbidden { why };
    let by_id = |id: &EventId| {
        // Locally made events are authorized by current state, so it holds all they refer to.
        let create = state("m.room.create", "").filter(|create| create.event_id == id);
        create.or_else(|| {
            selection(&event.event_type, &event.sender, event.state_key(), &event.content, rules)
                .ok()?
                .iter()
                .filter_map(|(event_type, key)| state(event_type, key))
                .find(|found| found.event_id == id)
        })
    };
    check_state_independent_auth_rules(&rules.authorization, event, by_id).map_err(forbidden)?;
    let by_key = |event_type: &StateEventType, key: &str| state(&event_type.to_string(), key);
    check_state_dependent_auth_rules(&rules.authorization, event, by_key).map_err(forbidden)
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Power {
    /// The level that the power levels give.
    Level(i64),
    /// A creator of a room whose version puts creators above every number.
    Creator,
}

/// What a level of its own is needed for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Inviting.
    Invite,
    /// Redacting what others sent.
    Redact,
}

/// Reads levels from a room's create and power levels events.
pub(crate) struct Powers {
    create: Arc<AuthEvent>,
    levels: Option<RoomPowerLevelsEvent<Arc<AuthEvent>>>,
    /// The content of the power levels event.
    content: Option<serde_json::Map<String, serde_json::Value>>,
    rules: RoomVersionRules,
}

impl Powers {
    /// The powers in a room with this create event and these power levels.
    pub(crate) fn new(
        create: Arc<AuthEvent>,
        levels: Option<Arc<AuthEvent>>,
        rules: &RoomVersionRules,
    ) -> Self {
        let content =
            levels.as_ref().and_then(|levels| serde_json::from_str(levels.content.get()).ok());
        let levels = levels.map(RoomPowerLevelsEvent::new);
        Self { create, levels, content, rules: rules.clone() }
    }

    /// Who created the room.
    pub(crate) fn creators(&self) -> Vec<OwnedUserId> {
        let creators = RoomCreateEvent::new(Arc::clone(&self.create))
            .creators(&self.rules.authorization)
            .unwrap_or_default();
        let mut creators: Vec<_> = creators.into_iter().collect();
        creators.sort();
        creators
    }

    /// The level `user` acts with.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
    pub(crate) fn of(&self, user: &UserId) -> Power {
        let is_creator = || self.creators().iter().any(|creator| creator == user);
        if self.rules.authorization.explicitly_privilege_room_creators && is_creator() {
            return Power::Creator;
        }
        match &self.levels {
            Some(levels) => Power::Level(
                levels.user_power_level(user, &self.rules.authorization).map_or(0, i64::from),
            ),
            None if is_creator() => Power::Level(100),
            None => Power::Level(0),
        }
    }

    /// The level that `action` needs.
    pub(crate) fn needed(&self, action: Action) -> Power {
        let (key, default) = match action {
            Action::Invite => ("invite", 0),
            Action::Redact => ("redact", 50),
        };
        let level = self.content.as_ref().and_then(|content| content.get(key)?.as_i64());
        Power::Level(level.unwrap_or(default))
    }

    /// The level that sending a state event of this type needs.
    pub(crate) fn needed_for_state(&self, event_type: &str) -> Power {
        let level = match &self.levels {
            Some(levels) => levels
                .event_power_level(&event_type.into(), Some(""), &self.rules.authorization)
                .map_or(50, i64::from),
            // Without power levels every state event needs 0.
            None => 0,
        };
        Power::Level(level)
    }

    /// Everybody with a level of their own.
    pub(crate) fn named(&self) -> Vec<OwnedUserId> {
        let users = self.levels.as_ref().and_then(|levels| {
            levels
                .users(&self.rules.authorization)
                .ok()
                .flatten()
                .map(|users| users.keys().cloned().collect::<Vec<_>>())
        });
        users.unwrap_or_default()
    }
}
