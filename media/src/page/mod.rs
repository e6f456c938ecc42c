//! What a web page says about itself: Open Graph, oEmbed, or else plain HTML.

mod charset;
mod html;
mod oembed;

use std::collections::BTreeMap;

use url::Url;

/// The longest title, description or other text that is told, in characters.
const MAX_TEXT_CHARS: usize = 1000;
/// How many Open Graph properties are taken over.
const MAX_PROPERTIES: usize = 40;

/// What is told about a page.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    /// Open Graph properties by their names, such as `og:title`; none about images.
    pub properties: BTreeMap<String, String>,
    /// Address of the picture that stands for the page.
    pub image: Option<Url>,
    /// Where the page is described by oEmbed.
    pub oembed: Option<Url>,
}

impl Page {
    /// Reads a HTML page, as far as it goes.
    ///
    /// `charset`: what the answer's `Content-Type` says. `address`: where the page is.
    pub fn read(body: &[u8], charset: Option<&str>, address: &Url) -> Self {
        html::read(&charset::decode(body, charset), address)
    }

    /// Adds what an oEmbed description says that the page did not.
    pub fn add_oembed(&mut self, body: &[u8], address: &Url) {
        oembed::add(self, body, address);
    }

    /// Sets a property that is not set yet; an empty text says nothing.
    pub fn add(&mut self, name: &str, text: &str) {
        let text = tidy(text);
        let known = self.properties.contains_key(name);
        if !text.is_empty() && !known && self.properties.len() < MAX_PROPERTIES {
            self.properties.insert(name.to_owned(), text);
        }
    }
}

/// The charset that a `Content-Type` names.
pub fn charset_of(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        name.trim().eq_ignore_ascii_case("charset").then_some(value)
    })
}

/// Whether a media type is that of a HTML page.
pub fn is_html(content_type: &str) -> bool {
    let essence = crate::serve::essence(content_type);
    matches!(essence.as_str(), "text/html" | "application/xhtml+xml")
}

/// One line of bounded length.
fn tidy(text: &str) -> String {
    let mut tidy = String::new();
    let mut chars = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty())
    {
        if chars >= MAX_TEXT_CHARS {
            break;
        }
        if chars > 0 {
            tidy.push(' ');
            chars += 1;
        }
        for character in word.chars().take(MAX_TEXT_CHARS - chars.min(MAX_TEXT_CHARS)) {
            tidy.push(character);
            chars += 1;
        }
    }
    tidy
}

/// An address on a page as a whole one; only such as can be fetched.
fn resolve(base: &Url, address: &str) -> Option<Url> {
    let url = base.join(address.trim()).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

#[cfg(test)]
mod tests;
