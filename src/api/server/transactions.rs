//! Transactions: events and more that other servers send.

use axum::extract::State;
use ruma::api::federation::transactions::send_transaction_message::v1::{Request, Response};

use crate::{
    api::{
        error::ApiError,
        extract::{Ruma, Server},
    },
    federation::exchange::Exchange,
};

/// `PUT /_matrix/federation/v1/send/{txnId}`
pub(crate) async fn send_transaction(
    State(exchange): State<Exchange>,
    Server { origin, request, .. }: Server<Request>,
) -> Result<Ruma<Response>, ApiError> {
    if request.origin != origin {
        return Err(ApiError::forbidden("The transaction is another server's"));
    }
    let Request { transaction_id, pdus, edus, .. } = request;
    let received = exchange.receive(&origin, &transaction_id, pdus, edus).await?;
    Ok(Ruma(Response::new(received.into_results())))
}
