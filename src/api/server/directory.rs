//! This server's list of public rooms, and its spaces, for other servers.

use axum::{Json, extract::State};
use ruma::{
    api::federation::{
        directory::{get_public_rooms, get_public_rooms_filtered},
        space::get_hierarchy,
    },
    directory::RoomNetwork,
};

use crate::{
    api::{client::directory::list_request, error::ApiError, extract::Server},
    rooms::{
        Overviews,
        directory::{List, ListRequest},
        hierarchy::ServedHierarchy,
    },
};

/// `GET /_matrix/federation/v1/publicRooms`
pub(crate) async fn get_public_rooms(
    State(overviews): State<Overviews>,
    Server { request, .. }: Server<get_public_rooms::v1::Request>,
) -> Result<Json<List>, ApiError> {
    list(&overviews, &request.room_network, list_request(request.limit, request.since, None)).await
}

/// `POST /_matrix/federation/v1/publicRooms`
pub(crate) async fn get_public_rooms_filtered(
    State(overviews): State<Overviews>,
    Server { request, .. }: Server<get_public_rooms_filtered::v1::Request>,
) -> Result<Json<List>, ApiError> {
    let wanted = list_request(request.limit, request.since, Some(request.filter));
    list(&overviews, &request.room_network, wanted).await
}

async fn list(
    overviews: &Overviews,
    network: &RoomNetwork,
    wanted: ListRequest,
) -> Result<Json<List>, ApiError> {
    if let RoomNetwork::ThirdParty(_) = network {
        // The rooms of this directory are of Matrix's own network.
        return Ok(Json(List::default()));
    }
    Ok(Json(overviews.public_rooms(&wanted).await?))
}

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
pub(crate) async fn get_hierarchy(
    State(overviews): State<Overviews>,
    Server { origin, request }: Server<get_hierarchy::v1::Request>,
) -> Result<Json<ServedHierarchy>, ApiError> {
    let served = overviews.hierarchy_for(&origin, &request.room_id, request.suggested_only);
    Ok(Json(served.await?))
}
