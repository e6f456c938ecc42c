//! Syncing as it was before `/sync`, and looking into rooms from outside.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Query, State},
};
use ruma::{OwnedEventId, OwnedRoomId, api::client::peeking::get_current_state};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::{error::ApiError, extract::Client, json::ClientJson},
    rooms::Rooms,
    sync::{EventStream, InitialRoom, InitialSync, Sync, token::SyncToken},
};

/// The query of `/events`.
#[derive(Deserialize)]
pub(crate) struct Stream {
    from: Option<String>,
    /// In ms.
    timeout: Option<u64>,
    room_id: Option<OwnedRoomId>,
}

/// The query of `/initialSync`.
#[derive(Deserialize)]
pub(crate) struct Snapshot {
    limit: Option<u64>,
    #[serde(default)]
    archived: bool,
}

/// `GET /_matrix/client/v3/events`
pub(crate) async fn get_events(
    State(sync): State<Arc<Sync>>,
    Query(query): Query<Stream>,
    ClientJson { session, .. }: ClientJson<serde::de::IgnoredAny>,
) -> Result<Json<EventStream>, ApiError> {
    let from = query.from.filter(|from| !from.is_empty());
    let from: Option<SyncToken> =
        from.map(|from| from.parse().map_err(ApiError::invalid_param)).transpose()?;
    let timeout = Duration::from_millis(query.timeout.unwrap_or(0));
    let events = match query.room_id {
        Some(room_id) => sync.events_of(&session, &room_id, from, timeout).await?,
        None => sync.events(&session, from, timeout).await?,
    };
    Ok(Json(events))
}

/// `GET /_matrix/client/v3/events/{eventId}`
pub(crate) async fn get_event(
    State(rooms): State<Rooms>,
    ClientJson { session, arguments, .. }: ClientJson<serde::de::IgnoredAny>,
) -> Result<Json<Box<RawValue>>, ApiError> {
    let event_id = arguments.into_iter().next().unwrap_or_default();
    let event_id = OwnedEventId::try_from(event_id).map_err(ApiError::invalid_param)?;
    let room = rooms.room_of(&event_id).await?;
    let room = room.ok_or_else(|| ApiError::not_found("There is no such event"))?;
    Ok(Json(rooms.event(&session, &room, &event_id).await?))
}

/// `GET /_matrix/client/v3/initialSync`
pub(crate) async fn get_initial_sync(
    State(sync): State<Arc<Sync>>,
    Query(query): Query<Snapshot>,
    ClientJson { session, .. }: ClientJson<serde::de::IgnoredAny>,
) -> Result<Json<InitialSync>, ApiError> {
    Ok(Json(sync.initial(&session, query.limit, query.archived).await?))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/initialSync`
pub(crate) async fn get_room(
    State(sync): State<Arc<Sync>>,
    Query(query): Query<Snapshot>,
    Client { session, request, .. }: Client<get_current_state::v3::Request>,
) -> Result<Json<InitialRoom>, ApiError> {
    Ok(Json(sync.initial_of(&session, &request.room_id, query.limit).await?))
}
