//! The server-server API.

pub(crate) mod events;
pub(crate) mod keys;
pub(crate) mod media;
pub(crate) mod membership;
pub(crate) mod openid;
pub(crate) mod query;
pub(crate) mod transactions;
pub(crate) mod version;
