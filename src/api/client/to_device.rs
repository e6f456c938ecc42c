//! Messages from device to device.

use axum::extract::State;
use ruma::{
    api::client::to_device::send_event_to_device::v3::{Request, Response},
    to_device::DeviceIdOrAllDevices,
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    e2ee::{Delivery, Target, ToDevice},
};

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
pub(crate) async fn send_event_to_device(
    State(to_device): State<ToDevice>,
    Client { session, request, .. }: Client<Request>,
) -> Result<Ruma<Response>, ApiError> {
    let mut delivery = Delivery::new();
    for (user, messages) in request.messages {
        let messages = messages.into_iter().map(|(device, content)| {
            let target = match device {
                DeviceIdOrAllDevices::DeviceId(id) => Target::Device(id),
                DeviceIdOrAllDevices::AllDevices => Target::All,
            };
            (target, content.into_json())
        });
        delivery.insert(user, messages.collect());
    }
    let event_type = request.event_type.to_string();
    to_device.send(&session, &event_type, &request.txn_id, &delivery).await?;
    Ok(Ruma(Response::new()))
}
