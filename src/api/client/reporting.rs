//! Reporting events, rooms and users to those who run the server.

use axum::extract::State;
use ruma::api::client::{
    reporting::report_user,
    room::{report_content, report_room},
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    rooms::Rooms,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}`
pub(crate) async fn report_content(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<report_content::v3::Request>,
) -> Result<Ruma<report_content::v3::Response>, ApiError> {
    let reason = request.reason.as_deref();
    rooms.report_event(&session, &request.room_id, &request.event_id, reason).await?;
    Ok(Ruma(report_content::v3::Response::new()))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/report`
pub(crate) async fn report_room(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<report_room::v3::Request>,
) -> Result<Ruma<report_room::v3::Response>, ApiError> {
    rooms.report_room(&session, &request.room_id, &request.reason).await?;
    Ok(Ruma(report_room::v3::Response::new()))
}

/// `POST /_matrix/client/v3/users/{userId}/report`
pub(crate) async fn report_user(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<report_user::v3::Request>,
) -> Result<Ruma<report_user::v3::Response>, ApiError> {
    rooms.report_user(&session, &request.user_id, &request.reason).await?;
    Ok(Ruma(report_user::v3::Response::new()))
}
