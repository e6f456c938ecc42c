//! The client-server API: one file per endpoint or small family.

pub(crate) mod account;
pub(crate) mod account_data;
pub(crate) mod admin;
pub(crate) mod appservice;
pub(crate) mod backup;
pub(crate) mod capabilities;
pub(crate) mod create_room;
pub(crate) mod dehydrated_device;
pub(crate) mod delayed_events;
pub(crate) mod device;
pub(crate) mod directory;
pub(crate) mod filter;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod media;
pub(crate) mod media_download;
pub(crate) mod notifications;
pub(crate) mod old_sync;
mod page;
pub(crate) mod people;
pub(crate) mod presence;
pub(crate) mod profile;
pub(crate) mod push_rules;
pub(crate) mod pushers;
pub(crate) mod receipts;
pub(crate) mod register;
pub(crate) mod relations;
pub(crate) mod reporting;
pub(crate) mod room_aliases;
pub(crate) mod room_events;
pub(crate) mod room_history;
pub(crate) mod room_membership;
pub(crate) mod room_upgrade;
pub(crate) mod search;
pub(crate) mod sliding_sync;
pub(crate) mod sync;
pub(crate) mod sync_stream;
pub(crate) mod third_party;
pub(crate) mod thread_subscriptions;
pub(crate) mod threepid;
pub(crate) mod to_device;
pub(crate) mod typing;
pub(crate) mod versions;

#[cfg(test)]
mod tests;
