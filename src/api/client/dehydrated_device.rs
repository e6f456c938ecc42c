//! Dehydrated devices.

use axum::{
    Json,
    extract::{Query, State},
};
use ruma::{
    OwnedDeviceId,
    api::client::dehydrated_device::{
        delete_dehydrated_device, get_dehydrated_device, get_events, put_dehydrated_device,
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{
        client::keys::by_id,
        error::ApiError,
        extract::{Client, Ruma},
        json::ClientJson,
    },
    e2ee::{DELIVERED_AT_ONCE, Dehydrated, DehydratedDevices, Upload},
};

fn none() -> ApiError {
    ApiError::not_found("There is no dehydrated device")
}

/// `PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub(crate) async fn put_dehydrated_device(
    State(devices): State<DehydratedDevices>,
    Client { session, request, .. }: Client<put_dehydrated_device::unstable::Request>,
) -> Result<Ruma<put_dehydrated_device::unstable::Response>, ApiError> {
    let device = Dehydrated {
        device_id: request.device_id.clone(),
        device_data: request.device_data.into_json(),
    };
    let upload = Upload {
        identity: Some(request.device_keys.into_json()),
        one_time: by_id(request.one_time_keys),
        fallback: by_id(request.fallback_keys),
    };
    devices.put(&session, device, request.initial_device_display_name, &upload).await?;
    Ok(Ruma(put_dehydrated_device::unstable::Response::new(request.device_id)))
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub(crate) async fn get_dehydrated_device(
    State(devices): State<DehydratedDevices>,
    Client { session, .. }: Client<get_dehydrated_device::unstable::Request>,
) -> Result<Ruma<get_dehydrated_device::unstable::Response>, ApiError> {
    let device = devices.get(session.user).await?.ok_or_else(none)?;
    let data = Raw::from_json(device.device_data);
    Ok(Ruma(get_dehydrated_device::unstable::Response::new(device.device_id, data)))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub(crate) async fn delete_dehydrated_device(
    State(devices): State<DehydratedDevices>,
    Client { session, .. }: Client<delete_dehydrated_device::unstable::Request>,
) -> Result<Ruma<delete_dehydrated_device::unstable::Response>, ApiError> {
    let device_id = devices.delete(session.user).await?.ok_or_else(none)?;
    Ok(Ruma(delete_dehydrated_device::unstable::Response::new(device_id)))
}

fn position(token: Option<&str>) -> Result<u64, ApiError> {
    token.map_or(Ok(0), |token| token.parse().map_err(ApiError::invalid_param))
}

/// `POST …/dehydrated_device/{device_id}/events`: there is always a token, and it is at its end when
/// there are no events.
pub(crate) async fn get_events(
    State(devices): State<DehydratedDevices>,
    Client { session, request, .. }: Client<get_events::unstable::Request>,
) -> Result<Ruma<get_events::unstable::Response>, ApiError> {
    let from = position(request.next_batch.as_deref())?;
    let inbox = devices.events(session.user, &request.device_id, from, DELIVERED_AT_ONCE).await?;
    let events = inbox.events.into_iter().map(Raw::from_json).collect();
    let mut response = get_events::unstable::Response::new(events);
    response.next_batch = Some(inbox.upto.to_string());
    Ok(Ruma(response))
}

/// The query of [`page_of_events`].
#[derive(Deserialize)]
pub(crate) struct Page {
    from: Option<String>,
    limit: Option<usize>,
}

/// `GET …/dehydrated_device/{device_id}/events`: the later form, with a token only if there is more.
pub(crate) async fn page_of_events(
    State(devices): State<DehydratedDevices>,
    Query(page): Query<Page>,
    ClientJson { session, arguments, .. }: ClientJson<Value>,
) -> Result<Json<Value>, ApiError> {
    let from = position(page.from.as_deref())?;
    let limit = page.limit.unwrap_or(DELIVERED_AT_ONCE).clamp(1, DELIVERED_AT_ONCE);
    let device_id: OwnedDeviceId = arguments.into_iter().next().unwrap_or_default().into();
    let inbox = devices.events(session.user, &device_id, from, limit).await?;
    let more = inbox.events.len() == limit;
    let mut answer = json!({ "events": inbox.events });
    if let (true, Some(answer)) = (more, answer.as_object_mut()) {
        answer.insert("next_batch".to_owned(), inbox.upto.to_string().into());
    }
    Ok(Json(answer))
}
