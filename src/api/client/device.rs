//! The devices of a user.

use axum::extract::State;
use http::StatusCode;
use ruma::{
    DeviceId, MilliSecondsSinceUnixEpoch, OwnedDeviceId,
    api::client::{
        device::{Device, delete_device, delete_devices, get_device, get_devices, update_device},
        uiaa::{AuthData, AuthType},
    },
};

use sha2::{Digest, Sha256};

use crate::{
    api::{
        error::ApiError,
        extract::{Caller, Client, Ruma},
    },
    storage::StorageError,
    users::{
        Accounts,
        rows::{self, Activity},
        session::{Session, Sessions, is_acceptable_device_id},
        uia::{Demand, body_hash},
    },
};

/// How many devices are deleted by one request.
const MAX_DELETED: usize = 1_000;

async fn described(
    sessions: &Sessions,
    session: &Session,
    devices: Vec<(OwnedDeviceId, rows::Device)>,
) -> Result<Vec<Device>, StorageError> {
    let ids: Vec<&DeviceId> = devices.iter().map(|(id, _)| &**id).collect();
    let activities = sessions.activities().of(session.user, &ids).await?;
    Ok(devices
        .into_iter()
        .zip(activities)
        .map(|((id, row), activity)| describe(id, row, activity))
        .collect())
}

fn describe(id: OwnedDeviceId, row: rows::Device, activity: Option<Activity>) -> Device {
    let mut device = Device::new(id);
    device.display_name = row.display_name;
    if let Some(activity) = activity {
        device.last_seen_ip = activity.address.map(|address| address.to_string());
        device.last_seen_ts = activity.at_ms.try_into().ok().map(MilliSecondsSinceUnixEpoch);
    }
    device
}

/// `GET /_matrix/client/v3/devices`
pub(crate) async fn get_devices(
    State(sessions): State<Sessions>,
    Client { session, .. }: Client<get_devices::v3::Request>,
) -> Result<Ruma<get_devices::v3::Response>, ApiError> {
    let devices = sessions.devices(session.user).await?;
    Ok(Ruma(get_devices::v3::Response::new(described(&sessions, &session, devices).await?)))
}

/// `GET /_matrix/client/v3/devices/{deviceId}`
pub(crate) async fn get_device(
    State(sessions): State<Sessions>,
    Client { session, request, .. }: Client<get_device::v3::Request>,
) -> Result<Ruma<get_device::v3::Response>, ApiError> {
    let found = sessions.device(session.user, &request.device_id).await?;
    let found = found.map(|row| vec![(request.device_id, row)]).unwrap_or_default();
    let device = described(&sessions, &session, found).await?.pop();
    let device = device.ok_or_else(|| ApiError::not_found("Unknown device"))?;
    Ok(Ruma(get_device::v3::Response::new(device)))
}

/// `PUT /_matrix/client/v3/devices/{deviceId}`
pub(crate) async fn update_device(
    State(sessions): State<Sessions>,
    Client { session, request, .. }: Client<update_device::v3::Request>,
) -> Result<(StatusCode, Ruma<update_device::v3::Response>), ApiError> {
    let id = &request.device_id;
    if session.appservice.is_some() {
        if !is_acceptable_device_id(id) {
            return Err(ApiError::invalid_param("This can't be a device ID"));
        }
        let new = sessions.put_device(session.user, id, request.display_name).await?;
        let status = if new { StatusCode::CREATED } else { StatusCode::OK };
        return Ok((status, Ruma(update_device::v3::Response::new())));
    }
    // Spec: "If not given, the display name is unchanged."
    let known = match request.display_name {
        Some(name) => sessions.rename_device(session.user, id, Some(name)).await?,
        None => sessions.has_device(session.user, id).await?,
    };
    if known {
        Ok((StatusCode::OK, Ruma(update_device::v3::Response::new())))
    } else {
        Err(ApiError::not_found("Unknown device"))
    }
}

/// `DELETE /_matrix/client/v3/devices/{deviceId}`
pub(crate) async fn delete_device(
    State(accounts): State<Accounts>,
    Client { session, request, caller, body }: Client<delete_device::v3::Request>,
) -> Result<Ruma<delete_device::v3::Response>, ApiError> {
    let auth = request.auth.as_ref();
    // The device stands in the path: it is part of what is approved.
    let mut approved = body_hash(&body).to_vec();
    approved.extend_from_slice(request.device_id.as_bytes());
    let approved = Sha256::digest(&approved).into();
    let ids = [request.device_id];
    delete(&accounts, &session, &ids, auth, "DELETE /devices", approved, &caller).await?;
    Ok(Ruma(delete_device::v3::Response::new()))
}

/// `POST /_matrix/client/v3/delete_devices`
pub(crate) async fn delete_devices(
    State(accounts): State<Accounts>,
    Client { session, request, caller, body }: Client<delete_devices::v3::Request>,
) -> Result<Ruma<delete_devices::v3::Response>, ApiError> {
    if request.devices.len() > MAX_DELETED {
        return Err(ApiError::invalid_param("at most 1000 devices may be deleted at once"));
    }
    let (auth, ids) = (request.auth.as_ref(), &request.devices);
    let approved = body_hash(&body);
    delete(&accounts, &session, ids, auth, "POST /delete_devices", approved, &caller).await?;
    Ok(Ruma(delete_devices::v3::Response::new()))
}

async fn delete(
    accounts: &Accounts,
    session: &Session,
    ids: &[OwnedDeviceId],
    auth: Option<&AuthData>,
    endpoint: &'static str,
    approved: [u8; 32],
    caller: &Caller,
) -> Result<(), ApiError> {
    // An application service has proved who it is, and has no password.
    if session.appservice.is_none() {
        let proof = accounts
            .authenticate(Demand {
                endpoint,
                body: Some(approved),
                user: Some(session.user),
                flows: vec![vec![AuthType::Password]],
                auth,
                caller,
            })
            .await?;
        accounts.spend(&proof).await?;
    }
    for id in ids {
        accounts.sessions().remove_device(session.user, id).await?;
    }
    Ok(())
}
