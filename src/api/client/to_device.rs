//! Messages from device to device.

use axum::extract::State;
use ruma::api::client::to_device::send_event_to_device::v3::{Request, Response};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    e2ee::{ToDevice, delivery},
};

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
pub(crate) async fn send_event_to_device(
    State(to_device): State<ToDevice>,
    Client { session, request, .. }: Client<Request>,
) -> Result<Ruma<Response>, ApiError> {
    let delivery = delivery(request.messages);
    let event_type = request.event_type.to_string();
    to_device.send(&session, &event_type, &request.txn_id, &delivery).await?;
    Ok(Ruma(Response::new()))
}
