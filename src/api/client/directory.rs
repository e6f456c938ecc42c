//! Finding rooms: the list of public ones, summaries, spaces.

use axum::{Json, extract::State};
use ruma::{
    ServerName, UInt,
    api::client::{
        directory::{get_public_rooms, get_public_rooms_filtered},
        room::get_summary,
        space::get_hierarchy,
    },
    directory::RoomNetwork,
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, MaybeClient, Public},
    },
    rooms::{
        Overviews,
        directory::{List, ListRequest, Summary},
        hierarchy::{Hierarchy, HierarchyRequest},
    },
};

fn limit(limit: Option<UInt>) -> Option<usize> {
    limit.map(|limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX))
}

/// The directories of other servers are not asked.
fn check_server(overviews: &Overviews, server: Option<&ServerName>) -> Result<(), ApiError> {
    match server {
        Some(server) if server != overviews.server_name() => {
            Err(ApiError::not_found(format!("the room directory of {server} cannot be asked")))
        }
        _ => Ok(()),
    }
}

/// `GET /_matrix/client/v3/publicRooms`
pub(crate) async fn get_public_rooms(
    State(overviews): State<Overviews>,
    Public { request, .. }: Public<get_public_rooms::v3::Request>,
) -> Result<Json<List>, ApiError> {
    check_server(&overviews, request.server.as_deref())?;
    let request =
        ListRequest { limit: limit(request.limit), since: request.since, ..ListRequest::default() };
    Ok(Json(overviews.public_rooms(&request).await?))
}

/// `POST /_matrix/client/v3/publicRooms`
pub(crate) async fn get_public_rooms_filtered(
    State(overviews): State<Overviews>,
    Client { request, .. }: Client<get_public_rooms_filtered::v3::Request>,
) -> Result<Json<List>, ApiError> {
    check_server(&overviews, request.server.as_deref())?;
    if let RoomNetwork::ThirdParty(_) = request.room_network {
        // The rooms of this directory are of Matrix's own network.
        return Ok(Json(List::default()));
    }
    let types = request.filter.room_types;
    let types = types.iter().map(|kind| kind.as_str().map(str::to_owned)).collect::<Vec<_>>();
    let request = ListRequest {
        limit: limit(request.limit),
        since: request.since,
        term: request.filter.generic_search_term,
        types: (!types.is_empty()).then_some(types),
    };
    Ok(Json(overviews.public_rooms(&request).await?))
}

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`
pub(crate) async fn get_summary(
    State(overviews): State<Overviews>,
    MaybeClient { session, request, .. }: MaybeClient<get_summary::v1::Request>,
) -> Result<Json<Summary>, ApiError> {
    let id = &request.room_id_or_alias;
    Ok(Json(overviews.summary(session.as_ref(), id, &request.via).await?))
}

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
pub(crate) async fn get_hierarchy(
    State(overviews): State<Overviews>,
    Client { session, request, .. }: Client<get_hierarchy::v1::Request>,
) -> Result<Json<Hierarchy>, ApiError> {
    if request.limit == Some(UInt::MIN) {
        return Err(ApiError::invalid_param("limit must be above 0"));
    }
    let wanted = HierarchyRequest {
        from: request.from.filter(|from| !from.is_empty()),
        limit: limit(request.limit),
        max_depth: request.max_depth.map(u64::from),
        suggested_only: request.suggested_only,
    };
    Ok(Json(overviews.hierarchy(&session, &request.room_id, &wanted).await?))
}
