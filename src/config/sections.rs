//! The sections of the configuration as types.
//!
//! What each key means, its unit and its default stand in `reference.toml`; a test holds the two
//! together, so a key added here must be written there.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

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

/// How often something may be tried before `M_LIMIT_EXCEEDED`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RateLimits {
    /// `false` switches all of them off.
    pub(crate) enabled: bool,
    /// Failed logins to one account, from wherever they come.
    pub(crate) login_account: Rate,
    /// Logins from one address, to whatever account.
    pub(crate) login_address: Rate,
    /// Registrations from one address.
    pub(crate) registration_address: Rate,
    /// Uploads by one user.
    pub(crate) upload_user: Rate,
    /// Previews of web pages for one user.
    pub(crate) preview_user: Rate,
    /// Events sent by one user.
    pub(crate) message_user: Rate,
    /// Rooms made by one user.
    pub(crate) room_creation_user: Rate,
    /// Rooms that one user comes into, or asks to.
    pub(crate) join_user: Rate,
    /// Invitations by one user.
    pub(crate) invite_user: Rate,
    /// What one user, or one address, does with delayed events.
    pub(crate) delayed_events: Rate,
    /// Messages of one user to devices, each device counted.
    pub(crate) to_device_user: Rate,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            enabled: true,
            login_account: Rate { burst: 5, per_minute: 3 },
            login_address: Rate { burst: 20, per_minute: 20 },
            registration_address: Rate { burst: 10, per_minute: 10 },
            upload_user: Rate { burst: 100, per_minute: 120 },
            preview_user: Rate { burst: 50, per_minute: 60 },
            message_user: Rate { burst: 100, per_minute: 600 },
            room_creation_user: Rate { burst: 30, per_minute: 10 },
            join_user: Rate { burst: 50, per_minute: 30 },
            invite_user: Rate { burst: 100, per_minute: 60 },
            delayed_events: Rate { burst: 50, per_minute: 120 },
            to_device_user: Rate { burst: 30_000, per_minute: 12_000 },
        }
    }
}

/// Events that clients have sent later.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DelayedEvents {
    /// The longest delay; 0: there are none.
    pub(crate) max_delay_ms: u64,
    /// How many of one user may wait.
    pub(crate) max_scheduled: u64,
}

impl Default for DelayedEvents {
    fn default() -> Self {
        Self { max_delay_ms: 86_400_000, max_scheduled: 100 }
    }
}

/// A token bucket: `burst` at once, then `per_minute`. Both above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_minute: u32,
}

/// Bridges and bots attached as application services.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Appservice {
    /// YAML registration files.
    pub(crate) registrations: Vec<PathBuf>,
}

/// The content repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Media {
    pub(crate) max_upload_bytes: u64,
    /// Whether what is uploaded from now on can be had only with a token.
    pub(crate) freeze_unauthenticated: bool,
    /// The largest media fetched from another server.
    pub(crate) max_remote_bytes: u64,
    /// Media types such as `image/png` or `image/*`; empty: all.
    pub(crate) allowed_types: Vec<String>,
    /// How long an announced media is waited for.
    pub(crate) unused_expires_seconds: u64,
    /// Announced media of one user that have not arrived.
    pub(crate) max_pending_uploads: u32,
    /// Size of all uploads of one user; `None`: unlimited.
    pub(crate) user_quota_bytes: Option<u64>,
    /// Number of uploads of one user; `None`: unlimited.
    pub(crate) user_quota_files: Option<u64>,
    /// Uploads nobody wanted for so long are removed; `None`: never.
    pub(crate) local_retention_days: Option<u64>,
    /// The same for media of other servers.
    pub(crate) remote_retention_days: Option<u64>,
    pub(crate) thumbnails: Thumbnails,
    pub(crate) scan: Scan,
    /// `None`: files are on the local disk.
    pub(crate) s3: Option<S3>,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            max_upload_bytes: 100 * 1024 * 1024,
            freeze_unauthenticated: true,
            max_remote_bytes: 100 * 1024 * 1024,
            allowed_types: Vec::new(),
            unused_expires_seconds: 86_400,
            max_pending_uploads: 20,
            user_quota_bytes: None,
            user_quota_files: None,
            local_retention_days: None,
            remote_retention_days: None,
            thumbnails: Thumbnails::default(),
            scan: Scan::default(),
            s3: None,
        }
    }
}

/// What thumbnails may cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Thumbnails {
    /// Pictures worked on at once.
    pub(crate) workers: usize,
    /// The largest picture, width times height.
    pub(crate) max_pixels: u64,
    /// For decoded pictures, all workers together.
    pub(crate) memory_bytes: u64,
    /// For one picture.
    pub(crate) timeout_seconds: u64,
    /// Takes pictures out of videos; `None`: videos have no thumbnails.
    pub(crate) ffmpeg: Option<PathBuf>,
}

impl Default for Thumbnails {
    fn default() -> Self {
        Self {
            workers: 2,
            max_pixels: 40_000_000,
            memory_bytes: 268_435_456,
            timeout_seconds: 20,
            ffmpeg: None,
        }
    }
}

impl Thumbnails {
    /// The longest one may take.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// As the library wants it.
    pub(crate) fn limits(&self) -> media::thumbnail::Limits {
        media::thumbnail::Limits {
            workers: self.workers,
            max_pixels: self.max_pixels,
            memory_bytes: self.memory_bytes,
            time: self.time(),
            ..media::thumbnail::Limits::default()
        }
    }
}

/// Who looks at files before anybody gets them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scan {
    /// `unix:` and a path, or host and port.
    pub(crate) clamd: Option<String>,
    /// A file is sent there by `POST`.
    pub(crate) http_url: Option<String>,
    /// For one file.
    pub(crate) timeout_seconds: u64,
}

impl Default for Scan {
    fn default() -> Self {
        Self { clamd: None, http_url: None, timeout_seconds: 60 }
    }
}

/// An S3-compatible object store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct S3 {
    pub(crate) bucket: String,
    /// `None`: Amazon's for the region.
    #[serde(default)]
    pub(crate) endpoint: Option<String>,
    #[serde(default = "S3::default_region")]
    pub(crate) region: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: Secret,
    /// What the names of all objects begin with.
    #[serde(default)]
    pub(crate) prefix: String,
    /// Whether the bucket is part of the host's name.
    #[serde(default)]
    pub(crate) virtual_hosted: bool,
    /// Whether clients that can are sent to the store.
    #[serde(default)]
    pub(crate) redirect: bool,
}

impl S3 {
    fn default_region() -> String {
        "us-east-1".to_owned()
    }
}

/// Previews of web pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Previews {
    pub(crate) enabled: bool,
    /// Hosts; empty: all.
    pub(crate) allow: Vec<String>,
    pub(crate) deny: Vec<String>,
    /// Of a longer page the rest is not read.
    pub(crate) max_page_bytes: usize,
    pub(crate) max_image_bytes: u64,
    pub(crate) cache_seconds: u64,
    /// `Accept-Language`.
    pub(crate) accept_language: String,
}

impl Default for Previews {
    fn default() -> Self {
        Self {
            enabled: true,
            allow: Vec::new(),
            deny: Vec::new(),
            max_page_bytes: 1024 * 1024,
            max_image_bytes: 10 * 1024 * 1024,
            cache_seconds: 3600,
            accept_language: "en".to_owned(),
        }
    }
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

/// `dev.myelin.delivered`: telling a sender that a message reached a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Receipts {
    pub(crate) delivered: bool,
    pub(crate) delivered_max_members: u32,
}

impl Default for Receipts {
    fn default() -> Self {
        Self { delivered: true, delivered_max_members: 50 }
    }
}

/// How clients hear of what happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Syncing {
    /// Over `WebSockets` and as server-sent events, besides long-polling.
    pub(crate) streams: bool,
    /// How many of them one user may have open at once.
    pub(crate) max_streams_per_user: usize,
}

impl Default for Syncing {
    fn default() -> Self {
        Self { streams: false, max_streams_per_user: 10 }
    }
}

/// What rooms may be like.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rooms {
    /// How many may be in one; `None`: any number.
    pub(crate) max_members: Option<u64>,
}

/// How long messages are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retention {
    pub(crate) enabled: bool,
    /// Of rooms that say nothing; `None`: for ever.
    pub(crate) default_max_lifetime_seconds: Option<u64>,
    /// Whatever a room says, not shorter.
    pub(crate) min_lifetime_seconds: Option<u64>,
    /// Whatever a room says, not longer.
    pub(crate) max_lifetime_seconds: Option<u64>,
    /// How often what has expired is removed.
    pub(crate) interval_seconds: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            enabled: false,
            default_max_lifetime_seconds: None,
            min_lifetime_seconds: None,
            max_lifetime_seconds: None,
            interval_seconds: 3_600,
        }
    }
}

/// Finding messages by their words.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Search {
    pub(crate) enabled: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Who is online.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Presence {
    pub(crate) enabled: bool,
    pub(crate) max_room_members: usize,
    pub(crate) interval_s: u64,
    pub(crate) federate: bool,
}

impl Default for Presence {
    fn default() -> Self {
        Self { enabled: true, max_room_members: 500, interval_s: 2, federate: true }
    }
}

/// The Prometheus endpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// `None`: nothing is measured or served.
    pub(crate) address: Option<SocketAddr>,
}

/// How much memory the server may take.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Memory {
    /// Caches and write buffers together.
    pub(crate) budget_bytes: u64,
}

impl Memory {
    /// What rooms and their states may take of it: half of what the database leaves.
    pub(crate) fn for_rooms(&self) -> u64 {
        self.budget_bytes / 4
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { budget_bytes: 256 * 1024 * 1024 }
    }
}

/// What is logged to stderr, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    /// A level, or directives such as `info,myelin::storage=debug`.
    pub(crate) level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is served below `/.well-known/matrix/`; each file only if it is configured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WellKnown {
    /// `m.homeserver.base_url` in `client`.
    pub(crate) client: Option<String>,
    /// `m.server` in `server`.
    pub(crate) server: Option<String>,
    /// `m.identity_server.base_url` in `client`.
    pub(crate) identity_server: Option<String>,
    /// Further keys of `client`, as they are.
    pub(crate) client_extra: serde_json::Map<String, serde_json::Value>,
    pub(crate) support: Support,
}

/// `/.well-known/matrix/support`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Support {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) support_page: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) contacts: Vec<Contact>,
}

/// A person to write to about this server: at least one of the two addresses is set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contact {
    /// `m.role.admin`, `m.role.security` or a namespaced identifier.
    pub(crate) role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) matrix_id: Option<ruma::OwnedUserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) email_address: Option<String>,
}

/// Reverse proxies in front of the server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Proxies {
    /// Whose `X-Forwarded-For` and `X-Request-Id` are believed.
    pub(crate) trusted: Vec<TrustedProxy>,
}

/// The mail server through which messages go out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Smtp {
    pub(crate) host: String,
    /// `None`: the usual port for `tls`.
    #[serde(default)]
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) tls: SmtpTls,
    #[serde(default)]
    pub(crate) username: Option<String>,
    #[serde(default)]
    pub(crate) password: Option<Secret>,
    /// Sender, as `Name <user@host>` or a bare address.
    pub(crate) from: String,
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SmtpTls {
    /// Plain at first, then upgraded; refused if the server cannot. Port 587.
    #[default]
    Starttls,
    /// TLS from the first byte. Port 465.
    Tls,
    /// Unprotected. Port 25.
    None,
}

/// Mail to users about what they have not read; only where there is `[smtp]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EmailNotifications {
    pub(crate) enabled: bool,
    /// How long a message may stay unread before there is a mail about it.
    pub(crate) delay_s: u64,
    /// How long there is no second mail because of the same room; longer after each further one.
    pub(crate) first_pause_s: u64,
    pub(crate) longest_pause_s: u64,
    /// A room that was silent for so long begins with the first pause again.
    pub(crate) reset_after_s: u64,
    /// What the mails are about, where the client says nothing else.
    pub(crate) app_name: String,
    /// The client that links lead to; `None`: matrix.to.
    pub(crate) client_url: Option<String>,
}

impl Default for EmailNotifications {
    fn default() -> Self {
        Self {
            enabled: true,
            delay_s: 10 * 60,
            first_pause_s: 10 * 60,
            longest_pause_s: 24 * 60 * 60,
            reset_after_s: 12 * 60 * 60,
            app_name: "Matrix".to_owned(),
            client_url: None,
        }
    }
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
