//! The content repository.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

use std::io::Cursor;
use std::time::Duration;

use complement_tests::{Answer, Client, Server, media_of, vast_picture};
use image::{Delay, DynamicImage, Frame, ImageFormat, Rgb, RgbImage, RgbaImage};
use reqwest::Method;
use serde_json::json;

const UPLOAD: &str = "/_matrix/media/v3/upload";

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload>
#[tokio::test]
async fn a_file_comes_back_as_it_was() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for size in [1, 1000, 300_000, 3_000_000] {
        let file: Vec<u8> = (0..=250).cycle().take(size).collect();
        let request = alice.request(Method::POST, UPLOAD).query("filename", "notes.txt");
        let media = media_of(&request.file("text/plain; charset=utf-8", file.clone()).await.ok());
        assert_eq!(media[0], alice.server_name());
        for user in [&alice, &bob] {
            let answer = user.download(&media).await;
            assert_eq!(answer.status, 200, "{answer}");
            assert!(answer.bytes == file, "{size} bytes came back as {}", answer.bytes.len());
            assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
            assert_eq!(answer.header("content-disposition"), "inline; filename=notes.txt");
            assert_eq!(answer.header("content-length"), size.to_string());
            is_harmless(&answer);
        }
    }
}

/// There may be nothing in a file, and then a client says nothing of its length either.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload>
#[tokio::test]
async fn an_empty_file_is_one_too() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let media = alice.upload("text/plain", Vec::new()).await;
    let answer = alice.download(&media).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, "0"));
}

/// What keeps a file from doing anything in a browser.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repository>
fn is_harmless(answer: &Answer) {
    let policy = answer.header("content-security-policy");
    assert!(policy.contains("sandbox") && policy.contains("default-src 'none'"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("cross-origin-resource-policy"), "cross-origin");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid>
#[tokio::test]
async fn nothing_is_had_without_a_token_or_by_a_wrong_name() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let anonymous = server.anonymous();
    let post = anonymous.request(Method::POST, UPLOAD).file("text/plain", "x");
    post.await.fails(401, "M_MISSING_TOKEN");
    let media = alice.upload("text/plain", "x").await;
    anonymous.download(&media).await.fails(401, "M_MISSING_TOKEN");
    anonymous.thumbnail(&media, 32, 32, "crop").await.fails(401, "M_MISSING_TOKEN");
    let answer = alice.with_token("wrong").download(&media).await;
    answer.fails(401, "M_UNKNOWN_TOKEN");
    for id in ["unknown", "../../../etc/passwd", "a/b", "%2e%2e", "x\0y", &"x".repeat(2000)] {
        let wrong = [media[0].clone(), id.to_owned()];
        alice.download(&wrong).await.fails(404, "M_NOT_FOUND");
    }
    let path = format!("/_matrix/client/v1/media/download/..%2f..%2fetc/{}", media[1]);
    let answer = alice.get(path).await;
    assert!([400, 404].contains(&answer.status), "{answer}");
}

/// By then servers "SHOULD freeze the deprecated, unauthenticated, endpoints".
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repo-client-behaviour>
#[tokio::test]
async fn the_old_paths_take_uploads_and_give_nothing_new() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for version in ["r0", "v1", "v3"] {
        let upload = alice.request(Method::POST, format!("/_matrix/media/{version}/upload"));
        let media = media_of(&upload.file("image/png", picture(50, 50)).await.ok());
        assert_eq!(alice.download(&media).await.status, 200);
        let [name, id] = &media;
        for path in [
            format!("/_matrix/media/{version}/download/{name}/{id}"),
            format!("/_matrix/media/{version}/download/{name}/{id}/x.png"),
            format!("/_matrix/media/{version}/thumbnail/{name}/{id}?width=9&height=9"),
        ] {
            alice.get(path.as_str()).await.fails(404, "M_NOT_FOUND");
            server.anonymous().get(path.as_str()).await.fails(404, "M_NOT_FOUND");
        }
        let config = format!("/_matrix/media/{version}/config");
        assert!(alice.get(config.as_str()).await.ok()["m.upload.size"].is_u64());
        server.anonymous().get(config.as_str()).await.fails(401, "M_MISSING_TOKEN");
    }
    let config = alice.get("/_matrix/client/v1/media/config").await.ok();
    assert!(config["m.upload.size"].as_u64().unwrap() > 0);
}

/// "If the upload was made with a `filename`, this header MUST contain the same `filename`."
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid>
#[tokio::test]
async fn names_may_be_in_any_script_and_do_no_tricks() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for (name, shown) in [
        ("a b.txt", r#"inline; filename="a b.txt""#),
        ("q\"uote\\.txt", r#"inline; filename="q\"uote_.txt""#),
        ("фото.txt", "inline; filename*=utf-8''%D1%84%D0%BE%D1%82%D0%BE.txt"),
        ("../../etc/passwd", "inline; filename=.._.._etc_passwd"),
        ("a\r\nset-cookie: x=y", r#"inline; filename="aset-cookie: x=y""#),
        ("x\u{202e}gpj.exe", "inline; filename=xgpj.exe"),
        ("..", "inline"),
    ] {
        let request = alice.request(Method::POST, UPLOAD).query("filename", name);
        let media = media_of(&request.file("text/plain", "x").await.ok());
        let answer = alice.download(&media).await;
        assert_eq!(answer.header("content-disposition"), shown, "{answer}");
        assert_eq!(answer.header("set-cookie"), "");
        // Another name may be given with the download.
        let path = ["/_matrix/client/v1/media/download", &media[0], &media[1], "猫.bin"];
        let answer = alice.get(path).await;
        let shown = "inline; filename*=utf-8''%E7%8C%AB.bin";
        assert_eq!(answer.header("content-disposition"), shown, "{answer}");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content>
#[tokio::test]
async fn what_could_run_in_a_browser_is_an_attachment() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let html = "<html><script>alert(1)</script></html>";
    let svg = "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>";
    for (content_type, file, served) in [
        ("text/html", html, "text/html"),
        ("image/svg+xml", svg, "image/svg+xml"),
        ("application/xhtml+xml", html, "application/xhtml+xml"),
        ("application/pdf", "%PDF-1.7", "application/pdf"),
        ("text/javascript", "alert(1)", "text/javascript"),
        // What lies about being a picture is bytes.
        ("image/png", html, "application/octet-stream"),
        ("image/jpeg", svg, "application/octet-stream"),
        ("nonsense", html, "application/octet-stream"),
    ] {
        let media = alice.upload(content_type, file).await;
        let answer = alice.download(&media).await;
        assert_eq!(answer.header("content-type"), served, "{answer}");
        assert_eq!(answer.header("content-disposition"), "attachment", "{answer}");
        is_harmless(&answer);
    }
    // A picture that is a web page as well stays a picture.
    let mut polyglot = picture(10, 10);
    polyglot.extend(html.bytes());
    let media = alice.upload("image/png", polyglot).await;
    let answer = alice.download(&media).await;
    assert_eq!(answer.header("content-type"), "image/png");
    is_harmless(&answer);
}

/// Spec: <https://www.rfc-editor.org/rfc/rfc9110#name-range-requests>
#[tokio::test]
async fn parts_are_had_by_ranges_and_nothing_is_sent_twice() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let file: Vec<u8> = (0..=250).cycle().take(600_000).collect();
    let media = alice.upload("video/mp4", file.clone()).await;
    let whole = alice.download(&media).await;
    assert_eq!(whole.header("accept-ranges"), "bytes");
    let tag = whole.header("etag").to_owned();
    assert!(whole.header("cache-control").contains("immutable"), "{}", whole.status);

    for (range, start, end) in [
        ("bytes=0-9", 0, 10),
        ("bytes=299990-300020", 299_990, 300_021),
        ("bytes=-5", 599_995, 600_000),
    ] {
        let answer = alice.download(&media).header("range", range).await;
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes {start}-{}/600000", end - 1));
        assert!(answer.bytes == file[start..end], "{range}");
    }
    let answer = alice.download(&media).header("range", "bytes=600000-").await;
    assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */600000"));
    let answer = alice.download(&media).header("range", "bytes=0-9").header("if-range", "\"x\"");
    assert_eq!(answer.await.bytes.len(), 600_000);
    let answer = alice.download(&media).header("range", "bytes=0-9").header("if-range", &tag);
    assert_eq!(answer.await.status, 206);

    let answer = alice.download(&media).header("if-none-match", &tag).await;
    assert_eq!((answer.status, answer.bytes.len()), (304, 0));
    let path = ["/_matrix/client/v1/media/download", media[0].as_str(), &media[1]];
    let head = alice.request(Method::HEAD, path).await;
    assert_eq!((head.status, head.header("content-length")), (200, "600000"));
    assert_eq!(head.header("content-type"), "video/mp4");
    assert!(head.bytes.is_empty());
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create>
#[tokio::test]
async fn a_file_may_be_announced_and_follow_later() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let created = alice.post("/_matrix/media/v1/create", json!({})).await.ok();
    assert!(created["unused_expires_at"].as_u64().unwrap() > 1_600_000_000_000, "{created}");
    let media = media_of(&created);
    let answer = bob.download(&media).query("timeout_ms", "0").await;
    answer.fails(504, "M_NOT_YET_UPLOADED");
    let answer = bob.thumbnail(&media, 32, 32, "crop").query("timeout_ms", "0").await;
    answer.fails(504, "M_NOT_YET_UPLOADED");
    let named = ["/_matrix/client/v1/media/download", &media[0], &media[1], "name.txt"];
    bob.get(named).query("timeout_ms", "0").await.fails(504, "M_NOT_YET_UPLOADED");

    let put = |user: &Client, media: &[String; 2]| {
        user.request(Method::PUT, [UPLOAD, &media[0], &media[1]]).file("text/plain", "at last")
    };
    put(&bob, &media).await.fails(403, "M_FORBIDDEN");
    let unknown = [media[0].clone(), "unknown".to_owned()];
    put(&alice, &unknown).await.fails(404, "M_NOT_FOUND");
    put(&alice, &["elsewhere.example".to_owned(), media[1].clone()])
        .await
        .fails(404, "M_NOT_FOUND");
    put(&server.anonymous(), &media).await.fails(401, "M_MISSING_TOKEN");

    let waiting = tokio::spawn(bob.download(&media).query("timeout_ms", "60000").attempt());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(put(&alice, &media).await.ok(), json!({}));
    let arrived = waiting.await.unwrap().unwrap();
    assert_eq!((arrived.status, arrived.text.as_str()), (200, "at last"));
    put(&alice, &media).await.fails(409, "M_CANNOT_OVERWRITE_MEDIA");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#thumbnails>
#[tokio::test]
async fn thumbnails_are_no_smaller_than_asked_and_no_larger_than_the_picture() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let media = alice.upload("image/png", picture(1000, 500)).await;
    for (width, height, method, expected) in [
        (32, 32, "crop", (32, 32)),
        (50, 50, "crop", (96, 96)),
        (96, 48, "crop", (96, 48)),
        (320, 240, "scale", (320, 160)),
        (600, 100, "scale", (640, 320)),
        (800, 600, "scale", (800, 400)),
        (5000, 5000, "scale", (1000, 500)),
        (500, 400, "crop", (625, 500)),
        // The picture is no larger than the size made.
        (900, 900, "crop", (1000, 500)),
    ] {
        let answer = alice.thumbnail(&media, width, height, method).await;
        assert_eq!(answer.status, 200, "{width}x{height} {method} {answer}");
        let made = image::load_from_memory(&answer.bytes).unwrap();
        assert_eq!((made.width(), made.height()), expected, "{width}x{height} {method}");
        let content_type = answer.header("content-type");
        assert!(["image/png", "image/jpeg"].contains(&content_type), "{content_type}");
        assert!(answer.header("content-disposition").starts_with("inline"));
        is_harmless(&answer);
    }
    // The same again comes from the store and is the same.
    let once = alice.thumbnail(&media, 320, 240, "scale").await;
    let twice = alice.thumbnail(&media, 320, 240, "scale").await;
    assert_eq!(once.bytes, twice.bytes);
    assert_eq!(once.header("etag"), twice.header("etag"));
    for (width, height, method) in
        [("0", "10", "crop"), ("10", "-1", "crop"), ("x", "1", "scale"), ("10", "10", "stretch")]
    {
        let path = ["/_matrix/client/v1/media/thumbnail", media[0].as_str(), &media[1]];
        let answer = alice.get(path).query("width", width).query("height", height);
        let answer = answer.query("method", method).await;
        assert_eq!(answer.status, 400, "{answer}");
    }
}

/// "When `false`, the server MUST NOT return an animated thumbnail."
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid>
#[tokio::test]
async fn thumbnails_move_only_if_they_are_asked_to() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let mut gif = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new_with_speed(&mut gif, 30);
    for shade in [0, 100, 200] {
        let picture = RgbaImage::from_pixel(400, 300, image::Rgba([shade, 0, 0, 255]));
        let delay = Delay::from_numer_denom_ms(100, 1);
        encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay)).unwrap();
    }
    drop(encoder);
    let media = alice.upload("image/gif", gif).await;
    let moving = alice.thumbnail(&media, 320, 240, "scale").query("animated", "true").await;
    let moves = ["image/gif", "image/webp", "image/apng"];
    assert!(moves.contains(&moving.header("content-type")), "{}", moving.header("content-type"));
    for request in [
        alice.thumbnail(&media, 320, 240, "scale"),
        alice.thumbnail(&media, 320, 240, "scale").query("animated", "false"),
        alice.thumbnail(&media, 1600, 1200, "scale"),
    ] {
        let still = request.await;
        assert_eq!(still.status, 200);
        assert!(["image/png", "image/jpeg"].contains(&still.header("content-type")));
    }
}

/// "Homeservers should not attempt to generate thumbnails for images that are too large, returning a
/// HTTP 413 error with the `M_TOO_LARGE` code."
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repo-security-considerations>
#[tokio::test]
async fn bombs_and_broken_pictures_are_refused_and_stay_downloadable() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let bomb = alice.upload("image/png", vast_picture()).await;
    let answer = alice.thumbnail(&bomb, 32, 32, "crop").await;
    answer.fails(413, "M_TOO_LARGE");
    let whole = picture(500, 500);
    let text = alice.upload("text/plain", "no picture").await;
    let svg = alice.upload("image/svg+xml", "<svg xmlns='http://www.w3.org/2000/svg'/>").await;
    let truncated = alice.upload("image/png", &whole[..60]).await;
    let empty = alice.upload("image/png", "").await;
    for media in [&text, &svg, &truncated, &empty] {
        for _ in 0..2 {
            alice.thumbnail(media, 32, 32, "crop").await.fails(400, "M_UNKNOWN");
        }
        assert_eq!(alice.download(media).await.status, 200);
    }
    alice.get("account/whoami").await.ok();
}

/// MSC2448: the server computes a blurhash if it is asked to.
#[tokio::test]
async fn a_blurhash_is_computed_for_a_picture() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let upload = |content_type: &str, file: Vec<u8>| {
        let request = alice.request(Method::POST, UPLOAD);
        request.query("xyz.amorgan.generate_blurhash", "true").file(content_type, file)
    };
    let answer = upload("image/png", picture(300, 200)).await.ok();
    let blurhash = answer["xyz.amorgan.blurhash"].as_str().unwrap();
    assert!((6..60).contains(&blurhash.len()), "{answer}");
    let answer = upload("text/plain", b"no picture".to_vec()).await.ok();
    assert!(answer.get("xyz.amorgan.blurhash").is_none(), "{answer}");
}

fn picture(width: u32, height: u32) -> Vec<u8> {
    let picture =
        RgbImage::from_fn(width, height, |x, y| Rgb([x.to_le_bytes()[0], y.to_le_bytes()[0], 9]));
    let mut bytes = Vec::new();
    DynamicImage::from(picture).write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes
}
