use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

fn read(html: &str) -> Page {
    Page::read(html.as_bytes(), None, &address())
}

fn address() -> Url {
    Url::parse("https://example.org/dir/page.html?q=1").unwrap()
}

fn text<'a>(page: &'a Page, name: &str) -> &'a str {
    page.properties.get(name).map_or("", String::as_str)
}

#[test]
fn open_graph_comes_first() {
    let page = read(
        r#"<html><head><title>Plain</title>
        <meta property="og:title" content="Graph &amp; more">
        <meta property="og:description" content="  Two
            lines ">
        <meta property="og:image" content="/pic.png"><meta property="og:image:width" content="9">
        <meta name="description" content="plain text">
        <link rel="alternate" type="application/json+oembed" href="../oembed?x=1&amp;y=2">
        </head><body><h1>Heading</h1>"#,
    );
    assert_eq!(text(&page, "og:title"), "Graph & more");
    assert_eq!(text(&page, "og:description"), "Two lines");
    assert_eq!(page.image.as_ref().unwrap().as_str(), "https://example.org/pic.png");
    assert_eq!(page.oembed.as_ref().unwrap().as_str(), "https://example.org/oembed?x=1&y=2");
    assert!(!page.properties.contains_key("og:image:width"));
}

#[test]
fn a_plain_page_is_described_by_its_text() {
    let page = read(
        "<title>A <b> title</title><script>document.write('<p>no</p>')</script>
        <nav><p>Home, news, contact, about us, imprint, privacy, terms, jobs, press and more</p></nav>
        <p>12 May</p><img src=dot.gif width=1 height=1><img src='a b.jpg'>
        <p>This is the <i>first</i> paragraph that is long enough to say what the page is about.</p>",
    );
    assert_eq!(text(&page, "og:title"), "A <b> title");
    assert_eq!(
        text(&page, "og:description"),
        "This is the first paragraph that is long enough to say what the page is about."
    );
    assert_eq!(page.image.unwrap().as_str(), "https://example.org/dir/a%20b.jpg");
    assert_eq!(text(&read("<h1>Only <i>this</i></h1>"), "og:title"), "Only this");
}

#[test]
fn other_character_sets_are_read() {
    let expected = "Привет";
    let (cyrillic, _, _) = encoding_rs::WINDOWS_1251.encode(expected);
    let html = [&b"<title>"[..], &cyrillic, b"</title>"].concat();
    let page = Page::read(&html, Some("windows-1251"), &address());
    assert_eq!(text(&page, "og:title"), expected);
    for said in [
        "<meta charset=windows-1251>",
        "<?xml version='1.0' encoding='windows-1251'?>",
        "<META http-equiv=Content-Type content=\"text/html; charset = windows-1251\">",
    ] {
        let page = Page::read(&[said.as_bytes(), &html].concat(), None, &address());
        assert_eq!(text(&page, "og:title"), expected, "{said}");
    }
    let (japanese, _, _) = encoding_rs::SHIFT_JIS.encode("日本語");
    let html = [&b"<title>"[..], &japanese, b"</title>"].concat();
    let page = Page::read(&html, Some("Shift_JIS"), &address());
    assert_eq!(text(&page, "og:title"), "日本語");
    assert_eq!(text(&Page::read(b"<title>caf\xe9</title>", None, &address()), "og:title"), "café");
    assert_eq!(charset_of("text/html; Charset=\"utf-8\""), Some("utf-8"));
}

#[test]
fn only_what_can_be_fetched_is_an_image() {
    for image in ["javascript:alert(1)", "data:image/png;base64,AAAA", "file:///etc/passwd"] {
        let page = read(&format!("<meta property=og:image content='{image}'>"));
        assert_eq!(page.image, None);
    }
    let page = read("<base href='https://cdn.example/'><meta property=og:image content=x.png>");
    assert_eq!(page.image.unwrap().as_str(), "https://cdn.example/x.png");
}

#[test]
fn oembed_fills_what_is_missing() {
    let mut page = read("<meta property=og:title content=Mine>");
    let oembed = br#"{"type":"photo","title":"Theirs","provider_name":"P","url":"/p.jpg"}"#;
    page.add_oembed(oembed, &address());
    assert_eq!(text(&page, "og:title"), "Mine");
    assert_eq!(text(&page, "og:site_name"), "P");
    assert_eq!(page.image.as_ref().unwrap().as_str(), "https://example.org/p.jpg");
    let before = page.clone();
    page.add_oembed(b"[not an oembed", &address());
    assert_eq!(page, before);
}

#[test]
fn everything_is_bounded() {
    let long = "x".repeat(100_000);
    let mut many = String::new();
    for number in 0..1000 {
        write!(many, "<meta property='og:x{number}' content='{long}'>").unwrap();
    }
    let page = read(&format!("<title>{long}</title><p>{long}</p>{many}"));
    assert!(page.properties.len() <= MAX_PROPERTIES);
    assert!(page.properties.values().all(|text| text.chars().count() <= MAX_TEXT_CHARS));
    // Deep nesting is no recursion.
    read(&"<div>".repeat(200_000));
}

proptest! {
    #[test]
    fn rubbish_is_a_page_too(rubbish: Vec<u8>, tags in "(<[a-z/!]{0,6}[ =\"'a-z:]{0,20}>?){0,20}") {
        Page::read(&rubbish, None, &address());
        read(&tags);
    }
}
