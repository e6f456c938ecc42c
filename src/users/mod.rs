//! Local users: accounts, sessions and devices, profiles, account data, filters.

mod account_data;
pub(crate) mod activity;
pub(crate) mod limits;
pub(crate) mod password;
mod profiles;
pub(crate) mod rows;
pub(crate) mod session;
pub(crate) mod short_lived;
pub(crate) mod token;

pub(crate) use account_data::{AccountData, AccountDataError, GLOBAL};
pub(crate) use profiles::{Profile, ProfileError, Profiles};
