//! Events that relate to another, and threads.

use axum::extract::State;
use ruma::{
    UInt,
    api::{
        Direction,
        client::{
            relations::{
                get_relating_events, get_relating_events_with_rel_type,
                get_relating_events_with_rel_type_and_event_type,
            },
            threads::get_threads,
        },
    },
    serde::Raw,
};

use super::room_history::boundary;
use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    rooms::{MAX_RELATIONS_DEPTH, RelatedRequest, Rooms},
};

/// The parts of the query that the three endpoints share.
struct Query {
    from: Option<String>,
    to: Option<String>,
    limit: Option<UInt>,
    dir: Direction,
    recurse: bool,
}

impl Query {
    fn about(
        self,
        rel_type: Option<String>,
        event_type: Option<String>,
    ) -> Result<RelatedRequest, ApiError> {
        let token = |token: Option<String>| {
            token.filter(|token| !token.is_empty()).as_deref().map(boundary).transpose()
        };
        Ok(RelatedRequest {
            rel_type,
            event_type,
            from: token(self.from)?,
            to: token(self.to)?,
            limit: limit(self.limit),
            direction: self.dir,
            recurse: self.recurse,
        })
    }
}

fn limit(limit: Option<UInt>) -> Option<usize> {
    limit.map(|limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX))
}

/// Answers one of the three endpoints: their requests and responses differ in the path only.
macro_rules! related {
    ($rooms:ident, $session:ident, $request:ident, $module:ident, $rel_type:expr, $event_type:expr) => {{
        let query = Query {
            from: $request.from.clone(),
            to: $request.to.clone(),
            limit: $request.limit,
            dir: $request.dir,
            recurse: $request.recurse,
        };
        let (start, recurse) = (query.from.clone(), query.recurse);
        let related = query.about($rel_type, $event_type)?;
        let page =
            $rooms.related(&$session, &$request.room_id, &$request.event_id, &related).await?;
        let chunk = page.chunk.into_iter().map(Raw::from_json).collect();
        let mut response = $module::v1::Response::new(chunk);
        response.prev_batch = start;
        response.next_batch = page.next.map(|next| next.to_string());
        response.recursion_depth = recurse.then(|| MAX_RELATIONS_DEPTH.into());
        Ok(Ruma(response))
    }};
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}`
pub(crate) async fn get_relating_events(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<get_relating_events::v1::Request>,
) -> Result<Ruma<get_relating_events::v1::Response>, ApiError> {
    related!(rooms, session, request, get_relating_events, None, None)
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}`
pub(crate) async fn get_relating_events_with_rel_type(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<get_relating_events_with_rel_type::v1::Request>,
) -> Result<Ruma<get_relating_events_with_rel_type::v1::Response>, ApiError> {
    let rel_type = Some(request.rel_type.to_string());
    related!(rooms, session, request, get_relating_events_with_rel_type, rel_type, None)
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
pub(crate) async fn get_relating_events_with_rel_type_and_event_type(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<
        get_relating_events_with_rel_type_and_event_type::v1::Request,
    >,
) -> Result<Ruma<get_relating_events_with_rel_type_and_event_type::v1::Response>, ApiError> {
    let rel_type = Some(request.rel_type.to_string());
    let event_type = Some(request.event_type.to_string());
    related!(
        rooms,
        session,
        request,
        get_relating_events_with_rel_type_and_event_type,
        rel_type,
        event_type
    )
}

/// `GET /_matrix/client/v1/rooms/{roomId}/threads`
pub(crate) async fn get_threads(
    State(rooms): State<Rooms>,
    Client { session, request, .. }: Client<get_threads::v1::Request>,
) -> Result<Ruma<get_threads::v1::Response>, ApiError> {
    let participated = match request.include {
        get_threads::v1::IncludeThreads::All => false,
        get_threads::v1::IncludeThreads::Participated => true,
        _ => return Err(ApiError::invalid_param("include must be all or participated")),
    };
    let from = request.from.filter(|from| !from.is_empty()).as_deref().map(boundary).transpose()?;
    let limit = limit(request.limit);
    let page = rooms.threads(&session, &request.room_id, from, limit, participated).await?;
    let chunk = page.chunk.into_iter().map(Raw::from_json).collect();
    let mut response = get_threads::v1::Response::new(chunk);
    response.next_batch = page.next.map(|next| next.to_string());
    Ok(Ruma(response))
}
