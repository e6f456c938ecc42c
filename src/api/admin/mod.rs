//! The administration API: on the paths that Synapse has for the same, and on paths of its own for
//! what Synapse has not.

pub(crate) mod media;
pub(crate) mod rooms;
pub(super) mod routes;
pub(crate) mod users;

use axum::extract::{FromRef, FromRequest, Request};
use serde::de::DeserializeOwned;

use super::{error::ApiError, json::ClientJson};
use crate::users::{
    Accounts,
    session::{Session, Sessions},
};

/// A request by an administrator.
pub(crate) struct Admin<T = Nothing> {
    /// Who asks.
    pub(crate) session: Session,
    /// The placeholders of the path, decoded, in their order.
    pub(crate) arguments: Vec<String>,
    /// The body; `{}` if there is none.
    pub(crate) value: T,
}

/// A body in which nothing is looked at.
#[derive(serde::Deserialize)]
pub(crate) struct Nothing {}

impl<T> Admin<T> {
    /// The placeholder at `index` of the path as what it names.
    fn argument<I: for<'a> TryFrom<&'a str>>(&self, index: usize) -> Result<I, ApiError> {
        let text = self.arguments.get(index).map(String::as_str).unwrap_or_default();
        I::try_from(text).map_err(|_| ApiError::invalid_param(format!("{text:?} is no such ID")))
    }
}

impl<T, S> FromRequest<S> for Admin<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
    Sessions: FromRef<S>,
    Accounts: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let ClientJson { session, arguments, value } =
            ClientJson::from_request(request, state).await?;
        if !Accounts::from_ref(state).is_admin(session.user).await? {
            return Err(ApiError::forbidden("You are not a server admin"));
        }
        Ok(Self { session, arguments, value })
    }
}
