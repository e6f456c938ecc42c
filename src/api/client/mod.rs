//! The client-server API: one file per endpoint or small family.

pub(crate) mod create_room;
pub(crate) mod room_aliases;
pub(crate) mod room_events;
pub(crate) mod room_history;
pub(crate) mod room_membership;
pub(crate) mod versions;
