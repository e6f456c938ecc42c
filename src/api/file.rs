//! Files as answers: in ranges, cached for good, and unable to do harm.

use std::ops::Range;

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use media::{range::Wanted, serve};
use ruma::{
    api::error::ErrorKind,
    http_headers::{ContentDisposition, ContentDispositionType},
};

use super::error::ApiError;
use crate::content::{Arriving, Content, ContentError, Served};

/// What of a request concerns how a file is answered.
pub(crate) struct FileRequest<'a> {
    /// `GET` or `HEAD`.
    pub(crate) method: &'a Method,
    /// `Range`, `If-None-Match` and others.
    pub(crate) headers: &'a HeaderMap,
    /// Whether the client may be sent elsewhere.
    pub(crate) may_redirect: bool,
}

/// Whether a query says that the client may be redirected.
pub(crate) fn allows_redirect(uri: &http::Uri) -> bool {
    says(uri, "allow_redirect=true")
}

/// Whether a query lets other servers be asked.
pub(crate) fn allows_remote(uri: &http::Uri) -> bool {
    !says(uri, "allow_remote=false")
}

fn says(uri: &http::Uri, what: &str) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair == what))
}

/// The answer with a file, or with the part of it that is wanted.
pub(crate) async fn answer(
    content: &Content,
    served: Served,
    request: &FileRequest<'_>,
) -> Result<Response, ApiError> {
    let disposition = disposition(&served.content_type, served.name.as_deref());
    if request.may_redirect {
        let address = content.redirect(&served, disposition.to_string()).await;
        if let Some(address) = address.map_err(ContentError::Blob)? {
            let location = HeaderValue::try_from(address);
            let location = location.map_err(|error| ApiError::internal(&error))?;
            // Valid for a short time only.
            let headers = [
                (header::LOCATION, location),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            return Ok((StatusCode::TEMPORARY_REDIRECT, headers).into_response());
        }
    }
    let tag = format!("\"{}\"", served.hash);
    let mut headers = HeaderMap::new();
    set(&mut headers, header::ETAG, &tag);
    set(&mut headers, header::CACHE_CONTROL, serve::CACHE_CONTROL);
    if text(request.headers, &header::IF_NONE_MATCH).is_some_and(|tags| names(tags, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    // A part of something else is of no use.
    let same = text(request.headers, &header::IF_RANGE).is_none_or(|known| known == tag);
    let range = text(request.headers, &header::RANGE).filter(|_| same);
    set(&mut headers, header::ACCEPT_RANGES, "bytes");
    let (status, part) = match Wanted::of(range, served.bytes) {
        Wanted::Whole => (StatusCode::OK, 0..served.bytes),
        Wanted::Part(part) => {
            let Range { start, end } = &part;
            let range = format!("bytes {start}-{}/{}", end - 1, served.bytes);
            set(&mut headers, header::CONTENT_RANGE, &range);
            (StatusCode::PARTIAL_CONTENT, part)
        }
        Wanted::Unsatisfiable => {
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let error = ApiError::with_status(status, ErrorKind::Unknown, "No such range");
            let mut response = error.into_response();
            let range = format!("bytes */{}", served.bytes);
            set(response.headers_mut(), header::CONTENT_RANGE, &range);
            return Ok(response);
        }
    };
    set(&mut headers, header::CONTENT_TYPE, &served.content_type);
    set(&mut headers, header::CONTENT_DISPOSITION, &disposition.to_string());
    set(&mut headers, header::CONTENT_LENGTH, &(part.end - part.start).to_string());
    protect(&mut headers);
    let body = if request.method == Method::HEAD {
        Body::empty()
    } else {
        let stream = content.read(&served, part).await.map_err(ContentError::Blob)?;
        let hash = served.hash;
        // Too late for an error; the connection breaks off.
        Body::from_stream(stream.inspect_err(move |error| {
            tracing::error!(%error, %hash, "a file could not be read to its end");
        }))
    };
    Ok((status, headers, body).into_response())
}

/// The answer with a file that is still on its way: the whole of it, since neither its size nor
/// its hash is known.
pub(crate) fn arriving(file: Arriving) -> Response {
    let mut headers = HeaderMap::new();
    let disposition = disposition(&file.content_type, file.name.as_deref());
    set(&mut headers, header::CACHE_CONTROL, serve::CACHE_CONTROL);
    set(&mut headers, header::CONTENT_TYPE, &file.content_type);
    set(&mut headers, header::CONTENT_DISPOSITION, &disposition.to_string());
    protect(&mut headers);
    // If the rest does not come the connection breaks off, which is how the client learns it.
    let body = Body::from_stream(file.read().inspect_err(|error| {
        tracing::info!(%error, "a file of another server did not come whole");
    }));
    (headers, body).into_response()
}

/// The answer to another server: metadata, of which there is none yet, and then the file.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid>
pub(crate) async fn multipart(content: &Content, served: Served) -> Result<Response, ApiError> {
    let boundary = content.new_boundary();
    let kind = &served.content_type;
    let disposition = disposition(kind, served.name.as_deref());
    let before = format!(
        "\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n\
         Content-Type: {kind}\r\nContent-Disposition: {disposition}\r\n\r\n"
    );
    let after = format!("\r\n--{boundary}--\r\n");
    let bytes = served.bytes + (before.len() + after.len()) as u64;
    let file = content.read(&served, 0..served.bytes).await.map_err(ContentError::Blob)?;
    let piece = |text: String| stream::once(std::future::ready(Ok(Bytes::from(text))));
    let body = Body::from_stream(piece(before).chain(file).chain(piece(after)));
    let mut headers = HeaderMap::new();
    set(&mut headers, header::CONTENT_TYPE, &format!("multipart/mixed; boundary={boundary}"));
    set(&mut headers, header::CONTENT_LENGTH, &bytes.to_string());
    Ok((headers, body).into_response())
}

/// Shown by a browser only if that is harmless.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content>
fn disposition(content_type: &str, name: Option<&str>) -> ContentDisposition {
    let kind = if serve::may_be_inline(content_type) {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    };
    ContentDisposition::new(kind).with_filename(name.map(str::to_owned))
}

/// What keeps a file from doing anything in a browser.
fn protect(headers: &mut HeaderMap) {
    set(headers, header::CONTENT_SECURITY_POLICY, serve::CONTENT_SECURITY_POLICY);
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::REFERRER_POLICY, "no-referrer");
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    set(headers, policy, "cross-origin");
    set(headers, HeaderName::from_static("x-robots-tag"), "noindex, nofollow, noarchive");
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => {
            headers.insert(name, value);
        }
        // Stored types and names were made fit for headers when they were stored.
        Err(error) => tracing::error!(%error, %name, "a value does not fit into a header"),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a list of entity tags has this one.
fn names(tags: &str, tag: &str) -> bool {
    tags.split(',')
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}
