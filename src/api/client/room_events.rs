//! Sending events to rooms and reading single ones.

use axum::{
    Json,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use ruma::{
    CanonicalJsonObject, RoomId,
    api::client::{
        context::get_context,
        message::send_message_event,
        redact::redact_event,
        room::get_room_event,
        state::{get_state_event_for_key, get_state_events, send_state_event},
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    rooms::{
        Rooms,
        delayed::{DelayedEvents, NewDelayed},
    },
    users::session::Session,
};

use super::delayed_events::{Scheduled, delay_in, deployed};

/// A content that a client sent, as canonical JSON.
pub(super) fn content(json: &RawValue) -> Result<CanonicalJsonObject, ApiError> {
    Ok(crate::rooms::content(json.get())?)
}

/// Answers a request whose event is to be sent later.
async fn schedule(
    delayed: &DelayedEvents,
    session: &Session,
    room_id: &RoomId,
    new: NewDelayed,
) -> Result<Response, ApiError> {
    let delay_id = delayed.schedule(session, room_id, new).await.map_err(deployed)?;
    Ok(Json(Scheduled { delay_id }).into_response())
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}`
pub(crate) async fn send_message(
    State(rooms): State<Rooms>,
    State(delayed): State<DelayedEvents>,
    RawQuery(query): RawQuery,
    Client { session, request, .. }: Client<send_message_event::v3::Request>,
) -> Result<Response, ApiError> {
    let content = content(request.body.json())?;
    let event_type = request.event_type.to_string();
    if let Some(delay_ms) = delay_in(query.as_deref())? {
        let transaction = Some(request.txn_id);
        let new = NewDelayed { event_type, state_key: None, content, delay_ms, transaction };
        return schedule(&delayed, &session, &request.room_id, new).await;
    }
    let event_id =
        rooms.send(&session, &request.room_id, &event_type, &request.txn_id, content).await?;
    Ok(Ruma(send_message_event::v3::Response::new(event_id)).into_response())
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`
pub(crate) async fn redact(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<redact_event::v3::Request>,
) -> Result<Ruma<redact_event::v3::Response>, ApiError> {
    let redact_event::v3::Request { room_id, event_id, txn_id, reason, .. } = request;
    let event_id = rooms.redact(&session, &room_id, &event_id, &txn_id, reason.as_deref()).await?;
    Ok(Ruma(redact_event::v3::Response::new(event_id)))
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn send_state(
    State(rooms): State<Rooms>,
    State(delayed): State<DelayedEvents>,
    RawQuery(query): RawQuery,
    Client { session, request, .. }: Client<send_state_event::v3::Request>,
) -> Result<Response, ApiError> {
    let content = content(request.body.json())?;
    let event_type = request.event_type.to_string();
    if let Some(delay_ms) = delay_in(query.as_deref())? {
        let state_key = Some(request.state_key);
        let new = NewDelayed { event_type, state_key, content, delay_ms, transaction: None };
        return schedule(&delayed, &session, &request.room_id, new).await;
    }
    let event_id = rooms
        .send_state(&session, &request.room_id, &event_type, &request.state_key, content)
        .await?;
    Ok(Ruma(send_state_event::v3::Response::new(event_id)).into_response())
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state`
pub(crate) async fn get_state(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<get_state_events::v3::Request>,
) -> Result<Ruma<get_state_events::v3::Response>, ApiError> {
    let state = rooms.readable_state(&session, &request.room_id).await?;
    Ok(Ruma(get_state_events::v3::Response::new(state.into_iter().map(Raw::from_json).collect())))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn get_state_event(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<get_state_event_for_key::v3::Request>,
) -> Result<Ruma<get_state_event_for_key::v3::Response>, ApiError> {
    let whole = match request.format {
        get_state_event_for_key::v3::StateEventFormat::Content => false,
        get_state_event_for_key::v3::StateEventFormat::Event => true,
        _ => return Err(ApiError::invalid_param("format must be content or event")),
    };
    let event_type = request.event_type.to_string();
    let json = rooms
        .readable_state_event(&session, &request.room_id, &event_type, &request.state_key, whole)
        .await?;
    Ok(Ruma(get_state_event_for_key::v3::Response::new(json)))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}`
pub(crate) async fn get_event(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<get_room_event::v3::Request>,
) -> Result<Ruma<get_room_event::v3::Response>, ApiError> {
    let event = rooms.event(&session, &request.room_id, &request.event_id).await?;
    Ok(Ruma(get_room_event::v3::Response::new(Raw::from_json(event))))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}`
pub(crate) async fn get_event_context(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<get_context::v3::Request>,
) -> Result<Ruma<get_context::v3::Response>, ApiError> {
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let context = rooms
        .context(&session, &request.room_id, &request.event_id, limit, &request.filter.into())
        .await?;
    let mut response = get_context::v3::Response::new();
    response.start = Some(context.start.to_string());
    response.end = Some(context.end.to_string());
    response.event = Some(Raw::from_json(context.event));
    response.events_before = context.before.into_iter().map(Raw::from_json).collect();
    response.events_after = context.after.into_iter().map(Raw::from_json).collect();
    response.state = context.state.into_iter().map(Raw::from_json).collect();
    Ok(Ruma(response))
}
