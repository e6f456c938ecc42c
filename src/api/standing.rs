//! What users may do whom an administrator has locked out or suspended.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-locking>

use ruma::api::{IncomingRequest, error::ErrorKind, path_builder::PathBuilder};

use super::{error::ApiError, guests::without_names};
use crate::users::session::{Session, Sessions};

/// What those may still use who are locked out.
const FOR_LOCKED: [(&str, &str); 2] = [("POST", "/logout"), ("POST", "/logout/all")];

/// What those may not use who are suspended: the spec's "recommended set of explicitly forbidden
/// actions", and what comes to the same.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-suspension>
const NOT_FOR_SUSPENDED: [(&str, &str); 21] = [
    ("POST", "/createRoom"),
    ("POST", "/join/{}"),
    ("POST", "/knock/{}"),
    ("POST", "/rooms/{}/join"),
    ("POST", "/rooms/{}/invite"),
    ("POST", "/rooms/{}/kick"),
    ("POST", "/rooms/{}/ban"),
    ("POST", "/rooms/{}/unban"),
    ("POST", "/rooms/{}/upgrade"),
    ("PUT", "/rooms/{}/state/{}/{}"),
    ("PUT", "/rooms/{}/send/{}/{}"),
    ("PUT", "/rooms/{}/typing/{}"),
    ("PUT", "/directory/room/{}"),
    ("PUT", "/directory/list/room/{}"),
    ("PUT", "/profile/{}/{}"),
    ("DELETE", "/profile/{}/{}"),
    ("PUT", "/presence/{}/status"),
    ("PUT", "/sendToDevice/{}/{}"),
    ("POST", "/upload"),
    ("POST", "/create"),
    ("PUT", "/upload/{}/{}"),
];

/// Refuses those who may not use `R`.
pub(super) async fn check<R: IncomingRequest>(
    sessions: &Sessions,
    session: &Session,
) -> Result<(), ApiError> {
    let standing = sessions.standing(session.user).await?;
    if standing.locked && !is_one_of::<R>(&FOR_LOCKED) {
        return Err(locked());
    }
    if standing.suspended && is_one_of::<R>(&NOT_FOR_SUSPENDED) {
        return Err(suspended());
    }
    Ok(())
}

/// Refuses those who are suspended, at an endpoint that ruma has no type for.
pub(super) async fn check_suspended(
    sessions: &Sessions,
    session: &Session,
) -> Result<(), ApiError> {
    if sessions.standing(session.user).await?.suspended { Err(suspended()) } else { Ok(()) }
}

/// Refuses those who are locked out.
pub(super) async fn check_locked(sessions: &Sessions, session: &Session) -> Result<(), ApiError> {
    if sessions.standing(session.user).await?.locked { Err(locked()) } else { Ok(()) }
}

fn suspended() -> ApiError {
    ApiError::new(ErrorKind::UserSuspended, "This account has been suspended")
}

fn locked() -> ApiError {
    ApiError::new(ErrorKind::UserLocked, "This account has been locked")
}

fn is_one_of<R: IncomingRequest>(endpoints: &[(&str, &str)]) -> bool {
    const PREFIXES: [&str; 3] = ["/_matrix/client/v3", "/_matrix/media/v3", "/_matrix/media/v1"];
    R::PATH_BUILDER.all_paths().any(|path| {
        let rest = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix));
        rest.map(without_names).is_some_and(|path| {
            endpoints.iter().any(|(method, one)| R::METHOD == *method && path == *one)
        })
    })
}

#[cfg(test)]
mod tests {
    use ruma::api::client as c;

    use super::*;

    #[test]
    fn the_locked_may_log_out_and_the_suspended_read() {
        assert!(is_one_of::<c::session::logout::v3::Request>(&FOR_LOCKED));
        assert!(is_one_of::<c::session::logout_all::v3::Request>(&FOR_LOCKED));
        assert!(!is_one_of::<c::sync::sync_events::v3::Request>(&FOR_LOCKED));
        assert!(is_one_of::<c::message::send_message_event::v3::Request>(&NOT_FOR_SUSPENDED));
        assert!(is_one_of::<c::media::create_content::v3::Request>(&NOT_FOR_SUSPENDED));
        assert!(is_one_of::<c::media::create_mxc_uri::v1::Request>(&NOT_FOR_SUSPENDED));
        assert!(is_one_of::<c::profile::set_profile_field::v3::Request>(&NOT_FOR_SUSPENDED));
        assert!(!is_one_of::<c::redact::redact_event::v3::Request>(&NOT_FOR_SUSPENDED));
        assert!(!is_one_of::<c::sync::sync_events::v3::Request>(&NOT_FOR_SUSPENDED));
        assert!(!is_one_of::<c::membership::leave_room::v3::Request>(&NOT_FOR_SUSPENDED));
    }
}
