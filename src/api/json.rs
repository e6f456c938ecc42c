//! Requests that ruma has no type for, as JSON.

use axum::{
    body::Body,
    extract::{FromRef, FromRequest, FromRequestParts, RawPathParams, Request},
};
use ruma::api::{
    auth_scheme::{AccessTokenOptional, AuthScheme},
    error::ErrorKind,
};
use serde::de::DeserializeOwned;

use super::{
    error::ApiError,
    extract::{Caller, read_body},
    standing,
};
use crate::users::session::{AuthError, Session, Sessions};

/// A request that needs no access token.
pub(crate) struct PublicJson<T> {
    /// The body; `{}` if there is none.
    pub(crate) value: T,
    /// From where.
    pub(crate) caller: Caller,
    /// The token that came with it.
    pub(crate) token: Option<String>,
}

/// A request by a user with an access token.
pub(crate) struct ClientJson<T> {
    /// Who asks.
    pub(crate) session: Session,
    /// The placeholders of the path, decoded, in their order.
    pub(crate) arguments: Vec<String>,
    /// The body; `{}` if there is none.
    pub(crate) value: T,
}

/// A request that may bring an access token.
pub(crate) struct MaybeClientJson<T> {
    /// Who asks, if the request says.
    pub(crate) session: Option<Session>,
    /// The placeholders of the path, decoded, in their order.
    pub(crate) arguments: Vec<String>,
    /// The body; `{}` if there is none.
    pub(crate) value: T,
    /// From where.
    pub(crate) caller: Caller,
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let kind = if error.is_data() { ErrorKind::BadJson } else { ErrorKind::NotJson };
        ApiError::new(kind, error)
    })
}

impl<T, S> FromRequest<S> for PublicJson<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let value = parse(&read_body(body).await?)?;
        let caller = Caller::of(&parts);
        let head = http::Request::from_parts(parts, ());
        let token = AccessTokenOptional::extract_authentication(&head).ok().flatten();
        Ok(Self { value, caller, token })
    }
}

impl<T, S> FromRequest<S> for MaybeClientJson<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
    Sessions: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Head { session, arguments, caller, body } = Head::read(request, state).await?;
        Ok(Self { session, arguments, value: parse(&read_body(body).await?)?, caller })
    }
}

/// What is known before the body is read.
struct Head {
    session: Option<Session>,
    arguments: Vec<String>,
    caller: Caller,
    body: Body,
}

impl Head {
    async fn read<S>(request: Request, state: &S) -> Result<Self, ApiError>
    where
        S: Send + Sync,
        Sessions: FromRef<S>,
    {
        let (mut parts, body) = request.into_parts();
        let parameters = RawPathParams::from_request_parts(&mut parts, state)
            .await
            .map_err(ApiError::invalid_param)?;
        let arguments = parameters.iter().map(|(_, value)| value.to_owned()).collect();
        let caller = Caller::of(&parts);
        let head = http::Request::from_parts(parts, ());
        let token = AccessTokenOptional::extract_authentication(&head).ok().flatten();
        let session = match token {
            Some(token) => {
                let sessions = Sessions::from_ref(state);
                let session = sessions.enter(&token, &caller, head.uri().query()).await?;
                standing::check_locked(&sessions, &session).await?;
                Some(session)
            }
            None => None,
        };
        Ok(Self { session, arguments, caller, body })
    }
}

impl<T, S> FromRequest<S> for ClientJson<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
    Sessions: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Head { session, arguments, body, .. } = Head::read(request, state).await?;
        // Who may not ask at all is not told what is wrong with the question.
        let session = session.ok_or(AuthError::Missing)?;
        Ok(Self { session, arguments, value: parse(&read_body(body).await?)? })
    }
}
