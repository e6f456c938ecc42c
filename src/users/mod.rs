//! Local users: accounts, sessions and devices, profiles, account data, filters.

pub(crate) mod account;
mod account_data;
pub(crate) mod activity;
mod appservices;
pub(crate) mod closing;
mod filters;
mod ignored;
mod invites;
pub(crate) mod limits;
pub(crate) mod login;
pub(crate) mod mail;
pub(crate) mod masquerade;
pub(crate) mod password;
pub(crate) mod presence;
mod profile_changes;
mod profiles;
pub(crate) mod registration;
pub(crate) mod rows;
pub(crate) mod session;
pub(crate) mod short_lived;
mod standing;
pub(crate) mod threepid;
pub(crate) mod token;
pub(crate) mod uia;

pub(crate) use account::{AccountError, Accounts};
pub(crate) use account_data::{AccountData, AccountDataError, GLOBAL};
pub(crate) use filters::{FilterError, Filters};
pub(crate) use ignored::Ignored;
pub(crate) use invites::{InviteRules, Verdict};
pub(crate) use profile_changes::{ProfileHistory, ProfileUpdate, changed_profiles, profile_update};
pub(crate) use profiles::{Profile, ProfileError, Profiles};
pub(crate) use rows::Account;
