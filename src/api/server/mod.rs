//! The server-server API: one file per endpoint or small family.

pub(crate) mod openid;
