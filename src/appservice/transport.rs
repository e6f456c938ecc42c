//! Requests to application services.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#homeserver---application-service-api>

use std::time::Duration;

use http::{Method, StatusCode, header};
use reqwest::redirect;
use serde::Deserialize;

use super::registry::Service;
use crate::outgoing::{Outgoing, OutgoingError};

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A request as an application service gets it.
pub(super) struct Request<'a> {
    /// Its method.
    pub(super) method: Method,
    /// Path and query below the service's URL, percent-encoded.
    pub(super) path: &'a str,
    /// What the endpoint was called before it had a version; none if it always had one.
    pub(super) legacy: Option<&'a str>,
    /// JSON.
    pub(super) body: Option<Vec<u8>>,
    /// How long it may take.
    pub(super) timeout: Duration,
}

/// What an application service answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status.
    pub(super) status: StatusCode,
    /// The body.
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    /// There is no URL in its file.
    #[error("the application service has no URL")]
    NoUrl,
    /// It took too long.
    #[error("the application service did not answer in time")]
    TimedOut,
    /// It could not be reached, or the answer was cut off.
    #[error("the application service cannot be reached")]
    Failed(#[source] reqwest::Error),
    /// The answer is larger than any should be.
    #[error("the application service answered more than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() { Self::TimedOut } else { Self::Failed(error) }
    }
}

/// Makes the requests.
pub(super) struct Transport {
    client: reqwest::Client,
}

impl Transport {
    /// # Errors
    /// [`OutgoingError`] if no client can be made.
    pub(super) fn new(outgoing: &Outgoing) -> Result<Self, OutgoingError> {
        let client = outgoing.client_for_configured().redirect(redirect::Policy::none());
        Ok(Self { client: client.build().map_err(OutgoingError::Client)? })
    }

    /// Asks; by the old name too if the new one is not known there.
    pub(super) async fn ask(
        &self,
        service: &Service,
        request: Request<'_>,
    ) -> Result<Answer, TransportError> {
        let answer = self.once(service, &request, request.path).await?;
        match request.legacy {
            Some(legacy) if answer.is_unrecognised() => self.once(service, &request, legacy).await,
            _ => Ok(answer),
        }
    }

    async fn once(
        &self,
        service: &Service,
        request: &Request<'_>,
        path: &str,
    ) -> Result<Answer, TransportError> {
        let registration = &service.registration;
        let base = registration.url.as_ref().ok_or(TransportError::NoUrl)?;
        let url = format!("{}{path}", base.as_str().trim_end_matches('/'));
        let mut call = self
            .client
            .request(request.method.clone(), url)
            .timeout(request.timeout)
            .bearer_auth(registration.hs_token.expose());
        if let Some(body) = &request.body {
            call = call.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let mut response = call.send().await?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await? {
            if body.len() + part.len() > MAX_ANSWER_BYTES {
                return Err(TransportError::TooLarge);
            }
            body.extend_from_slice(&part);
        }
        Ok(Answer { status, body })
    }
}

impl Answer {
    /// Whether the service does not know the endpoint, rather than what was asked for.
    fn is_unrecognised(&self) -> bool {
        #[derive(Deserialize)]
        struct Standard {
            errcode: String,
        }
        match self.status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                let error = serde_json::from_slice::<Standard>(&self.body);
                error.map_or(true, |error| error.errcode == "M_UNRECOGNIZED")
            }
            status => status == StatusCode::NOT_IMPLEMENTED,
        }
    }
}

/// Makes one segment of a path, or one value of a query, of any text.
pub(super) fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_endpoint_is_told_from_an_unknown_user() {
        let answer = |status: u16, body: &str| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            body: body.as_bytes().to_vec(),
        };
        assert!(answer(404, "Cannot GET /_matrix").is_unrecognised());
        assert!(answer(405, r#"{"errcode":"M_UNRECOGNIZED"}"#).is_unrecognised());
        assert!(answer(501, "").is_unrecognised());
        assert!(!answer(404, r#"{"errcode":"M_NOT_FOUND"}"#).is_unrecognised());
        assert!(!answer(500, "").is_unrecognised());
        assert!(!answer(200, "{}").is_unrecognised());
    }

    #[test]
    fn identifiers_are_one_segment() {
        assert_eq!(encoded("#a b/c:d+e"), "%23a%20b%2Fc%3Ad%2Be");
    }
}
