//! Accounts, sessions and devices, profiles, account data.

pub(crate) mod session;
