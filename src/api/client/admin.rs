//! What administrators may know of a user, and say about one.

use std::collections::BTreeMap;

use axum::extract::State;
use ruma::{
    DeviceId, MilliSecondsSinceUnixEpoch, UserId,
    api::client::admin::{
        get_user_info::v3::{ConnectionInfo, DeviceInfo, Request, Response, SessionInfo},
        is_user_locked, is_user_suspended, lock_user, suspend_user,
    },
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    users::{Account, Accounts},
};

/// `GET /_matrix/client/v3/admin/whois/{userId}`
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3adminwhoisuserid>
pub(crate) async fn get_user_info(
    State(accounts): State<Accounts>,
    Client { session, request, .. }: Client<Request>,
) -> Result<Ruma<Response>, ApiError> {
    // Spec: "may be called by any user on the homeserver for themself, and by admins for others".
    if request.user_id != session.user_id && !accounts.is_admin(session.user).await? {
        return Err(ApiError::forbidden("Only administrators may ask about others"));
    }
    let found = accounts.find(&request.user_id).await?;
    let (user, _) = found.ok_or_else(|| ApiError::not_found("Unknown user"))?;
    let devices = accounts.sessions().devices(user).await?;
    let ids: Vec<&DeviceId> = devices.iter().map(|(id, _)| &**id).collect();
    let activities = accounts.sessions().activities().of(user, &ids).await?;
    let mut described = BTreeMap::new();
    for ((id, _), activity) in devices.iter().zip(activities) {
        let mut info = SessionInfo::new();
        if let Some(activity) = activity {
            let mut connection = ConnectionInfo::new();
            connection.ip = activity.address.map(|address| address.to_string());
            connection.last_seen = activity.at_ms.try_into().ok().map(MilliSecondsSinceUnixEpoch);
            connection.user_agent = activity.user_agent;
            info.connections = vec![connection];
        }
        let mut device = DeviceInfo::new();
        device.sessions = vec![info];
        described.insert(id.to_string(), device);
    }
    let mut response = Response::new();
    response.user_id = Some(request.user_id);
    response.devices = described;
    Ok(Ruma(response))
}

/// `GET /_matrix/client/v1/admin/lock/{userId}`
pub(crate) async fn is_user_locked(
    State(accounts): State<Accounts>,
    Client { session, request, .. }: Client<is_user_locked::v1::Request>,
) -> Result<Ruma<is_user_locked::v1::Response>, ApiError> {
    require_own(&accounts, &request.user_id)?;
    let standing = accounts.standing_for(session.user, &request.user_id).await?;
    Ok(Ruma(is_user_locked::v1::Response::new(standing.locked)))
}

/// `PUT /_matrix/client/v1/admin/lock/{userId}`
pub(crate) async fn lock_user(
    State(accounts): State<Accounts>,
    Client { session, request, .. }: Client<lock_user::v1::Request>,
) -> Result<Ruma<lock_user::v1::Response>, ApiError> {
    require_own(&accounts, &request.user_id)?;
    let lock = |account: &mut Account| account.locked = request.locked;
    let standing = accounts.set_standing(session.user, &request.user_id, lock).await?;
    Ok(Ruma(lock_user::v1::Response::new(standing.locked)))
}

/// `GET /_matrix/client/v1/admin/suspend/{userId}`
pub(crate) async fn is_user_suspended(
    State(accounts): State<Accounts>,
    Client { session, request, .. }: Client<is_user_suspended::v1::Request>,
) -> Result<Ruma<is_user_suspended::v1::Response>, ApiError> {
    require_own(&accounts, &request.user_id)?;
    let standing = accounts.standing_for(session.user, &request.user_id).await?;
    Ok(Ruma(is_user_suspended::v1::Response::new(standing.suspended)))
}

/// `PUT /_matrix/client/v1/admin/suspend/{userId}`
pub(crate) async fn suspend_user(
    State(accounts): State<Accounts>,
    Client { session, request, .. }: Client<suspend_user::v1::Request>,
) -> Result<Ruma<suspend_user::v1::Response>, ApiError> {
    require_own(&accounts, &request.user_id)?;
    let suspend = |account: &mut Account| account.suspended = request.suspended;
    let standing = accounts.set_standing(session.user, &request.user_id, suspend).await?;
    Ok(Ruma(suspend_user::v1::Response::new(standing.suspended)))
}

/// Spec: "The user ID does not belong to the local server."
fn require_own(accounts: &Accounts, user: &UserId) -> Result<(), ApiError> {
    if user.server_name() == accounts.server_name() {
        return Ok(());
    }
    Err(ApiError::invalid_param("The user is not on this server"))
}
