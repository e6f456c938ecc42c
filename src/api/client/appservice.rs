//! What application services ask for themselves: whether they can be reached, and a place for their
//! rooms in the directory.

use axum::extract::State;
use ruma::api::client::{
    appservice::{request_ping, set_room_visibility},
    room::Visibility,
};

use crate::{
    api::{
        error::ApiError,
        extract::{Bridge, Ruma},
    },
    appservice::{AppserviceError, Appservices},
    rooms::Rooms,
};

/// The longest name of a network.
const MAX_NETWORK_BYTES: usize = 255;

/// `POST /_matrix/client/v1/appservice/{appserviceId}/ping`
pub(crate) async fn request_ping(
    State(appservices): State<Appservices>,
    Bridge { service, request }: Bridge<request_ping::v1::Request>,
) -> Result<Ruma<request_ping::v1::Response>, ApiError> {
    if request.appservice_id != service.id() {
        return Err(AppserviceError::NotYours.into());
    }
    let transaction = request.transaction_id.as_ref().map(|id| id.as_str());
    let took = appservices.ping(&service, transaction).await?;
    Ok(Ruma(request_ping::v1::Response::new(took)))
}

/// `PUT /_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}`
pub(crate) async fn set_room_visibility(
    State(appservices): State<Appservices>,
    State(rooms): State<Rooms>,
    Bridge { service, request }: Bridge<set_room_visibility::v3::Request>,
) -> Result<Ruma<set_room_visibility::v3::Response>, ApiError> {
    let listed = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(ApiError::invalid_param("visibility must be public or private")),
    };
    let network = request.network_id;
    if network.is_empty() || network.len() > MAX_NETWORK_BYTES || network.contains('\0') {
        return Err(ApiError::invalid_param("a network has a name of 1 to 255 bytes"));
    }
    let room = rooms.room(&request.room_id).await?;
    appservices.set_listed(&service, &network, room.number, listed).await?;
    Ok(Ruma(set_room_visibility::v3::Response::new()))
}
