//! The sections of the configuration as types.
//!
//! What each key means, its unit and its default stand in `reference.toml`; a test holds the two
//! together, so a key added here must be written there.

mod limits;
mod mail;
mod media;
mod operation;
mod rooms;
mod well_known;

use std::{net::SocketAddr, path::PathBuf};

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

pub(crate) use self::{limits::*, mail::*, media::*, operation::*, rooms::*, well_known::*};
use super::{Secret, proxy::TrustedProxy};

/// Everything that can be configured. Made by [`Config::load`], which also validates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) server_name: OwnedServerName,
    pub(crate) data_dir: PathBuf,
    /// Never empty.
    pub(crate) listener: Vec<Listener>,
    pub(crate) registration: Registration,
    pub(crate) federation: Federation,
    pub(crate) outgoing: Outgoing,
    pub(crate) identity: Identity,
    pub(crate) rate_limits: RateLimits,
    pub(crate) appservice: Appservice,
    pub(crate) media: Media,
    pub(crate) previews: Previews,
    pub(crate) password: Password,
    pub(crate) receipts: Receipts,
    pub(crate) sync: Syncing,
    pub(crate) rooms: Rooms,
    pub(crate) search: Search,
    pub(crate) retention: Retention,
    pub(crate) presence: Presence,
    pub(crate) delayed_events: DelayedEvents,
    pub(crate) metrics: Metrics,
    pub(crate) memory: Memory,
    pub(crate) log: Log,
    pub(crate) well_known: WellKnown,
    pub(crate) proxies: Proxies,
    /// `None`: the server sends no mail.
    pub(crate) smtp: Option<Smtp>,
    pub(crate) email_notifications: EmailNotifications,
    pub(crate) turn: Turn,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_name: ruma::server_name!("localhost").to_owned(),
            data_dir: PathBuf::from("myelin-data"),
            listener: vec![Listener {
                address: Some(SocketAddr::from(([127, 0, 0, 1], 8008))),
                ..Listener::default()
            }],
            registration: Registration::default(),
            federation: Federation::default(),
            outgoing: Outgoing::default(),
            identity: Identity::default(),
            rate_limits: RateLimits::default(),
            appservice: Appservice::default(),
            media: Media::default(),
            previews: Previews::default(),
            password: Password::default(),
            receipts: Receipts::default(),
            sync: Syncing::default(),
            rooms: Rooms::default(),
            search: Search::default(),
            retention: Retention::default(),
            presence: Presence::default(),
            delayed_events: DelayedEvents::default(),
            metrics: Metrics::default(),
            memory: Memory::default(),
            log: Log::default(),
            well_known: WellKnown::default(),
            proxies: Proxies::default(),
            smtp: None,
            email_notifications: EmailNotifications::default(),
            turn: Turn::default(),
        }
    }
}

/// Where requests come in: exactly one of `address` and `unix_socket` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Listener {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) unix_socket: Option<PathBuf>,
    /// Octal permission bits of the socket file.
    pub(crate) unix_socket_mode: Option<String>,
    /// Only with `address`.
    pub(crate) tls: Option<TlsFiles>,
}

/// PEM files of a TLS listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsFiles {
    /// The certificate followed by its intermediates.
    pub(crate) certificate: PathBuf,
    pub(crate) private_key: PathBuf,
}

/// Who may create an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Registration {
    pub(crate) enabled: bool,
    pub(crate) require_token: bool,
    /// Valid any number of times, beside those kept in the database.
    pub(crate) tokens: Vec<Secret>,
    pub(crate) allow_guests: bool,
    /// Key of the HMAC at `/_synapse/admin/v1/register`; `None`: that endpoint is off.
    pub(crate) shared_secret: Option<Secret>,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            enabled: false,
            require_token: true,
            tokens: Vec::new(),
            allow_guests: false,
            shared_secret: None,
        }
    }
}

/// Talking to other homeservers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Federation {
    pub(crate) enabled: bool,
    /// Notaries asked for keys of servers that are gone.
    pub(crate) trusted_key_servers: Vec<OwnedServerName>,
    /// Whether rooms are joined without waiting for all of their members.
    pub(crate) faster_joins: bool,
}

impl Default for Federation {
    fn default() -> Self {
        Self { enabled: true, trusted_key_servers: Vec::new(), faster_joins: true }
    }
}

/// Every request the server itself makes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Outgoing {
    /// PEM files of roots trusted beside the system's.
    pub(crate) ca_certificates: Vec<PathBuf>,
    pub(crate) allow_private_addresses: bool,
}

/// Which identity servers users may name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Identity {
    /// Those that may be at private addresses.
    pub(crate) trusted_servers: Vec<OwnedServerName>,
    /// Whether others are refused.
    pub(crate) only_trusted: bool,
}

/// Bridges and bots attached as application services.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Appservice {
    /// YAML registration files.
    pub(crate) registrations: Vec<PathBuf>,
}

/// The cost of an argon2id password hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Password {
    pub(crate) argon2_memory_kib: u32,
    pub(crate) argon2_iterations: u32,
}

impl Default for Password {
    fn default() -> Self {
        Self { argon2_memory_kib: 19_456, argon2_iterations: 4 }
    }
}

/// Reverse proxies in front of the server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Proxies {
    /// Whose `X-Forwarded-For` and `X-Request-Id` are believed.
    pub(crate) trusted: Vec<TrustedProxy>,
}

/// What `/voip/turnServer` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Turn {
    /// Empty: there is no TURN server.
    pub(crate) uris: Vec<String>,
    /// Shared with the TURN server, to make passwords that expire; instead of the fixed two below.
    pub(crate) shared_secret: Option<Secret>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    /// How long credentials are valid.
    pub(crate) ttl_seconds: u64,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            uris: Vec::new(),
            shared_secret: None,
            username: None,
            password: None,
            ttl_seconds: 86_400,
        }
    }
}
