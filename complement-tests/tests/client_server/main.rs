//! The client-server API, endpoint by endpoint.
//!
//! Most tests share one server and can run against any homeserver:
//! `HOMESERVER_URL=http://127.0.0.1:8008 cargo test -p complement-tests --test client_server -- --skip configured::`.
//! Those in `configured` start servers with special configurations.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic; a missing field of JSON is null, and compared as such"
)]

mod account;
mod account_data;
mod aliases;
mod backup_paths;
mod bad_input;
mod capabilities;
mod configured;
mod context;
mod crowd;
mod delayed_events;
mod device_lists;
mod devices;
mod discovery;
mod every_endpoint;
mod filters;
mod key_backup;
mod keys;
mod knocking;
mod lazy_members;
mod login;
mod media;
mod membership;
mod merged_sync;
mod messages;
mod moderation;
mod notifications;
mod old_sync;
mod profile;
mod profile_updates;
mod push_rules;
mod receipts;
mod redaction;
mod registration;
mod relations;
mod room_creation;
mod room_list;
mod search;
mod sending;
mod sliding_sync;
mod state;
mod sync;
mod thread_subscriptions;
mod threepid;
mod to_device;
mod typing;
mod uia;
mod unread;
mod unwanted;
mod upgrade;
