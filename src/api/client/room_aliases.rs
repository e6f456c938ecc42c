//! Room aliases, and whether the room directory lists a room.

use axum::extract::State;
use ruma::api::client::{
    alias::{create_alias, delete_alias, get_alias},
    directory::{get_room_visibility, set_room_visibility},
    room::{Visibility, aliases},
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Public, Ruma},
    },
    federation::Federation,
    rooms::Rooms,
};

/// `PUT /_matrix/client/v3/directory/room/{roomAlias}`
pub(crate) async fn put_alias(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<create_alias::v3::Request>,
) -> Result<Ruma<create_alias::v3::Response>, ApiError> {
    rooms.create_alias(&session, &request.room_alias, &request.room_id).await?;
    Ok(Ruma(create_alias::v3::Response::new()))
}

/// `GET /_matrix/client/v3/directory/room/{roomAlias}`
pub(crate) async fn resolve_alias(
    State(rooms): State<Rooms>,
    State(federation): State<Federation>,
    Public { request, .. }: Public<get_alias::v3::Request>,
) -> Result<Ruma<get_alias::v3::Response>, ApiError> {
    let alias = &request.room_alias;
    if alias.server_name() != rooms.server_name() {
        let (room_id, servers) = federation.resolve_alias(alias).await?;
        return Ok(Ruma(get_alias::v3::Response::new(room_id, servers)));
    }
    let room_id = rooms.resolve(alias).await?;
    let servers = vec![rooms.server_name().to_owned()];
    Ok(Ruma(get_alias::v3::Response::new(room_id, servers)))
}

/// `DELETE /_matrix/client/v3/directory/room/{roomAlias}`
pub(crate) async fn remove_alias(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<delete_alias::v3::Request>,
) -> Result<Ruma<delete_alias::v3::Response>, ApiError> {
    rooms.delete_alias(&session, &request.room_alias).await?;
    Ok(Ruma(delete_alias::v3::Response::new()))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/aliases`
pub(crate) async fn list_aliases(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<aliases::v3::Request>,
) -> Result<Ruma<aliases::v3::Response>, ApiError> {
    let aliases = rooms.aliases(&session, &request.room_id).await?;
    Ok(Ruma(aliases::v3::Response::new(aliases)))
}

/// `GET /_matrix/client/v3/directory/list/room/{roomId}`
pub(crate) async fn get_visibility(
    State(rooms): State<Rooms>,
    Public { request, .. }: Public<get_room_visibility::v3::Request>,
) -> Result<Ruma<get_room_visibility::v3::Response>, ApiError> {
    let public = rooms.is_public(&request.room_id).await?;
    let visibility = if public { Visibility::Public } else { Visibility::Private };
    Ok(Ruma(get_room_visibility::v3::Response::new(visibility)))
}

/// `PUT /_matrix/client/v3/directory/list/room/{roomId}`
pub(crate) async fn set_visibility(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<set_room_visibility::v3::Request>,
) -> Result<Ruma<set_room_visibility::v3::Response>, ApiError> {
    let public = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(ApiError::invalid_param("visibility must be public or private")),
    };
    rooms.set_public(&session, &request.room_id, public).await?;
    Ok(Ruma(set_room_visibility::v3::Response::new()))
}
