//! Media by the paths of old clients, and previews of pages.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use complement_tests::{Config, Server, text, vast_picture};
use serde_json::json;

fn picture() -> Vec<u8> {
    let mut picture = std::io::Cursor::new(Vec::new());
    let red = image::RgbImage::from_pixel(64, 64, image::Rgb([200, 0, 0]));
    red.write_to(&mut picture, image::ImageFormat::Png).unwrap();
    picture.into_inner()
}

/// Where media are not frozen, they are had without a token.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3downloadservernamemediaid>
#[tokio::test]
async fn media_are_had_by_the_old_paths_where_that_is_allowed() {
    let server = Server::start(&Config::default().with("media.freeze_unauthenticated", false));
    let (alice, nobody) = (server.register("alice").await, server.anonymous());
    let [name, id] = alice.upload("image/png", picture()).await;
    let file = nobody.get(["/_matrix/media/v3/download", &name, &id]).await;
    assert_eq!((file.status, file.bytes), (200, picture()));
    let named = nobody.get(["/_matrix/media/v3/download", &name, &id, "red.png"]).await;
    assert_eq!(named.status, 200, "{}", named.status);
    assert!(named.header("content-disposition").contains("red.png"));
    let small = nobody.get(["/_matrix/media/v3/thumbnail", &name, &id]);
    let small = small.query("width", "32").query("height", "32").query("method", "scale").await;
    assert_eq!((small.status, small.header("content-type")), (200, "image/png"));

    let small = nobody.get(["/_matrix/media/v3/thumbnail", &name, &id]);
    small.query("width", "0").query("height", "none").await.has_status(400);
    let [name, letter] = alice.upload("text/plain", "no picture").await;
    let none = nobody.get(["/_matrix/media/v3/thumbnail", &name, &letter]);
    none.query("width", "9").query("height", "9").await.fails(400, "M_UNKNOWN");
    let [name, vast] = alice.upload("image/png", vast_picture()).await;
    let none = nobody.get(["/_matrix/media/v3/thumbnail", &name, &vast]);
    none.query("width", "9").query("height", "9").await.fails(413, "M_TOO_LARGE");

    let announced = alice.post("/_matrix/media/v1/create", json!({})).await.ok();
    let uri = text(&announced, "/content_uri");
    let id = uri.rsplit('/').next().unwrap();
    for path in ["download/{}", "download/{}/a.png", "thumbnail/{}"] {
        let path = path.replace("{}", &format!("{name}/{id}"));
        let path = format!("/_matrix/media/v3/{path}");
        let waiting = nobody.get(path.as_str()).query("timeout_ms", "0");
        let waiting = waiting.query("width", "32").query("height", "32").await;
        waiting.fails(504, "M_NOT_YET_UPLOADED");
    }
    let path = ["/_matrix/media/v3/download", &name, "nothing"];
    nobody.get(path).await.fails(404, "M_NOT_FOUND");
}

/// What is larger than allowed is not taken, however it comes.
#[tokio::test]
async fn too_large_files_are_refused_by_every_path() {
    let server = Server::start(&Config::default().with("media.max_upload_bytes", 1_000));
    let alice = server.register("alice").await;
    let large = vec![b'x'; 1_001];
    let upload = alice.request(reqwest::Method::POST, "/_matrix/media/v3/upload");
    upload.file("text/plain", large.clone()).await.fails(413, "M_TOO_LARGE");
    let announced = alice.post("/_matrix/media/v1/create", json!({})).await.ok();
    let uri = text(&announced, "/content_uri").replace("mxc://", "/_matrix/media/v3/upload/");
    let upload = alice.request(reqwest::Method::PUT, uri.as_str());
    upload.file("text/plain", large).await.fails(413, "M_TOO_LARGE");
    let upload = alice.request(reqwest::Method::PUT, uri.as_str());
    upload.file("text/plain", vec![b'x'; 1_000]).await.ok();
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url>
#[tokio::test]
async fn a_page_is_previewed_by_either_path() {
    let page =
        "<html><head><meta property=\"og:title\" content=\"All about cheese\"></head></html>";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pages = Router::new().route("/cheese", get(move || async move { Html(page) }));
    tokio::spawn(async move { axum::serve(listener, pages).await });
    let server = Server::start(&Config::default().with("outgoing.allow_private_addresses", true));
    let alice = server.register("alice").await;
    for path in ["/_matrix/client/v1/media/preview_url", "/_matrix/media/v3/preview_url"] {
        let url = format!("http://{address}/cheese");
        let preview = alice.get(path).query("url", &url).await.ok();
        assert_eq!(preview["og:title"], "All about cheese");
        server.get(path).await.fails(401, "M_MISSING_TOKEN");
    }
}
