//! `/.well-known/matrix/`: where this server is, for those who know its name.

use axum::{Router, response::Response, routing::get};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer;
use crate::config::WellKnown;

/// The files, of which those not configured answer 404.
pub(super) fn routes(config: &WellKnown) -> Router {
    Router::new()
        .route("/.well-known/matrix/client", file(client(config)))
        .route("/.well-known/matrix/server", file(server(config)))
        .route("/.well-known/matrix/support", file(support(config)))
}

fn file(content: Option<Value>) -> axum::routing::MethodRouter {
    let content = content.map(|content| Bytes::from(content.to_string()));
    get(move || std::future::ready(serve(content.clone())))
}

fn serve(content: Option<Bytes>) -> Response {
    match content {
        Some(content) => answer::json(StatusCode::OK, content),
        None => answer::error(StatusCode::NOT_FOUND, "M_NOT_FOUND", "Not configured"),
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#getwell-knownmatrixclient>
fn client(config: &WellKnown) -> Option<Value> {
    let base_url = config.client.as_ref()?;
    let mut content: Map<String, Value> = config.client_extra.clone();
    content.insert("m.homeserver".to_owned(), json!({ "base_url": base_url }));
    if let Some(base_url) = &config.identity_server {
        content.insert("m.identity_server".to_owned(), json!({ "base_url": base_url }));
    }
    Some(Value::Object(content))
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver>
fn server(config: &WellKnown) -> Option<Value> {
    Some(json!({ "m.server": config.server.as_ref()? }))
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#getwell-knownmatrixsupport>
fn support(config: &WellKnown) -> Option<Value> {
    let content = serde_json::to_value(&config.support).ok()?;
    content.as_object().is_some_and(|content| !content.is_empty()).then_some(content)
}
