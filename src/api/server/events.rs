//! Reading rooms: events, what came before them, the state at them.
//!
//! Only servers with somebody in the room are answered, and what its history visibility hides from
//! them is redacted.

use axum::extract::State;
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{
            get_event, get_event_by_timestamp, get_missing_events, get_room_state,
            get_room_state_ids,
        },
    },
    canonical_json::redact,
};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    api::{
        error::ApiError,
        extract::{Ruma, Server},
    },
    clock::Clock,
    rooms::{
        Room, RoomError, Rooms,
        record::{EventNumber, EventRecord},
    },
};

/// `GET /_matrix/federation/v1/event/{eventId}`
pub(crate) async fn get_event(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    Server { origin, request, .. }: Server<get_event::v1::Request>,
) -> Result<Ruma<get_event::v1::Response>, ApiError> {
    let unknown = || RoomError::UnknownEvent { event: request.event_id.clone() };
    let room_id = rooms.room_of(&request.event_id).await?.ok_or_else(unknown)?;
    // That a room is here is nobody's business who is not in it.
    let room = rooms.room_with(&room_id, &origin).await.map_err(|error| match error {
        RoomError::Forbidden { .. } | RoomError::UnknownRoom { .. } => unknown(),
        error => error,
    })?;
    let event = rooms.pdu(&room, &request.event_id).await?.ok_or_else(unknown)?;
    let pdu = shown(&rooms, &room, &origin, vec![event]).await?.pop().ok_or_else(unknown)?;
    let us = rooms.server_name().to_owned();
    Ok(Ruma(get_event::v1::Response::new(us, clock.now(), pdu)))
}

/// `GET /_matrix/federation/v1/state/{roomId}`
pub(crate) async fn get_state(
    State(rooms): State<Rooms>,
    Server { origin, request, .. }: Server<get_room_state::v1::Request>,
) -> Result<Ruma<get_room_state::v1::Response>, ApiError> {
    let room = rooms.room_with(&request.room_id, &origin).await?;
    rooms.require_whole(&room).map_err(ApiError::not_found)?;
    let found = rooms.state_ids_before(&room, &request.event_id).await?;
    let auth_chain = rooms.pdus(&room, &found.auth_chain).await?;
    let state = rooms.pdus(&room, &found.state).await?;
    Ok(Ruma(get_room_state::v1::Response::new(auth_chain, state)))
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
pub(crate) async fn get_state_ids(
    State(rooms): State<Rooms>,
    Server { origin, request, .. }: Server<get_room_state_ids::v1::Request>,
) -> Result<Ruma<get_room_state_ids::v1::Response>, ApiError> {
    let room = rooms.room_with(&request.room_id, &origin).await?;
    rooms.require_whole(&room).map_err(ApiError::not_found)?;
    let found = rooms.state_ids_before(&room, &request.event_id).await?;
    Ok(Ruma(get_room_state_ids::v1::Response::new(found.auth_chain, found.state)))
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
pub(crate) async fn get_event_auth(
    State(rooms): State<Rooms>,
    Server { origin, request, .. }: Server<get_event_authorization::v1::Request>,
) -> Result<Ruma<get_event_authorization::v1::Response>, ApiError> {
    let room = rooms.room_with(&request.room_id, &origin).await?;
    let ids = rooms.auth_chain_of(&room, &request.event_id).await?;
    let auth_chain = rooms.pdus(&room, &ids).await?;
    Ok(Ruma(get_event_authorization::v1::Response::new(auth_chain)))
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
pub(crate) async fn get_backfill(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    Server { origin, request, .. }: Server<get_backfill::v1::Request>,
) -> Result<Ruma<get_backfill::v1::Response>, ApiError> {
    let room = rooms.room_with(&request.room_id, &origin).await?;
    let limit = limit_of(request.limit);
    let from = request.v.get(..request.v.len().min(20)).unwrap_or_default();
    let found = rooms.backfill(&room, from, limit).await?;
    let pdus = shown(&rooms, &room, &origin, found).await?;
    let us = rooms.server_name().to_owned();
    Ok(Ruma(get_backfill::v1::Response::new(us, clock.now(), pdus)))
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
pub(crate) async fn get_missing_events(
    State(rooms): State<Rooms>,
    Server { origin, request, .. }: Server<get_missing_events::v1::Request>,
) -> Result<Ruma<get_missing_events::v1::Response>, ApiError> {
    let room = rooms.room_with(&request.room_id, &origin).await?;
    let get_missing_events::v1::Request { latest_events, earliest_events, .. } = request;
    let latest = latest_events.get(..latest_events.len().min(20)).unwrap_or_default();
    let earliest = earliest_events.get(..earliest_events.len().min(100)).unwrap_or_default();
    let (limit, depth) = (limit_of(request.limit), u64::from(request.min_depth));
    let found = rooms.missing_events(&room, latest, earliest, limit, depth).await?;
    let mut response = get_missing_events::v1::Response::default();
    response.events = shown(&rooms, &room, &origin, found).await?;
    Ok(Ruma(response))
}

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
pub(crate) async fn get_event_by_timestamp(
    State(rooms): State<Rooms>,
    Server { origin, request, .. }: Server<get_event_by_timestamp::v1::Request>,
) -> Result<Ruma<get_event_by_timestamp::v1::Response>, ApiError> {
    let room = rooms.room_with(&request.room_id, &origin).await?;
    let ts_ms = u64::from(request.ts.get());
    let (event_id, ts_ms) = rooms.event_at_for(&origin, &room, ts_ms, request.dir).await?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::try_from(ts_ms).unwrap_or(UInt::MAX));
    Ok(Ruma(get_event_by_timestamp::v1::Response::new(event_id, ts)))
}

fn limit_of(limit: ruma::UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX).clamp(1, 100)
}

/// Events as `server` may see them.
async fn shown(
    rooms: &Rooms,
    room: &Room,
    server: &ruma::ServerName,
    events: Vec<(EventNumber, EventRecord)>,
) -> Result<Vec<Box<RawValue>>, ApiError> {
    let visible = rooms.server_may_see(room, server, &events).await?;
    let corrupt = |_| RoomError::Corrupt { what: "an event" };
    let mut pdus = Vec::with_capacity(events.len());
    for ((_, event), visible) in events.into_iter().zip(visible) {
        let json: String = event.json.into();
        if visible {
            pdus.push(RawValue::from_string(json).map_err(corrupt)?);
            continue;
        }
        let object: CanonicalJsonObject = serde_json::from_str(&json).map_err(corrupt)?;
        let redacted = redact(object, &room.rules.redaction, None)
            .map_err(|_| RoomError::Corrupt { what: "an event" })?;
        pdus.push(to_raw_value(&redacted).map_err(corrupt)?);
    }
    Ok(pdus)
}
