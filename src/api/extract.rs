//! Who is asking, and what: requests as ruma's types, bound to the endpoint's authentication.
//!
//! The extractor must fit `R::Authentication`, so a handler can't forget to ask for a token.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::{Body, HttpBody as _},
    extract::{FromRef, FromRequest, FromRequestParts, OriginalUri, RawPathParams, Request},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http::header;
use ruma::{
    OwnedServerName,
    api::{
        IncomingRequest, IncomingRequestExt, OutgoingResponse, OutgoingResponseExt,
        auth_scheme::{
            AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, AuthScheme,
            NoAccessToken, NoAuthentication,
        },
        federation::authentication::ServerSignatures,
        path_builder::PathBuilder,
    },
};

use super::{error::ApiError, guests, standing};
use crate::appservice::{AppserviceError, Service};
use crate::federation::exchange::Exchange;
use crate::http::{BodyError, ClientAddress};
use crate::users::session::{AuthError, Session, Sessions};

/// The largest JSON body: far above an event's 64 KiB, since uploads of keys are larger.
pub(crate) const MAX_JSON_BODY_BYTES: usize = 8 * 1024 * 1024;

/// What is known of the program that asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// None on Unix sockets.
    pub(crate) address: Option<IpAddr>,
    /// At most 255 bytes of it.
    pub(crate) user_agent: Option<String>,
}

impl Caller {
    /// The caller of a request.
    pub(super) fn of(parts: &http::request::Parts) -> Self {
        Self {
            address: parts.extensions.get::<ClientAddress>().map(|address| address.0),
            user_agent: parts
                .headers
                .get(header::USER_AGENT)
                .and_then(|value| value.to_str().ok())
                .map(|text| text.chars().take(255).collect()),
        }
    }
}

/// A request by a user with an access token.
pub(crate) struct Client<R> {
    /// Who asks.
    pub(crate) session: Session,
    /// What for.
    pub(crate) request: R,
    /// From where.
    pub(crate) caller: Caller,
    /// The body as it came.
    pub(crate) body: Bytes,
}

/// A request that needs no access token.
pub(crate) struct Public<R> {
    /// What is asked for.
    pub(crate) request: R,
    /// From where.
    pub(crate) caller: Caller,
}

/// The access token that a request brings, if it does, where what is asked for says whether one is
/// needed.
pub(crate) struct Token(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Token {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _: &S,
    ) -> Result<Self, Self::Rejection> {
        let head = http::Request::from_parts(parts.clone(), ());
        // A malformed header is treated like an absent token.
        Ok(Self(AccessTokenOptional::extract_authentication(&head).ok().flatten()))
    }
}

/// A request that may bring an access token.
pub(crate) struct MaybeClient<R> {
    /// Who asks, if the request says.
    pub(crate) session: Option<Session>,
    /// What for.
    pub(crate) request: R,
    /// From where.
    pub(crate) caller: Caller,
    /// The body as it came.
    pub(crate) body: Bytes,
}

/// A request by another server, which signed it.
pub(crate) struct Server<R> {
    /// Which.
    pub(crate) origin: OwnedServerName,
    /// What it wants.
    pub(crate) request: R,
}

/// Authentication schemes of endpoints that everybody may use.
pub(crate) trait Open: AuthScheme {}
impl Open for NoAccessToken {}
impl Open for NoAuthentication {}
/// Bridges bring a token to register their users; everybody else has none.
impl Open for AppserviceTokenOptional {}

/// A request before its JSON is read.
struct Received<R: IncomingRequest> {
    head: http::Request<()>,
    arguments: Vec<String>,
    body: Bytes,
    caller: Caller,
    request: std::marker::PhantomData<fn() -> R>,
}

impl<R: IncomingRequest> Received<R> {
    async fn new<S: Send + Sync>(request: Request, state: &S) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let parameters = RawPathParams::from_request_parts(&mut parts, state)
            .await
            .map_err(ApiError::invalid_param)?;
        let mut arguments: Vec<String> =
            parameters.iter().map(|(_, value)| value.to_owned()).collect();
        // The short forms of paths that end in an empty state key.
        if arguments.len() < placeholders::<R>() {
            arguments.push(String::new());
        }
        let caller = Caller::of(&parts);
        let body = read_body(body).await?;
        let head = http::Request::from_parts(parts, ());
        Ok(Self { head, arguments, body, caller, request: std::marker::PhantomData })
    }

    fn token(&self) -> Option<String> {
        // A malformed header is treated like an absent token.
        AccessTokenOptional::extract_authentication(&self.head).ok().flatten()
    }

    /// Who asks, if the request says; only those who may ask this.
    async fn session<S>(&self, state: &S) -> Result<Option<Session>, ApiError>
    where
        Sessions: FromRef<S>,
    {
        let Some(token) = self.token() else { return Ok(None) };
        let sessions = Sessions::from_ref(state);
        let session = sessions.enter(&token, &self.caller, self.head.uri().query()).await?;
        guests::check::<R>(&session)?;
        standing::check::<R>(&sessions, &session).await?;
        Ok(Some(session))
    }

    fn parse(self) -> Result<(R, Caller, Bytes), ApiError> {
        // Clients leave out bodies that would be empty objects.
        let bytes: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let request = R::try_from_http_request(self.head.map(|()| bytes), &arguments)?;
        Ok((request, self.caller, self.body))
    }
}

/// Reads a body of bounded size.
pub(crate) async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    let read = axum::body::to_bytes(body, MAX_JSON_BODY_BYTES).await;
    read.map_err(|error| BodyError::of(&error).into())
}

/// A request by a user whose body is read piece by piece: an upload.
pub(crate) struct Upload<R> {
    /// Who asks.
    pub(crate) session: Session,
    /// What for; its body is empty.
    pub(crate) request: R,
    /// Size of the body, if it was announced.
    pub(crate) announced_bytes: Option<u64>,
    /// The body.
    pub(crate) body: Body,
}

impl<R, S> FromRequest<S> for Upload<R>
where
    R: IncomingRequest<Authentication = AccessToken> + Send,
    S: Send + Sync,
    Sessions: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let announced_bytes = body.size_hint().exact();
        let head = Request::from_parts(parts, Body::empty());
        let received = Received::<R>::new(head, state).await?;
        let session = received.session(state).await?.ok_or(AuthError::Missing)?;
        let (request, ..) = received.parse()?;
        Ok(Self { session, request, announced_bytes, body })
    }
}

fn placeholders<R: IncomingRequest>() -> usize {
    R::PATH_BUILDER.all_paths().next().map_or(0, |path| path.matches('{').count())
}

impl<R, S> FromRequest<S> for Client<R>
where
    R: IncomingRequest<Authentication = AccessToken> + Send,
    S: Send + Sync,
    Sessions: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let received = Received::<R>::new(request, state).await?;
        let session = received.session(state).await?.ok_or(AuthError::Missing)?;
        let (request, caller, body) = received.parse()?;
        Ok(Self { session, request, caller, body })
    }
}

impl<R, S> FromRequest<S> for MaybeClient<R>
where
    R: IncomingRequest<Authentication = AccessTokenOptional> + Send,
    S: Send + Sync,
    Sessions: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let received = Received::<R>::new(request, state).await?;
        let session = received.session(state).await?;
        let (request, caller, body) = received.parse()?;
        Ok(Self { session, request, caller, body })
    }
}

impl<R, S> FromRequest<S> for Server<R>
where
    R: IncomingRequest<Authentication = ServerSignatures> + Send,
    S: Send + Sync,
    Exchange: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        // The signature covers path and query as they came.
        let uri = match request.extensions().get::<OriginalUri>() {
            Some(OriginalUri(uri)) => uri.clone(),
            None => request.uri().clone(),
        };
        let uri = uri.path_and_query().map_or("/", |path| path.as_str());
        let received = Received::<R>::new(request, state).await?;
        let head = &received.head;
        let exchange = Exchange::from_ref(state);
        let federation = exchange.federation();
        let origin =
            federation.authenticate(head.method(), uri, head.headers(), &received.body).await?;
        exchange.heard_of(&origin);
        let (request, _, _) = received.parse()?;
        Ok(Self { origin, request })
    }
}

impl<R, S> FromRequest<S> for Public<R>
where
    R: IncomingRequest + Send,
    R::Authentication: Open,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (request, caller, _) = Received::<R>::new(request, state).await?.parse()?;
        Ok(Self { request, caller })
    }
}

/// A request by an application service itself.
pub(crate) struct Bridge<R> {
    /// Which.
    pub(crate) service: Arc<Service>,
    /// What it wants.
    pub(crate) request: R,
}

impl<R, S> FromRequest<S> for Bridge<R>
where
    R: IncomingRequest<Authentication = AppserviceToken> + Send,
    S: Send + Sync,
    Sessions: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let received = Received::<R>::new(request, state).await?;
        let token = received.token().ok_or(AuthError::Missing)?;
        let sessions = Sessions::from_ref(state);
        let Some(service) = sessions.appservice(&token) else {
            // Users have tokens too, which are good for something else.
            sessions.authenticate(&token, &received.caller).await?;
            return Err(AppserviceError::NotYours.into());
        };
        let (request, ..) = received.parse()?;
        Ok(Self { service, request })
    }
}

/// A request by an application service, or by somebody without a token.
pub(crate) struct MaybeBridge<R> {
    /// The token that came with it.
    pub(crate) token: Option<String>,
    /// What is wanted.
    pub(crate) request: R,
    /// From where.
    pub(crate) caller: Caller,
}

impl<R, S> FromRequest<S> for MaybeBridge<R>
where
    R: IncomingRequest<Authentication = AppserviceTokenOptional> + Send,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let received = Received::<R>::new(request, state).await?;
        let token = received.token();
        let (request, caller, _) = received.parse()?;
        Ok(Self { token, request, caller })
    }
}

/// A ruma response as an HTTP response.
pub(crate) struct Ruma<T>(pub(crate) T);

impl<T: OutgoingResponse> IntoResponse for Ruma<T> {
    fn into_response(self) -> Response {
        match self.0.try_into_http_response::<BytesMut>() {
            Ok(response) => response.map(|body| Body::from(body.freeze())),
            Err(error) => ApiError::internal(&error).into_response(),
        }
    }
}
