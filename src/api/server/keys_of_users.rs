//! Keys of this server's users.

use std::collections::BTreeMap;

use axum::extract::State;
use ruma::{
    api::federation::{
        device::get_devices::{self, v1::UserDevice},
        keys::{claim_keys, get_keys},
    },
    serde::Raw,
};

use crate::{
    api::{
        error::ApiError,
        extract::{Ruma, Server},
    },
    e2ee::Keys,
};

/// `GET /_matrix/federation/v1/user/devices/{userId}`
pub(crate) async fn get_devices(
    State(keys): State<Keys>,
    Server { origin, request }: Server<get_devices::v1::Request>,
) -> Result<Ruma<get_devices::v1::Response>, ApiError> {
    let served = keys.devices_for_server(&origin, &request.user_id).await?;
    let stream_id = served.stream_id.try_into().map_err(|error| ApiError::internal(&error))?;
    let mut response = get_devices::v1::Response::new(request.user_id, stream_id);
    let device = |(id, keys)| UserDevice::new(id, Raw::from_json(keys));
    response.devices = served.devices.into_iter().map(device).collect();
    response.master_key = served.master.map(Raw::from_json);
    response.self_signing_key = served.self_signing.map(Raw::from_json);
    Ok(Ruma(response))
}

/// `POST /_matrix/federation/v1/user/keys/query`
pub(crate) async fn get_keys(
    State(keys): State<Keys>,
    Server { request, .. }: Server<get_keys::v1::Request>,
) -> Result<Ruma<get_keys::v1::Response>, ApiError> {
    let found = keys.query_for_server(&request.device_keys).await?;
    let devices = found.device_keys.into_iter().map(|(user, devices)| {
        (user, devices.into_iter().map(|(id, keys)| (id, Raw::from_json(keys))).collect())
    });
    let mut response = get_keys::v1::Response::new(devices.collect());
    let raw = |(user, key)| (user, Raw::from_json(key));
    response.master_keys = found.master_keys.into_iter().map(raw).collect();
    let raw = |(user, key)| (user, Raw::from_json(key));
    response.self_signing_keys = found.self_signing_keys.into_iter().map(raw).collect();
    Ok(Ruma(response))
}

/// `POST /_matrix/federation/v1/user/keys/claim`
pub(crate) async fn claim_keys(
    State(keys): State<Keys>,
    Server { request, .. }: Server<claim_keys::v1::Request>,
) -> Result<Ruma<claim_keys::v1::Response>, ApiError> {
    let wanted = request.one_time_keys.into_iter().map(|(user, devices)| {
        let devices =
            devices.into_iter().map(|(device, algorithm)| (device, algorithm.to_string()));
        (user, devices.collect::<BTreeMap<_, _>>())
    });
    let claimed = keys.claim_local(&wanted.collect()).await?;
    let claimed = claimed.into_iter().map(|(user, devices)| {
        let devices = devices.into_iter().map(|(device, keys)| {
            let keys = keys
                .into_iter()
                .filter_map(|(id, key)| Some((id.as_str().try_into().ok()?, Raw::from_json(key))));
            (device, keys.collect())
        });
        (user, devices.collect())
    });
    Ok(Ruma(claim_keys::v1::Response::new(claimed.collect())))
}
