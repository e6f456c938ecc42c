use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{
    Router,
    response::{Html, Redirect},
    routing::get,
};
use http::header;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::{
    clock::Random,
    storage::{
        Range,
        schema::{BLOB_REFERENCES, MEDIA, PREVIEW_EXPIRY, PREVIEWS},
    },
};

const USER: Option<UserNumber> = Some(UserNumber(1));

/// A GIF of one pixel.
const DOT: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

struct Here {
    previews: Previews,
    db: Db,
    clock: Clock,
    base: String,
    asked: Arc<AtomicUsize>,
    _folder: TempDir,
}

impl Here {
    async fn new(settings: impl FnOnce(&mut Config)) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let page = move || {
            count.fetch_add(1, Ordering::Relaxed);
            let page = "<title>A page</title><meta property=og:image content=/dot.gif>
                <link type=application/json+oembed href=/oembed>";
            std::future::ready(Html(page))
        };
        let kind = |kind: &'static str| [(header::CONTENT_TYPE, kind)];
        let routes = Router::new()
            .route("/page", get(page))
            .route("/dot.gif", get(move || async move { (kind("image/gif"), DOT) }))
            .route("/liar.png", get(move || async move { (kind("image/png"), "<script>") }))
            .route(
                "/bare",
                get(|| async { Html("<link type=application/json+oembed href=/oembed>") }),
            )
            .route(
                "/oembed",
                get(|| async { r#"{"title":"Embedded","thumbnail_url":"/dot.gif"}"# }),
            )
            .route("/there", get(|| async { Redirect::permanent("/page") }))
            .route("/inside", get(|| async { Redirect::permanent("http://127.0.0.2:1/") }))
            .route(
                "/large",
                get(|| async { Html(format!("<title>T</title>{}", "x".repeat(3_000_000))) }),
            )
            .route("/text", get(|| async { "plain" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let folder = TempDir::new().unwrap();
        let mut config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
        config.rate_limits.enabled = false;
        config.outgoing.allow_private_addresses = true;
        settings(&mut config);
        let (db, clock) = (Db::in_memory().await, Clock::manual(1_700_000_000_000));
        let random = Random::seeded(1);
        let content = Content::open(&config, db.clone(), clock.clone(), random, None).unwrap();
        let outgoing = Outgoing::new(&config.outgoing).unwrap();
        let previews =
            Previews::new(&config, db.clone(), clock.clone(), content, outgoing).unwrap();
        Self { previews, db, clock, base, asked, _folder: folder }
    }

    async fn preview(&self, path: &str) -> Result<Value, PreviewError> {
        let told = self.previews.preview(USER, &format!("{}{path}", self.base)).await?;
        Ok(serde_json::from_str(&told).unwrap())
    }
}

#[tokio::test]
async fn a_page_is_told_with_its_picture_and_fetched_once() {
    let here = Here::new(|_| {}).await;
    let told = futures::future::join_all((0..5).map(|_| here.preview("/page#part"))).await;
    for told in told {
        let told = told.unwrap();
        assert_eq!(told["og:title"], "A page");
        assert!(told["og:image"].as_str().unwrap().starts_with("mxc://localhost/"), "{told}");
        assert_eq!(
            (&told["og:image:width"], &told["og:image:type"]),
            (&1.into(), &"image/gif".into())
        );
        assert_eq!(told["matrix:image:size"], DOT.len());
    }
    assert_eq!(here.asked.load(Ordering::Relaxed), 1);
    here.clock.advance(Duration::from_hours(2));
    here.preview("/page").await.unwrap();
    assert_eq!(here.asked.load(Ordering::Relaxed), 2);
    // What is old goes, with its pictures.
    assert_eq!(MEDIA.scan(&here.db, &Range::all(), 9).await.unwrap().len(), 2);
    here.previews.expire().await.unwrap();
    assert_eq!(MEDIA.scan(&here.db, &Range::all(), 9).await.unwrap().len(), 2);
    here.clock.advance(Duration::from_hours(30));
    here.previews.expire().await.unwrap();
    assert!(MEDIA.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
    assert!(BLOB_REFERENCES.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
    assert!(PREVIEWS.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
    assert!(PREVIEW_EXPIRY.scan(&here.db, &Range::all(), 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn pictures_redirects_and_descriptions_are_followed_but_not_lies() {
    let here = Here::new(|_| {}).await;
    assert_eq!(here.preview("/there").await.unwrap()["og:title"], "A page");
    assert_eq!(here.preview("/dot.gif").await.unwrap()["og:image:height"], 1);
    let told = here.preview("/bare").await.unwrap();
    assert_eq!(told["og:title"], "Embedded");
    assert!(told["og:image"].is_string());
    for nothing in ["/liar.png", "/text"] {
        assert_eq!(here.preview(nothing).await.unwrap(), serde_json::json!({}));
    }
    // Of a long page the beginning is read.
    assert_eq!(here.preview("/large").await.unwrap()["og:title"], "T");
    let missing = here.preview("/missing").await;
    assert!(matches!(missing, Err(PreviewError::Unreachable(_))), "{missing:?}");
}

#[tokio::test]
async fn no_private_place_is_shown() {
    let here = Here::new(|config| config.outgoing.allow_private_addresses = false).await;
    let shown = here.preview("/page").await;
    assert!(matches!(shown, Err(PreviewError::NotAllowed)), "{shown:?}");
    let port = here.base.rsplit(':').next().unwrap();
    for host in ["localhost", "[::ffff:127.0.0.1]", "0x7f000001", "127.1"] {
        let shown = here.previews.preview(USER, &format!("http://{host}:{port}/page")).await;
        assert!(matches!(shown, Err(PreviewError::NotAllowed)), "{host} {shown:?}");
    }
    assert_eq!(here.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn lists_hold_for_redirects_too() {
    let here = Here::new(|config| config.previews.deny = vec!["127.0.0.2".to_owned()]).await;
    here.preview("/page").await.unwrap();
    let inside = here.preview("/inside").await;
    assert!(matches!(inside, Err(PreviewError::NotAllowed)), "{inside:?}");
    let here = Here::new(|config| config.previews.allow = vec!["*.example.org".to_owned()]).await;
    let other = here.preview("/page").await;
    assert!(matches!(other, Err(PreviewError::NotAllowed)), "{other:?}");
}

#[tokio::test]
async fn what_is_no_web_page_is_not_asked() {
    let here = Here::new(|_| {}).await;
    for bad in [
        "",
        "file:///etc/passwd",
        "ftp://example.org/",
        "http://user:pw@example.org/",
        "gopher://x",
        "javascript:alert(1)",
        &format!("http://example.org/{}", "x".repeat(3000)),
    ] {
        let asked = here.previews.preview(USER, bad).await;
        assert!(matches!(asked, Err(PreviewError::Address)), "{bad} {asked:?}");
    }
    let off = Here::new(|config| config.previews.enabled = false).await;
    assert!(matches!(off.preview("/page").await, Err(PreviewError::Off)));
}

#[test]
fn hosts_are_matched_whole() {
    let url = |text: &str| Url::parse(text).unwrap();
    for (pattern, address, matches) in [
        ("example.org", "https://EXAMPLE.org/x", true),
        ("example.org", "https://example.org./x", true),
        ("example.org", "https://www.example.org/", false),
        ("*.example.org", "https://www.example.org/", true),
        ("*.example.org", "https://a.b.example.org/", true),
        ("*.example.org", "https://example.org/", false),
        ("*.example.org", "https://badexample.org/", false),
        ("127.0.0.1", "http://127.0.0.1/", true),
    ] {
        assert_eq!(matches_host(pattern, &url(address)), matches, "{pattern} {address}");
    }
}
