//! What this server can do, and servers for calls.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use ruma::api::client::{
    discovery::get_capabilities::v3::{
        Capabilities, ProfileFieldsCapability, Request, Response, RoomVersionStability,
        RoomVersionsCapability,
    },
    voip::get_turn_server_info,
};
use serde_json::json;
use sha1::Sha1;

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    clock::Clock,
    config::{Config, DelayedEvents},
    push::Vapid,
    rooms::{DEFAULT_VERSION, SUPPORTED_VERSIONS},
    users::Accounts,
};

/// `GET /_matrix/client/v3/capabilities`
pub(crate) async fn get_capabilities(
    State(accounts): State<Accounts>,
    State(vapid): State<Vapid>,
    State(config): State<Arc<Config>>,
    Client { session, .. }: Client<Request>,
) -> Result<Ruma<Response>, ApiError> {
    let versions = SUPPORTED_VERSIONS.into_iter();
    let mut capabilities = Capabilities::new();
    capabilities.room_versions = RoomVersionsCapability::new(
        DEFAULT_VERSION,
        versions.map(|version| (version, RoomVersionStability::Stable)).collect(),
    );
    capabilities.thirdparty_id_changes.enabled = accounts.sends_mail();
    capabilities.get_login_token.enabled = true;
    capabilities.profile_fields = Some(ProfileFieldsCapability::new(true));
    let webpush = serde_json::json!({ "enabled": true, "vapid": vapid.public_key() });
    capabilities
        .set("org.matrix.msc4174.webpush", webpush)
        .map_err(|error| ApiError::internal(&error))?;
    // Spec: "clients SHOULD check that the user is allowed to" at this endpoint.
    if accounts.is_admin(session.user).await? {
        capabilities.account_moderation.lock = true;
        capabilities.account_moderation.suspend = true;
    }
    let delayed = &config.delayed_events;
    if delayed.max_delay_ms > 0 {
        let DelayedEvents { max_delay_ms, max_scheduled } = delayed;
        let value = json!({ "max_delay_ms": max_delay_ms, "max_scheduled": max_scheduled });
        let set = capabilities.set("org.matrix.msc4140.delayed_events", value);
        set.map_err(|error| ApiError::internal(&error))?;
    }
    Ok(Ruma(Response::new(capabilities)))
}

/// `GET /_matrix/client/v3/voip/turnServer`
///
/// With a secret shared with the TURN server, the password is an HMAC-SHA1 over the user name, which
/// holds the time it expires: the form that TURN servers agree on.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3voipturnserver>
pub(crate) async fn get_turn_server_info(
    State(config): State<Arc<Config>>,
    State(clock): State<Clock>,
    Client { session, .. }: Client<get_turn_server_info::v3::Request>,
) -> Result<Ruma<get_turn_server_info::v3::Response>, ApiError> {
    let turn = &config.turn;
    let lifetime = Duration::from_secs(turn.ttl_seconds);
    let (username, password) = match (&turn.shared_secret, &turn.username, &turn.password) {
        _ if turn.uris.is_empty() => return Err(ApiError::not_found("There is no TURN server")),
        (Some(secret), _, _) => {
            let expires = clock.now_ms() / 1000 + turn.ttl_seconds;
            let username = format!("{expires}:{}", session.user_id);
            let mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes());
            let mut mac = mac.map_err(|error| ApiError::internal(&error))?;
            mac.update(username.as_bytes());
            (username, BASE64_STANDARD.encode(mac.finalize().into_bytes()))
        }
        (None, Some(username), Some(password)) => (username.clone(), password.expose().to_owned()),
        (None, _, _) => (String::new(), String::new()),
    };
    let uris = turn.uris.clone();
    Ok(Ruma(get_turn_server_info::v3::Response::new(username, password, uris, lifetime)))
}
