//! Simplified sliding sync, in both of its forms.

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
    sync::{DeployedBody, MergedBody, Sliding},
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
    ClientJson { session, value, .. }: ClientJson<DeployedBody>,
) -> Result<Response, ApiError> {
    // Some clients send an empty position at first.
    let pos = parameters.pos.filter(|pos| !pos.is_empty());
    let presence = Level::named(&parameters.set_presence.unwrap_or_default()).unwrap_or_default();
    let timeout = Duration::from_millis(parameters.timeout.unwrap_or(0));
    let request = value.request(pos, presence, timeout)?;
    Ok(Json(sliding.answer(&session, &request).await?).into_response())
}

/// `POST /_matrix/client/v4/sync`
pub(crate) async fn sync_v4(
    State(sliding): State<Sliding>,
    ClientJson { session, value, .. }: ClientJson<MergedBody>,
) -> Result<Response, ApiError> {
    Ok(Json(sliding.answer(&session, &value.request()?).await?).into_response())
}
