//! What a client wants of a sync.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::filter::{EventFormat, Filter, FilterDefinition, RoomEventFilter},
};

use crate::rooms::{EventFields, EventFilter, EventForm, filter::matches_pattern};

/// A client's filter, taken apart once for each request.
#[derive(Clone, Debug, Default)]
pub(crate) struct SyncFilter {
    pub(super) timeline: EventFilter,
    pub(super) state: EventFilter,
    pub(super) ephemeral: TypeFilter,
    pub(super) room_account_data: TypeFilter,
    pub(super) account_data: TypeFilter,
    pub(super) presence: TypeFilter,
    presence_senders: UserList,
    pub(super) include_leave: bool,
    /// How the events of timelines and states are written.
    pub(super) form: EventForm,
    /// Unread counts of threads are told apart.
    pub(super) unread_by_thread: bool,
    rooms: RoomList,
}

/// A filter for what has a type but no sender.
#[derive(Clone, Debug, Default)]
pub(super) struct TypeFilter {
    types: Option<Vec<String>>,
    not_types: Vec<String>,
    rooms: RoomList,
}

#[derive(Clone, Debug, Default)]
struct UserList {
    only: Option<Vec<OwnedUserId>>,
    not: Vec<OwnedUserId>,
}

#[derive(Clone, Debug, Default)]
struct RoomList {
    only: Option<Vec<OwnedRoomId>>,
    not: Vec<OwnedRoomId>,
}

impl From<FilterDefinition> for SyncFilter {
    fn from(filter: FilterDefinition) -> Self {
        let room = filter.room;
        Self {
            unread_by_thread: room.timeline.unread_thread_notifications,
            timeline: room.timeline.into(),
            state: room.state.into(),
            ephemeral: room.ephemeral.into(),
            room_account_data: room.account_data.into(),
            account_data: filter.account_data.into(),
            presence_senders: UserList {
                only: filter.presence.senders.clone(),
                not: filter.presence.not_senders.clone(),
            },
            presence: filter.presence.into(),
            include_leave: room.include_leave,
            form: EventForm {
                with_room_id: false,
                federation: filter.event_format == EventFormat::Federation,
                fields: filter.event_fields.as_deref().and_then(EventFields::new),
            },
            rooms: RoomList { only: room.rooms, not: room.not_rooms },
        }
    }
}

impl From<RoomEventFilter> for TypeFilter {
    fn from(filter: RoomEventFilter) -> Self {
        let rooms = RoomList { only: filter.rooms, not: filter.not_rooms };
        Self { types: filter.types, not_types: filter.not_types, rooms }
    }
}

impl From<Filter> for TypeFilter {
    fn from(filter: Filter) -> Self {
        Self { types: filter.types, not_types: filter.not_types, rooms: RoomList::default() }
    }
}

impl SyncFilter {
    /// Everything, with at most so many events of each room.
    pub(super) fn with_limit(limit: u64) -> Self {
        Self { timeline: EventFilter::any(limit), ..Self::default() }
    }

    /// Whether anything of `room` is wanted.
    pub(super) fn wants_room(&self, room: &RoomId) -> bool {
        self.rooms.contains(room)
    }

    /// Whether the presence of this user is wanted.
    pub(super) fn wants_presence_of(&self, user: &UserId) -> bool {
        let UserList { only, not } = &self.presence_senders;
        !not.iter().any(|id| id == user)
            && only.as_ref().is_none_or(|users| users.iter().any(|id| id == user))
    }

    /// Whether only the members who matter are wanted.
    pub(super) fn lazy_load_members(&self) -> bool {
        self.state.lazy_load_members || self.timeline.lazy_load_members
    }

    /// Whether members are wanted who were sent before.
    pub(super) fn redundant_members(&self) -> bool {
        !self.lazy_load_members() || self.state.redundant_members || self.timeline.redundant_members
    }
}

impl TypeFilter {
    pub(super) fn wants_room(&self, room: &RoomId) -> bool {
        self.rooms.contains(room)
    }

    pub(super) fn wants(&self, event_type: &str) -> bool {
        let matches = |patterns: &[String]| {
            patterns.iter().any(|pattern| matches_pattern(pattern, event_type))
        };
        !matches(&self.not_types) && self.types.as_deref().is_none_or(matches)
    }
}

impl RoomList {
    fn contains(&self, room: &RoomId) -> bool {
        !self.not.iter().any(|id| id == room)
            && self.only.as_ref().is_none_or(|rooms| rooms.iter().any(|id| id == room))
    }
}
