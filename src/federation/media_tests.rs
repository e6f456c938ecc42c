//! Media of one server, wanted on another.

use axum::body::Body;
use http::{Request, StatusCode, header};
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
    config.media.max_remote_bytes = 100_000;
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

    async fn get(&self, path: &str) -> (StatusCode, http::HeaderMap, Vec<u8>) {
        let request = Request::get(format!("/_matrix/client/v1/media/{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.alice.token))
            .body(Body::empty())
            .unwrap();
        read(self.a.send(request).await).await
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
    let large = here.upload("text/plain", vec![b'x'; 300_000]).await;
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
