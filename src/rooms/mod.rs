//! Rooms: the event graph, who is in them, what may be read of them.

pub(crate) mod record;
