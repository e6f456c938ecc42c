//! Finding rooms: the list of public ones, summaries, spaces.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use ruma::{
    RoomAliasId, RoomId, RoomOrAliasId, ServerName, UInt,
    api::{
        client::{
            directory::{get_public_rooms, get_public_rooms_filtered},
            room::get_summary,
            space::get_hierarchy,
        },
        federation,
    },
    directory::{Filter, RoomNetwork},
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, MaybeClient, Public, Ruma, Token},
    },
    appservice::Appservices,
    federation::{Federation, exchange::Exchange},
    rooms::{
        Overviews, RoomError,
        directory::{ListRequest, Listing, Summary},
        hierarchy::{Hierarchy, HierarchyRequest},
    },
    users::session::{AuthError, Sessions},
};

fn limit(limit: Option<UInt>) -> Option<usize> {
    limit.map(|limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX))
}

/// What a request asks this server's directory for.
pub(crate) fn list_request(
    most: Option<UInt>,
    since: Option<String>,
    filter: Option<Filter>,
) -> ListRequest {
    let filter = filter.unwrap_or_default();
    let types = filter.room_types.iter().map(|kind| kind.as_str().map(str::to_owned));
    let types: Vec<Option<String>> = types.collect();
    ListRequest {
        limit: limit(most),
        since,
        term: filter.generic_search_term,
        types: (!types.is_empty()).then_some(types),
        listing: Listing::Public,
    }
}

/// `GET /_matrix/client/v3/publicRooms`
///
/// Whoever wants another server asked must be known here.
pub(crate) async fn get_public_rooms(
    State(overviews): State<Overviews>,
    State(federation): State<Federation>,
    State(sessions): State<Sessions>,
    token: Token,
    Public { request, caller }: Public<get_public_rooms::v3::Request>,
) -> Result<Response, ApiError> {
    let get_public_rooms::v3::Request { limit, since, server, .. } = request;
    if let Some(server) = server.filter(|server| server != overviews.server_name()) {
        sessions.authenticate(&token.0.ok_or(AuthError::Missing)?, &caller).await?;
        let mut wanted = federation::directory::get_public_rooms_filtered::v1::Request::new();
        (wanted.limit, wanted.since) = (limit, since);
        return elsewhere(&federation, &server, wanted).await;
    }
    Ok(Json(overviews.public_rooms(&list_request(limit, since, None)).await?).into_response())
}

/// `POST /_matrix/client/v3/publicRooms`
pub(crate) async fn get_public_rooms_filtered(
    State(overviews): State<Overviews>,
    State(federation): State<Federation>,
    State(appservices): State<Appservices>,
    Client { request, .. }: Client<get_public_rooms_filtered::v3::Request>,
) -> Result<Response, ApiError> {
    let get_public_rooms_filtered::v3::Request {
        limit, since, server, filter, room_network, ..
    } = request;
    if let Some(server) = server.filter(|server| server != overviews.server_name()) {
        let mut wanted = federation::directory::get_public_rooms_filtered::v1::Request::new();
        (wanted.limit, wanted.since) = (limit, since);
        (wanted.filter, wanted.room_network) = (filter, room_network);
        return elsewhere(&federation, &server, wanted).await;
    }
    let listing = match &room_network {
        RoomNetwork::ThirdParty(instance) => {
            Listing::Only(appservices.listed(Some(instance)).await?)
        }
        RoomNetwork::All => Listing::With(appservices.listed(None).await?),
        _ => Listing::Public,
    };
    let wanted = ListRequest { listing, ..list_request(limit, since, Some(filter)) };
    Ok(Json(overviews.public_rooms(&wanted).await?).into_response())
}

/// A page of another server's directory.
async fn elsewhere(
    federation: &Federation,
    server: &ServerName,
    request: federation::directory::get_public_rooms_filtered::v1::Request,
) -> Result<Response, ApiError> {
    let answer = federation.public_rooms(server, request).await?;
    let mut response = get_public_rooms_filtered::v3::Response::new();
    response.chunk = answer.chunk;
    response.next_batch = answer.next_batch;
    response.prev_batch = answer.prev_batch;
    response.total_room_count_estimate = answer.total_room_count_estimate;
    Ok(Ruma(response).into_response())
}

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`
///
/// Other servers are asked for whoever is known here.
pub(crate) async fn get_summary(
    State(overviews): State<Overviews>,
    State(exchange): State<Exchange>,
    MaybeClient { session, request, .. }: MaybeClient<get_summary::v1::Request>,
) -> Result<Json<Summary>, ApiError> {
    let id = &request.room_id_or_alias;
    let here = overviews.summary(session.as_ref(), id, &request.via).await;
    let (Err(RoomError::RemoteRoom { .. }), Some(session)) = (&here, &session) else {
        return Ok(Json(here?));
    };
    let (room_id, via) = match <&RoomAliasId>::try_from(&**id) {
        Ok(alias) => exchange.federation().resolve_alias(alias).await?,
        Err(_) => {
            (<&RoomId>::try_from(&**id).map_err(ApiError::invalid_param)?.to_owned(), request.via)
        }
    };
    // What an alias of another server leads to may be here.
    let here: &RoomOrAliasId = (&*room_id).into();
    match overviews.summary(Some(session), here, &via).await {
        Err(RoomError::RemoteRoom { .. } | RoomError::UnknownRoom { .. }) => {}
        found => return Ok(Json(found?)),
    }
    let asking = exchange.elsewhere();
    Ok(Json(overviews.summary_elsewhere(session, &room_id, &via, &asking).await?))
}

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
pub(crate) async fn get_hierarchy(
    State(overviews): State<Overviews>,
    State(exchange): State<Exchange>,
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
    let asking = exchange.elsewhere();
    Ok(Json(overviews.hierarchy(&session, &request.room_id, &wanted, &asking).await?))
}
