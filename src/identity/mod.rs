//! Identity servers: whom an address belongs to.
//!
//! Users choose theirs, so most are strangers: they are asked like any address that a stranger
//! names, in bounded time and size, and never at private addresses unless the configuration names
//! them.
//!
//! Spec: <https://spec.matrix.org/v1.19/identity-service-api/>

mod bindings;
mod invitations;
mod lookup;

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode, header};
use reqwest::{Url, redirect};
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::Semaphore;

pub(crate) use bindings::{Binding, Unbound, release, release_all};
pub(crate) use invitations::ToStore;

use crate::{
    clock::Clock,
    config::{self, Config},
    federation::Federation,
    outgoing::{Outgoing, OutgoingError},
    storage::{Db, StorageError, intern::UserNumber},
    users::limits::{LimitExceeded, Limits},
};

/// How long a whole question may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How many questions may be under way.
const AT_ONCE: usize = 32;
/// The longest access token.
const MAX_TOKEN_BYTES: usize = 4_096;
/// How much of a refusal is shown.
const SHOWN_CHARS: usize = 500;

/// An address of somebody: its kind and itself, as identity servers compare them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Address {
    /// `email`, `msisdn`.
    pub(crate) medium: String,
    /// In lower case if it is an e-mail address.
    pub(crate) address: String,
}

/// An identity server that a user named, with the user's own access token for it.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    server: OwnedServerName,
    token: String,
}

/// Why an identity server is of no help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// A parameter can't be right. (`M_INVALID_PARAM`)
    #[error("{what}")]
    Invalid {
        /// Which, and why.
        what: &'static str,
    },
    /// The configuration does not let this one be asked. (`M_SERVER_NOT_TRUSTED`)
    #[error("this server does not talk to the identity server {server}")]
    NotTrusted {
        /// Which.
        server: OwnedServerName,
    },
    /// It refuses, and says why: whoever asked is told.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it says.
        errcode: String,
        /// For people, cut to a bounded length.
        message: String,
    },
    /// It answers with an error that is none of Matrix.
    #[error("{server} answered {status}")]
    Status {
        /// Which.
        server: String,
        /// HTTP status.
        status: StatusCode,
    },
    /// It can't be reached, or not in time.
    #[error("{server} cannot be reached")]
    Unreachable {
        /// Which.
        server: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What it answers is not what was asked for.
    #[error("{server} answers with nonsense: {why}")]
    BadAnswer {
        /// Which.
        server: String,
        /// What is wrong.
        why: String,
    },
    /// Too many questions.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Address {
    /// An e-mail address that was found to be one.
    pub(crate) fn email(address: String) -> Self {
        Self { medium: "email".to_owned(), address }
    }

    /// The address that a request means.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`] if it can be none.
    pub(crate) fn new(medium: &str, address: &str) -> Result<Self, IdentityError> {
        let address = if medium == "email" {
            crate::users::threepid::normalised_email(address)
        } else {
            let fine = !address.is_empty() && address.len() <= 255;
            (fine && !address.contains(char::is_control)).then(|| address.to_owned())
        };
        let address = address.ok_or(IdentityError::Invalid { what: "address is no address" })?;
        if medium.is_empty() || medium.len() > 32 {
            return Err(IdentityError::Invalid { what: "medium is none" });
        }
        Ok(Self { medium: medium.to_owned(), address })
    }
}

/// The identity servers there may be. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct IdentityServers {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    clock: Clock,
    federation: Federation,
    outgoing: Outgoing,
    settings: config::Identity,
    limits: Limits,
    /// For those that anybody names.
    open: reqwest::Client,
    /// For those that the configuration names.
    trusted: reqwest::Client,
    places: Semaphore,
}

impl IdentityServers {
    /// Asks as configured; requests that need it get the signature of `federation`.
    ///
    /// # Errors
    /// [`OutgoingError`] if no requests can be made.
    pub(crate) fn new(
        config: &Config,
        outgoing: &Outgoing,
        federation: Federation,
        db: Db,
        clock: Clock,
    ) -> Result<Self, OutgoingError> {
        // No endpoint redirects, and whoever would follow carried the user's token elsewhere.
        let build = |client: reqwest::ClientBuilder| {
            client.redirect(redirect::Policy::none()).build().map_err(OutgoingError::Client)
        };
        let shared = Shared {
            db,
            federation,
            open: build(outgoing.client())?,
            trusted: build(outgoing.client_for_configured())?,
            outgoing: outgoing.clone(),
            settings: config.identity.clone(),
            limits: Limits::new(&config.rate_limits, clock.clone()),
            places: Semaphore::new(AT_ONCE),
            clock,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Counts a question that a user has this server ask.
    ///
    /// # Errors
    /// [`IdentityError::Limit`] if there were too many.
    pub(crate) fn allow(&self, user: UserNumber) -> Result<(), IdentityError> {
        Ok(self.shared.limits.identity_for(user)?)
    }

    /// The identity server of this name, unless it must not be asked.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`], [`IdentityError::NotTrusted`].
    pub(crate) fn named(&self, id_server: &str) -> Result<OwnedServerName, IdentityError> {
        let server = ServerName::parse(id_server)
            .map_err(|_| IdentityError::Invalid { what: "id_server is no server name" })?;
        if self.shared.settings.only_trusted && !self.trusts(&server) {
            return Err(IdentityError::NotTrusted { server });
        }
        Ok(server)
    }

    /// The same with the user's access token for it.
    ///
    /// # Errors
    /// [`IdentityError::Invalid`], [`IdentityError::NotTrusted`].
    pub(crate) fn access(&self, id_server: &str, token: &str) -> Result<Access, IdentityError> {
        let server = self.named(id_server)?;
        let fine = !token.is_empty() && token.len() <= MAX_TOKEN_BYTES;
        if !fine || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(IdentityError::Invalid { what: "id_access_token is no access token" });
        }
        Ok(Access { server, token: token.to_owned() })
    }

    fn trusts(&self, server: &ServerName) -> bool {
        self.shared.settings.trusted_servers.iter().any(|trusted| trusted == server)
    }

    /// Asks in a user's name, below `/_matrix/identity/v2`.
    async fn ask<T: DeserializeOwned>(
        &self,
        access: &Access,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, IdentityError> {
        let authorization = format!("Bearer {}", access.token);
        self.request(&access.server, method, path, Some(authorization), body).await
    }

    /// Asks with this server's signature, for a user of it.
    async fn ask_signed<T: DeserializeOwned>(
        &self,
        server: &ServerName,
        path: &str,
        body: &Value,
    ) -> Result<T, IdentityError> {
        let uri = format!("/_matrix/identity/v2{path}");
        let signed = self.shared.federation.authorization(server, "POST", &uri, body);
        self.request(server, Method::POST, path, Some(signed), Some(body)).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        server: &ServerName,
        method: Method,
        path: &str,
        authorization: Option<String>,
        body: Option<&Value>,
    ) -> Result<T, IdentityError> {
        let url = Url::parse(&format!("https://{server}/_matrix/identity/v2{path}"))
            .map_err(|_| IdentityError::Invalid { what: "id_server is no server name" })?;
        let mut request = self.client_for(server, &url)?.request(method, url);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(body) = body {
            let body = body.to_string();
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        self.fetch(server.as_str(), request).await
    }

    /// The client that may call this URL.
    fn client_for(
        &self,
        server: &ServerName,
        url: &Url,
    ) -> Result<&reqwest::Client, IdentityError> {
        if self.trusts(server) {
            return Ok(&self.shared.trusted);
        }
        match self.shared.outgoing.check(url) {
            Ok(()) => Ok(&self.shared.open),
            Err(refused) => Err(unreachable(server.as_str(), refused)),
        }
    }

    /// Sends a request and reads the JSON of its answer.
    async fn fetch<T: DeserializeOwned>(
        &self,
        server: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<T, IdentityError> {
        let (status, body) = {
            let place = self.shared.places.acquire().await;
            let _place = place.map_err(|closed| unreachable(server, closed))?;
            let read = async {
                let mut response = request.send().await.map_err(|e| unreachable(server, e))?;
                let mut body = Vec::new();
                let chunk = |e| unreachable(server, e);
                while let Some(part) = response.chunk().await.map_err(chunk)? {
                    if body.len() + part.len() > MAX_ANSWER_BYTES {
                        return Err(bad_answer(server, "it is too long"));
                    }
                    body.extend_from_slice(&part);
                }
                Ok((response.status(), body))
            };
            let timed = tokio::time::timeout(TIMEOUT, read).await;
            timed.map_err(|late| unreachable(server, late))??
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| bad_answer(server, error));
        }
        Err(refusal(server, status, &body))
    }

    /// Whether a key with which an invitation was signed still counts, as its identity server says
    /// at the URL that the room's event has.
    ///
    /// # Errors
    /// [`IdentityError`] if that can't be found out.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/identity-service-api/#key-management>
    pub(crate) async fn is_key_valid(
        &self,
        url: &str,
        public_key: &str,
    ) -> Result<bool, IdentityError> {
        #[derive(Deserialize)]
        struct Validity {
            valid: bool,
        }
        const WRONG: IdentityError =
            IdentityError::Invalid { what: "key_validity_url is no address to ask at" };
        let mut url = Url::parse(url).map_err(|_| WRONG)?;
        let host = url.host_str().filter(|_| url.scheme() == "https").ok_or(WRONG)?;
        let server = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let server = self.named(&server)?;
        url.query_pairs_mut().append_pair("public_key", public_key);
        let request = self.client_for(&server, &url)?.get(url);
        Ok(self.fetch::<Validity>(server.as_str(), request).await?.valid)
    }
}

fn unreachable(
    server: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> IdentityError {
    IdentityError::Unreachable { server: server.to_owned(), source: source.into() }
}

fn bad_answer(server: &str, why: impl std::fmt::Display) -> IdentityError {
    let why = why.to_string().chars().take(SHOWN_CHARS).collect();
    IdentityError::BadAnswer { server: server.to_owned(), why }
}

/// What an answer that is no success says.
fn refusal(server: &str, status: StatusCode, body: &[u8]) -> IdentityError {
    #[derive(Deserialize)]
    struct Standard {
        errcode: String,
        #[serde(default)]
        error: String,
    }
    match serde_json::from_slice::<Standard>(body) {
        Ok(Standard { errcode, error }) if status.is_client_error() && is_errcode(&errcode) => {
            let message = error.chars().take(SHOWN_CHARS).collect();
            IdentityError::Refused { status, errcode, message }
        }
        _ => IdentityError::Status { server: server.to_owned(), status },
    }
}

/// Whether this may be shown as an `errcode`.
fn is_errcode(text: &str) -> bool {
    text.starts_with("M_")
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}
