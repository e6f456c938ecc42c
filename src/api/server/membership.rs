//! Users of other servers coming in and going, and invitations from there.

use axum::{Json, extract::State};
use ruma::{
    CanonicalJsonObject, EventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    api::{
        error::{ErrorKind, IncompatibleRoomVersionErrorData},
        federation::membership::{
            RawStrippedState, create_invite,
            create_join_event::{self, v2::RoomState},
            create_knock_event, create_leave_event, prepare_join_event, prepare_knock_event,
            prepare_leave_event,
        },
    },
};
use serde::Deserialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    api::{
        error::ApiError,
        extract::{Ruma, Server},
    },
    federation::exchange::Exchange,
    rooms::{Rooms, SUPPORTED_VERSIONS, record::Membership},
    users::Accounts,
};

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
pub(crate) async fn make_join(
    State(rooms): State<Rooms>,
    Server { origin, request, .. }: Server<prepare_join_event::v1::Request>,
) -> Result<Ruma<prepare_join_event::v1::Response>, ApiError> {
    let prepare_join_event::v1::Request { room_id, user_id, ver, .. } = request;
    let (version, event) =
        prepare(&rooms, &origin, &room_id, &user_id, Some(&ver), Membership::Join).await?;
    let mut response = prepare_join_event::v1::Response::new(event);
    response.room_version = Some(version);
    Ok(Ruma(response))
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
pub(crate) async fn make_leave(
    State(rooms): State<Rooms>,
    Server { origin, request, .. }: Server<prepare_leave_event::v1::Request>,
) -> Result<Ruma<prepare_leave_event::v1::Response>, ApiError> {
    let prepare_leave_event::v1::Request { room_id, user_id, .. } = request;
    let (version, event) =
        prepare(&rooms, &origin, &room_id, &user_id, None, Membership::Leave).await?;
    Ok(Ruma(prepare_leave_event::v1::Response::new(Some(version), event)))
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
pub(crate) async fn make_knock(
    State(rooms): State<Rooms>,
    Server { origin, request, .. }: Server<prepare_knock_event::v1::Request>,
) -> Result<Ruma<prepare_knock_event::v1::Response>, ApiError> {
    let prepare_knock_event::v1::Request { room_id, user_id, ver, .. } = request;
    let (version, event) =
        prepare(&rooms, &origin, &room_id, &user_id, Some(&ver), Membership::Knock).await?;
    Ok(Ruma(prepare_knock_event::v1::Response::new(version, event)))
}

async fn prepare(
    rooms: &Rooms,
    origin: &OwnedServerName,
    room_id: &RoomId,
    user: &UserId,
    versions: Option<&[RoomVersionId]>,
    membership: Membership,
) -> Result<(RoomVersionId, Box<RawValue>), ApiError> {
    if user.server_name() != origin {
        return Err(ApiError::forbidden("The user is on another server"));
    }
    let room = rooms.room_for(room_id, origin).await?;
    if room.local_members().is_empty() {
        return Err(ApiError::not_found("Nobody of this server is in the room"));
    }
    rooms.require_whole(&room).map_err(ApiError::not_found)?;
    if versions.is_some_and(|versions| !versions.contains(&room.version)) {
        return Err(incompatible(&room.version));
    }
    let template = rooms.member_template(&room, user, membership).await?;
    let event = to_raw_value(&template).map_err(|error| ApiError::internal(&error))?;
    Ok((room.version.clone(), event))
}

fn incompatible(version: &RoomVersionId) -> ApiError {
    let data = IncompatibleRoomVersionErrorData::new(version.clone());
    let kind = ErrorKind::IncompatibleRoomVersion(data);
    ApiError::new(kind, format!("The room is of version {version}"))
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
pub(crate) async fn send_join(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    Server { origin, request, .. }: Server<create_join_event::v2::Request>,
) -> Result<Ruma<create_join_event::v2::Response>, ApiError> {
    Ok(Ruma(create_join_event::v2::Response::new(
        admit(&rooms, &exchange, &origin, request).await?,
    )))
}

/// `PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}`
///
/// Old servers expect the status in the body, too.
pub(crate) async fn send_join_v1(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    Server { origin, request, .. }: Server<create_join_event::v2::Request>,
) -> Result<Json<(u16, RoomState)>, ApiError> {
    Ok(Json((200, admit(&rooms, &exchange, &origin, request).await?)))
}

/// Takes a join in; the state before it.
async fn admit(
    rooms: &Rooms,
    exchange: &Exchange,
    origin: &ServerName,
    request: create_join_event::v2::Request,
) -> Result<RoomState, ApiError> {
    let create_join_event::v2::Request { room_id, event_id, pdu, omit_members, .. } = request;
    require_whole(rooms, &room_id).await?;
    let servers = match rooms.room(&room_id).await {
        Ok(room) if omit_members => Some(room.servers()),
        _ => None,
    };
    let (room, event) =
        exchange.take_member_event(origin, &room_id, &event_id, &pdu, Membership::Join).await?;
    let before = if omit_members {
        rooms.state_ids_without_members(&room, &event_id).await?
    } else {
        rooms.state_ids_before(&room, &event_id).await?
    };
    let mut state = RoomState::new();
    state.auth_chain = rooms.pdus(&room, &before.auth_chain).await?;
    state.state = rooms.pdus(&room, &before.state).await?;
    state.event = Some(event);
    state.members_omitted = omit_members;
    state.servers_in_room =
        servers.map(|servers| servers.into_iter().map(|server| server.to_string()).collect());
    Ok(state)
}

/// Refuses what a server that does not know all members can't judge: others are asked then.
async fn require_whole(rooms: &Rooms, room_id: &RoomId) -> Result<(), ApiError> {
    let room = rooms.room(room_id).await?;
    rooms.require_whole(&room).map_err(ApiError::not_found)
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
pub(crate) async fn send_leave(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    Server { origin, request, .. }: Server<create_leave_event::v2::Request>,
) -> Result<Ruma<create_leave_event::v2::Response>, ApiError> {
    let create_leave_event::v2::Request { room_id, event_id, pdu, .. } = request;
    require_whole(&rooms, &room_id).await?;
    exchange.take_member_event(&origin, &room_id, &event_id, &pdu, Membership::Leave).await?;
    Ok(Ruma(create_leave_event::v2::Response::new()))
}

/// `PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}`
pub(crate) async fn send_leave_v1(
    rooms: State<Rooms>,
    exchange: State<Exchange>,
    request: Server<create_leave_event::v2::Request>,
) -> Result<Json<(u16, Value)>, ApiError> {
    send_leave(rooms, exchange, request).await?;
    Ok(Json((200, json!({}))))
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
pub(crate) async fn send_knock(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    Server { origin, request, .. }: Server<create_knock_event::v1::Request>,
) -> Result<Ruma<create_knock_event::v1::Response>, ApiError> {
    let create_knock_event::v1::Request { room_id, event_id, pdu, .. } = request;
    require_whole(&rooms, &room_id).await?;
    let (room, _) =
        exchange.take_member_event(&origin, &room_id, &event_id, &pdu, Membership::Knock).await?;
    let known = rooms.first_look(&room).await?;
    let known = known.into_iter().map(RawStrippedState::Pdu).collect();
    Ok(Ruma(create_knock_event::v1::Response::new(known)))
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
pub(crate) async fn invite(
    State(accounts): State<Accounts>,
    State(exchange): State<Exchange>,
    Server { origin, request, .. }: Server<create_invite::v2::Request>,
) -> Result<Ruma<create_invite::v2::Response>, ApiError> {
    let create_invite::v2::Request {
        room_id,
        event_id,
        room_version,
        event,
        invite_room_state,
        ..
    } = request;
    if !SUPPORTED_VERSIONS.contains(&room_version) {
        return Err(incompatible(&room_version));
    }
    let known: Vec<Box<RawValue>> =
        invite_room_state.iter().filter_map(|event| to_raw_value(event).ok()).collect();
    let room = (&*room_id, &room_version);
    let signed =
        be_invited(&accounts, &exchange, &origin, room, (&event_id, &event), &known).await?;
    Ok(Ruma(create_invite::v2::Response::new(signed)))
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`
///
/// The body is the event alone, of a room of version 1 or 2: these look the same.
pub(crate) async fn invite_v1(
    State(accounts): State<Accounts>,
    State(exchange): State<Exchange>,
    Server { origin, request, .. }: Server<create_leave_event::v2::Request>,
) -> Result<Json<(u16, Value)>, ApiError> {
    #[derive(Default, Deserialize)]
    struct Unsigned {
        #[serde(default)]
        invite_room_state: Vec<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        unsigned: Unsigned,
    }
    let create_leave_event::v2::Request { room_id, event_id, pdu, .. } = request;
    let event: Event = serde_json::from_str(pdu.get()).map_err(ApiError::bad_json)?;
    let known = event.unsigned.invite_room_state;
    let room = (&*room_id, &RoomVersionId::V1);
    let signed = be_invited(&accounts, &exchange, &origin, room, (&event_id, &pdu), &known).await?;
    Ok(Json((200, json!({ "event": signed }))))
}

/// Takes the invitation of a user who is here; the event with this server's signature.
async fn be_invited(
    accounts: &Accounts,
    exchange: &Exchange,
    origin: &ServerName,
    room: (&RoomId, &RoomVersionId),
    (event_id, event): (&EventId, &RawValue),
    known: &[Box<RawValue>],
) -> Result<Box<RawValue>, ApiError> {
    let target = invited(event)?;
    let found = accounts.find(&target).await?;
    if found.is_none_or(|(_, account)| account.deactivated) {
        return Err(ApiError::forbidden("There is no such user here"));
    }
    Ok(exchange.take_invite(origin, room, event_id, event, known).await?)
}

/// Whom an event invites.
fn invited(event: &RawValue) -> Result<ruma::OwnedUserId, ApiError> {
    let object: CanonicalJsonObject =
        serde_json::from_str(event.get()).map_err(ApiError::bad_json)?;
    let target = object.get("state_key").and_then(|key| key.as_str());
    let target = target.and_then(|key| UserId::parse(key).ok());
    target.ok_or_else(|| ApiError::invalid_param("The event invites nobody"))
}
