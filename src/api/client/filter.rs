//! Filters that clients store.

use axum::extract::State;
use ruma::api::client::filter::{create_filter, get_filter};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    users::Filters,
};

/// `POST /_matrix/client/v3/user/{userId}/filter`
pub(crate) async fn create_filter(
    State(filters): State<Filters>,
    Client { session, request, .. }: Client<create_filter::v3::Request>,
) -> Result<Ruma<create_filter::v3::Response>, ApiError> {
    if request.user_id != session.user_id {
        return Err(ApiError::forbidden("Filters are stored for oneself only"));
    }
    let id = filters.create(session.user, &request.filter).await?;
    Ok(Ruma(create_filter::v3::Response::new(id)))
}

/// `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
pub(crate) async fn get_filter(
    State(filters): State<Filters>,
    Client { session, request, .. }: Client<get_filter::v3::Request>,
) -> Result<Ruma<get_filter::v3::Response>, ApiError> {
    if request.user_id != session.user_id {
        return Err(ApiError::forbidden("Nobody's filters but one's own can be read"));
    }
    let filter = filters.get(session.user, &request.filter_id).await?;
    let filter = filter.ok_or_else(|| ApiError::not_found("No such filter"))?;
    Ok(Ruma(get_filter::v3::Response::new(filter)))
}
