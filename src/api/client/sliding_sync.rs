//! Simplified sliding sync.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use ruma::presence::PresenceState;
use serde::Deserialize;

use crate::{
    api::{error::ApiError, json::ClientJson},
    sync::{Sliding, SlidingBody, SlidingRequest},
    users::presence::Level,
};

/// The query of a request.
#[derive(Deserialize)]
pub(crate) struct Parameters {
    pos: Option<String>,
    /// In ms.
    timeout: Option<u64>,
    set_presence: Option<PresenceState>,
}

/// `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`
pub(crate) async fn sync(
    State(sliding): State<Sliding>,
    Query(parameters): Query<Parameters>,
    ClientJson { session, value, .. }: ClientJson<SlidingBody>,
) -> Result<Response, ApiError> {
    let request = SlidingRequest {
        // Some clients send an empty position at first.
        pos: parameters.pos.filter(|pos| !pos.is_empty()),
        presence: Level::named(&parameters.set_presence.unwrap_or_default()).unwrap_or_default(),
        timeout: Duration::from_millis(parameters.timeout.unwrap_or(0)),
        body: value,
    };
    Ok(Json(sliding.answer(&session, &request).await?).into_response())
}
