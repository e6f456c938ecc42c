//! Joining and leaving rooms, asking others in, throwing them out.

use axum::extract::State;
use ruma::api::client::{
    knock::knock_room,
    membership::{
        ban_user, forget_room, invite_user, join_room_by_id, join_room_by_id_or_alias,
        joined_rooms, kick_user, leave_room, unban_user,
    },
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    rooms::{Change, Rooms},
};

/// `POST /_matrix/client/v3/rooms/{roomId}/join`
pub(crate) async fn join_by_id(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<join_room_by_id::v3::Request>,
) -> Result<Ruma<join_room_by_id::v3::Response>, ApiError> {
    let me = &session.user_id;
    let via: &[ruma::OwnedServerName] = &[];
    let room_id = rooms.find(<&ruma::RoomOrAliasId>::from(&*request.room_id), via).await?;
    let reason = request.reason.as_deref();
    rooms.change_membership(&session, &room_id, me, Change::Join, reason).await?;
    Ok(Ruma(join_room_by_id::v3::Response::new(room_id)))
}

/// `POST /_matrix/client/v3/join/{roomIdOrAlias}`
pub(crate) async fn join_by_id_or_alias(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<join_room_by_id_or_alias::v3::Request>,
) -> Result<Ruma<join_room_by_id_or_alias::v3::Response>, ApiError> {
    let me = &session.user_id;
    let room_id = rooms.find(&request.room_id_or_alias, &request.via).await?;
    let reason = request.reason.as_deref();
    rooms.change_membership(&session, &room_id, me, Change::Join, reason).await?;
    Ok(Ruma(join_room_by_id_or_alias::v3::Response::new(room_id)))
}

/// `POST /_matrix/client/v3/knock/{roomIdOrAlias}`
pub(crate) async fn knock(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<knock_room::v3::Request>,
) -> Result<Ruma<knock_room::v3::Response>, ApiError> {
    let me = &session.user_id;
    let room_id = rooms.find(&request.room_id_or_alias, &request.via).await?;
    let reason = request.reason.as_deref();
    rooms.change_membership(&session, &room_id, me, Change::Knock, reason).await?;
    Ok(Ruma(knock_room::v3::Response::new(room_id)))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/leave`
pub(crate) async fn leave(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<leave_room::v3::Request>,
) -> Result<Ruma<leave_room::v3::Response>, ApiError> {
    let me = &session.user_id;
    let reason = request.reason.as_deref();
    rooms.change_membership(&session, &request.room_id, me, Change::Leave, reason).await?;
    Ok(Ruma(leave_room::v3::Response::new()))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/invite`
pub(crate) async fn invite(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<invite_user::v3::Request>,
) -> Result<Ruma<invite_user::v3::Response>, ApiError> {
    let invite_user::v3::InvitationRecipient::UserId(invited) = request.recipient else {
        return Err(ApiError::invalid_param(
            "This server has no identity server to invite through",
        ));
    };
    let reason = invited.reason.as_deref();
    rooms
        .change_membership(&session, &request.room_id, &invited.user_id, Change::Invite, reason)
        .await?;
    Ok(Ruma(invite_user::v3::Response::new()))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/kick`
pub(crate) async fn kick(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<kick_user::v3::Request>,
) -> Result<Ruma<kick_user::v3::Response>, ApiError> {
    let reason = request.reason.as_deref();
    rooms
        .change_membership(&session, &request.room_id, &request.user_id, Change::Kick, reason)
        .await?;
    Ok(Ruma(kick_user::v3::Response::new()))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/ban`
pub(crate) async fn ban(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<ban_user::v3::Request>,
) -> Result<Ruma<ban_user::v3::Response>, ApiError> {
    let reason = request.reason.as_deref();
    rooms
        .change_membership(&session, &request.room_id, &request.user_id, Change::Ban, reason)
        .await?;
    Ok(Ruma(ban_user::v3::Response::new()))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/unban`
pub(crate) async fn unban(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<unban_user::v3::Request>,
) -> Result<Ruma<unban_user::v3::Response>, ApiError> {
    let reason = request.reason.as_deref();
    rooms
        .change_membership(&session, &request.room_id, &request.user_id, Change::Unban, reason)
        .await?;
    Ok(Ruma(unban_user::v3::Response::new()))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/forget`
pub(crate) async fn forget(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<forget_room::v3::Request>,
) -> Result<Ruma<forget_room::v3::Response>, ApiError> {
    rooms.forget(&session, &request.room_id).await?;
    Ok(Ruma(forget_room::v3::Response::new()))
}

/// `GET /_matrix/client/v3/joined_rooms`
pub(crate) async fn get_joined_rooms(
    State(rooms): State<Rooms>,
    Client { session, .. }: Client<joined_rooms::v3::Request>,
) -> Result<Ruma<joined_rooms::v3::Response>, ApiError> {
    let joined = rooms.joined_room_ids(session.user).await?;
    Ok(Ruma(joined_rooms::v3::Response::new(joined)))
}
