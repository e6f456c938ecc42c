//! A description of a page in JSON. <https://oembed.com/>

use serde::Deserialize;
use url::Url;

use super::{Page, resolve};

#[derive(Deserialize)]
struct OEmbed {
    #[serde(rename = "type")]
    kind: Option<String>,
    title: Option<String>,
    author_name: Option<String>,
    provider_name: Option<String>,
    thumbnail_url: Option<String>,
    url: Option<String>,
}

pub(super) fn add(page: &mut Page, body: &[u8], address: &Url) {
    // Whatever it is, the page has been read already.
    let Ok(oembed) = serde_json::from_slice::<OEmbed>(body) else { return };
    let mut text = |name, text: &Option<String>| {
        if let Some(text) = text {
            page.add(name, text);
        }
    };
    text("og:title", &oembed.title);
    text("og:site_name", &oembed.provider_name);
    text("og:title", &oembed.author_name);
    let photo = oembed.url.filter(|_| oembed.kind.as_deref() == Some("photo"));
    if page.image.is_none() {
        let image = oembed.thumbnail_url.or(photo);
        page.image = image.and_then(|image| resolve(address, &image));
    }
}
