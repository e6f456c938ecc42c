//! Who is typing.

use axum::extract::State;
use ruma::api::client::typing::create_typing_event::v3::{Request, Response, Typing as Wanted};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    federation::exchange::Exchange,
    rooms::{Rooms, typing::Typing},
};

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
pub(crate) async fn set_typing(
    State(rooms): State<Rooms>,
    State(typing): State<Typing>,
    State(exchange): State<Exchange>,
    Client { session, request, .. }: Client<Request>,
) -> Result<Ruma<Response>, ApiError> {
    if request.user_id != session.user_id {
        return Err(ApiError::forbidden("you can't type for somebody else"));
    }
    let timeout = match request.state {
        Wanted::Yes(info) => Some(info.timeout),
        Wanted::No => None,
    };
    let room = rooms.joined(&session, &request.room_id).await?;
    typing.set(room.number, session.user, timeout, room.local_members()).await?;
    exchange.send_typing(&room, &session.user_id, timeout.is_some());
    Ok(Ruma(Response::new()))
}
