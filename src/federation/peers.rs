//! Asking other servers.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use federation::{BodyStream, Limits, TransportError};
use futures::StreamExt as _;
use http::StatusCode;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, ServerName, UserId,
    api::{
        EndpointError as _, IncomingResponseExt as _, OutgoingRequest, OutgoingRequestExt as _,
        error::{ErrorBody, ErrorKind, FromHttpResponseError},
        federation::{
            authentication::{ServerSignatures, XMatrixSigningInput},
            directory::get_public_rooms_filtered,
            query::{get_profile_information, get_room_information},
        },
        path_builder::SinglePath,
    },
    profile::ProfileFieldName,
    uint,
};

use super::Federation;
use crate::users::Profile;

/// What a small question may take.
const QUESTION: Limits = Limits { timeout: Duration::from_secs(10), max_bytes: 256 * 1024 };

/// What a page of a directory may take.
const DIRECTORY: Limits = Limits { timeout: Duration::from_secs(20), max_bytes: 4 << 20 };
/// The most rooms of a page.
const MAX_PUBLIC_ROOMS: usize = 500;

/// The longest explanation that is read.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Why another server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// `federation.enabled` is off. (`M_FORBIDDEN`, 403)
    #[error("this server does not talk to others")]
    Disabled,
    /// It did not answer before, and is left alone for a while. (`M_UNKNOWN`, 502)
    #[error("{server} did not answer lately")]
    Paused {
        /// Which.
        server: OwnedServerName,
    },
    /// It can't be reached, or its answer makes no sense. (`M_UNKNOWN`, 502)
    #[error("{server} can't be asked")]
    Failed {
        /// Which.
        server: OwnedServerName,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It refused. (Its own errcode; `M_UNKNOWN`, 502 unless it is one that concerns the user)
    #[error("{server}: {message}")]
    Refused {
        /// Which.
        server: OwnedServerName,
        /// The status of its answer.
        status: StatusCode,
        /// Its errcode.
        kind: Box<ErrorKind>,
        /// What it says about it.
        message: String,
    },
}

impl Federation {
    /// Asks `server`, unless it did not answer lately.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(crate) async fn ask<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<
                Authentication = ServerSignatures,
                PathBuilder = SinglePath,
                EndpointError = ruma::api::error::Error,
            >,
    {
        self.may_ask(server)?;
        self.tell(server, request, limits).await
    }

    /// Asks `server` in any case: the caller knows that it is time.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(crate) async fn tell<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, PeerError>
    where
        R: OutgoingRequest<
                Authentication = ServerSignatures,
                PathBuilder = SinglePath,
                EndpointError = ruma::api::error::Error,
            >,
    {
        if !self.is_enabled() {
            return Err(PeerError::Disabled);
        }
        let request = self.signed(server, request)?;
        let answer = self.shared.transport.send(server, request, limits).await;
        let answer = self.heard(server, answer)?;
        let failed = |source| PeerError::Failed { server: server.to_owned(), source };
        if answer.status().is_redirection() {
            return Err(failed("the answer is a redirect".into()));
        }
        let (head, body) = answer.into_parts();
        let answer = http::Response::from_parts(head, &*body);
        match R::IncomingResponse::try_from_http_response(answer) {
            Ok(response) => Ok(response),
            Err(FromHttpResponseError::Server(error)) => Err(refused(server, error)),
            Err(error) => Err(failed(error.to_string().into())),
        }
    }

    /// Sends a request that may be unsigned, unless the server did not answer lately, and returns
    /// its success or redirect when it begins. What `limits` mean is said at [`federation::Transport::open`].
    ///
    /// # Errors
    /// [`PeerError`].
    pub(crate) async fn open(
        &self,
        server: &ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> Result<http::Response<BodyStream>, PeerError> {
        self.may_ask(server)?;
        let answer = self.shared.transport.open(server, request, limits).await;
        let answer = self.heard(server, answer)?;
        if answer.status().is_success() || answer.status().is_redirection() {
            return Ok(answer);
        }
        let (head, mut pieces) = answer.into_parts();
        let mut body = BytesMut::new();
        while let Some(Ok(piece)) = pieces.next().await {
            if body.len() + piece.len() > MAX_REFUSAL_BYTES {
                break;
            }
            body.extend_from_slice(&piece);
        }
        let answer = http::Response::from_parts(head, &*body);
        Err(refused(server, ruma::api::error::Error::from_http_response(answer)))
    }

    /// A request with this server's signature.
    ///
    /// # Errors
    /// [`PeerError::Failed`] if it can't be written.
    pub(crate) fn signed<R>(
        &self,
        server: &ServerName,
        request: R,
    ) -> Result<http::Request<Bytes>, PeerError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let signing = XMatrixSigningInput::new(
            self.server_name().to_owned(),
            server.to_owned(),
            &self.shared.key_pair,
        );
        let request = request
            .try_into_http_request::<BytesMut>("https://matrix.invalid", signing, ())
            .map_err(|error| PeerError::Failed { server: server.to_owned(), source: error.into() });
        Ok(request?.map(BytesMut::freeze))
    }

    fn may_ask(&self, server: &ServerName) -> Result<(), PeerError> {
        if !self.is_enabled() {
            return Err(PeerError::Disabled);
        }
        let paused = self.shared.paused.get(server).unwrap_or_default();
        if paused.is_over(self.shared.clock.now_ms()) {
            Ok(())
        } else {
            Err(PeerError::Paused { server: server.to_owned() })
        }
    }

    /// Remembers whether the server works, by its answer.
    fn heard<B>(
        &self,
        server: &ServerName,
        answer: Result<http::Response<B>, TransportError>,
    ) -> Result<http::Response<B>, PeerError> {
        if let Ok(answer) = &answer
            && is_there(answer.status())
        {
            self.shared.paused.invalidate(server);
        } else {
            let paused = self.shared.paused.get(server).unwrap_or_default();
            let spread = u64::from_be_bytes(self.shared.random.bytes());
            let paused = paused.failed(self.shared.clock.now_ms(), spread);
            self.shared.paused.insert(server.to_owned(), paused);
        }
        answer
            .map_err(|error| PeerError::Failed { server: server.to_owned(), source: error.into() })
    }

    /// Where an alias of another server leads, and which servers are in that room.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(crate) async fn resolve_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), PeerError> {
        let request = get_room_information::v1::Request::new(alias.to_owned());
        let answer = self.ask(alias.server_name(), request, QUESTION).await?;
        Ok((answer.room_id, answer.servers))
    }

    /// A page of another server's list of public rooms.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(crate) async fn public_rooms(
        &self,
        server: &ServerName,
        mut request: get_public_rooms_filtered::v1::Request,
    ) -> Result<get_public_rooms_filtered::v1::Response, PeerError> {
        let most = uint!(500);
        request.limit = Some(request.limit.unwrap_or(most).min(most));
        let mut answer = self.ask(server, request, DIRECTORY).await?;
        answer.chunk.truncate(MAX_PUBLIC_ROOMS);
        Ok(answer)
    }

    /// The profile of another server's user, or one field of it.
    ///
    /// # Errors
    /// [`PeerError`].
    pub(crate) async fn profile(
        &self,
        user: &UserId,
        field: Option<ProfileFieldName>,
    ) -> Result<Profile, PeerError> {
        let mut request = get_profile_information::v1::Request::new(user.to_owned());
        request.field = field;
        let answer = self.ask(user.server_name(), request, QUESTION).await?;
        Ok(Profile::of_fields(answer))
    }
}

/// Whether this is the answer of a server that works, or of a proxy in front of one that does not.
fn is_there(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

fn refused(server: &ServerName, error: ruma::api::error::Error) -> PeerError {
    let (kind, message) = match error.body {
        ErrorBody::Standard(body) => (body.kind, body.message),
        _ => (ErrorKind::Unknown, "refused without a reason".to_owned()),
    };
    // What another server says is shown to people.
    let message = message.chars().take(500).collect();
    PeerError::Refused {
        server: server.to_owned(),
        status: error.status_code,
        kind: Box::new(kind),
        message,
    }
}
