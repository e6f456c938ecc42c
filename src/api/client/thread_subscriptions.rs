//! Threads that users follow: MSC4306 and MSC4308.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Value, json};

use crate::{
    api::{error::ApiError, json::ClientJson},
    push::PushRules,
    rooms::{Rooms, subscriptions::SubscriptionChanges},
    storage::Db,
    sync::sliding_position,
};

/// How many changes a page has if the client does not say.
const DEFAULT_LIMIT: usize = 100;
/// How many it has at most.
const MAX_LIMIT: usize = 500;

/// The room and the root that a path names.
fn thread(arguments: Vec<String>) -> Result<(OwnedRoomId, OwnedEventId), ApiError> {
    let [room_id, root] = <[String; 2]>::try_from(arguments)
        .map_err(|_| ApiError::invalid_param("the path has two parts"))?;
    let room_id = room_id.try_into().map_err(ApiError::invalid_param)?;
    Ok((room_id, root.try_into().map_err(ApiError::invalid_param)?))
}

/// `GET /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRoot}/subscription`
pub(crate) async fn get(
    State(rooms): State<Rooms>,
    ClientJson { session, arguments, .. }: ClientJson<IgnoredAny>,
) -> Result<Json<Value>, ApiError> {
    let (room_id, root) = thread(arguments)?;
    let automatic = rooms.thread_subscription(&session, &room_id, &root).await?;
    let automatic = automatic.ok_or_else(|| ApiError::not_found("not subscribed to the thread"))?;
    Ok(Json(json!({ "automatic": automatic })))
}

/// The body of a request to subscribe.
#[derive(Deserialize)]
pub(crate) struct Subscribe {
    /// The event for which the client does it by itself.
    automatic: Option<OwnedEventId>,
}

/// `PUT /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRoot}/subscription`
pub(crate) async fn subscribe(
    State(rooms): State<Rooms>,
    State(rules): State<PushRules>,
    ClientJson { session, arguments, value }: ClientJson<Subscribe>,
) -> Result<Json<Value>, ApiError> {
    let (room_id, root) = thread(arguments)?;
    rooms.subscribe_to_thread(&session, &room_id, &root, value.automatic.as_deref()).await?;
    rules.follow_threads(session.user, &session.user_id).await?;
    Ok(Json(json!({})))
}

/// `DELETE /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRoot}/subscription`
pub(crate) async fn unsubscribe(
    State(rooms): State<Rooms>,
    ClientJson { session, arguments, .. }: ClientJson<IgnoredAny>,
) -> Result<Json<Value>, ApiError> {
    let (room_id, root) = thread(arguments)?;
    rooms.unsubscribe_from_thread(&session, &room_id, &root).await?;
    Ok(Json(json!({})))
}

/// Which page of changes.
#[derive(Deserialize)]
pub(crate) struct PageQuery {
    dir: String,
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
}

/// A page of changes.
#[derive(Serialize)]
pub(crate) struct Page {
    #[serde(flatten)]
    changes: SubscriptionChanges,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
}

/// `GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions`
///
/// Tokens are stream positions, as a sliding sync's `prev_batch`; `to` may be a `pos` too.
pub(crate) async fn list(
    State(rooms): State<Rooms>,
    State(db): State<Db>,
    query: Result<Query<PageQuery>, QueryRejection>,
    ClientJson { session, .. }: ClientJson<IgnoredAny>,
) -> Result<Json<Page>, ApiError> {
    let Query(PageQuery { dir, from, to, limit }) = query.map_err(ApiError::invalid_param)?;
    if dir != "b" {
        return Err(ApiError::invalid_param("dir is b"));
    }
    let no_token = || ApiError::invalid_param("this is no token of thread subscriptions");
    let now = db.visible_position();
    let upto = match from.filter(|from| !from.is_empty()) {
        Some(from) => from.parse::<u64>().map_err(|_| no_token())?.min(now),
        None => now,
    };
    let after = match to.filter(|to| !to.is_empty()) {
        Some(to) => to.parse().ok().or_else(|| sliding_position(&to)).ok_or_else(no_token)?,
        None => 0,
    };
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 {
        return Err(ApiError::invalid_param("limit is above 0"));
    }
    let limit = limit.min(MAX_LIMIT);
    let changes = rooms.subscription_changes(&db, session.user, after, upto, limit).await?;
    let end = changes.earlier.map(|position| position.to_string());
    Ok(Json(Page { changes, end }))
}
