//! The client-server API: one file per endpoint or small family.

pub(crate) mod account;
pub(crate) mod account_data;
pub(crate) mod admin;
pub(crate) mod capabilities;
pub(crate) mod device;
pub(crate) mod filter;
pub(crate) mod login;
pub(crate) mod profile;
pub(crate) mod register;
pub(crate) mod threepid;
pub(crate) mod versions;

#[cfg(test)]
mod tests;
