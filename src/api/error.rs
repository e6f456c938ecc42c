//! Which failure becomes which status and `errcode`. The only place that maps errors.

use std::{fmt::Display, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use http::StatusCode;
use media::{blob::BlobError, thumbnail::ThumbnailError};
use ruma::api::{
    OutgoingResponseExt,
    client::uiaa::{UiaaInfo, UiaaResponse},
    error::{
        BadStatusErrorData, DeserializationError, Error, ErrorBody, ErrorKind,
        FromHttpRequestError, LimitExceededErrorData, RetryAfter, StandardErrorBody,
        UnknownTokenErrorData, WrongRoomKeysVersionErrorData,
    },
};

use crate::{
    appservice::AppserviceError,
    content::{ContentError, RemoteError},
    e2ee::E2eeError,
    federation::{NotAuthenticated, PeerError, exchange::ExchangeError},
    http::BodyError,
    identity::IdentityError,
    previews::PreviewError,
    push::{PushRuleError, PusherError},
    rooms::{
        RoomError, delayed::DelayedError, policy::PolicyError, subscriptions::SubscriptionError,
    },
    storage::StorageError,
    sync::{SlidingError, SyncError},
    users::{
        AccountDataError, AccountError, FilterError, ProfileError, limits::LimitExceeded,
        mail::MailError, password::PasswordError, presence::PresenceError, session::AuthError,
    },
};

/// What a client or a server is told when its request fails.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#standard-error-response>
#[derive(Debug)]
pub(crate) enum ApiError {
    /// A standard error.
    Standard {
        /// HTTP status.
        status: StatusCode,
        /// The `errcode`, with what belongs to it.
        kind: Box<ErrorKind>,
        /// For people.
        message: String,
    },
    /// A standard error with members that ruma has no type for.
    Detailed {
        /// HTTP status.
        status: StatusCode,
        /// The whole body.
        body: serde_json::Value,
    },
    /// More stages of user-interactive authentication are needed (401).
    Uiaa(Box<UiaaInfo>),
}

impl ApiError {
    /// The error of this kind, with the status that belongs to it.
    pub(crate) fn new(kind: ErrorKind, message: impl Display) -> Self {
        Self::with_status(status_of(&kind), kind, message)
    }

    /// An error whose status depends on the endpoint.
    pub(crate) fn with_status(status: StatusCode, kind: ErrorKind, message: impl Display) -> Self {
        Self::Standard { status, kind: Box::new(kind), message: message.to_string() }
    }

    /// An error whose body ruma has no type for.
    pub(crate) fn detailed(status: StatusCode, body: serde_json::Value) -> Self {
        Self::Detailed { status, body }
    }

    /// Something failed that is not the caller's doing: logged here, hidden outside.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = causes(error), "request failed");
        Self::with_status(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Unknown,
            "Internal server error",
        )
    }

    /// Its HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Standard { status, .. } | Self::Detailed { status, .. } => *status,
            Self::Uiaa(_) => StatusCode::UNAUTHORIZED,
        }
    }

    /// Its `errcode`, if it is a standard error.
    pub(crate) fn errcode(&self) -> Option<String> {
        match self {
            Self::Standard { kind, .. } => Some(kind.errcode().to_string()),
            Self::Detailed { .. } | Self::Uiaa(_) => None,
        }
    }

    /// The JSON that stands in its body.
    pub(crate) async fn body(self) -> String {
        let body = axum::body::to_bytes(self.into_response().into_body(), usize::MAX).await;
        body.map(|body| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default()
    }

    /// 403 `M_FORBIDDEN`.
    pub(crate) fn forbidden(message: impl Display) -> Self {
        Self::new(ErrorKind::Forbidden, message)
    }

    /// 404 `M_NOT_FOUND`.
    pub(crate) fn not_found(message: impl Display) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// 400 `M_BAD_JSON`.
    pub(crate) fn bad_json(message: impl Display) -> Self {
        Self::new(ErrorKind::BadJson, message)
    }

    /// 400 `M_INVALID_PARAM`.
    pub(crate) fn invalid_param(message: impl Display) -> Self {
        Self::new(ErrorKind::InvalidParam, message)
    }
}

/// An error and what is behind it, in one line.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The usual status of an error.
fn status_of(kind: &ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Forbidden
        | ErrorKind::GuestAccessForbidden
        | ErrorKind::InviteBlocked
        | ErrorKind::UserDeactivated
        | ErrorKind::UserSuspended
        | ErrorKind::WrongRoomKeysVersion(_) => StatusCode::FORBIDDEN,
        ErrorKind::MissingToken
        | ErrorKind::UnknownToken(_)
        | ErrorKind::Unauthorized
        | ErrorKind::UserLocked => StatusCode::UNAUTHORIZED,
        ErrorKind::NotFound | ErrorKind::Unrecognized => StatusCode::NOT_FOUND,
        ErrorKind::LimitExceeded(_) => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let response = match self {
            Self::Standard { status, kind, message } => {
                let body = ErrorBody::Standard(StandardErrorBody::new(*kind, message));
                Error::new(status, body).try_into_http_response::<BytesMut>()
            }
            Self::Detailed { status, body } => return (status, axum::Json(body)).into_response(),
            Self::Uiaa(info) => {
                UiaaResponse::AuthResponse(*info).try_into_http_response::<BytesMut>()
            }
        };
        match response {
            Ok(response) => response.map(|body| Body::from(body.freeze())),
            Err(error) => {
                tracing::error!(%error, "an error could not be written as JSON");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        Self::internal(&error)
    }
}

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        let kind = match &error {
            RoomError::UnknownRoom { .. }
            | RoomError::RemoteRoom { .. }
            | RoomError::UnknownEvent { .. }
            | RoomError::NoSuchState
            | RoomError::NoEventThen
            | RoomError::EventGone
            | RoomError::UnknownAlias { .. } => ErrorKind::NotFound,
            RoomError::Exclusive { .. } => ErrorKind::Exclusive,
            RoomError::AliasTaken { creating: true, .. } => ErrorKind::RoomInUse,
            RoomError::AliasTaken { creating: false, .. } => {
                return Self::with_status(StatusCode::CONFLICT, ErrorKind::Unknown, &error);
            }
            RoomError::RemoteUser { .. }
            | RoomError::Blocked { .. }
            | RoomError::Full { .. }
            | RoomError::NotInRoom { .. }
            | RoomError::Forbidden { .. } => ErrorKind::Forbidden,
            RoomError::NotWhole { .. } => {
                return Self::with_status(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorKind::Unknown,
                    &error,
                );
            }
            RoomError::Limit(limit) => return (*limit).into(),
            RoomError::Policy(PolicyError::Refused { status, kind, message }) => {
                return Self::with_status(*status, (**kind).clone(), message);
            }
            RoomError::Policy(_) => {
                return Self::with_status(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, &error);
            }
            RoomError::InviteBlocked { .. } => ErrorKind::InviteBlocked,
            RoomError::UnknownCondition => ErrorKind::UnableToAuthorizeJoin,
            RoomError::NobodyMayInvite => ErrorKind::UnableToGrantJoin,
            RoomError::GuestAccess => ErrorKind::GuestAccessForbidden,
            RoomError::NotLeft { .. } | RoomError::BadThread | RoomError::SearchDisabled => {
                ErrorKind::Unknown
            }
            RoomError::BadState { .. } => ErrorKind::BadState,
            RoomError::InvalidRoomState { .. } => ErrorKind::InvalidRoomState,
            RoomError::UnsupportedRoomVersion { .. } => ErrorKind::UnsupportedRoomVersion,
            RoomError::BadEvent { .. } => ErrorKind::BadJson,
            RoomError::InvalidParam { .. } => ErrorKind::InvalidParam,
            RoomError::BadAlias { .. } => ErrorKind::BadAlias,
            RoomError::DuplicateAnnotation => ErrorKind::DuplicateAnnotation,
            RoomError::TooLarge { .. } => ErrorKind::TooLarge,
            RoomError::Storage(_)
            | RoomError::NotLoaded { .. }
            | RoomError::Unapproved(_)
            | RoomError::Corrupt { .. } => {
                return Self::internal(&error);
            }
        };
        Self::new(kind, &error)
    }
}

impl From<SubscriptionError> for ApiError {
    fn from(error: SubscriptionError) -> Self {
        let (status, errcode) = match error {
            SubscriptionError::NotInThread => {
                (StatusCode::BAD_REQUEST, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD")
            }
            SubscriptionError::Unsubscribed => {
                (StatusCode::CONFLICT, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION")
            }
            SubscriptionError::Busy => return busy(),
            SubscriptionError::Room(error) => return error.into(),
        };
        Self::with_status(status, custom(errcode), error)
    }
}

impl From<DelayedError> for ApiError {
    fn from(error: DelayedError) -> Self {
        match error {
            DelayedError::Off => Self::forbidden(error),
            DelayedError::NoDelay => Self::invalid_param(error),
            DelayedError::TooLong { max_ms } => Self::detailed(
                StatusCode::BAD_REQUEST,
                serde_json::json!({
                    "errcode": "M_MAX_DELAY_EXCEEDED",
                    "error": error.to_string(),
                    "max_delay": max_ms,
                }),
            ),
            DelayedError::TooMany(limit) | DelayedError::Limit(limit) => limit.into(),
            DelayedError::Unknown => Self::not_found(error),
            DelayedError::Ended => {
                Self::with_status(StatusCode::CONFLICT, ErrorKind::Unknown, error)
            }
            DelayedError::Room(error) => error.into(),
            DelayedError::Storage(_) => Self::internal(&error),
        }
    }
}

impl From<NotAuthenticated> for ApiError {
    fn from(error: NotAuthenticated) -> Self {
        match &error {
            NotAuthenticated::Signature(_) | NotAuthenticated::Key(_) => {
                Self::new(ErrorKind::Unauthorized, &error)
            }
        }
    }
}

impl From<ExchangeError> for ApiError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Room(error) => error.into(),
            // The other server speaks for the room: its refusal is the answer.
            ExchangeError::Peer(PeerError::Refused { status, kind, message, .. })
                if status.is_client_error() && status != StatusCode::UNAUTHORIZED =>
            {
                Self::with_status(status, *kind, message)
            }
            ExchangeError::Peer(error) => error.into(),
            ExchangeError::Identity(error) => error.into(),
            ExchangeError::NoServer => Self::not_found(error),
            ExchangeError::TooMany => busy(),
        }
    }
}

impl From<PeerError> for ApiError {
    fn from(error: PeerError) -> Self {
        match &error {
            PeerError::Disabled => Self::forbidden(&error),
            PeerError::Refused { kind, .. } if **kind == ErrorKind::NotFound => {
                Self::not_found(&error)
            }
            PeerError::Refused { status, .. } if *status == StatusCode::NOT_FOUND => {
                Self::not_found(&error)
            }
            PeerError::Paused { .. } | PeerError::Failed { .. } | PeerError::Refused { .. } => {
                let text = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                tracing::debug!(error = text, "another server did not answer");
                Self::with_status(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, &error)
            }
        }
    }
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Invalid { .. } => Self::invalid_param(error),
            IdentityError::NotTrusted { .. } => Self::new(ErrorKind::ServerNotTrusted, error),
            // It does not know the user's token for it: the client must not take it for its own.
            IdentityError::Refused { status: StatusCode::UNAUTHORIZED, message, .. } => {
                Self::with_status(StatusCode::FORBIDDEN, ErrorKind::Unauthorized, message)
            }
            IdentityError::Refused { status, errcode, message } => {
                Self::detailed(status, serde_json::json!({ "errcode": errcode, "error": message }))
            }
            IdentityError::Limit(error) => error.into(),
            IdentityError::Storage(error) => error.into(),
            IdentityError::Status { .. }
            | IdentityError::Unreachable { .. }
            | IdentityError::BadAnswer { .. } => {
                tracing::info!(error = causes(&error), "an identity server was no help");
                Self::with_status(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, error)
            }
        }
    }
}

impl From<SyncError> for ApiError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::FromTheFuture => Self::invalid_param(error),
            SyncError::LoggedOut => AuthError::Unknown { soft_logout: false }.into(),
            SyncError::TooManyStreams => {
                Self::new(ErrorKind::LimitExceeded(LimitExceededErrorData::new()), error)
            }
            SyncError::Storage(error) => error.into(),
            SyncError::Room(error) => error.into(),
        }
    }
}

impl From<SlidingError> for ApiError {
    fn from(error: SlidingError) -> Self {
        match error {
            SlidingError::UnknownPosition => Self::new(ErrorKind::UnknownPos, error),
            SlidingError::Invalid { .. } => Self::invalid_param(error),
            SlidingError::Sync(error) => error.into(),
        }
    }
}

impl From<PresenceError> for ApiError {
    fn from(error: PresenceError) -> Self {
        match error {
            PresenceError::NotOwn | PresenceError::NotVisible => Self::forbidden(error),
            PresenceError::UnknownState | PresenceError::TooLong => Self::invalid_param(error),
            PresenceError::Storage(error) => error.into(),
        }
    }
}

impl From<E2eeError> for ApiError {
    fn from(error: E2eeError) -> Self {
        let kind = match &error {
            E2eeError::UnknownDevice => {
                return AuthError::Unknown { soft_logout: false }.into();
            }
            E2eeError::Invalid { .. } | E2eeError::NotOwn | E2eeError::OneTimeKeyExists { .. } => {
                ErrorKind::InvalidParam
            }
            E2eeError::InvalidSignature { .. } => custom("M_INVALID_SIGNATURE"),
            E2eeError::NoMasterKey => ErrorKind::MissingParam,
            E2eeError::KeyIdInUse | E2eeError::TooMany { .. } => ErrorKind::Forbidden,
            E2eeError::TooLarge { .. } => ErrorKind::TooLarge,
            E2eeError::NotFound { .. } => ErrorKind::NotFound,
            E2eeError::WrongBackupVersion { current } => ErrorKind::WrongRoomKeysVersion(
                WrongRoomKeysVersionErrorData::new(current.to_string()),
            ),
            E2eeError::Limit(limit) => return (*limit).into(),
            E2eeError::Busy => return busy(),
            E2eeError::Storage(error) => return Self::internal(error),
        };
        Self::new(kind, &error)
    }
}

/// An `errcode` that ruma has no name for.
fn custom(errcode: &str) -> ErrorKind {
    serde_json::from_value(serde_json::json!({ "errcode": errcode })).unwrap_or(ErrorKind::Unknown)
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing => Self::new(ErrorKind::MissingToken, "Missing access token"),
            AuthError::Unknown { soft_logout } => {
                let mut data = UnknownTokenErrorData::new();
                data.soft_logout = soft_logout;
                Self::new(ErrorKind::UnknownToken(data), "Unknown or expired access token")
            }
            AuthError::NotYours { .. }
            | AuthError::NoAccount { .. }
            | AuthError::NotToBeLoggedOut => Self::forbidden(error),
            AuthError::UnknownDevice { .. } => Self::new(ErrorKind::UnknownDevice, error),
            AuthError::NoDevice => Self::new(ErrorKind::MissingParam, error),
            AuthError::Storage(error) => error.into(),
        }
    }
}

impl From<AppserviceError> for ApiError {
    fn from(error: AppserviceError) -> Self {
        let (status, kind) = match &error {
            AppserviceError::NotFound { .. } => return Self::not_found(error),
            AppserviceError::NotYours => return Self::forbidden(error),
            AppserviceError::NoUrl => (StatusCode::BAD_REQUEST, ErrorKind::UrlNotSet),
            AppserviceError::BadStatus { status, body } => {
                let mut data = BadStatusErrorData::new();
                data.status = Some(*status);
                data.body = Some(body.clone());
                (StatusCode::BAD_GATEWAY, ErrorKind::BadStatus(data))
            }
            AppserviceError::TimedOut => {
                (StatusCode::GATEWAY_TIMEOUT, ErrorKind::ConnectionTimeout)
            }
            AppserviceError::Unreachable => (StatusCode::BAD_GATEWAY, ErrorKind::ConnectionFailed),
            AppserviceError::Storage(error) => return Self::internal(error),
        };
        Self::with_status(status, kind, error)
    }
}

impl From<LimitExceeded> for ApiError {
    fn from(error: LimitExceeded) -> Self {
        let mut data = LimitExceededErrorData::new();
        data.retry_after = Some(RetryAfter::Delay(error.retry_after));
        Self::new(ErrorKind::LimitExceeded(data), "Too many requests")
    }
}

/// Nobody is at fault when many ask at once; a little later it will work.
fn busy() -> ApiError {
    LimitExceeded { retry_after: Duration::from_secs(1) }.into()
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match &error {
            PasswordError::Empty => Self::new(ErrorKind::WeakPassword, &error),
            PasswordError::TooLong => Self::invalid_param(&error),
            PasswordError::Busy => busy(),
            PasswordError::Hash { .. } => Self::internal(&error),
        }
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::InvalidUsername { .. } => Self::new(ErrorKind::InvalidUsername, error),
            AccountError::Exclusive { .. } => Self::new(ErrorKind::Exclusive, error),
            AccountError::AppserviceLoginUnsupported => {
                Self::new(ErrorKind::AppserviceLoginUnsupported, error)
            }
            AccountError::UserInUse => Self::new(ErrorKind::UserInUse, error),
            AccountError::MissingParam { .. } => Self::new(ErrorKind::MissingParam, error),
            AccountError::InvalidParam { .. } | AccountError::Mail(MailError::Address(_)) => {
                Self::invalid_param(error)
            }
            AccountError::RegistrationDisabled
            | AccountError::GuestsDisabled
            | AccountError::BadCredentials
            | AccountError::BadLoginToken
            | AccountError::UiaChanged
            | AccountError::Forbidden { .. } => Self::forbidden(error),
            AccountError::Deactivated => Self::new(ErrorKind::UserDeactivated, error),
            // As Synapse answers; the spec does not have shared secrets.
            AccountError::NoSharedSecret
            | AccountError::UnknownNonce
            | AccountError::UnknownLoginType => Self::new(ErrorKind::Unknown, error),
            AccountError::WrongMac => {
                Self::with_status(StatusCode::FORBIDDEN, ErrorKind::Unknown, error)
            }
            AccountError::Uia(info) => Self::Uiaa(info),
            AccountError::NotFound { .. } => Self::not_found(error),
            AccountError::ThreepidInUse => Self::new(ErrorKind::ThreepidInUse, error),
            AccountError::ThreepidNotFound => Self::new(ErrorKind::ThreepidNotFound, error),
            AccountError::ThreepidAuthFailed => {
                Self::with_status(StatusCode::FORBIDDEN, ErrorKind::ThreepidAuthFailed, error)
            }
            AccountError::ThreepidMediumNotSupported { .. } => {
                Self::new(ErrorKind::ThreepidMediumNotSupported, error)
            }
            AccountError::Limit(error) => error.into(),
            AccountError::Password(error) => error.into(),
            AccountError::Mail(error) => Self::internal(&error),
            AccountError::Auth(error) => error.into(),
            AccountError::Busy => busy(),
            AccountError::Storage(error) => error.into(),
        }
    }
}

impl From<ProfileError> for ApiError {
    fn from(error: ProfileError) -> Self {
        match &error {
            ProfileError::KeyTooLarge => Self::new(ErrorKind::KeyTooLarge, &error),
            ProfileError::TooLarge => Self::new(ErrorKind::ProfileTooLarge, &error),
            ProfileError::InvalidKey | ProfileError::InvalidValue { .. } => {
                Self::invalid_param(&error)
            }
            ProfileError::Busy => busy(),
            ProfileError::Storage(_) => Self::internal(&error),
        }
    }
}

impl From<AccountDataError> for ApiError {
    fn from(error: AccountDataError) -> Self {
        match &error {
            // Spec: 405 "This type of account data is controlled by the server"; `M_BAD_JSON`.
            AccountDataError::ServerManaged { .. } => {
                Self::with_status(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::BadJson, &error)
            }
            AccountDataError::NotAnObject => Self::new(ErrorKind::BadJson, &error),
            AccountDataError::TooLarge => Self::new(ErrorKind::TooLarge, &error),
            AccountDataError::InvalidType | AccountDataError::InvalidTag => {
                Self::invalid_param(&error)
            }
            AccountDataError::TooMany | AccountDataError::TooManyTags => Self::forbidden(&error),
            AccountDataError::Busy => busy(),
            AccountDataError::Storage(_) => Self::internal(&error),
        }
    }
}

impl From<PusherError> for ApiError {
    fn from(error: PusherError) -> Self {
        match error {
            PusherError::Missing(_) => Self::new(ErrorKind::MissingParam, error),
            PusherError::Invalid(_) | PusherError::UnknownKind | PusherError::Refused(_) => {
                Self::invalid_param(error)
            }
            PusherError::ForeignAddress => {
                Self::with_status(StatusCode::BAD_REQUEST, ErrorKind::ThreepidNotFound, error)
            }
            PusherError::TooMany | PusherError::TooManyOwners => Self::forbidden(error),
            PusherError::NotFound => Self::not_found(error),
            PusherError::WrongToken => {
                let kind = custom("M_UNKNOWN_ACTIVATION_TOKEN");
                Self::with_status(StatusCode::BAD_REQUEST, kind, error)
            }
            PusherError::Expired => {
                let kind = custom("M_EXPIRED_ACTIVATION_TOKEN");
                Self::with_status(StatusCode::GONE, kind, error)
            }
            PusherError::Storage(error) => error.into(),
        }
    }
}

impl From<PushRuleError> for ApiError {
    fn from(error: PushRuleError) -> Self {
        match error {
            PushRuleError::UnknownKind { .. }
            | PushRuleError::ServerDefault
            | PushRuleError::InvalidRuleId
            | PushRuleError::InvalidAction
            | PushRuleError::EmptyPattern => Self::invalid_param(error),
            PushRuleError::NotFound => Self::not_found(error),
            // Spec: 400 "There was a problem configuring this push rule"; `M_UNKNOWN`.
            PushRuleError::Placement(_) => Self::new(ErrorKind::Unknown, error),
            PushRuleError::TooLarge => Self::new(ErrorKind::TooLarge, error),
            PushRuleError::TooMany => Self::forbidden(error),
            PushRuleError::AccountData(error) => error.into(),
            PushRuleError::Storage(error) => error.into(),
        }
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => {
                Self::new(ErrorKind::TooLarge, "The request's body is too large")
            }
            BodyError::TooSlow => Self::with_status(
                StatusCode::REQUEST_TIMEOUT,
                ErrorKind::Unknown,
                "The request's body did not come",
            ),
            BodyError::Broken => Self::with_status(
                StatusCode::BAD_REQUEST,
                ErrorKind::Unknown,
                "The request's body could not be read",
            ),
        }
    }
}

impl From<ContentError> for ApiError {
    fn from(error: ContentError) -> Self {
        match &error {
            ContentError::NotFound | ContentError::Remote(RemoteError::NotFound) => {
                Self::not_found(&error)
            }
            ContentError::NotYetUploaded | ContentError::Remote(RemoteError::NotYetUploaded) => {
                Self::with_status(StatusCode::GATEWAY_TIMEOUT, ErrorKind::NotYetUploaded, &error)
            }
            ContentError::CannotOverwrite => {
                Self::with_status(StatusCode::CONFLICT, ErrorKind::CannotOverwriteMedia, &error)
            }
            ContentError::NotYours
            | ContentError::TypeNotAllowed { .. }
            | ContentError::Quota
            | ContentError::Quarantined
            | ContentError::Infected => Self::forbidden(&error),
            ContentError::TooLarge { .. }
            | ContentError::Thumbnail(ThumbnailError::TooLarge { .. }) => {
                Self::new(ErrorKind::TooLarge, &error)
            }
            ContentError::Limit(limit) => (*limit).into(),
            ContentError::Body(error) => (*error).into(),
            ContentError::Thumbnail(ThumbnailError::Busy) => busy(),
            // Spec: 400 `M_UNKNOWN`, "Cannot generate thumbnails for the requested content".
            ContentError::Thumbnail(_) => Self::new(ErrorKind::Unknown, &error),
            ContentError::Remote(RemoteError::TooLarge) => {
                Self::with_status(StatusCode::BAD_GATEWAY, ErrorKind::TooLarge, &error)
            }
            ContentError::Remote(RemoteError::Failed(_)) => {
                tracing::info!(error = causes(&error), "media not fetched");
                Self::with_status(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, &error)
            }
            ContentError::Scan(_) => {
                tracing::error!(error = %causes(&error), "a file could not be scanned");
                Self::with_status(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, &error)
            }
            ContentError::Blob(BlobError::Full { .. }) => {
                tracing::error!(error = %causes(&error), "there is no space for media");
                let message = "The server has no space left for the file";
                Self::with_status(StatusCode::INSUFFICIENT_STORAGE, ErrorKind::Unknown, message)
            }
            ContentError::Blob(_) | ContentError::Storage(_) => Self::internal(&error),
        }
    }
}

impl From<PreviewError> for ApiError {
    fn from(error: PreviewError) -> Self {
        match error {
            PreviewError::Off => Self::new(ErrorKind::Unrecognized, error),
            PreviewError::Address => Self::invalid_param(error),
            PreviewError::NotAllowed => Self::forbidden(error),
            PreviewError::Unreachable(_) => {
                tracing::debug!(error = causes(&error), "no preview");
                Self::with_status(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, error)
            }
            PreviewError::Limit(error) => error.into(),
            PreviewError::Content(error) => error.into(),
            PreviewError::Storage(error) => error.into(),
        }
    }
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        match &error {
            FilterError::UnknownEventFormat => Self::bad_json(&error),
            FilterError::TooLarge | FilterError::TooManyFields => {
                Self::new(ErrorKind::TooLarge, &error)
            }
            FilterError::TooMany => Self::forbidden(&error),
            FilterError::Storage(_) => Self::internal(&error),
        }
    }
}

impl From<FromHttpRequestError> for ApiError {
    fn from(error: FromHttpRequestError) -> Self {
        match &error {
            FromHttpRequestError::Deserialization(DeserializationError::Json(json)) => {
                // The same error type stands for text that is no JSON and for JSON of another shape.
                let kind = if json.is_data() { ErrorKind::BadJson } else { ErrorKind::NotJson };
                Self::new(kind, json)
            }
            FromHttpRequestError::Deserialization(error) => Self::invalid_param(error),
            _ => Self::new(ErrorKind::Unrecognized, &error),
        }
    }
}
