//! What single users may do.

use axum::{Json, extract::State};
use ruma::OwnedUserId;
use serde_json::{Value, json};

use super::Admin;
use crate::{
    api::error::ApiError,
    rooms::{Rooms, allowances::RateOverride},
    storage::intern::UserNumber,
    users::Accounts,
};

async fn user<T>(accounts: &Accounts, admin: &Admin<T>) -> Result<UserNumber, ApiError> {
    let user_id: OwnedUserId = admin.argument(0)?;
    let found = accounts.find(&user_id).await?;
    Ok(found.ok_or_else(|| ApiError::not_found("User not found"))?.0)
}

/// `GET /_synapse/admin/v1/users/{user_id}/override_ratelimit`
pub(crate) async fn get_rate_override(
    State(rooms): State<Rooms>,
    State(accounts): State<Accounts>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let user = user(&accounts, &admin).await?;
    Ok(Json(match rooms.rate_override(user).await? {
        Some(own) => json!(own),
        None => json!({}),
    }))
}

/// `POST /_synapse/admin/v1/users/{user_id}/override_ratelimit`
pub(crate) async fn set_rate_override(
    State(rooms): State<Rooms>,
    State(accounts): State<Accounts>,
    admin: Admin<RateOverride>,
) -> Result<Json<Value>, ApiError> {
    let user = user(&accounts, &admin).await?;
    rooms.set_rate_override(user, Some(admin.value)).await?;
    Ok(Json(json!(admin.value)))
}

/// `DELETE /_synapse/admin/v1/users/{user_id}/override_ratelimit`
pub(crate) async fn delete_rate_override(
    State(rooms): State<Rooms>,
    State(accounts): State<Accounts>,
    admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let user = user(&accounts, &admin).await?;
    rooms.set_rate_override(user, None).await?;
    Ok(Json(json!({})))
}
