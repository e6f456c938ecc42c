//! Joining and leaving rooms, asking others in, throwing them out.

use axum::extract::State;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId,
    api::client::{
        knock::knock_room,
        membership::{
            Invite3pid, ThirdPartySigned, ban_user, forget_room,
            invite_user::{self, v3::InvitationRecipient},
            join_room_by_id, join_room_by_id_or_alias, joined_rooms, kick_user, leave_room,
            unban_user,
        },
    },
};
use serde_json::value::to_raw_value;

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    federation::exchange::{Exchange, ThirdPartyInvite},
    identity::{Access, Address, IdentityServers},
    rooms::{Change, RoomError, Rooms},
    users::session::Session,
};

/// Where a join or a knock goes: the room, and servers that may be in it.
async fn find(
    exchange: &Exchange,
    rooms: &Rooms,
    wanted: &RoomOrAliasId,
    via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), ApiError> {
    match <&RoomAliasId>::try_from(wanted) {
        Ok(alias) if alias.server_name() != rooms.server_name() => {
            let (room_id, mut servers) = exchange.federation().resolve_alias(alias).await?;
            servers.extend(via);
            Ok((room_id, servers))
        }
        Ok(alias) => Ok((rooms.resolve(alias).await?, via)),
        Err(_) => {
            let room_id = <&RoomId>::try_from(wanted).map_err(ApiError::invalid_param)?;
            Ok((room_id.to_owned(), via))
        }
    }
}

/// Whether a user of this server is in the room: then its rules can be asked here.
async fn is_here(rooms: &Rooms, room_id: &RoomId) -> Result<bool, ApiError> {
    match rooms.room(room_id).await {
        Ok(room) => Ok(!room.local_members().is_empty()),
        Err(RoomError::UnknownRoom { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Joins a room here, or through the servers that are in it.
async fn join(
    exchange: &Exchange,
    rooms: &Rooms,
    session: &Session,
    (room_id, mut via): (&RoomId, Vec<OwnedServerName>),
    reason: Option<&str>,
) -> Result<(), ApiError> {
    let me = &session.user_id;
    if is_here(rooms, room_id).await? {
        return Ok(rooms.change_membership(session, room_id, me, Change::Join, reason).await?);
    }
    if session.guest {
        return Err(RoomError::GuestAccess.into());
    }
    // Whoever invited is in the room.
    if let Some((_, sender)) = rooms.outside(session.user, room_id).await? {
        via.insert(0, sender.server_name().to_owned());
    }
    if let Ok(room) = rooms.room(room_id).await {
        via.extend(rooms.other_servers(&room));
    }
    Ok(exchange.join(me, room_id, &via, reason).await?)
}

/// Has the user be invited, by what an identity server signed for them.
async fn redeem(
    exchange: &Exchange,
    session: &Session,
    room_id: &RoomId,
    signed: ThirdPartySigned,
) -> Result<(), ApiError> {
    if signed.mxid != session.user_id {
        return Err(ApiError::forbidden("third_party_signed is for somebody else"));
    }
    let target = session.user_id.clone();
    let sender = signed.sender.clone();
    let signed = to_raw_value(&signed).map_err(|error| ApiError::internal(&error))?;
    let invite = ThirdPartyInvite { room_id: room_id.to_owned(), sender, target, signed };
    Ok(exchange.redeem(invite).await?)
}

/// `POST /_matrix/client/v3/rooms/{roomId}/join`
pub(crate) async fn join_by_id(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    Client { session, request, .. }: Client<join_room_by_id::v3::Request>,
) -> Result<Ruma<join_room_by_id::v3::Response>, ApiError> {
    let room_id = request.room_id;
    if let Some(signed) = request.third_party_signed {
        redeem(&exchange, &session, &room_id, signed).await?;
    }
    let reason = request.reason.as_deref();
    join(&exchange, &rooms, &session, (&room_id, Vec::new()), reason).await?;
    Ok(Ruma(join_room_by_id::v3::Response::new(room_id)))
}

/// `POST /_matrix/client/v3/join/{roomIdOrAlias}`
pub(crate) async fn join_by_id_or_alias(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    Client { session, request, .. }: Client<join_room_by_id_or_alias::v3::Request>,
) -> Result<Ruma<join_room_by_id_or_alias::v3::Response>, ApiError> {
    let (room_id, via) = find(&exchange, &rooms, &request.room_id_or_alias, request.via).await?;
    if let Some(signed) = request.third_party_signed {
        redeem(&exchange, &session, &room_id, signed).await?;
    }
    let reason = request.reason.as_deref();
    join(&exchange, &rooms, &session, (&room_id, via), reason).await?;
    Ok(Ruma(join_room_by_id_or_alias::v3::Response::new(room_id)))
}

/// `POST /_matrix/client/v3/knock/{roomIdOrAlias}`
pub(crate) async fn knock(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    Client { session, request, .. }: Client<knock_room::v3::Request>,
) -> Result<Ruma<knock_room::v3::Response>, ApiError> {
    let me = &session.user_id;
    let (room_id, via) = find(&exchange, &rooms, &request.room_id_or_alias, request.via).await?;
    let reason = request.reason.as_deref();
    if is_here(&rooms, &room_id).await? {
        rooms.change_membership(&session, &room_id, me, Change::Knock, reason).await?;
    } else {
        if session.guest {
            return Err(RoomError::GuestAccess.into());
        }
        exchange.knock(me, &room_id, &via, reason).await?;
    }
    Ok(Ruma(knock_room::v3::Response::new(room_id)))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/leave`
pub(crate) async fn leave(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    Client { session, request, .. }: Client<leave_room::v3::Request>,
) -> Result<Ruma<leave_room::v3::Response>, ApiError> {
    let me = &session.user_id;
    let reason = request.reason.as_deref();
    let outside = !is_here(&rooms, &request.room_id).await?
        && rooms.outside(session.user, &request.room_id).await?.is_some();
    if outside {
        exchange.leave(me, &request.room_id, reason).await?;
    } else {
        rooms.change_membership(&session, &request.room_id, me, Change::Leave, reason).await?;
    }
    Ok(Ruma(leave_room::v3::Response::new()))
}

/// Whom an invitation to an address is for, and where to ask who that is.
pub(super) fn addressed(
    identity: &IdentityServers,
    invited: &Invite3pid,
) -> Result<(Access, Address), ApiError> {
    let access = identity.access(&invited.id_server, &invited.id_access_token)?;
    Ok((access, Address::new(invited.medium.as_str(), &invited.address)?))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/invite`
pub(crate) async fn invite(
    State(rooms): State<Rooms>,
    State(exchange): State<Exchange>,
    State(identity): State<IdentityServers>,
    Client { session, request, .. }: Client<invite_user::v3::Request>,
) -> Result<Ruma<invite_user::v3::Response>, ApiError> {
    let invited = match request.recipient {
        InvitationRecipient::UserId(invited) => invited,
        InvitationRecipient::ThirdPartyId(invited) => {
            let (access, address) = addressed(&identity, &invited)?;
            let whom = (&access, &address);
            exchange.invite_address(&session, &request.room_id, whom, false).await?;
            return Ok(Ruma(invite_user::v3::Response::new()));
        }
        _ => return Err(ApiError::invalid_param("There is no such kind of invitation")),
    };
    let reason = invited.reason.as_deref();
    let (room_id, target) = (&request.room_id, &invited.user_id);
    if target.server_name() == rooms.server_name() {
        rooms.change_membership(&session, room_id, target, Change::Invite, reason).await?;
    } else if session.guest {
        return Err(RoomError::GuestAccess.into());
    } else {
        exchange.invite(&session.user_id, target, room_id, reason, false).await?;
    }
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
