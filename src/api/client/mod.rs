//! The client-server API: one file per endpoint or small family.

pub(crate) mod versions;
