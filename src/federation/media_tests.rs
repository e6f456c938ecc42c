//! Media of one server, wanted on another.

use std::sync::Arc;

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, Request, Response, StatusCode, Uri, header};
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use super::testing::Network;
use crate::{
    api::testing::{TestServer, TestUser, open_config},
    clock::Clock,
    storage::Db,
};

struct Here {
    network: Network,
    a: TestServer,
    b: TestServer,
    alice: TestUser,
    bob: TestUser,
    _folders: [TempDir; 2],
}

async fn server(network: &Network, name: &str, seed: u64, folder: &TempDir) -> TestServer {
    let mut config = open_config();
    config.server_name = name.try_into().unwrap();
    config.data_dir = folder.path().to_owned();
    config.media.max_remote_bytes = 1_000_000;
    let clock = Clock::manual(1_700_000_000_000);
    TestServer::among(network, &config, Db::in_memory().await, clock, seed).await
}

impl Here {
    async fn new() -> Self {
        let network = Network::default();
        let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = server(&network, "a.example", 1, &folders[0]).await;
        let b = server(&network, "b.example", 2, &folders[1]).await;
        let (alice, bob) = (a.register("alice").await, b.register("bob").await);
        Self { network, a, b, alice, bob, _folders: folders }
    }

    async fn upload(&self, content_type: &str, file: impl Into<Body>) -> String {
        let request = Request::post("/_matrix/media/v3/upload?filename=%D1%84.txt")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.bob.token))
            .header(header::CONTENT_TYPE, content_type)
            .body(file.into())
            .unwrap();
        let (_, _, body) = read(self.b.send(request).await).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        answer["content_uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    }

    fn request(&self, path: &str) -> Request<Body> {
        Request::get(format!("/_matrix/client/v1/media/{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.alice.token))
            .body(Body::empty())
            .unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, http::HeaderMap, Vec<u8>) {
        read(self.a.send(self.request(path)).await).await
    }

    fn asked(&self) -> usize {
        let b = ruma::server_name!("b.example");
        self.network.count(b, "/_matrix/federation/v1/media/")
    }
}

async fn read(response: axum::response::Response) -> (StatusCode, http::HeaderMap, Vec<u8>) {
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (head.status, head.headers, body.to_vec())
}

#[tokio::test]
async fn media_of_another_server_is_fetched_once_and_kept() {
    let here = Here::new().await;
    // Something that looks like the end of a part.
    let id = here.upload("text/plain", "a file\r\n--\r\n\r\nof b").await;
    let path = format!("download/b.example/{id}");
    let answers = futures::future::join_all((0..5).map(|_| here.get(&path))).await;
    for (status, headers, body) in answers {
        assert_eq!((status, &*body), (StatusCode::OK, &b"a file\r\n--\r\n\r\nof b"[..]));
        assert_eq!(headers[header::CONTENT_TYPE], "text/plain");
        assert_eq!(headers[header::CONTENT_DISPOSITION], "inline; filename*=utf-8''%D1%84.txt");
    }
    assert_eq!(here.asked(), 1);
    here.network.disconnect(ruma::server_name!("b.example"));
    assert_eq!(here.get(&path).await.0, StatusCode::OK);
    let (status, _, _) = here.get("download/b.example/other").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn a_thumbnail_of_a_picture_from_elsewhere_is_made_here() {
    let here = Here::new().await;
    let id = here.upload("image/gif", picture(200, 200)).await;
    let path = format!("thumbnail/b.example/{id}?width=90&height=90&method=crop");
    let (status, headers, _) = here.get(&path).await;
    assert_eq!(status, StatusCode::OK);
    assert!(headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("image/"));
}

#[tokio::test]
async fn what_is_not_there_not_wanted_or_too_large_is_told() {
    let here = Here::new().await;
    let error = async |path: &str| {
        let (status, _, body) = here.get(path).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        (status.as_u16(), body["errcode"].as_str().unwrap_or_default().to_owned())
    };
    let told = |status, errcode: &str| (status, errcode.to_owned());
    assert_eq!(error("download/b.example/none").await, told(404, "M_NOT_FOUND"));
    let id = here.upload("text/plain", "x").await;
    let path = format!("download/b.example/{id}?allow_remote=false");
    assert_eq!(error(&path).await, told(404, "M_NOT_FOUND"));
    let large = here.upload("text/plain", vec![b'x'; 1_100_000]).await;
    let path = format!("download/b.example/{large}");
    assert_eq!(error(&path).await, told(502, "M_TOO_LARGE"));
    // The old paths are no way around: what is fetched now is new.
    let asked = here.asked();
    let path = format!("/_matrix/media/v3/download/b.example/{id}");
    let request = Request::get(path).body(Body::empty()).unwrap();
    assert_eq!(read(here.a.send(request).await).await.0, StatusCode::NOT_FOUND);
    assert_eq!(here.asked(), asked);
}

/// A picture that needs no encoder: codes of eight bits, with a new table so often that they never
/// grow.
/// A server that answers with what a test gives it, and keeps what it was asked.
fn stranger(here: &Here, router: Router) -> &'static str {
    here.network.connect(ruma::server_name!("c.example"), router);
    "download/c.example/abc"
}

fn multipart(file: impl Into<Body>) -> Response<Body> {
    let kind = "multipart/mixed; boundary=\"x y\"";
    Response::builder().header(header::CONTENT_TYPE, kind).body(file.into()).unwrap()
}

const SIGNED: &str = "/_matrix/federation/v1/media/download/{id}";
const OPEN: &str = "/_matrix/media/v3/download/{server}/{id}";

#[tokio::test]
async fn a_large_file_is_given_while_it_comes_and_then_kept() {
    let here = Here::new().await;
    let (more, coming) = tokio::sync::mpsc::unbounded_channel::<Result<Bytes, std::io::Error>>();
    let coming = Arc::new(Mutex::new(Some(coming)));
    let answer = move || {
        let coming = coming.lock().take().unwrap();
        let pieces =
            stream::unfold(coming, |mut coming| async { Some((coming.recv().await?, coming)) });
        std::future::ready(multipart(Body::from_stream(pieces)))
    };
    let path = stranger(&here, Router::new().route(SIGNED, get(answer)));
    let begin = "--x y\r\nContent-Type: application/json\r\n\r\n{}\r\n--x y\r\nContent-Type: \
                 text/plain\r\n\r\n";
    more.send(Ok(Bytes::from(begin))).unwrap();
    let half = vec![b'a'; 300_000];
    more.send(Ok(Bytes::from(half.clone()))).unwrap();

    let mut bodies = Vec::new();
    for _ in 0..2 {
        let answer = here.a.send(here.request(path)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/plain");
        assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(!answer.headers().contains_key(header::CONTENT_LENGTH));
        bodies.push(answer.into_body().into_data_stream());
    }
    // What has come is there; the rest has not even been sent.
    for body in &mut bodies {
        assert!(body.next().await.unwrap().unwrap().iter().all(|byte| *byte == b'a'));
    }
    more.send(Ok(Bytes::from(half))).unwrap();
    more.send(Ok(Bytes::from("the end\r\n--x y--\r\n"))).unwrap();
    drop(more);
    for body in bodies {
        let rest: Vec<Bytes> = body.try_collect().await.unwrap();
        assert!(rest.concat().ends_with(b"aathe end"));
    }
    // The size is told when all of it is here.
    let mut request = here.request(path);
    *request.method_mut() = Method::HEAD;
    let (status, headers, _) = read(here.a.send(request).await).await;
    assert_eq!(
        (status, &headers[header::CONTENT_LENGTH]),
        (StatusCode::OK, &"600007".parse().unwrap())
    );
    assert_eq!(here.get(path).await.2.len(), 600_007);
    assert_eq!(here.network.count(ruma::server_name!("c.example"), "/_matrix/federation"), 1);
}

#[tokio::test]
async fn a_file_that_breaks_off_is_not_kept() {
    let here = Here::new().await;
    let answer = || {
        let begin = "--x y\r\n\r\n{}\r\n--x y\r\n\r\n";
        let text = format!("{begin}{}", "a".repeat(300_000));
        std::future::ready(multipart(text))
    };
    let path = stranger(&here, Router::new().route(SIGNED, get(answer)));
    for _ in 0..2 {
        let answer = here.a.send(here.request(path)).await;
        // Either it was seen at once, or the body ends with an error.
        let ended = answer.status() == StatusCode::BAD_GATEWAY;
        let body = answer.into_body().into_data_stream().try_collect::<Vec<_>>().await;
        assert!(ended || body.is_err());
    }
    assert_eq!(here.network.count(ruma::server_name!("c.example"), "/_matrix/federation"), 2);
}

#[tokio::test]
async fn servers_without_the_signed_endpoint_are_asked_openly() {
    let here = Here::new().await;
    let queries = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&queries);
    let open = move |uri: Uri| {
        asked.lock().push(uri.to_string());
        let answer = Response::builder()
            .header(header::CONTENT_TYPE, "text/plain")
            .header(header::CONTENT_DISPOSITION, "inline; filename=old.txt");
        std::future::ready(answer.body(Body::from("an old file")).unwrap())
    };
    let unrecognized = || async {
        let error = serde_json::json!({ "errcode": "M_UNRECOGNIZED", "error": "what?" });
        (StatusCode::NOT_FOUND, axum::Json(error))
    };
    let path = stranger(&here, Router::new().route(OPEN, get(open)).fallback(unrecognized));
    let (status, headers, body) = here.get(path).await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"an old file"[..]));
    assert_eq!(headers[header::CONTENT_DISPOSITION], "inline; filename=old.txt");
    let queries = queries.lock();
    assert_eq!(queries.len(), 1);
    assert!(queries[0].starts_with("/_matrix/media/v3/download/c.example/abc?"), "{queries:?}");
    assert!(queries[0].contains("allow_remote=false"), "{queries:?}");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_failures() {
    let here = Here::new().await;
    for (number, text) in [
        "",
        "no parts at all",
        "--x y\r\n\r\n{}\r\n--x y--\r\n",
        "--x y\r\n\r\n{}\r\n--x y\r\nLocation: file:///etc/passwd\r\n\r\n\r\n--x y--\r\n",
        // Not a place that may be asked.
        "--x y\r\n\r\n{}\r\n--x y\r\nLocation: http://127.0.0.1:1/\r\n\r\n\r\n--x y--\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let answer = move || std::future::ready(multipart(text));
        stranger(&here, Router::new().route(SIGNED, get(answer)));
        let (status, _, _) = here.get(&format!("download/c.example/{number}")).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{text}");
    }
    let plain = || async { "no multipart" };
    let path = stranger(&here, Router::new().route(SIGNED, get(plain)));
    assert_eq!(here.get(path).await.0, StatusCode::BAD_GATEWAY);
}

fn picture(width: u16, height: u16) -> Vec<u8> {
    let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
    let mut gif = [b"GIF89a", &size[..], &[0x80, 0, 0, 255, 0, 0, 0, 0, 255]].concat();
    gif.extend([&[0x2c, 0, 0, 0, 0], &size[..], &[0, 7]].concat());
    let mut codes = Vec::new();
    for pixel in 0..u32::from(width) * u32::from(height) {
        if pixel % 100 == 0 {
            codes.push(128);
        }
        codes.push(u8::from(pixel % 16 > 8));
    }
    codes.push(129);
    for block in codes.chunks(255) {
        gif.push(u8::try_from(block.len()).unwrap());
        gif.extend(block);
    }
    gif.extend([0, 0x3b]);
    gif
}
