//! Signing keys: this server's own, and those of others for whoever asks.

use axum::extract::State;
use futures::{StreamExt as _, stream};
use ruma::{
    CanonicalJsonObject,
    api::federation::discovery::{
        ServerSigningKeys, get_remote_server_keys, get_remote_server_keys_batch, get_server_keys,
    },
    serde::Raw,
};

use crate::{
    api::{
        error::ApiError,
        extract::{Public, Ruma},
    },
    clock::Clock,
    federation::{Federation, key_queries},
};

/// The most servers whose keys are given at once.
const MAX_SERVERS: usize = 100;
/// How many of them are asked at the same time.
const AT_ONCE: usize = 10;

/// `GET /_matrix/key/v2/server`
pub(crate) async fn get_server_keys(
    State(federation): State<Federation>,
    Public { .. }: Public<get_server_keys::v2::Request>,
) -> Result<Ruma<get_server_keys::v2::Response>, ApiError> {
    Ok(Ruma(get_server_keys::v2::Response::new(raw(&federation.own_keys())?)))
}

/// `GET /_matrix/key/v2/query/{serverName}`
pub(crate) async fn get_remote_server_keys(
    State(federation): State<Federation>,
    Public { request, .. }: Public<get_remote_server_keys::v2::Request>,
) -> Result<Ruma<get_remote_server_keys::v2::Response>, ApiError> {
    let until = u64::from(request.minimum_valid_until_ts.0);
    let found = federation.notarized_keys(&request.server_name, until).await;
    let keys = found.iter().map(raw).collect::<Result<_, _>>()?;
    Ok(Ruma(get_remote_server_keys::v2::Response::new(keys)))
}

/// `POST /_matrix/key/v2/query`
pub(crate) async fn get_remote_server_keys_batch(
    State(federation): State<Federation>,
    State(clock): State<Clock>,
    Public { request, .. }: Public<get_remote_server_keys_batch::v2::Request>,
) -> Result<Ruma<get_remote_server_keys_batch::v2::Response>, ApiError> {
    let queries = key_queries(request, clock.now_ms());
    if queries.len() > MAX_SERVERS {
        return Err(ApiError::invalid_param(format!("At most {MAX_SERVERS} servers")));
    }
    let found: Vec<Option<CanonicalJsonObject>> = stream::iter(queries)
        .map(|(server, until)| {
            let federation = federation.clone();
            async move { federation.notarized_keys(&server, until).await }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let keys = found.iter().flatten().map(raw).collect::<Result<_, _>>()?;
    Ok(Ruma(get_remote_server_keys_batch::v2::Response::new(keys)))
}

fn raw(object: &CanonicalJsonObject) -> Result<Raw<ServerSigningKeys>, ApiError> {
    let raw = Raw::new(object).map_err(|error| ApiError::internal(&error))?;
    Ok(raw.cast_unchecked())
}
