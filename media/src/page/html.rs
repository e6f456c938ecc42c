//! The head of a page, and a little of its text, read tag by tag: no tree is built, so no page is
//! too deep.

use std::{borrow::Cow, cell::RefCell};

use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
    states::RawKind,
};
use url::Url;

use super::{MAX_TEXT_CHARS, Page, resolve};

/// What is read of the text of a page, to describe one that does not do so itself, in bytes.
const MAX_TEXT_BYTES: usize = MAX_TEXT_CHARS * 4;
/// A paragraph shorter than this is a menu or a date.
const MIN_PARAGRAPH_CHARS: usize = 60;

pub(super) fn read(text: &str, address: &Url) -> Page {
    let sink = Sink(RefCell::new(Collected::default()));
    let tokenizer = Tokenizer::new(sink, TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(Cow::Borrowed(text).into_owned().into());
    // It stops after each script, for those who would run it.
    while !input.is_empty() {
        let _ = tokenizer.feed(&input);
    }
    tokenizer.end();
    tokenizer.sink.0.into_inner().into_page(address)
}

/// What was found so far.
#[derive(Default)]
struct Collected {
    /// Of `<meta>`, by name or property, in their order.
    meta: Vec<(String, String)>,
    base: Option<String>,
    oembed: Option<String>,
    title: String,
    heading: String,
    paragraph: String,
    /// The first paragraph worth telling.
    description: String,
    image: Option<String>,
    reading: Reading,
    /// Depth of elements whose text is not that of the page.
    aside: usize,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Reading {
    #[default]
    Nothing,
    Title,
    Heading,
    Paragraph,
}

struct Sink(RefCell<Collected>);

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut collected = self.0.borrow_mut();
        match token {
            Token::CharacterTokens(text) => collected.text(&text),
            Token::TagToken(tag) if tag.kind == TagKind::StartTag => {
                collected.start(&tag);
                return match &*tag.name {
                    "script" => TokenSinkResult::RawData(RawKind::ScriptData),
                    "style" | "xmp" | "iframe" | "noembed" | "noframes" => {
                        TokenSinkResult::RawData(RawKind::Rawtext)
                    }
                    "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
                    "plaintext" => TokenSinkResult::Plaintext,
                    _ => TokenSinkResult::Continue,
                };
            }
            Token::TagToken(tag) => collected.end(&tag.name),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

fn attribute<'a>(tag: &'a Tag, name: &str) -> Option<&'a str> {
    tag.attrs.iter().find(|attr| *attr.name.local == *name).map(|attr| &*attr.value)
}

fn is_aside(name: &str) -> bool {
    matches!(
        name,
        "nav" | "footer" | "aside" | "noscript" | "script" | "style" | "svg" | "template" | "form"
    )
}

impl Collected {
    fn start(&mut self, tag: &Tag) {
        let name = &*tag.name;
        if is_aside(name) && !tag.self_closing {
            self.aside += 1;
        }
        match name {
            "meta" => {
                let key = ["property", "name", "itemprop"].iter().find_map(|k| attribute(tag, k));
                if let (Some(key), Some(content)) = (key, attribute(tag, "content"))
                    && self.meta.len() < 200
                {
                    self.meta.push((key.trim().to_ascii_lowercase(), content.to_owned()));
                }
            }
            "base" if self.base.is_none() => self.base = attribute(tag, "href").map(str::to_owned),
            "link" if self.oembed.is_none() => {
                let is_oembed = attribute(tag, "type").is_some_and(|kind| {
                    kind.trim().eq_ignore_ascii_case("application/json+oembed")
                });
                if is_oembed {
                    self.oembed = attribute(tag, "href").map(str::to_owned);
                }
            }
            "title" if self.title.is_empty() && self.aside == 0 => self.reading = Reading::Title,
            "h1" if self.heading.is_empty() => self.reading = Reading::Heading,
            "p" if self.description.is_empty() && self.aside == 0 => {
                self.paragraph.clear();
                self.reading = Reading::Paragraph;
            }
            "img" if self.image.is_none() && self.aside == 0 && !is_tiny(tag) => {
                self.image = attribute(tag, "src").map(str::to_owned);
            }
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        if is_aside(name) {
            self.aside = self.aside.saturating_sub(1);
        }
        let done = match name {
            "title" => Reading::Title,
            "h1" => Reading::Heading,
            "p" => Reading::Paragraph,
            _ => return,
        };
        if done == Reading::Paragraph && self.paragraph.chars().count() >= MIN_PARAGRAPH_CHARS {
            self.description = std::mem::take(&mut self.paragraph);
        }
        if self.reading == done {
            self.reading = Reading::Nothing;
        }
    }

    fn text(&mut self, text: &str) {
        if self.aside > 0 {
            return;
        }
        let into = match self.reading {
            Reading::Nothing => return,
            Reading::Title => &mut self.title,
            Reading::Heading => &mut self.heading,
            Reading::Paragraph => &mut self.paragraph,
        };
        if into.len() < MAX_TEXT_BYTES {
            let left = MAX_TEXT_BYTES - into.len();
            into.extend(text.chars().take(left));
        }
    }

    fn meta(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| {
            let found =
                self.meta.iter().find(|(name, text)| name == key && !text.trim().is_empty());
            found.map(|(_, text)| text.as_str())
        })
    }

    fn into_page(self, address: &Url) -> Page {
        let base = self.base.as_deref().and_then(|base| resolve(address, base));
        let base = base.as_ref().unwrap_or(address);
        let mut page = Page::default();
        for (name, text) in &self.meta {
            let about_image = name.starts_with("og:image");
            if name.starts_with("og:") && name.len() <= 64 && !about_image {
                page.add(name, text);
            }
        }
        let title = self.meta(&["twitter:title"]).unwrap_or(&self.title);
        page.add("og:title", title);
        page.add("og:title", &self.heading);
        let description = self.meta(&["twitter:description", "description"]);
        page.add("og:description", description.unwrap_or(&self.description));
        let image = self.meta(&[
            "og:image:secure_url",
            "og:image",
            "og:image:url",
            "twitter:image",
            "image",
        ]);
        page.image = image.or(self.image.as_deref()).and_then(|image| resolve(base, image));
        page.oembed = self.oembed.as_deref().and_then(|address| resolve(base, address));
        page
    }
}

/// A picture that says to be smaller than a thumbnail: an icon, or one that counts visitors.
fn is_tiny(tag: &Tag) -> bool {
    ["width", "height"].iter().any(|side| {
        attribute(tag, side)
            .and_then(|text| text.trim_end_matches("px").parse::<u32>().ok())
            .is_some_and(|length| length < 32)
    })
}
