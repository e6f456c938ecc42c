//! This server's media for other servers.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use std::sync::Arc;

use axum::{extract::State, response::Response};
use ruma::api::federation::authenticated_media::{get_content, get_content_thumbnail};

use crate::{
    api::{client::media_download::thumbnail_request, error::ApiError, extract::Server, file},
    config::Config,
    content::{Access, Content, Wish},
};

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
pub(crate) async fn get_content(
    State(content): State<Content>,
    State(config): State<Arc<Config>>,
    Server { request, .. }: Server<get_content::v1::Request>,
) -> Result<Response, ApiError> {
    let wish = own(request.timeout_ms);
    let served = content.find(&config.server_name, &request.media_id, wish).await?;
    file::multipart(&content, served).await
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
pub(crate) async fn get_content_thumbnail(
    State(content): State<Content>,
    State(config): State<Arc<Config>>,
    Server { request, .. }: Server<get_content_thumbnail::v1::Request>,
) -> Result<Response, ApiError> {
    let size = (request.width, request.height, request.method, request.animated);
    let thumbnail = thumbnail_request(size)?;
    let wish = own(request.timeout_ms);
    let original = content.find(&config.server_name, &request.media_id, wish).await?;
    let served = content.thumbnail(&original, thumbnail).await?;
    file::multipart(&content, served).await
}

/// Only what was uploaded here: servers ask each other for their own.
fn own(wait: std::time::Duration) -> Wish {
    Wish { wait, access: Access::Authenticated, allow_remote: false }
}
