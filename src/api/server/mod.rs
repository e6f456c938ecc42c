//! The server-server API.

pub(crate) mod keys;
pub(crate) mod media;
pub(crate) mod openid;
pub(crate) mod query;
pub(crate) mod version;
