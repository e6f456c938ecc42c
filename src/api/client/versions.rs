//! Which versions of the specification are served.

use ruma::api::client::discovery::get_supported_versions::{Request, Response};

use crate::api::{
    error::ApiError,
    extract::{MaybeClient, Ruma},
};

/// `GET /_matrix/client/versions`
pub(crate) async fn get_versions(
    MaybeClient { .. }: MaybeClient<Request>,
) -> Result<Ruma<Response>, ApiError> {
    Ok(Ruma(Response::new(vec!["v1.1".to_owned(), "v1.2".to_owned()])))
}
