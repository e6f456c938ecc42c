//! What the server answered.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer, with the request it belongs to for the message of a failed test.
#[derive(Debug)]
pub struct Answer {
    /// Method, URL and body of the request.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// Response headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub bytes: Vec<u8>,
    /// The body as text.
    pub text: String,
    /// The body as JSON; null if it is none.
    pub json: Value,
}

impl Answer {
    pub(crate) async fn read(
        request: String,
        response: reqwest::Response,
    ) -> Result<Self, reqwest::Error> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.bytes().await?.to_vec();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Self { request, status, headers, bytes, text, json })
    }

    /// The body of an answer with status 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        self.has_status(200)
    }

    /// The body of an answer with this status.
    #[track_caller]
    pub fn has_status(self, status: u16) -> Value {
        assert!(self.status == status, "{self}\nexpected {status}");
        self.json
    }

    /// The body of a refusal with this status and error code.
    ///
    /// Every Matrix error has a code and a text for people.
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#standard-error-response>
    #[track_caller]
    pub fn fails(self, status: u16, errcode: &str) -> Value {
        assert!(
            self.status == status && self.errcode() == errcode,
            "{self}\nexpected {status} {errcode}"
        );
        assert!(self.json["error"].is_string(), "{self}\nan error has a text");
        self.json
    }

    /// The error code; empty if there is none.
    pub fn errcode(&self) -> &str {
        self.json["errcode"].as_str().unwrap_or_default()
    }

    /// The body of a refusal with this status and one of these error codes, where the specification
    /// leaves open which.
    #[track_caller]
    pub fn fails_as(self, status: u16, errcodes: &[&str]) -> Value {
        assert!(errcodes.contains(&self.errcode()), "{self}\nexpected one of {errcodes:?}");
        let errcode = self.errcode().to_owned();
        self.fails(status, &errcode)
    }

    /// A header as text; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: String = self.text.chars().take(4000).collect();
        write!(f, "{}\nanswered {} {shown}", self.request, self.status)
    }
}
