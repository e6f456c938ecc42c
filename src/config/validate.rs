//! What the types alone do not say about a configuration.

use super::{Config, Listener, Rate};
use crate::telemetry::logs;

/// Below this RocksDB cannot keep its write buffers.
const MIN_BUDGET_BYTES: u64 = 16 * 1024 * 1024;

/// The least argon2 works with at one lane.
const MIN_ARGON2_KIB: u32 = 8;

/// The longest delay of a delayed event: a year.
const MAX_DELAY_MS: u64 = 366 * 24 * 60 * 60 * 1000;

/// The longest time around mails to users, a year.
const MAX_MAIL_PAUSE_S: u64 = 365 * 24 * 60 * 60;
/// The most delayed events of one user.
const MAX_SCHEDULED: u64 = 1_000;

/// One line for each thing that cannot be, naming the key.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Problems(Vec::new());
    problems.listeners(&config.listener);
    problems.limits(config);
    problems.well_known(config);
    problems.turn(config);
    problems.media(config);
    problems.previews(config);
    problems.smtp(config);
    problems.email_notifications(config);

    problems.metrics(config);
    problems.check(!config.data_dir.as_os_str().is_empty(), || {
        "data_dir: must not be empty".to_owned()
    });
    problems.secrets(config);
    if let Err(error) = logs::filter(&config.log.level) {
        problems.0.push(format!("log.level: {error}"));
    }
    problems.0
}

struct Problems(Vec<String>);

impl Problems {
    fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }

    fn listeners(&mut self, listeners: &[Listener]) {
        self.check(!listeners.is_empty(), || "listener: at least one is needed".to_owned());
        for (index, listener) in listeners.iter().enumerate() {
            let key = format!("listener[{index}]");
            match (&listener.address, &listener.unix_socket) {
                (None, None) => {
                    self.0.push(format!("{key}: needs `address` or `unix_socket`"));
                }
                (Some(_), Some(_)) => {
                    self.0.push(format!("{key}: has both `address` and `unix_socket`"));
                }
                (None, Some(_)) => self.check(listener.tls.is_none(), || {
                    format!("{key}.tls: not possible on a Unix socket")
                }),
                (Some(_), None) => self.check(listener.unix_socket_mode.is_none(), || {
                    format!("{key}.unix_socket_mode: there is no `unix_socket`")
                }),
            }
            if let Err(problem) = listener.mode() {
                self.0.push(format!("{key}.unix_socket_mode: {problem}"));
            }
            let same = |other: &Listener| match &listener.address {
                Some(address) => address.port() != 0 && other.address == listener.address,
                None => listener.unix_socket.is_some() && other.unix_socket == listener.unix_socket,
            };
            if let Some(earlier) = listeners.iter().take(index).position(same) {
                self.0.push(format!("{key}: listens where listener[{earlier}] does"));
            }
        }
    }

    fn metrics(&mut self, config: &Config) {
        let Some(address) = config.metrics.address.filter(|address| address.port() != 0) else {
            return;
        };
        let taken = config.listener.iter().position(|other| other.address == Some(address));
        if let Some(index) = taken {
            self.0.push(format!("metrics.address: listener[{index}] listens there already"));
        }
    }

    fn limits(&mut self, config: &Config) {
        let limits = &config.rate_limits;
        for (name, Rate { burst, per_minute }) in [
            ("login_account", limits.login_account),
            ("login_address", limits.login_address),
            ("registration_address", limits.registration_address),
            ("upload_user", limits.upload_user),
            ("preview_user", limits.preview_user),
            ("message_user", limits.message_user),
            ("room_creation_user", limits.room_creation_user),
            ("join_user", limits.join_user),
            ("invite_user", limits.invite_user),
            ("delayed_events", limits.delayed_events),
            ("to_device_user", limits.to_device_user),
        ] {
            self.check(burst > 0 && per_minute > 0, || {
                format!("rate_limits.{name}: both numbers must be above 0")
            });
        }
        let delayed = &config.delayed_events;
        self.check(delayed.max_delay_ms <= MAX_DELAY_MS, || {
            format!("delayed_events.max_delay_ms: must be at most {MAX_DELAY_MS}")
        });
        self.check((1..=MAX_SCHEDULED).contains(&delayed.max_scheduled), || {
            format!("delayed_events.max_scheduled: must be 1 to {MAX_SCHEDULED}")
        });
        self.check(config.memory.budget_bytes >= MIN_BUDGET_BYTES, || {
            format!("memory.budget_bytes: must be at least {MIN_BUDGET_BYTES}")
        });
        self.check(config.password.argon2_memory_kib >= MIN_ARGON2_KIB, || {
            format!("password.argon2_memory_kib: must be at least {MIN_ARGON2_KIB}")
        });
        self.check(config.password.argon2_iterations > 0, || {
            "password.argon2_iterations: must be at least 1".to_owned()
        });
        self.check(config.media.max_upload_bytes > 0, || {
            "media.max_upload_bytes: must be above 0".to_owned()
        });
    }

    fn well_known(&mut self, config: &Config) {
        let well_known = &config.well_known;
        for (key, url) in [
            ("client", &well_known.client),
            ("identity_server", &well_known.identity_server),
            ("support.support_page", &well_known.support.support_page),
        ] {
            let Some(url) = url else { continue };
            self.check(is_web_url(url), || {
                format!("well_known.{key}: must be an http or https URL")
            });
        }
        if let Some(server) = &well_known.server {
            self.check(ruma::ServerName::parse(server).is_ok(), || {
                "well_known.server: must be a host name with an optional port".to_owned()
            });
        }
        let needs_client =
            well_known.identity_server.is_some() || !well_known.client_extra.is_empty();
        self.check(well_known.client.is_some() || !needs_client, || {
            "well_known.client: needed, since other keys of that file are set".to_owned()
        });
        for (index, contact) in well_known.support.contacts.iter().enumerate() {
            self.check(contact.matrix_id.is_some() || contact.email_address.is_some(), || {
                format!(
                    "well_known.support.contacts[{index}]: needs `matrix_id` or `email_address`"
                )
            });
        }
    }

    fn turn(&mut self, config: &Config) {
        let turn = &config.turn;
        let can_sign_in =
            turn.shared_secret.is_some() || (turn.username.is_some() && turn.password.is_some());
        self.check(turn.uris.is_empty() || can_sign_in, || {
            "turn: `uris` needs `shared_secret`, or `username` and `password`".to_owned()
        });
        self.check(turn.ttl_seconds > 0, || "turn.ttl_seconds: must be above 0".to_owned());
    }

    fn media(&mut self, config: &Config) {
        let media = &config.media;
        for (key, value) in [
            ("max_upload_bytes", media.max_upload_bytes),
            ("max_remote_bytes", media.max_remote_bytes),
            ("unused_expires_seconds", media.unused_expires_seconds),
            ("max_pending_uploads", media.max_pending_uploads.into()),
            ("thumbnails.workers", media.thumbnails.workers as u64),
            ("thumbnails.max_pixels", media.thumbnails.max_pixels),
            ("thumbnails.memory_bytes", media.thumbnails.memory_bytes),
            ("thumbnails.timeout_seconds", media.thumbnails.timeout_seconds),
            ("scan.timeout_seconds", media.scan.timeout_seconds),
        ] {
            self.check(value > 0, || format!("media.{key}: must be above 0"));
        }
        for (index, allowed) in media.allowed_types.iter().enumerate() {
            let parts = allowed.split_once('/');
            let fine = parts.is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty());
            self.check(fine && !allowed.contains(char::is_uppercase), || {
                format!("media.allowed_types[{index}]: must be like `image/png` or `image/*`")
            });
        }
        if let Some(url) = &media.scan.http_url {
            self.check(is_web_url(url), || "media.scan.http_url: must be a web address".to_owned());
        }
        let Some(s3) = &media.s3 else { return };
        self.check(!s3.bucket.is_empty(), || "media.s3.bucket: must not be empty".to_owned());
        if let Some(endpoint) = &s3.endpoint {
            self.check(is_web_url(endpoint), || {
                "media.s3.endpoint: must be a web address".to_owned()
            });
        }
        self.check(s3.prefix.is_empty() || s3.prefix.ends_with('/'), || {
            "media.s3.prefix: must end with `/`".to_owned()
        });
    }

    fn previews(&mut self, config: &Config) {
        let previews = &config.previews;
        for (name, list) in [("allow", &previews.allow), ("deny", &previews.deny)] {
            for (index, host) in list.iter().enumerate() {
                let bare = host.strip_prefix("*.").unwrap_or(host);
                let fine = !bare.is_empty()
                    && !bare.contains(|c: char| "*/:".contains(c) || c.is_uppercase());
                self.check(fine, || {
                    format!(
                        "previews.{name}[{index}]: must be like `example.org` or `*.example.org`"
                    )
                });
            }
        }
        self.check(previews.max_page_bytes > 0 && previews.max_image_bytes > 0, || {
            "previews: sizes must be above 0".to_owned()
        });
        self.check(http::HeaderValue::from_str(&previews.accept_language).is_ok(), || {
            "previews.accept_language: must be fit for a header".to_owned()
        });
    }

    fn smtp(&mut self, config: &Config) {
        let Some(smtp) = &config.smtp else { return };
        self.check(!smtp.host.is_empty(), || "smtp.host: must not be empty".to_owned());
        if let Err(error) = smtp.from.parse::<lettre::message::Mailbox>() {
            self.0.push(format!("smtp.from: {error}"));
        }
        self.check(smtp.username.is_some() == smtp.password.is_some(), || {
            "smtp: `username` and `password` go together".to_owned()
        });
    }

    fn email_notifications(&mut self, config: &Config) {
        let mails = &config.email_notifications;
        self.check(mails.longest_pause_s >= mails.first_pause_s, || {
            "email_notifications.longest_pause_s: must not be below `first_pause_s`".to_owned()
        });
        let times = [mails.delay_s, mails.longest_pause_s, mails.reset_after_s];
        self.check(times.iter().all(|seconds| *seconds <= MAX_MAIL_PAUSE_S), || {
            format!("email_notifications: times must not be above {MAX_MAIL_PAUSE_S} s")
        });
        self.check(mails.client_url.as_deref().is_none_or(is_web_url), || {
            "email_notifications.client_url: must begin with `https://` or `http://`".to_owned()
        });
    }

    /// An empty secret is one everybody knows.
    fn secrets(&mut self, config: &Config) {
        for (key, secret) in [
            ("registration.shared_secret", &config.registration.shared_secret),
            ("turn.shared_secret", &config.turn.shared_secret),
        ] {
            self.check(secret.as_ref().is_none_or(|secret| !secret.expose().is_empty()), || {
                format!("{key}: must not be empty")
            });
        }
        for (index, token) in config.registration.tokens.iter().enumerate() {
            self.check(is_registration_token(token.expose()), || {
                format!(
                    "registration.tokens[{index}]: must be 1 to 64 letters, digits and `.`, `_`, `~`, `-`"
                )
            });
        }
    }
}

fn is_web_url(text: &str) -> bool {
    text.parse::<http::Uri>()
        .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#token-authenticated-registration>
fn is_registration_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
}

impl Listener {
    /// Permission bits of the socket file; by default its owner and group may connect.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(crate) fn mode(&self) -> Result<u32, String> {
        let Some(mode) = &self.unix_socket_mode else { return Ok(0o660) };
        match u32::from_str_radix(mode, 8) {
            Ok(bits) if bits <= 0o777 => Ok(bits),
            _ => Err(format!("`{mode}` is no octal number up to 777")),
        }
    }
}
