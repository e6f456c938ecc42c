//! What users were notified of.

use axum::extract::State;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::push::get_notifications::v3::{Notification, Request, Response},
    serde::Raw,
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    push::Unread,
};

/// How many notifications there are in a page if the client does not say.
const DEFAULT_LIMIT: usize = 20;

/// `GET /_matrix/client/v3/notifications`
///
/// Tokens are stream positions: `n1_POSITION`.
pub(crate) async fn get_notifications(
    State(unread): State<Unread>,
    Client { session, request, .. }: Client<Request>,
) -> Result<Ruma<Response>, ApiError> {
    let from = match &request.from {
        Some(token) => {
            let position = token.strip_prefix("n1_").and_then(|position| position.parse().ok());
            Some(
                position
                    .ok_or_else(|| ApiError::invalid_param("from is no token of this server"))?,
            )
        }
        None => None,
    };
    let limit =
        request.limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let highlights = request.only.as_deref() == Some("highlight");
    let page = unread.notifications(&session, from, limit, highlights).await?;
    let notifications = page.found.into_iter().map(|found| {
        let ts = MilliSecondsSinceUnixEpoch(UInt::try_from(found.ts).unwrap_or(UInt::MAX));
        Notification::new(found.actions, Raw::from_json(found.event), found.read, found.room_id, ts)
    });
    let mut response = Response::new(notifications.collect());
    response.next_token = page.next.map(|position| format!("n1_{position}"));
    Ok(Ruma(response))
}
