//! Other networks, as application services know them.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use ruma::api::client::thirdparty::{
    get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols,
    get_user_for_protocol, get_user_for_user_id,
};
use serde_json::{Map, Value};

use crate::{
    api::{error::ApiError, extract::Client},
    appservice::{Appservices, query::Kind},
};

/// `GET /_matrix/client/v3/thirdparty/protocols`
pub(crate) async fn get_protocols(
    State(appservices): State<Appservices>,
    Client { .. }: Client<get_protocols::v3::Request>,
) -> Result<Json<BTreeMap<String, Map<String, Value>>>, ApiError> {
    Ok(Json(appservices.protocols().await))
}

/// `GET /_matrix/client/v3/thirdparty/protocol/{protocol}`
pub(crate) async fn get_protocol(
    State(appservices): State<Appservices>,
    Client { request, .. }: Client<get_protocol::v3::Request>,
) -> Result<Json<Map<String, Value>>, ApiError> {
    Ok(Json(appservices.protocol(&request.protocol).await?))
}

/// `GET /_matrix/client/v3/thirdparty/location/{protocol}`
pub(crate) async fn get_location_for_protocol(
    State(appservices): State<Appservices>,
    Client { request, .. }: Client<get_location_for_protocol::v3::Request>,
) -> Result<Json<Vec<Value>>, ApiError> {
    let (protocol, fields) = (&request.protocol, &request.fields);
    Ok(Json(appservices.look_up(Kind::Location, protocol, fields).await?))
}

/// `GET /_matrix/client/v3/thirdparty/user/{protocol}`
pub(crate) async fn get_user_for_protocol(
    State(appservices): State<Appservices>,
    Client { request, .. }: Client<get_user_for_protocol::v3::Request>,
) -> Result<Json<Vec<Value>>, ApiError> {
    let (protocol, fields) = (&request.protocol, &request.fields);
    Ok(Json(appservices.look_up(Kind::User, protocol, fields).await?))
}

/// `GET /_matrix/client/v3/thirdparty/location`
pub(crate) async fn get_location_for_room_alias(
    State(appservices): State<Appservices>,
    Client { request, .. }: Client<get_location_for_room_alias::v3::Request>,
) -> Result<Json<Vec<Value>>, ApiError> {
    Ok(Json(appservices.look_up_id(Kind::Location, request.alias.as_str()).await?))
}

/// `GET /_matrix/client/v3/thirdparty/user`
pub(crate) async fn get_user_for_user_id(
    State(appservices): State<Appservices>,
    Client { request, .. }: Client<get_user_for_user_id::v3::Request>,
) -> Result<Json<Vec<Value>>, ApiError> {
    Ok(Json(appservices.look_up_id(Kind::User, request.userid.as_str()).await?))
}
