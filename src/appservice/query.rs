//! Asking application services: whether a user or an alias exists, what they know of other networks,
//! whether they are there.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#querying>,
//! <https://spec.matrix.org/v1.19/application-service-api/#third-party-networks>

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use http::{Method, StatusCode};
use ruma::{RoomAliasId, UserId};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    registry::{Appservices, Service},
    transport::{Answer, Request, TransportError, encoded},
};
use crate::storage::StorageError;

/// How long a service may take to make a user or a room.
const MAKING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a service may take to look something up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a refusal is shown.
const SHOWN_CHARS: usize = 1_000;

/// Why an application service is of no help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppserviceError {
    /// No service knows it.
    #[error("{what} not found")]
    NotFound {
        /// What was asked for.
        what: &'static str,
    },
    /// A service asks in the name of another.
    #[error("the access token is not that application service's")]
    NotYours,
    /// The service has no URL to be reached at.
    #[error("the application service has no URL")]
    NoUrl,
    /// The service did not accept the ping.
    #[error("the application service answered {status}")]
    BadStatus {
        /// What it answered.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
    /// The service did not answer in time.
    #[error("the application service did not answer in time")]
    TimedOut,
    /// The service can't be reached.
    #[error("the application service cannot be reached")]
    Unreachable,
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Whose places or people are looked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Channels and the like.
    Location,
    /// People.
    User,
}

impl Kind {
    fn segment(self) -> &'static str {
        match self {
            Self::Location => "location",
            Self::User => "user",
        }
    }
}

impl Appservices {
    pub(super) fn listening(&self, is: impl Fn(&Service) -> bool) -> Vec<Arc<Service>> {
        let Some(registry) = self.registry() else { return Vec::new() };
        let services = registry.services().iter().filter(|one| one.listens() && is(one));
        services.cloned().collect()
    }

    async fn get(
        &self,
        service: &Service,
        path: &str,
        legacy: &str,
        timeout: Duration,
    ) -> Option<Answer> {
        let request =
            Request { method: Method::GET, path, legacy: Some(legacy), body: None, timeout };
        let answer = self.transport().ask(service, request).await;
        answer
            .inspect_err(|error| {
                let error = error as &dyn std::error::Error;
                tracing::info!(
                    id = service.id(),
                    error,
                    path,
                    "an application service was no help"
                );
            })
            .ok()
    }

    /// Whether a service says that this user of this server exists; it has made the account then.
    pub(crate) async fn user_exists(&self, user: &UserId) -> bool {
        let name = encoded(user.as_str());
        let of_user = |service: &Service| service.speaks_for(user);
        self.exists("users", &name, self.listening(of_user)).await
    }

    /// Whether a service says that this alias exists; it has made the room then.
    pub(crate) async fn alias_exists(&self, alias: &RoomAliasId) -> bool {
        let name = encoded(alias.as_str());
        let of_alias = |service: &Service| service.has_alias(alias);
        self.exists("rooms", &name, self.listening(of_alias)).await
    }

    async fn exists(&self, kind: &str, name: &str, services: Vec<Arc<Service>>) -> bool {
        for service in services {
            let path = format!("/_matrix/app/v1/{kind}/{name}");
            let legacy = format!("/{kind}/{name}");
            let Ok(_turn) = self.questions().acquire().await else { return false };
            let answer = self.get(&service, &path, &legacy, MAKING_TIMEOUT).await;
            if answer.is_some_and(|answer| answer.status.is_success()) {
                return true;
            }
        }
        false
    }

    /// The places or people of a network that fit `fields`.
    ///
    /// # Errors
    /// [`AppserviceError::NotFound`] if there are none.
    pub(crate) async fn look_up(
        &self,
        kind: Kind,
        protocol: &str,
        fields: &BTreeMap<String, String>,
    ) -> Result<Vec<Value>, AppserviceError> {
        let knows =
            |service: &Service| service.registration.protocols.iter().any(|one| one == protocol);
        let query: Vec<String> = fields
            .iter()
            // Old clients prove who they are here; that is no field.
            .filter(|(name, _)| *name != "access_token")
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
            .collect();
        let path = format!("/thirdparty/{}/{}", kind.segment(), encoded(protocol));
        let path = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
        self.gathered(&self.listening(knows), &path).await
    }

    /// The places or people of all networks that an alias or a user stands for.
    ///
    /// # Errors
    /// [`AppserviceError::NotFound`] if there are none.
    pub(crate) async fn look_up_id(
        &self,
        kind: Kind,
        id: &str,
    ) -> Result<Vec<Value>, AppserviceError> {
        let parameter = match kind {
            Kind::Location => "alias",
            Kind::User => "userid",
        };
        let path = format!("/thirdparty/{}?{parameter}={}", kind.segment(), encoded(id));
        let has_networks = |service: &Service| !service.registration.protocols.is_empty();
        self.gathered(&self.listening(has_networks), &path).await
    }

    async fn gathered(
        &self,
        services: &[Arc<Service>],
        path: &str,
    ) -> Result<Vec<Value>, AppserviceError> {
        let answers = self.ask_all(services, path).await;
        let arrays = answers.into_iter().flatten().filter_map(|answer| match answer {
            Value::Array(found) => Some(found),
            _ => None,
        });
        let found: Vec<Value> = arrays.flatten().filter(Value::is_object).collect();
        if found.is_empty() {
            return Err(AppserviceError::NotFound { what: "this place or person" });
        }
        Ok(found)
    }

    /// Asks several services at the same time; the JSON of those that answer in time.
    pub(super) async fn ask_all(
        &self,
        services: &[Arc<Service>],
        path: &str,
    ) -> Vec<Option<Value>> {
        let (new, old) = (format!("/_matrix/app/v1{path}"), format!("/_matrix/app/unstable{path}"));
        let asked = services.iter().map(async |service| {
            let answer = self.get(service, &new, &old, LOOKUP_TIMEOUT).await?;
            serde_json::from_slice(&answer.body).ok().filter(|_| answer.status.is_success())
        });
        join_all(asked).await
    }

    /// Asks a service whether it is there, as it wished: how long that took.
    ///
    /// # Errors
    /// [`AppserviceError`] with what stands between.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/application-service-api/#pinging>
    pub(crate) async fn ping(
        &self,
        service: &Service,
        transaction: Option<&str>,
    ) -> Result<Duration, AppserviceError> {
        let body = transaction.map_or(json!({}), |id| json!({ "transaction_id": id }));
        let request = Request {
            method: Method::POST,
            path: "/_matrix/app/v1/ping",
            legacy: None,
            body: Some(body.to_string().into_bytes()),
            timeout: PING_TIMEOUT,
        };
        let begun = Instant::now();
        match self.transport().ask(service, request).await {
            Ok(answer) if answer.status.is_success() => {
                service.note_life();
                Ok(begun.elapsed())
            }
            Ok(Answer { status, body }) => {
                let body = String::from_utf8_lossy(&body).chars().take(SHOWN_CHARS).collect();
                Err(AppserviceError::BadStatus { status, body })
            }
            Err(TransportError::NoUrl) => Err(AppserviceError::NoUrl),
            Err(TransportError::TimedOut) => Err(AppserviceError::TimedOut),
            Err(TransportError::Failed(_) | TransportError::TooLarge) => {
                Err(AppserviceError::Unreachable)
            }
        }
    }
}
