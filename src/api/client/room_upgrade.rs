//! Upgrading rooms.

use axum::extract::State;
use ruma::api::client::room::upgrade_room;

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    rooms::Rooms,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/upgrade`
pub(crate) async fn upgrade(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<upgrade_room::v3::Request>,
) -> Result<Ruma<upgrade_room::v3::Response>, ApiError> {
    let upgrade_room::v3::Request { room_id, new_version, additional_creators, .. } = request;
    let replacement = rooms.upgrade(&session, &room_id, &new_version, &additional_creators).await?;
    Ok(Ruma(upgrade_room::v3::Response::new(replacement)))
}
