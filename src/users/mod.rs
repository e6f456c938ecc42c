//! Local users: accounts, sessions and devices, profiles, account data, filters.

mod account_data;
mod profiles;
pub(crate) mod rows;
pub(crate) mod session;

pub(crate) use account_data::{AccountData, AccountDataError, GLOBAL};
pub(crate) use profiles::{Profile, ProfileError, Profiles};
