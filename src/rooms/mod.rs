//! Rooms: the event graph, who is in them, what may be read of them.

pub(crate) mod receipts;
pub(crate) mod record;
pub(crate) mod typing;
