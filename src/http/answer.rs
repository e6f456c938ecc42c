//! Answers that are given before or instead of an endpoint's.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, Method, StatusCode, header};

/// A standard error response.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#standard-error-response>
pub(super) fn error(status: StatusCode, errcode: &str, message: &str) -> Response {
    let body = serde_json::json!({ "errcode": errcode, "error": message }).to_string();
    json(status, body)
}

pub(super) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status, [content_type], body.into()).into_response()
}

/// No endpoint has this path.
pub(super) async fn unknown_path() -> Response {
    error(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "There is no endpoint at this path")
}

/// An endpoint has this path, but not with this method.
pub(super) async fn unknown_method(method: Method) -> Response {
    let message = format!("This endpoint does not support {method}");
    error(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", &message)
}

pub(super) fn too_large(limit_bytes: u64) -> Response {
    let message = format!("The request body is larger than {limit_bytes} bytes");
    error(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", &message)
}

pub(super) fn took_too_long() -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", "The request took too long")
}

pub(super) fn panicked() -> Response {
    error(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "Internal server error")
}

/// The answer to `OPTIONS`, for every path and without asking the endpoint.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients>
pub(super) fn options() -> Response {
    // A browser may remember this for a day, instead of asking before each request.
    let max_age = (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    (StatusCode::NO_CONTENT, [max_age]).into_response()
}

/// The CORS headers that every answer has.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients>
pub(super) fn allow_browsers(response: &mut Response) {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, OPTIONS, PATCH, HEAD"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "X-Requested-With, Content-Type, Authorization"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}
