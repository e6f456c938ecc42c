//! The backup of keys.

use axum::extract::State;
use ruma::{
    UInt,
    api::client::backup::{
        BackupAlgorithm, RoomKeyBackup, add_backup_keys, add_backup_keys_for_room,
        add_backup_keys_for_session, create_backup_version, delete_backup_keys,
        delete_backup_keys_for_room, delete_backup_keys_for_session, delete_backup_version,
        get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
        get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    e2ee::{BackupVersion, Backups, NewKey, Part},
};

/// A version as the client describes it.
#[derive(Deserialize)]
struct Described {
    algorithm: String,
    auth_data: Box<RawValue>,
    version: Option<String>,
}

fn described(algorithm: &Raw<BackupAlgorithm>) -> Result<Described, ApiError> {
    let described: Described =
        serde_json::from_str(algorithm.json().get()).map_err(ApiError::bad_json)?;
    if !described.auth_data.get().starts_with('{') {
        return Err(ApiError::bad_json("auth_data is an object"));
    }
    Ok(described)
}

/// Numbers are versions; other text names none.
fn number(version: &str) -> Result<u64, ApiError> {
    version.parse().map_err(|_| ApiError::not_found("there is no such backup version"))
}

/// A version as the server describes it.
fn algorithm(version: &BackupVersion) -> Result<Raw<BackupAlgorithm>, ApiError> {
    let json = serde_json::json!({
        "algorithm": version.algorithm,
        "auth_data": version.auth_data,
    });
    Ok(Raw::from_json(serde_json::value::to_raw_value(&json).map_err(ApiError::bad_json)?))
}

fn count(version: &BackupVersion) -> UInt {
    UInt::new_saturating(version.count)
}

/// `POST /_matrix/client/v3/room_keys/version`
pub(crate) async fn create_backup_version(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<create_backup_version::v3::Request>,
) -> Result<Ruma<create_backup_version::v3::Response>, ApiError> {
    let new = described(&request.algorithm)?;
    let version = backups.create(session.user, &new.algorithm, &new.auth_data).await?;
    Ok(Ruma(create_backup_version::v3::Response::new(version.to_string())))
}

/// `GET /_matrix/client/v3/room_keys/version`
pub(crate) async fn get_latest_backup_info(
    State(backups): State<Backups>,
    Client { session, .. }: Client<get_latest_backup_info::v3::Request>,
) -> Result<Ruma<get_latest_backup_info::v3::Response>, ApiError> {
    let (number, version) = backups.latest(session.user).await?;
    Ok(Ruma(get_latest_backup_info::v3::Response::new(
        algorithm(&version)?,
        count(&version),
        version.etag.to_string(),
        number.to_string(),
    )))
}

/// `GET /_matrix/client/v3/room_keys/version/{version}`
pub(crate) async fn get_backup_info(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<get_backup_info::v3::Request>,
) -> Result<Ruma<get_backup_info::v3::Response>, ApiError> {
    let version = backups.version(session.user, number(&request.version)?).await?;
    Ok(Ruma(get_backup_info::v3::Response::new(
        algorithm(&version)?,
        count(&version),
        version.etag.to_string(),
        request.version,
    )))
}

/// `PUT /_matrix/client/v3/room_keys/version/{version}`
pub(crate) async fn update_backup_version(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<update_backup_version::v3::Request>,
) -> Result<Ruma<update_backup_version::v3::Response>, ApiError> {
    let new = described(&request.algorithm)?;
    if new.version.is_some_and(|version| version != request.version) {
        return Err(ApiError::invalid_param("the body names another version than the path"));
    }
    let version = number(&request.version)?;
    backups.update(session.user, version, &new.algorithm, &new.auth_data).await?;
    Ok(Ruma(update_backup_version::v3::Response::new()))
}

/// `DELETE /_matrix/client/v3/room_keys/version/{version}`
pub(crate) async fn delete_backup_version(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<delete_backup_version::v3::Request>,
) -> Result<Ruma<delete_backup_version::v3::Response>, ApiError> {
    backups.delete(session.user, number(&request.version)?).await?;
    Ok(Ruma(delete_backup_version::v3::Response::new()))
}

/// `PUT /_matrix/client/v3/room_keys/keys`
pub(crate) async fn add_backup_keys(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<add_backup_keys::v3::Request>,
) -> Result<Ruma<add_backup_keys::v3::Response>, ApiError> {
    let mut keys: Vec<NewKey> = Vec::new();
    for (room, backup) in request.rooms {
        let sessions = backup.sessions.into_iter();
        keys.extend(sessions.map(|(id, key)| (room.clone(), id, key.into_json())));
    }
    let state = backups.add(session.user, number(&request.version)?, &keys).await?;
    Ok(Ruma(add_backup_keys::v3::Response::new(state.etag.to_string(), count(&state))))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}`
pub(crate) async fn add_backup_keys_for_room(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<add_backup_keys_for_room::v3::Request>,
) -> Result<Ruma<add_backup_keys_for_room::v3::Response>, ApiError> {
    let keys: Vec<NewKey> = request
        .sessions
        .into_iter()
        .map(|(id, key)| (request.room_id.clone(), id, key.into_json()))
        .collect();
    let state = backups.add(session.user, number(&request.version)?, &keys).await?;
    Ok(Ruma(add_backup_keys_for_room::v3::Response::new(state.etag.to_string(), count(&state))))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn add_backup_keys_for_session(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<add_backup_keys_for_session::v3::Request>,
) -> Result<Ruma<add_backup_keys_for_session::v3::Response>, ApiError> {
    let keys = [(request.room_id, request.session_id, request.session_data.into_json())];
    let state = backups.add(session.user, number(&request.version)?, &keys).await?;
    Ok(Ruma(add_backup_keys_for_session::v3::Response::new(state.etag.to_string(), count(&state))))
}

/// `GET /_matrix/client/v3/room_keys/keys`
pub(crate) async fn get_backup_keys(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<get_backup_keys::v3::Request>,
) -> Result<Ruma<get_backup_keys::v3::Response>, ApiError> {
    let mut rooms = std::collections::BTreeMap::new();
    let version = number(&request.version)?;
    for (room, id, key) in backups.keys(session.user, version, &Part::All).await? {
        let room: &mut RoomKeyBackup =
            rooms.entry(room).or_insert_with(|| RoomKeyBackup::new([].into()));
        room.sessions.insert(id, Raw::from_json(key));
    }
    Ok(Ruma(get_backup_keys::v3::Response::new(rooms)))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}`
pub(crate) async fn get_backup_keys_for_room(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<get_backup_keys_for_room::v3::Request>,
) -> Result<Ruma<get_backup_keys_for_room::v3::Response>, ApiError> {
    let part = Part::Room(request.room_id);
    let keys = backups.keys(session.user, number(&request.version)?, &part).await?;
    let sessions = keys.into_iter().map(|(_, id, key)| (id, Raw::from_json(key))).collect();
    Ok(Ruma(get_backup_keys_for_room::v3::Response::new(sessions)))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn get_backup_keys_for_session(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<get_backup_keys_for_session::v3::Request>,
) -> Result<Ruma<get_backup_keys_for_session::v3::Response>, ApiError> {
    let part = Part::Session(request.room_id, request.session_id);
    let mut keys = backups.keys(session.user, number(&request.version)?, &part).await?;
    let (_, _, key) = keys.pop().ok_or_else(|| ApiError::not_found("there is no such key"))?;
    Ok(Ruma(get_backup_keys_for_session::v3::Response::new(Raw::from_json(key))))
}

/// `DELETE /_matrix/client/v3/room_keys/keys`
pub(crate) async fn delete_backup_keys(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<delete_backup_keys::v3::Request>,
) -> Result<Ruma<delete_backup_keys::v3::Response>, ApiError> {
    let version = number(&request.version)?;
    let state = backups.remove(session.user, version, &Part::All).await?;
    Ok(Ruma(delete_backup_keys::v3::Response::new(state.etag.to_string(), count(&state))))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}`
pub(crate) async fn delete_backup_keys_for_room(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<delete_backup_keys_for_room::v3::Request>,
) -> Result<Ruma<delete_backup_keys_for_room::v3::Response>, ApiError> {
    let version = number(&request.version)?;
    let state = backups.remove(session.user, version, &Part::Room(request.room_id)).await?;
    let etag = state.etag.to_string();
    Ok(Ruma(delete_backup_keys_for_room::v3::Response::new(etag, count(&state))))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn delete_backup_keys_for_session(
    State(backups): State<Backups>,
    Client { session, request, .. }: Client<delete_backup_keys_for_session::v3::Request>,
) -> Result<Ruma<delete_backup_keys_for_session::v3::Response>, ApiError> {
    let version = number(&request.version)?;
    let part = Part::Session(request.room_id, request.session_id);
    let state = backups.remove(session.user, version, &part).await?;
    let etag = state.etag.to_string();
    Ok(Ruma(delete_backup_keys_for_session::v3::Response::new(etag, count(&state))))
}
