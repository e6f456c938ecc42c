//! The authorization rules: which state an event is judged by, and whether it passes.
//!
//! The only module that knows who implements the rules.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v12/#authorization-rules>

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use ruma::{OwnedUserId, RoomId, RoomVersionId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value as JsonValue};
use state_resolution::{
    EventInput, EventIx, InsertError, KeyIx, NamedLevel, Rejection, RoomVersionRules, StateMap,
};

use super::{
    auth_record::AuthRecord,
    error::RoomError,
    record::{EventNumber, Membership},
    third_party::ThirdPartySignatures,
    visibility::HistoryVisibility,
};
use crate::storage::{Db, Range, intern::RoomNumber, schema::AUTH_EVENTS};

/// What somebody may do: creators of version 12 stand above every number.
pub(crate) use state_resolution::Power;

/// How many rows one step of reading a room's table takes.
const STEP: usize = 5_000;

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

/// A room's state events and what authorizes them, as the rules and state resolution see them.
#[derive(Debug)]
pub(super) struct Table {
    room: state_resolution::Room,
    /// By place in the table, where the event is kept.
    numbers: Vec<EventNumber>,
    histories: HashMap<EventIx, HistoryVisibility>,
}

/// A draft or an event, with the parts that decide about a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) event_id: &'a str,
    pub(super) room_id: &'a RoomId,
    pub(super) event_type: &'a str,
    pub(super) sender: &'a UserId,
    pub(super) redacts: Option<&'a str>,
}

impl Table {
    /// The table of a room without events.
    ///
    /// # Errors
    /// [`RoomError::Corrupt`] for a version that has no rules.
    pub(super) fn new(id: &RoomId, version: &RoomVersionId) -> Result<Self, RoomError> {
        let rules = RoomVersionRules::for_version(version.as_str())
            .ok_or(RoomError::Corrupt { what: "a room version without rules" })?;
        let room = state_resolution::Room::new(rules, id.as_str(), ThirdPartySignatures);
        Ok(Self { room, numbers: Vec::new(), histories: HashMap::new() })
    }

    /// Reads a room's table.
    pub(super) async fn load(
        db: &Db,
        number: RoomNumber,
        id: &RoomId,
        version: &RoomVersionId,
    ) -> Result<Self, RoomError> {
        let mut table = Self::new(id, version)?;
        let mut range = Range::prefix(&(number,));
        loop {
            let rows = AUTH_EVENTS.scan(db, &range, STEP).await?;
            for ((_, at), record) in &rows {
                let placed = table.insert(record).ok().map(EventIx::get);
                if placed != Some(*at) {
                    return Err(RoomError::Corrupt { what: "an event without what authorizes it" });
                }
            }
            let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) else {
                return Ok(table);
            };
            range = range.after(last);
        }
    }

    /// How many events it holds.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Adds an event; one that is there keeps its place.
    ///
    /// # Errors
    /// [`InsertError`]; nothing is added then.
    pub(super) fn insert(&mut self, record: &AuthRecord) -> Result<EventIx, InsertError> {
        let room_id = self.room.room_id().to_owned();
        let auth: Vec<String> = record
            .auth
            .iter()
            .map(|at| {
                let known = (*at as usize) < self.numbers.len();
                if known { self.room.event_id(EventIx::new(*at)).to_owned() } else { String::new() }
            })
            .collect();
        let is_create =
            record.event_type == "m.room.create" && record.state_key.as_deref() == Some("");
        let create = self.room.create_event().map(|create| self.room.event_id(create).to_owned());
        let prev_events = match &create {
            Some(create) if record.follows_create => vec![create.as_str()],
            // Whatever it is: the rules ask no more than whether there are any.
            _ if record.has_parents => vec!["$"],
            _ => Vec::new(),
        };
        let named_after_it = is_create && self.room.rules().auth.room_id_is_create_hash;
        let input = EventInput {
            event_id: record.event_id.as_str(),
            room_id: (!named_after_it).then_some(room_id.as_str()),
            event_type: &record.event_type,
            state_key: record.state_key.as_deref(),
            sender: &record.sender,
            origin_server_ts: i64::try_from(record.origin_server_ts).unwrap_or(i64::MAX),
            depth: i64::try_from(record.depth).unwrap_or(i64::MAX),
            prev_events,
            auth_events: auth.iter().map(String::as_str).collect(),
            redacts: None,
            content: &record.content,
            rejected: record.rejected,
        };
        let before = self.numbers.len();
        let at = self.room.insert(&input)?;
        if self.room.len() > before {
            self.numbers.push(record.number);
            if record.event_type == "m.room.history_visibility" {
                let set = record.content.get("history_visibility").and_then(JsonValue::as_str);
                self.histories.insert(at, HistoryVisibility::named(set.unwrap_or_default()));
            }
        }
        Ok(at)
    }

    /// Takes back the event that was added last.
    pub(super) fn retract(&mut self, event: EventIx) {
        if self.room.retract(event).is_ok() {
            self.numbers.pop();
            self.histories.remove(&event);
        }
    }

    /// The rules' own view of the room.
    pub(super) fn room(&self) -> &state_resolution::Room {
        &self.room
    }

    /// Notes whether an event failed the rules.
    pub(super) fn set_rejected(&mut self, event: EventIx, rejected: bool) {
        self.room.set_rejected(event, rejected);
    }

    /// Where an event is kept.
    pub(super) fn number(&self, event: EventIx) -> EventNumber {
        self.numbers.get(event.get() as usize).copied().unwrap_or(EventNumber(0))
    }

    /// The event at a (type, state key) of `state`.
    pub(super) fn find(
        &self,
        state: &StateMap,
        event_type: &str,
        state_key: &str,
    ) -> Option<EventIx> {
        state.get(self.room.key(event_type, state_key)?)
    }

    /// The places of auth events; none if one is not in the table.
    pub(super) fn places<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Option<Vec<u32>> {
        ids.into_iter().map(|id| self.room.event(id).map(EventIx::get)).collect()
    }

    /// The membership that a member event gives; none for a word the spec does not know.
    pub(super) fn membership(&self, event: EventIx) -> Option<Membership> {
        match self.room.membership_of(event) {
            state_resolution::Membership::Join => Some(Membership::Join),
            state_resolution::Membership::Invite => Some(Membership::Invite),
            state_resolution::Membership::Leave => Some(Membership::Leave),
            state_resolution::Membership::Ban => Some(Membership::Ban),
            state_resolution::Membership::Knock => Some(Membership::Knock),
            state_resolution::Membership::Unknown | state_resolution::Membership::Malformed => None,
        }
    }

    /// Who may read what is sent in `state`.
    pub(super) fn history_visibility(&self, state: &StateMap) -> HistoryVisibility {
        self.find(state, "m.room.history_visibility", "")
            .and_then(|event| self.histories.get(&event).copied())
            .unwrap_or(HistoryVisibility::Shared)
    }

    /// The IDs of the events that a new event must cite.
    pub(super) fn auth_events_for(
        &self,
        event_type: &str,
        state_key: Option<&str>,
        sender: &UserId,
        content: &Map<String, JsonValue>,
        state: &StateMap,
    ) -> Vec<EventIx> {
        let draft = EventInput {
            event_id: "",
            room_id: None,
            event_type,
            state_key,
            sender: sender.as_str(),
            origin_server_ts: 0,
            depth: 0,
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            redacts: None,
            content,
            rejected: false,
        };
        self.room.auth_events_for(&draft, &|key: KeyIx| state.get(key))
    }

    /// Whether a message may be sent in `state`.
    ///
    /// # Errors
    /// The rule that it fails.
    pub(super) fn check_message(
        &self,
        message: Message<'_>,
        state: &StateMap,
    ) -> Result<(), Rejection> {
        let empty = Map::new();
        self.room.check_message(&message.input(&[], &empty), &|key: KeyIx| state.get(key))
    }

    /// Whether a message cites the right auth events, and may be sent in the state they make up.
    ///
    /// # Errors
    /// [`InsertError`] if one of them is not in the table.
    pub(super) fn check_message_auth_events(
        &self,
        message: Message<'_>,
        auth_events: &[&str],
    ) -> Result<Result<(), Rejection>, InsertError> {
        let empty = Map::new();
        self.room.check_message_auth_events(&message.input(auth_events, &empty))
    }

    /// Whether an event of the table may be sent in `state`.
    ///
    /// # Errors
    /// The rule that it fails.
    pub(super) fn check(&self, event: EventIx, state: &StateMap) -> Result<(), Rejection> {
        self.room.check(event, &|key: KeyIx| state.get(key))
    }

    /// Whether an event of the table is well-formed, cites the right auth events, and may be sent
    /// in the state they make up.
    ///
    /// # Errors
    /// The rule that it fails.
    pub(super) fn check_alone(&self, event: EventIx) -> Result<(), Rejection> {
        self.room.check_state_independent(event)?;
        self.room.check_auth_events(event)
    }
}

impl<'a> Message<'a> {
    fn input(
        &self,
        auth_events: &[&'a str],
        content: &'a Map<String, JsonValue>,
    ) -> EventInput<'a> {
        EventInput {
            event_id: self.event_id,
            room_id: Some(self.room_id.as_str()),
            event_type: self.event_type,
            state_key: None,
            sender: self.sender.as_str(),
            origin_server_ts: 0,
            depth: 0,
            prev_events: vec!["$"],
            auth_events: auth_events.to_vec(),
            redacts: self.redacts,
            content,
            rejected: false,
        }
    }
}

/// The rule that stands against an event, for its sender.
pub(super) fn forbidden(rejection: &Rejection) -> RoomError {
    RoomError::Forbidden { why: rejection.rule.to_string() }
}

/// What a level of its own is needed for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Inviting.
    Invite,
    /// Redacting what others sent.
    Redact,
}

/// Who may do what in one state of a room.
#[derive(Clone)]
pub(crate) struct Powers {
    table: Arc<RwLock<Table>>,
    state: StateMap,
}

impl Powers {
    pub(super) fn new(table: Arc<RwLock<Table>>, state: StateMap) -> Self {
        Self { table, state }
    }

    /// Who created the room.
    pub(crate) fn creators(&self) -> Vec<OwnedUserId> {
        let table = self.table.read();
        let creators = table.room.creators(&|key: KeyIx| self.state.get(key));
        let mut creators: Vec<OwnedUserId> =
            creators.into_iter().filter_map(|id| UserId::parse(id).ok()).collect();
        creators.sort();
        creators
    }

    /// The level `user` acts with.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels>
    pub(crate) fn of(&self, user: &UserId) -> Power {
        self.table.read().room.power_of(user.as_str(), &|key: KeyIx| self.state.get(key))
    }

    /// The level that `action` needs.
    pub(crate) fn needed(&self, action: Action) -> Power {
        let name = match action {
            Action::Invite => NamedLevel::Invite,
            Action::Redact => NamedLevel::Redact,
        };
        Power::Level(self.table.read().room.level(name, &|key: KeyIx| self.state.get(key)))
    }

    /// The level that sending a state event of this type needs.
    pub(crate) fn needed_for_state(&self, event_type: &str) -> Power {
        let state = |key: KeyIx| self.state.get(key);
        Power::Level(self.table.read().room.level_to_send(event_type, true, &state))
    }

    /// Everybody with a level of their own.
    pub(crate) fn named(&self) -> Vec<OwnedUserId> {
        let table = self.table.read();
        let users = table.room.users_with_levels(&|key: KeyIx| self.state.get(key));
        users.into_iter().filter_map(|id| UserId::parse(id).ok()).collect()
    }
}
