//! Who an `OpenID` token names.

use axum::extract::State;
use ruma::api::{
    error::{ErrorKind, UnknownTokenErrorData},
    federation::openid::get_openid_userinfo::v1::{Request, Response},
};

use crate::{
    api::{
        error::ApiError,
        extract::{Public, Ruma},
    },
    users::Accounts,
};

/// `GET /_matrix/federation/v1/openid/userinfo`
///
/// Asked by services rather than by servers, so it is served without federation too.
pub(crate) async fn get_openid_userinfo(
    State(accounts): State<Accounts>,
    Public { request, .. }: Public<Request>,
) -> Result<Ruma<Response>, ApiError> {
    let user_id = accounts.openid_user(&request.access_token).await?;
    let unknown = || {
        let kind = ErrorKind::UnknownToken(UnknownTokenErrorData::new());
        ApiError::new(kind, "Unknown or expired token")
    };
    Ok(Ruma(Response::new(user_id.ok_or_else(unknown)?)))
}
