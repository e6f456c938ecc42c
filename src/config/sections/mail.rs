//! Mail that the server sends.

use serde::{Deserialize, Serialize};

use crate::config::Secret;

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
