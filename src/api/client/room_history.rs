//! Reading the history and the members of rooms.

use axum::extract::State;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::{
        membership::{get_member_events, joined_members},
        message::get_message_events,
        room::get_event_by_timestamp,
    },
    serde::Raw,
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    federation::exchange::Exchange,
    rooms::{Boundary, PageRequest, Rooms},
    sync::{sliding_position, token::SyncToken},
};

/// A place in a timeline: the token of a page, or of a sync in any of its forms.
pub(super) fn boundary(token: &str) -> Result<Boundary, ApiError> {
    if let Ok(sync) = token.parse::<SyncToken>() {
        return Ok(Boundary::at_position(sync.position));
    }
    if let Some(position) = sliding_position(token) {
        return Ok(Boundary::at_position(position));
    }
    Ok(token.parse()?)
}

/// `GET /_matrix/client/v3/rooms/{roomId}/messages`
pub(crate) async fn get_messages(
    State(exchange): State<Exchange>,
    Client { session, request, .. }: Client<get_message_events::v3::Request>,
) -> Result<Ruma<get_message_events::v3::Response>, ApiError> {
    let page = PageRequest {
        // Some clients send an empty token for none.
        from: request.from.filter(|from| !from.is_empty()).as_deref().map(boundary).transpose()?,
        to: request.to.filter(|to| !to.is_empty()).as_deref().map(boundary).transpose()?,
        direction: request.dir,
        limit: usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX),
        filter: request.filter.into(),
        only_live: false,
    };
    let page = exchange.messages(&session, &request.room_id, &page).await?;
    let mut response = get_message_events::v3::Response::default();
    response.start = page.start.to_string();
    response.end = page.end.map(|end| end.to_string());
    response.chunk = page.chunk.into_iter().map(Raw::from_json).collect();
    response.state = page.state.into_iter().map(Raw::from_json).collect();
    Ok(Ruma(response))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/members`
pub(crate) async fn get_members(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<get_member_events::v3::Request>,
) -> Result<Ruma<get_member_events::v3::Response>, ApiError> {
    let at = request.at.as_deref().map(boundary).transpose()?;
    let at = at.map(|at| at.0.position());
    let text = |membership: &ruma::events::room::member::MembershipState| membership.to_string();
    let members = rooms
        .member_events(
            &session,
            &request.room_id,
            at,
            request.membership.as_ref().map(text).as_deref(),
            request.not_membership.as_ref().map(text).as_deref(),
        )
        .await?;
    Ok(Ruma(get_member_events::v3::Response::new(
        members.into_iter().map(Raw::from_json).collect(),
    )))
}

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
pub(crate) async fn get_event_by_timestamp(
    State(exchange): State<Exchange>,
    Client { session, request, .. }: Client<get_event_by_timestamp::v1::Request>,
) -> Result<Ruma<get_event_by_timestamp::v1::Response>, ApiError> {
    let ts_ms = u64::from(request.ts.get());
    let (event_id, ts_ms) =
        exchange.event_at(&session, &request.room_id, ts_ms, request.dir).await?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::try_from(ts_ms).unwrap_or(UInt::MAX));
    Ok(Ruma(get_event_by_timestamp::v1::Response::new(event_id, ts)))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/joined_members`
pub(crate) async fn get_joined_members(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<joined_members::v3::Request>,
) -> Result<Ruma<joined_members::v3::Response>, ApiError> {
    let members = rooms.joined_members(&session, &request.room_id).await?;
    let joined = members.into_iter().map(|(user, profile)| {
        let mut member = joined_members::v3::RoomMember::new();
        member.display_name = profile.displayname;
        member.avatar_url = profile.avatar_url;
        (user, member)
    });
    Ok(Ruma(joined_members::v3::Response::new(joined.collect())))
}
