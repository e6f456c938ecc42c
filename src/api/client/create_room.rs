//! Creating rooms.

use axum::extract::State;
use ruma::{
    api::client::room::{
        Visibility,
        create_room::v3::{Request, Response, RoomPreset},
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{room_events::content, room_membership::addressed};
use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    federation::exchange::Exchange,
    identity::IdentityServers,
    rooms::{Draft, NewRoom, Preset, Rooms},
};

/// How many addresses can be invited while a room is created: an identity server is asked of each.
const MAX_ADDRESSES: usize = 20;

/// `POST /_matrix/client/v3/createRoom`
pub(crate) async fn create_room(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    State(identity): State<IdentityServers>,
    Client { session, request, .. }: Client<Request>,
) -> Result<Ruma<Response>, ApiError> {
    if request.invite_3pid.len() > MAX_ADDRESSES {
        let message = format!("At most {MAX_ADDRESSES} addresses can be invited at once");
        return Err(ApiError::invalid_param(message));
    }
    let addressed = request.invite_3pid.iter().map(|invited| addressed(&identity, invited));
    let addressed = addressed.collect::<Result<Vec<_>, _>>()?;
    let public = request.visibility == Visibility::Public;
    let preset = match request.preset {
        Some(RoomPreset::PublicChat) => Preset::Public,
        Some(RoomPreset::PrivateChat) => Preset::Private,
        Some(RoomPreset::TrustedPrivateChat) => Preset::TrustedPrivate,
        Some(_) => return Err(ApiError::invalid_param("There is no such preset")),
        None if public => Preset::Public,
        None => Preset::Private,
    };
    let optional = |json: Option<&RawValue>| json.map(content).transpose();
    let new = NewRoom {
        version: request.room_version,
        preset,
        creation_content: optional(request.creation_content.as_ref().map(Raw::json))?
            .unwrap_or_default(),
        initial_state: request
            .initial_state
            .iter()
            .map(|event| initial_event(event.json()))
            .collect::<Result<_, _>>()?,
        power_levels: optional(request.power_level_content_override.as_ref().map(Raw::json))?
            .unwrap_or_default(),
        name: request.name,
        topic: request.topic,
        alias_name: request.room_alias_name,
        invite: request.invite,
        is_direct: request.is_direct,
        public,
    };
    let room_id = rooms.create(&session, &new).await?;
    // The room is there whatever other servers say of an invitation.
    for (access, address) in &addressed {
        let whom = (access, address);
        if let Err(error) = exchange.invite_address(&session, &room_id, whom, new.is_direct).await {
            let error = &error as &dyn std::error::Error;
            tracing::info!(error, room = %room_id, "an address was not invited");
        }
    }
    for user in new.invite.iter().filter(|user| user.server_name() != rooms.server_name()) {
        let me = &session.user_id;
        let invited = exchange.invite_counted(me, user, &room_id, None, new.is_direct).await;
        if let Err(error) = invited {
            let error = &error as &dyn std::error::Error;
            tracing::info!(error, %user, room = %room_id, "an invitation was not taken");
        }
    }
    Ok(Ruma(Response::new(room_id)))
}

fn initial_event(json: &RawValue) -> Result<Draft, ApiError> {
    #[derive(Deserialize)]
    struct Initial {
        #[serde(rename = "type")]
        event_type: String,
        #[serde(default)]
        state_key: String,
        content: Box<RawValue>,
    }
    let event: Initial = serde_json::from_str(json.get()).map_err(ApiError::bad_json)?;
    Ok(Draft::state(&event.event_type, &event.state_key, content(&event.content)?))
}
