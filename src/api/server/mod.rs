//! The server-server API.

pub(crate) mod directory;
pub(crate) mod events;
pub(crate) mod keys;
pub(crate) mod keys_of_users;
pub(crate) mod media;
pub(crate) mod membership;
pub(crate) mod openid;
pub(crate) mod query;
pub(crate) mod third_party;
pub(crate) mod transactions;
pub(crate) mod version;
