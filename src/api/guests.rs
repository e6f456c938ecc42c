//! What guests may do.

use ruma::api::{IncomingRequest, error::ErrorKind, path_builder::PathBuilder};

use super::error::ApiError;
use crate::users::session::Session;

/// The endpoints that guests may use, with `{}` for each placeholder.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#guest-access>
const ALLOWED: [(&str, &str); 24] = [
    ("GET", "/account/whoami"),
    ("GET", "/devices"),
    ("GET", "/devices/{}"),
    ("PUT", "/devices/{}"),
    ("GET", "/events"),
    ("POST", "/keys/claim"),
    ("POST", "/keys/query"),
    ("POST", "/keys/upload"),
    ("DELETE", "/profile/{}/{}"),
    ("PUT", "/profile/{}/{}"),
    ("GET", "/rooms/{}/context/{}"),
    ("GET", "/rooms/{}/event/{}"),
    ("GET", "/rooms/{}/initialSync"),
    ("POST", "/rooms/{}/join"),
    ("POST", "/rooms/{}/leave"),
    ("GET", "/rooms/{}/members"),
    ("GET", "/rooms/{}/messages"),
    ("PUT", "/rooms/{}/send/{}/{}"),
    ("GET", "/rooms/{}/state"),
    ("GET", "/rooms/{}/state/{}/{}"),
    ("PUT", "/rooms/{}/state/{}/{}"),
    ("PUT", "/sendToDevice/{}/{}"),
    ("GET", "/sync"),
    // Not in the spec's list: whoever has no token at all may ask for it.
    ("GET", "/versions"),
];

/// Refuses a guest who asks for what guests may not use.
pub(super) fn check<R: IncomingRequest>(session: &Session) -> Result<(), ApiError> {
    if session.guest && !may_use::<R>() {
        let message = "Guests may not use this endpoint";
        return Err(ApiError::new(ErrorKind::GuestAccessForbidden, message));
    }
    Ok(())
}

/// Whether guests may use `R`.
fn may_use<R: IncomingRequest>() -> bool {
    R::PATH_BUILDER.all_paths().filter_map(|path| path.strip_prefix("/_matrix/client")).any(
        |path| {
            let path = without_names(path.strip_prefix("/v3").unwrap_or(path));
            ALLOWED.iter().any(|(method, allowed)| R::METHOD == *method && path == *allowed)
        },
    )
}

/// The path with `{}` for each placeholder.
pub(super) fn without_names(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma::api::client;

    #[test]
    fn guests_may_look_and_talk_but_not_administer() {
        assert!(may_use::<client::account::whoami::v3::Request>());
        assert!(may_use::<client::message::send_message_event::v3::Request>());
        assert!(may_use::<client::to_device::send_event_to_device::v3::Request>());
        assert!(may_use::<client::discovery::get_supported_versions::Request>());
        assert!(!may_use::<client::room::create_room::v3::Request>());
        assert!(!may_use::<client::account::change_password::v3::Request>());
        assert!(!may_use::<client::account::deactivate::v3::Request>());
        assert!(!may_use::<client::device::delete_device::v3::Request>());
        assert!(!may_use::<client::session::get_login_token::v1::Request>());
    }
}
