//! Fetching a page, what describes it, and its picture: one request each, and no more.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderValue, header};
use media::{page::Page, page::charset_of, page::is_html, serve};
use reqwest::Response;
use ruma::ServerName;
use serde_json::{Map, Value};
use url::Url;

use super::{PreviewError, Previews, is_allowed};
use crate::{config, http::BodyError};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// A description in JSON; what is larger is cut off, and then none.
const MAX_OEMBED_BYTES: usize = 256 * 1024;

/// A preview.
pub(super) struct Made {
    /// The answer to clients, as JSON.
    pub(super) body: String,
    /// Media ID of its picture on this server.
    pub(super) picture: Option<String>,
}

/// What every request has: it says that it is a robot's, and whose.
pub(super) fn headers(settings: &config::Previews, server: &ServerName) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let version = env!("CARGO_PKG_VERSION");
    let agent = format!("Mozilla/5.0 (compatible; myelin/{version}; bot; +https://{server})");
    for (name, value) in [
        (header::USER_AGENT, agent.as_str()),
        (header::ACCEPT, "text/html, application/xhtml+xml, image/*;q=0.8, */*;q=0.5"),
        (header::ACCEPT_LANGUAGE, settings.accept_language.as_str()),
    ] {
        // Both are checked: a server's name always fits, the language when the server starts.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers
}

impl Previews {
    pub(super) async fn fetch(&self, url: &Url) -> Result<Made, PreviewError> {
        let response = self.get(url).await?;
        let content_type = content_type(&response);
        let address = response.url().clone();
        if content_type.starts_with("image/") {
            let mut told = Map::new();
            let picture = self.keep_picture(response, &mut told).await?;
            return Ok(made(told, picture));
        }
        if !is_html(&content_type) {
            return Ok(made(Map::new(), None));
        }
        let mut page = self.read_page(response, &content_type, address.clone()).await?;
        let missing = page.image.is_none() || !page.properties.contains_key("og:title");
        if let Some(oembed) = page.oembed.clone().filter(|_| missing) {
            // Whatever goes wrong there, the page itself was had.
            if let Ok(response) = self.get(&oembed).await
                && let Ok(body) = read(response, MAX_OEMBED_BYTES).await
            {
                page.add_oembed(&body, &oembed);
            }
        }
        let mut told: Map<String, Value> =
            page.properties.into_iter().map(|(name, text)| (name, text.into())).collect();
        let mut picture = None;
        if let Some(image) = page.image
            && let Ok(response) = self.get(&image).await
        {
            picture = self.keep_picture(response, &mut told).await.ok().flatten();
        }
        Ok(made(told, picture))
    }

    /// Asks for a page or a picture, following redirects; each address on the way must be allowed.
    async fn get(&self, url: &Url) -> Result<Response, PreviewError> {
        let shared = &*self.shared;
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let fetched = matches!(url.scheme(), "http" | "https");
            if !fetched
                || !is_allowed(&shared.settings, &url)
                || shared.outgoing.check(&url).is_err()
            {
                return Err(PreviewError::NotAllowed);
            }
            let request = shared.client.get(url.clone()).headers(shared.headers.clone());
            let response = request.send().await?;
            if response.status().is_success() {
                return Ok(response);
            }
            let next = response.headers().get(header::LOCATION);
            let next = next.filter(|_| response.status().is_redirection());
            let next =
                next.and_then(|next| next.to_str().ok()).and_then(|next| url.join(next).ok());
            url = next.ok_or(PreviewError::Unreachable(None))?;
        }
        Err(PreviewError::Unreachable(None))
    }

    /// The head of a page is at its beginning: of a longer one the rest is left out.
    async fn read_page(
        &self,
        response: Response,
        content_type: &str,
        address: Url,
    ) -> Result<Page, PreviewError> {
        let body = read(response, self.shared.settings.max_page_bytes).await?;
        let charset = charset_of(content_type).map(str::to_owned);
        let read =
            tokio::task::spawn_blocking(move || Page::read(&body, charset.as_deref(), &address));
        read.await.map_err(|_stopping| PreviewError::Unreachable(None))
    }

    /// Keeps a picture as a media of this server, and tells of it. `None` if it is none.
    async fn keep_picture(
        &self,
        response: Response,
        told: &mut Map<String, Value>,
    ) -> Result<Option<String>, PreviewError> {
        let shared = &*self.shared;
        let name = response.url().path_segments().and_then(|mut parts| parts.next_back());
        let name = name.and_then(serve::safe_name);
        let declared = content_type(&response);
        if !declared.starts_with("image/") {
            return Ok(None);
        }
        let pieces = stream::unfold(Some(response), |response| async move {
            let mut response = response?;
            match response.chunk().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(response))),
                Ok(None) => None,
                Err(_) => Some((Err(BodyError::Broken), None)),
            }
        });
        let limit = shared.settings.max_image_bytes;
        let pieces = pieces.into_stream().boxed();
        let Some(kept) = shared.content.keep_picture(pieces, limit, name).await? else {
            return Ok(None);
        };
        told.insert("og:image".into(), kept.address.into());
        told.insert("og:image:type".into(), kept.content_type.into());
        told.insert("og:image:width".into(), kept.picture.width.into());
        told.insert("og:image:height".into(), kept.picture.height.into());
        told.insert("matrix:image:size".into(), kept.bytes.into());
        Ok(Some(kept.media_id))
    }
}

/// The beginning of an answer, however it is compressed.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, PreviewError> {
    let mut body = Vec::new();
    while body.len() < limit {
        let Some(piece) = response.chunk().await? else { break };
        let left = limit - body.len();
        body.extend(piece.iter().take(left));
    }
    Ok(body)
}

fn made(told: Map<String, Value>, picture: Option<String>) -> Made {
    Made { body: Value::Object(told).to_string(), picture }
}

fn content_type(response: &Response) -> String {
    let value = response.headers().get(header::CONTENT_TYPE);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
