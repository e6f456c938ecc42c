//! Downloads and thumbnails, with a token and, on the old paths, without.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

use std::time::Duration;

use axum::{extract::State, response::Response};
use http::{HeaderMap, Method, Uri, header};
use media::{serve, thumbnail};
use ruma::{
    ServerName, UInt,
    api::client::{authenticated_media as authenticated, media as legacy},
};

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Public},
        file::{self, FileRequest},
    },
    content::{Access, Content, Found, ThumbnailRequest, Wish},
};

/// How the request came: what the answer depends on beside what is asked for.
type Came = (Method, Uri, HeaderMap);

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`
pub(crate) async fn get_content(
    State(content): State<Content>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Client { request, .. }: Client<authenticated::get_content::v1::Request>,
) -> Result<Response, ApiError> {
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, name: None };
    let access = (Access::Authenticated, request.timeout_ms);
    download(&content, wanted, access, (method, uri, headers)).await
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
pub(crate) async fn get_content_as_filename(
    State(content): State<Content>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Client { request, .. }: Client<authenticated::get_content_as_filename::v1::Request>,
) -> Result<Response, ApiError> {
    let name = Some(request.filename.as_str());
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, name };
    let access = (Access::Authenticated, request.timeout_ms);
    download(&content, wanted, access, (method, uri, headers)).await
}

/// `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`
pub(crate) async fn get_content_thumbnail(
    State(content): State<Content>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Client { request, .. }: Client<authenticated::get_content_thumbnail::v1::Request>,
) -> Result<Response, ApiError> {
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, name: None };
    let size = (request.width, request.height, request.method, request.animated);
    let access = (Access::Authenticated, request.timeout_ms);
    get_thumbnail(&content, wanted, size, access, (method, uri, headers)).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`
#[expect(deprecated, reason = "old clients still ask for it")]
pub(crate) async fn get_content_legacy(
    State(content): State<Content>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Public { request, .. }: Public<legacy::get_content::v3::Request>,
) -> Result<Response, ApiError> {
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, name: None };
    let access = (Access::Anybody, request.timeout_ms);
    download(&content, wanted, access, (method, uri, headers)).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}`
#[expect(deprecated, reason = "old clients still ask for it")]
pub(crate) async fn get_content_as_filename_legacy(
    State(content): State<Content>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Public { request, .. }: Public<legacy::get_content_as_filename::v3::Request>,
) -> Result<Response, ApiError> {
    let name = Some(request.filename.as_str());
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, name };
    let access = (Access::Anybody, request.timeout_ms);
    download(&content, wanted, access, (method, uri, headers)).await
}

/// `GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}`
#[expect(deprecated, reason = "old clients still ask for it")]
pub(crate) async fn get_content_thumbnail_legacy(
    State(content): State<Content>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Public { request, .. }: Public<legacy::get_content_thumbnail::v3::Request>,
) -> Result<Response, ApiError> {
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, name: None };
    let size = (request.width, request.height, request.method, request.animated);
    let access = (Access::Anybody, request.timeout_ms);
    get_thumbnail(&content, wanted, size, access, (method, uri, headers)).await
}

/// Which media, and the name it is to have.
struct Wanted<'a> {
    server: &'a ServerName,
    id: &'a str,
    name: Option<&'a str>,
}

async fn download(
    content: &Content,
    wanted: Wanted<'_>,
    (access, wait): (Access, Duration),
    (method, uri, headers): Came,
) -> Result<Response, ApiError> {
    let wish = Wish { wait, access, allow_remote: file::allows_remote(&uri) };
    let name = wanted.name.and_then(serve::safe_name);
    // A part or the mere size can only be had of what is complete.
    let whole = method == Method::GET && !headers.contains_key(header::RANGE);
    let found = if whole {
        content.find_early(wanted.server, wanted.id, wish).await?
    } else {
        Found::Stored(content.find(wanted.server, wanted.id, wish).await?)
    };
    let mut served = match found {
        Found::Stored(served) => served,
        Found::Arriving(mut file) => {
            file.name = name.or(file.name);
            return Ok(file::arriving(file));
        }
    };
    served.name = name.or(served.name);
    let may_redirect = file::allows_redirect(&uri);
    let request = FileRequest { method: &method, headers: &headers, may_redirect };
    file::answer(content, served, &request).await
}

async fn get_thumbnail(
    content: &Content,
    wanted: Wanted<'_>,
    size: AskedSize,
    (access, wait): (Access, Duration),
    (method, uri, headers): Came,
) -> Result<Response, ApiError> {
    let request = thumbnail_request(size)?;
    let wish = Wish { wait, access, allow_remote: file::allows_remote(&uri) };
    let original = content.find(wanted.server, wanted.id, wish).await?;
    let served = content.thumbnail(&original, request).await?;
    let may_redirect = file::allows_redirect(&uri);
    let request = FileRequest { method: &method, headers: &headers, may_redirect };
    file::answer(content, served, &request).await
}

/// Width, height, method and whether it may move, as a request has them.
type AskedSize = (UInt, UInt, Option<ruma::media::Method>, Option<bool>);

/// What a request for a thumbnail wants.
pub(crate) fn thumbnail_request(size: AskedSize) -> Result<ThumbnailRequest, ApiError> {
    let (width, height, fit, animated) = size;
    let pixels = |length: UInt| {
        let length = u32::try_from(u64::from(length)).ok().filter(|length| *length > 0);
        length.ok_or_else(|| ApiError::invalid_param("width and height must be above 0"))
    };
    Ok(ThumbnailRequest {
        width: pixels(width)?,
        height: pixels(height)?,
        method: match fit {
            Some(ruma::media::Method::Crop) => thumbnail::Method::Crop,
            None | Some(ruma::media::Method::Scale) => thumbnail::Method::Scale,
            Some(_) => return Err(ApiError::invalid_param("method must be crop or scale")),
        },
        animated: animated == Some(true),
    })
}
