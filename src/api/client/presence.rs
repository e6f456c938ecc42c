//! Who is online.

use std::time::Duration;

use axum::extract::State;
use ruma::api::client::presence::{get_presence, set_presence};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    users::presence::Presence,
};

/// `PUT /_matrix/client/v3/presence/{userId}/status`
pub(crate) async fn set_presence(
    State(presence): State<Presence>,
    Client { session, request, .. }: Client<set_presence::v3::Request>,
) -> Result<Ruma<set_presence::v3::Response>, ApiError> {
    presence.set(&session, &request.user_id, &request.presence, request.status_msg)?;
    Ok(Ruma(set_presence::v3::Response::new()))
}

/// `GET /_matrix/client/v3/presence/{userId}/status`
pub(crate) async fn get_presence(
    State(presence): State<Presence>,
    Client { session, request, .. }: Client<get_presence::v3::Request>,
) -> Result<Ruma<get_presence::v3::Response>, ApiError> {
    let (status, ago) = presence.of(&session, &request.user_id).await?;
    let mut response = get_presence::v3::Response::new(status.level.state());
    response.currently_active = Some(status.currently_active);
    response.last_active_ago = ago.map(Duration::from_millis);
    response.status_msg = status.message;
    Ok(Ruma(response))
}
