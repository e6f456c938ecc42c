//! Where clients find the server and its people.

use serde::{Deserialize, Serialize};

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
