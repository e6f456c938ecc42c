//! Questions about this server's users and aliases.

use axum::extract::State;
use ruma::{
    OwnedServerName,
    api::{
        error::ErrorKind,
        federation::query::{
            get_custom_information, get_profile_information, get_room_information,
        },
    },
    profile::ProfileFieldName,
};

use crate::{
    api::{
        client::profile::local_profile,
        error::ApiError,
        extract::{Ruma, Server},
    },
    rooms::Rooms,
    users::{Accounts, Profiles},
};

/// How many servers in a room are named besides this one.
const MAX_SERVERS: usize = 50;

/// `GET /_matrix/federation/v1/query/profile`
pub(crate) async fn get_profile_information(
    State(accounts): State<Accounts>,
    State(profiles): State<Profiles>,
    Server { origin, request }: Server<get_profile_information::v1::Request>,
) -> Result<Ruma<get_profile_information::v1::Response>, ApiError> {
    tracing::debug!(%origin, user = %request.user_id, "asked for a profile");
    let profile = local_profile(&accounts, &profiles, &request.user_id).await?;
    let wanted = |key: &str| {
        request.field.as_ref().map(ProfileFieldName::as_str).is_none_or(|field| field == key)
    };
    let mut response = get_profile_information::v1::Response::new();
    response.extend(profile.into_fields().into_iter().filter(|(key, _)| wanted(key)));
    Ok(Ruma(response))
}

/// `GET /_matrix/federation/v1/query/directory`
pub(crate) async fn get_room_information(
    State(rooms): State<Rooms>,
    Server { request, .. }: Server<get_room_information::v1::Request>,
) -> Result<Ruma<get_room_information::v1::Response>, ApiError> {
    let room_id = rooms.resolve(&request.room_alias).await?;
    let room = rooms.room(&room_id).await?;
    // This one first: it knows the room for sure.
    let mut servers: Vec<OwnedServerName> = vec![rooms.server_name().to_owned()];
    servers.extend(rooms.other_servers(&room).into_iter().take(MAX_SERVERS));
    Ok(Ruma(get_room_information::v1::Response::new(room_id, servers)))
}

/// `GET /_matrix/federation/v1/query/{queryType}`
pub(crate) async fn get_custom_information(
    Server { request, .. }: Server<get_custom_information::v1::Request>,
) -> ApiError {
    let why = format!("There is no query {:?}", request.query_type);
    ApiError::new(ErrorKind::Unrecognized, why)
}
