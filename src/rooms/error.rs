//! Why a request about a room was not carried out.

use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedRoomOrAliasId, OwnedUserId};

use super::policy::{Asked, PolicyError};
use crate::{storage::StorageError, users::limits::LimitExceeded};

/// What can go wrong. Each variant has its errcode in `api/error.rs`, named here in brackets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoomError {
    /// There is no such room here. (`M_NOT_FOUND`, 404)
    #[error("room {room} is not known here")]
    UnknownRoom {
        /// What was asked for.
        room: OwnedRoomOrAliasId,
    },
    /// The room is on other servers only. (`M_NOT_FOUND`, 404)
    #[error("room {room} is not on this server")]
    RemoteRoom {
        /// What was asked for.
        room: OwnedRoomOrAliasId,
    },
    /// The user is on another server. (`M_FORBIDDEN`, 403)
    #[error(
        "{user} is on another server, which is to be asked first: use the endpoint for invitations"
    )]
    RemoteUser {
        /// Who.
        user: OwnedUserId,
    },
    /// The event is not there, or the user may not see it. (`M_NOT_FOUND`, 404)
    #[error("there is no event {event} in this room that you may see")]
    UnknownEvent {
        /// Which.
        event: OwnedEventId,
    },
    /// The event was removed at this moment. (`M_NOT_FOUND`, 404)
    #[error("the event was just removed")]
    EventGone,
    /// The room has no event on that side of the time. (`M_NOT_FOUND`, 404)
    #[error("there is no event that you may see on that side of the time")]
    NoEventThen,
    /// No state event has that type and state key. (`M_NOT_FOUND`, 404)
    #[error("the room has no state of this type and state key")]
    NoSuchState,
    /// Too often. (`M_LIMIT_EXCEEDED`, 429)
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// As many are in the room as may be. (`M_FORBIDDEN`, 403)
    #[error("room {room} is full")]
    Full {
        /// Which.
        room: OwnedRoomId,
    },
    /// Nobody of this server may come into the room. (`M_FORBIDDEN`, 403)
    #[error("room {room} has been blocked on this server")]
    Blocked {
        /// Which.
        room: OwnedRoomId,
    },
    /// The operator switched searching off. (`M_UNKNOWN`, 400)
    #[error("this server does not search")]
    SearchDisabled,
    /// Nobody gave the alias to a room. (`M_NOT_FOUND`, 404)
    #[error("the alias {alias} leads nowhere")]
    UnknownAlias {
        /// Which.
        alias: OwnedRoomAliasId,
    },
    /// The alias leads to another room already. (`M_ROOM_IN_USE` when a room is created, 400;
    /// `M_UNKNOWN`, 409 when an alias is)
    #[error("the alias {alias} is taken")]
    AliasTaken {
        /// Which.
        alias: OwnedRoomAliasId,
        /// Whether a room was to be created.
        creating: bool,
    },
    /// The alias belongs to an application service, or not to the one that asks. (`M_EXCLUSIVE`,
    /// 400)
    #[error("the alias {alias} is in the namespace of an application service, or not in its own")]
    Exclusive {
        /// Which.
        alias: OwnedRoomAliasId,
    },
    /// The user may not read this room, or not do this without being in it. (`M_FORBIDDEN`, 403)
    #[error("you are not in room {room}")]
    NotInRoom {
        /// Which.
        room: OwnedRoomId,
    },
    /// Most members of the room are not known yet. (`M_UNKNOWN`, 503; to other servers
    /// `M_NOT_FOUND`, 404)
    #[error("not all of room {room} is known here yet")]
    NotWhole {
        /// Which.
        room: OwnedRoomId,
    },
    /// The user may not do this. (`M_FORBIDDEN`, 403)
    #[error("{why}")]
    Forbidden {
        /// What stands against it.
        why: String,
    },
    /// The room's policy server does not sign the event. (As it says)
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The room's policy server is to be asked about the event first. Nobody outside is told of that.
    /// (`M_UNKNOWN`, 500)
    #[error("the room's policy server was not asked")]
    Unapproved(Box<Asked>),
    /// The user does not let the other invite them. (`M_INVITE_BLOCKED`, 403)
    #[error("{user} does not want to be invited")]
    InviteBlocked {
        /// Who.
        user: OwnedUserId,
    },
    /// Who is in the rooms whose members a restricted room lets in is not known here.
    /// (`M_UNABLE_TO_AUTHORISE_JOIN`, 400)
    #[error("this server is in none of the rooms whose members may join")]
    UnknownCondition,
    /// Nobody of this server may let users into a restricted room. (`M_UNABLE_TO_GRANT_JOIN`, 400)
    #[error("nobody of this server may let the user in")]
    NobodyMayInvite,
    /// A guest may not do this. (`M_GUEST_ACCESS_FORBIDDEN`, 403)
    #[error("guests may not do this")]
    GuestAccess,
    /// The user must leave the room, or refuse the invitation, first. (`M_UNKNOWN`, 400)
    #[error("leave room {room} before forgetting it")]
    NotLeft {
        /// Which.
        room: OwnedRoomId,
    },
    /// The request contradicts the room's state. (`M_BAD_STATE`, 400)
    #[error("{why}")]
    BadState {
        /// How.
        why: String,
    },
    /// The room cannot begin with this state. (`M_INVALID_ROOM_STATE`, 400)
    #[error("the room can't begin like this: {why}")]
    InvalidRoomState {
        /// What stands against it.
        why: String,
    },
    /// The room version is not one this server makes rooms of. (`M_UNSUPPORTED_ROOM_VERSION`, 400)
    #[error("room version {version} is not supported")]
    UnsupportedRoomVersion {
        /// Which.
        version: String,
    },
    /// The event is none. (`M_BAD_JSON`, 400)
    #[error("this can't be an event: {why}")]
    BadEvent {
        /// What is wrong with it.
        why: String,
    },
    /// A parameter is no such parameter. (`M_INVALID_PARAM`, 400)
    #[error("{why}")]
    InvalidParam {
        /// What is wrong with it.
        why: String,
    },
    /// The canonical alias event names an alias that does not lead here. (`M_BAD_ALIAS`, 400)
    #[error("the alias {alias} does not lead to this room")]
    BadAlias {
        /// Which.
        alias: String,
    },
    /// The user has annotated the event the same way already. (`M_DUPLICATE_ANNOTATION`, 400)
    #[error("you have annotated this event so already")]
    DuplicateAnnotation,
    /// A thread can't begin at that event. (`M_UNKNOWN`, 400)
    #[error("a thread can't begin at an event that relates to another")]
    BadThread,
    /// Something is larger than the spec allows. (`M_TOO_LARGE`, 413)
    #[error("the {what} is larger than {limit} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large it may be.
        limit: usize,
    },
    /// The database failed. (`M_UNKNOWN`, 500)
    #[error("the room can't be read or written")]
    Storage(#[from] StorageError),
    /// What is stored about the room makes no sense. (`M_UNKNOWN`, 500)
    #[error("what is stored about the room makes no sense: {what}")]
    Corrupt {
        /// What.
        what: &'static str,
    },
    /// The room could not be read when it was needed; others waited for the same reading. (As its
    /// source)
    #[error("the room can't be loaded")]
    NotLoaded {
        /// Why: always some error.
        cause: std::sync::Arc<Option<RoomError>>,
    },
}

impl RoomError {
    /// Whether the database failed in a way that may be over when it is tried again.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Storage(
                StorageError::Precondition { .. }
                | StorageError::Unknown { .. }
                | StorageError::Engine { .. },
            ) => true,
            Self::NotLoaded { cause } => cause.as_ref().as_ref().is_none_or(Self::may_pass),
            _ => false,
        }
    }
}
