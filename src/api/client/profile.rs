//! Profiles.

use std::collections::BTreeMap;

use axum::extract::State;
use ruma::{
    OwnedUserId, UserId,
    api::{
        client::profile::{delete_profile_field, get_profile, get_profile_field},
        error::ErrorKind,
    },
    profile::ProfileFieldName,
};
use serde_json::Value as JsonValue;

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Public, Ruma},
        json::ClientJson,
        standing,
    },
    federation::Federation,
    rooms::Rooms,
    users::{
        Accounts, Profile, Profiles,
        session::{Session, Sessions},
    },
};

/// The profile of a user of this server.
pub(crate) async fn local_profile(
    accounts: &Accounts,
    profiles: &Profiles,
    user_id: &UserId,
) -> Result<Profile, ApiError> {
    let found = accounts.find_or_ask(user_id).await?;
    let (user, account) = found.ok_or_else(|| ApiError::not_found("Unknown user"))?;
    if account.deactivated {
        return Err(ApiError::not_found("Unknown user"));
    }
    Ok(profiles.get(user).await?)
}

/// The profile of any user; of one on another server that server is asked, for `field` alone if one
/// is named.
async fn profile_of(
    federation: &Federation,
    accounts: &Accounts,
    profiles: &Profiles,
    user_id: &UserId,
    field: Option<ProfileFieldName>,
) -> Result<Profile, ApiError> {
    if user_id.server_name() == federation.server_name() {
        return local_profile(accounts, profiles, user_id).await;
    }
    Ok(federation.profile(user_id, field).await?)
}

/// `GET /_matrix/client/v3/profile/{userId}`
pub(crate) async fn get_profile(
    State(accounts): State<Accounts>,
    State(profiles): State<Profiles>,
    State(federation): State<Federation>,
    Public { request, .. }: Public<get_profile::v3::Request>,
) -> Result<Ruma<get_profile::v3::Response>, ApiError> {
    let user_id = &request.user_id;
    let profile = profile_of(&federation, &accounts, &profiles, user_id, None).await?;
    Ok(Ruma(profile.into_fields().into_iter().collect()))
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
pub(crate) async fn get_profile_field(
    State(accounts): State<Accounts>,
    State(profiles): State<Profiles>,
    State(federation): State<Federation>,
    Public { request, .. }: Public<get_profile_field::v3::Request>,
) -> Result<axum::Json<BTreeMap<String, JsonValue>>, ApiError> {
    let (user_id, field) = (&request.user_id, request.field.clone());
    let profile = profile_of(&federation, &accounts, &profiles, user_id, Some(field)).await?;
    let key = request.field.as_str();
    let value = profile.get(key).ok_or_else(|| ApiError::not_found("No such profile field"))?;
    Ok(axum::Json(BTreeMap::from([(key.to_owned(), value)])))
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
pub(crate) async fn set_profile_field(
    State(rooms): State<Rooms>,
    State(profiles): State<Profiles>,
    State(sessions): State<Sessions>,
    ClientJson { session, arguments, mut value }: ClientJson<serde_json::Map<String, JsonValue>>,
) -> Result<axum::Json<serde_json::Map<String, JsonValue>>, ApiError> {
    let [user_id, key] = arguments.as_slice() else {
        return Err(ApiError::invalid_param("The path names a user and a field"));
    };
    let user_id: OwnedUserId = user_id.as_str().try_into().map_err(ApiError::invalid_param)?;
    check_own(&session, &user_id)?;
    standing::check_suspended(&sessions, &session).await?;
    let value = value
        .remove(key)
        .ok_or_else(|| ApiError::new(ErrorKind::MissingParam, format!("{key} is missing")))?;
    profiles.set(session.user, key, Some(value)).await?;
    rooms.profile_changed();
    Ok(axum::Json(serde_json::Map::new()))
}

/// `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
pub(crate) async fn delete_profile_field(
    State(rooms): State<Rooms>,
    State(profiles): State<Profiles>,
    Client { session, request, .. }: Client<delete_profile_field::v3::Request>,
) -> Result<Ruma<delete_profile_field::v3::Response>, ApiError> {
    check_own(&session, &request.user_id)?;
    profiles.set(session.user, request.field.as_str(), None).await?;
    rooms.profile_changed();
    Ok(Ruma(delete_profile_field::v3::Response::new()))
}

fn check_own(session: &Session, user_id: &UserId) -> Result<(), ApiError> {
    if session.user_id == user_id {
        Ok(())
    } else {
        Err(ApiError::forbidden("Nobody's profile but one's own can be changed"))
    }
}
