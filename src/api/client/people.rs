//! Finding people, and the rooms that one shares with them.

use axum::{
    Json,
    extract::{Query, State},
};
use ruma::{
    OwnedRoomId, OwnedUserId, UInt,
    api::client::{membership::get_mutual_rooms, user_directory::search_users},
};
use serde::{Deserialize, Serialize};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
        json::ClientJson,
    },
    rooms::{Overviews, people::People},
};

/// `POST /_matrix/client/v3/user_directory/search`
pub(crate) async fn search_users(
    State(overviews): State<Overviews>,
    Client { session, request, .. }: Client<search_users::v3::Request>,
) -> Result<Json<People>, ApiError> {
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    Ok(Json(overviews.search_people(&session, &request.search_term, limit).await?))
}

/// `GET /_matrix/client/v1/mutual_rooms`
pub(crate) async fn get_mutual_rooms(
    State(overviews): State<Overviews>,
    Client { session, request, .. }: Client<get_mutual_rooms::v1::Request>,
) -> Result<Ruma<get_mutual_rooms::v1::Response>, ApiError> {
    let shared =
        overviews.shared_rooms(&session, &request.user_id, request.from.as_deref()).await?;
    let count = UInt::try_from(shared.count).unwrap_or(UInt::MAX);
    let mut response = get_mutual_rooms::v1::Response::new(count, shared.joined);
    response.next_batch = shared.next;
    Ok(Ruma(response))
}

/// The query of the endpoint before it was in the spec.
#[derive(Debug, Deserialize)]
pub(crate) struct OldQuery {
    user_id: OwnedUserId,
    batch_token: Option<String>,
}

/// Its answer.
#[derive(Debug, Serialize)]
pub(crate) struct OldMutualRooms {
    joined: Vec<OwnedRoomId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch_token: Option<String>,
}

/// `GET /_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms`
pub(crate) async fn get_mutual_rooms_unstable(
    State(overviews): State<Overviews>,
    query: Result<Query<OldQuery>, axum::extract::rejection::QueryRejection>,
    ClientJson { session, .. }: ClientJson<serde::de::IgnoredAny>,
) -> Result<Json<OldMutualRooms>, ApiError> {
    let Query(query) = query.map_err(ApiError::invalid_param)?;
    let shared =
        overviews.shared_rooms(&session, &query.user_id, query.batch_token.as_deref()).await?;
    Ok(Json(OldMutualRooms { joined: shared.joined, next_batch_token: shared.next }))
}
