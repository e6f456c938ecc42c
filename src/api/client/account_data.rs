//! Account data and tags.

use axum::{Json, extract::State};
use ruma::{
    OwnedUserId, RoomId, UserId,
    api::client::{
        config::{
            get_global_account_data, get_room_account_data, set_global_account_data,
            set_room_account_data,
        },
        tag::{create_tag, delete_tag, get_tags},
    },
    events::tag::TagEventContent,
    serde::Raw,
};
use serde::de::IgnoredAny;
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
        json::ClientJson,
    },
    storage::{
        Db,
        intern::{RoomNumber, UserNumber},
    },
    users::{AccountData, GLOBAL, session::Session},
};

fn check_own(session: &Session, user_id: &UserId) -> Result<(), ApiError> {
    if session.user_id == user_id {
        Ok(())
    } else {
        Err(ApiError::forbidden("Nobody's account data but one's own can be read or changed"))
    }
}

/// The number of a room. Rooms that this server has never seen get none, or clients could fill the
/// table of rooms with anything.
async fn room(db: &Db, room_id: &RoomId) -> Result<RoomNumber, ApiError> {
    let found = db.rooms().find(db, room_id).await?;
    found.ok_or_else(|| ApiError::not_found("Unknown room"))
}

/// `GET /_matrix/client/v3/user/{userId}/account_data/{type}`
pub(crate) async fn get_global_account_data(
    State(data): State<AccountData>,
    Client { session, request, .. }: Client<get_global_account_data::v3::Request>,
) -> Result<Ruma<get_global_account_data::v3::Response>, ApiError> {
    check_own(&session, &request.user_id)?;
    let kind = request.event_type.to_string();
    let content = data.get(session.user, GLOBAL, &kind).await?;
    let content = content.ok_or_else(|| ApiError::not_found("No account data of this type"))?;
    Ok(Ruma(get_global_account_data::v3::Response::new(Raw::from_json(content))))
}

/// `PUT /_matrix/client/v3/user/{userId}/account_data/{type}`
pub(crate) async fn set_global_account_data(
    State(data): State<AccountData>,
    Client { session, request, .. }: Client<set_global_account_data::v3::Request>,
) -> Result<Ruma<set_global_account_data::v3::Response>, ApiError> {
    check_own(&session, &request.user_id)?;
    let kind = request.event_type.to_string();
    data.set(session.user, GLOBAL, &kind, request.data.json()).await?;
    Ok(Ruma(set_global_account_data::v3::Response::new()))
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn get_room_account_data(
    State(data): State<AccountData>,
    State(db): State<Db>,
    Client { session, request, .. }: Client<get_room_account_data::v3::Request>,
) -> Result<Ruma<get_room_account_data::v3::Response>, ApiError> {
    check_own(&session, &request.user_id)?;
    let room = room(&db, &request.room_id).await?;
    let content = data.get(session.user, room, &request.event_type.to_string()).await?;
    let content = content.ok_or_else(|| ApiError::not_found("No account data of this type"))?;
    Ok(Ruma(get_room_account_data::v3::Response::new(Raw::from_json(content))))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn set_room_account_data(
    State(data): State<AccountData>,
    State(db): State<Db>,
    Client { session, request, .. }: Client<set_room_account_data::v3::Request>,
) -> Result<Ruma<set_room_account_data::v3::Response>, ApiError> {
    check_own(&session, &request.user_id)?;
    let room = room(&db, &request.room_id).await?;
    let kind = request.event_type.to_string();
    data.set(session.user, room, &kind, request.data.json()).await?;
    Ok(Ruma(set_room_account_data::v3::Response::new()))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}`
pub(crate) async fn delete_global_account_data(
    State(data): State<AccountData>,
    ClientJson { session, arguments, .. }: ClientJson<IgnoredAny>,
) -> Result<Json<Value>, ApiError> {
    let [user_id, kind] = &arguments[..] else { return Err(unknown_data()) };
    check_own(&session, &parsed_user(user_id)?)?;
    delete(&data, session.user, GLOBAL, kind).await
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn delete_room_account_data(
    State(data): State<AccountData>,
    State(db): State<Db>,
    ClientJson { session, arguments, .. }: ClientJson<IgnoredAny>,
) -> Result<Json<Value>, ApiError> {
    let [user_id, room_id, kind] = &arguments[..] else { return Err(unknown_data()) };
    check_own(&session, &parsed_user(user_id)?)?;
    let room_id = RoomId::parse(room_id).map_err(ApiError::invalid_param)?;
    let room = room(&db, &room_id).await?;
    delete(&data, session.user, room, kind).await
}

fn parsed_user(user_id: &str) -> Result<OwnedUserId, ApiError> {
    UserId::parse(user_id).map_err(ApiError::invalid_param)
}

fn unknown_data() -> ApiError {
    ApiError::not_found("No account data of this type")
}

/// Deletes one type; what is not there may be deleted.
async fn delete(
    data: &AccountData,
    user: UserNumber,
    room: RoomNumber,
    kind: &str,
) -> Result<Json<Value>, ApiError> {
    if data.get(user, room, kind).await?.is_some() {
        let empty: &RawValue =
            serde_json::from_str("{}").map_err(|error| ApiError::internal(&error))?;
        data.set(user, room, kind, empty).await?;
    }
    Ok(Json(json!({})))
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags`
pub(crate) async fn get_tags(
    State(data): State<AccountData>,
    State(db): State<Db>,
    Client { session, request, .. }: Client<get_tags::v3::Request>,
) -> Result<Ruma<get_tags::v3::Response>, ApiError> {
    check_own(&session, &request.user_id)?;
    let room = room(&db, &request.room_id).await?;
    let content = data.get(session.user, room, "m.tag").await?;
    // A client may have written something else there.
    let tags = content
        .and_then(|content| serde_json::from_str::<TagEventContent>(content.get()).ok())
        .map(|content| content.tags)
        .unwrap_or_default();
    Ok(Ruma(get_tags::v3::Response::new(tags)))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub(crate) async fn create_tag(
    State(data): State<AccountData>,
    State(db): State<Db>,
    Client { session, request, .. }: Client<create_tag::v3::Request>,
) -> Result<Ruma<create_tag::v3::Response>, ApiError> {
    check_own(&session, &request.user_id)?;
    let room = room(&db, &request.room_id).await?;
    let info = serde_json::to_value(&request.tag_info).map_err(ApiError::invalid_param)?;
    data.set_tag(session.user, room, &request.tag, &info).await?;
    Ok(Ruma(create_tag::v3::Response::new()))
}

/// `DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub(crate) async fn delete_tag(
    State(data): State<AccountData>,
    State(db): State<Db>,
    Client { session, request, .. }: Client<delete_tag::v3::Request>,
) -> Result<Ruma<delete_tag::v3::Response>, ApiError> {
    check_own(&session, &request.user_id)?;
    let room = room(&db, &request.room_id).await?;
    data.remove_tag(session.user, room, &request.tag).await?;
    Ok(Ruma(delete_tag::v3::Response::new()))
}
