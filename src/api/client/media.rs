//! Uploads, and what the content repository allows.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedMxcUri, ServerName, UInt,
    api::client::{
        authenticated_media::{get_media_config, get_media_preview},
        media::{self, create_content, create_content_async, create_mxc_uri},
    },
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma, Upload},
    },
    config::Config,
    content::{Content, Declared},
    http::BodyError,
    previews::Previews,
};

/// `POST /_matrix/media/v3/upload`
pub(crate) async fn upload(
    State(content): State<Content>,
    State(config): State<Arc<Config>>,
    Upload { session, request, announced_bytes, body }: Upload<create_content::v3::Request>,
) -> Result<Ruma<create_content::v3::Response>, ApiError> {
    let declared = Declared {
        content_type: request.content_type,
        name: request.filename,
        bytes: announced_bytes,
        blurhash: request.generate_blurhash,
    };
    let uploaded = content.upload(&session, &declared, pieces(body)).await?;
    let address = mxc(&config.server_name, &uploaded.media_id);
    let mut response = create_content::v3::Response::new(address);
    response.blurhash = uploaded.blurhash;
    Ok(Ruma(response))
}

/// `POST /_matrix/media/v1/create`
pub(crate) async fn create(
    State(content): State<Content>,
    State(config): State<Arc<Config>>,
    Client { session, .. }: Client<create_mxc_uri::v1::Request>,
) -> Result<Ruma<create_mxc_uri::v1::Response>, ApiError> {
    let (media_id, expires_ms) = content.announce(&session).await?;
    let address = mxc(&config.server_name, &media_id);
    let mut response = create_mxc_uri::v1::Response::new(address);
    response.unused_expires_at = UInt::new(expires_ms).map(MilliSecondsSinceUnixEpoch);
    Ok(Ruma(response))
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`
pub(crate) async fn upload_created(
    State(content): State<Content>,
    Upload { session, request, announced_bytes, body }: Upload<create_content_async::v3::Request>,
) -> Result<Json<Value>, ApiError> {
    let declared = Declared {
        content_type: request.content_type,
        name: request.filename,
        bytes: announced_bytes,
        blurhash: false,
    };
    let (server, media_id) = (&request.server_name, &request.media_id);
    content.upload_announced(&session, server, media_id, &declared, pieces(body)).await?;
    // The response type of ruma can't be made outside of it.
    Ok(Json(json!({})))
}

/// `GET /_matrix/client/v1/media/config`
pub(crate) async fn get_config(
    State(content): State<Content>,
    Client { .. }: Client<get_media_config::v1::Request>,
) -> Ruma<get_media_config::v1::Response> {
    Ruma(get_media_config::v1::Response::new(upload_size(&content)))
}

/// `GET /_matrix/media/v3/config`
#[expect(deprecated, reason = "old clients still ask for it")]
pub(crate) async fn get_config_legacy(
    State(content): State<Content>,
    Client { .. }: Client<media::get_media_config::v3::Request>,
) -> Ruma<media::get_media_config::v3::Response> {
    Ruma(media::get_media_config::v3::Response::new(upload_size(&content)))
}

/// `GET /_matrix/client/v1/media/preview_url`
pub(crate) async fn get_preview(
    State(previews): State<Previews>,
    Client { session, request, .. }: Client<get_media_preview::v1::Request>,
) -> Result<Ruma<get_media_preview::v1::Response>, ApiError> {
    let preview = raw(previews.preview(session.limited_as(), &request.url).await?)?;
    Ok(Ruma(get_media_preview::v1::Response::from_raw_value(preview)))
}

/// `GET /_matrix/media/v3/preview_url`
#[expect(deprecated, reason = "old clients still ask for it")]
pub(crate) async fn get_preview_legacy(
    State(previews): State<Previews>,
    Client { session, request, .. }: Client<media::get_media_preview::v3::Request>,
) -> Result<Ruma<media::get_media_preview::v3::Response>, ApiError> {
    let preview = raw(previews.preview(session.limited_as(), &request.url).await?)?;
    Ok(Ruma(media::get_media_preview::v3::Response::from_raw_value(preview)))
}

fn raw(json: String) -> Result<Box<RawValue>, ApiError> {
    RawValue::from_string(json).map_err(|error| ApiError::internal(&error))
}

fn upload_size(content: &Content) -> UInt {
    UInt::new_saturating(content.max_upload_bytes())
}

fn mxc(server: &ServerName, media_id: &str) -> OwnedMxcUri {
    format!("mxc://{server}/{media_id}").into()
}

fn pieces(body: Body) -> impl Stream<Item = Result<Bytes, BodyError>> {
    body.into_data_stream().map_err(|error| BodyError::of(&error))
}
