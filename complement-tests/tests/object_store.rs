//! Media in an S3-compatible store: moto, which `make test` sets up.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic; a missing field of JSON is null, and compared as such"
)]

use std::io::Cursor;
use std::process::Command;
use std::time::Duration;

use complement_tests::{Config, Process, Server};
use image::{DynamicImage, ImageFormat, RgbImage};

const VARIABLE: &str = "INTEROP_S3_PYTHON";

/// Small files and such as go over in parts come back whole and in ranges, the same content is one
/// object, thumbnails are made and kept, and a client that allows it is sent to the store.
#[tokio::test]
async fn media_is_kept_in_an_object_store() {
    let Some((store, address)) = start_store() else { return };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let bucket = format!("{address}/media");
    assert!(http.put(&bucket).send().await.unwrap().status().is_success());
    let objects = async || {
        let listed = http.get(format!("{bucket}?list-type=2")).send().await.unwrap();
        listed.text().await.unwrap().matches("<Key>matrix/").count()
    };

    let config = Config::default()
        .with("media.s3.bucket", "media")
        .with("media.s3.endpoint", address.as_str())
        .with("media.s3.access_key_id", "test")
        .with("media.s3.secret_access_key", "test")
        .with("media.s3.prefix", "matrix/")
        .with("media.s3.redirect", true);
    let server = Server::start(&config);
    let alice = server.register("alice").await;
    for (number, size) in [0, 1_000, 20_000_000].into_iter().enumerate() {
        let file: Vec<u8> = (0..=250).cycle().take(size).collect();
        let media = alice.upload("application/octet-stream", file.clone()).await;
        let again = alice.upload("application/octet-stream", file.clone()).await;
        assert_eq!(objects().await, number + 1, "the same content is one object");
        for media in [&media, &again] {
            let answer = alice.download(media).await;
            assert!(answer.status == 200 && answer.bytes == file, "{size}");
        }
        if size == 0 {
            continue;
        }
        let answer = alice.download(&media).header("range", "bytes=500-").await;
        assert!(answer.status == 206 && answer.bytes == file[500..], "{size}");
        let answer = alice.download(&media).query("allow_redirect", "true").await;
        assert_eq!(answer.status, 307, "{answer}");
        let direct = http.get(answer.header("location")).send().await.unwrap();
        let disposition = direct.headers()["content-disposition"].to_str().unwrap().to_owned();
        assert_eq!(disposition, "attachment");
        assert!(direct.bytes().await.unwrap() == file, "{size}");
    }

    let mut png = Vec::new();
    let picture = DynamicImage::from(RgbImage::new(700, 700));
    picture.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).unwrap();
    let media = alice.upload("image/png", png).await;
    let thumbnail = alice.thumbnail(&media, 96, 96, "crop").await;
    assert_eq!(image::load_from_memory(&thumbnail.bytes).unwrap().width(), 96);
    assert_eq!(objects().await, 5);

    server.kill_and_start_again();
    assert_eq!(alice.thumbnail(&media, 96, 96, "crop").await.bytes, thumbnail.bytes);
    // Nothing stays on the local disk.
    let incoming = server.directory().join("data/media/incoming");
    assert_eq!(std::fs::read_dir(incoming).map_or(0, Iterator::count), 0);

    // While the store is away nothing is acknowledged, and nothing else suffers.
    drop(store);
    let upload = alice.request(reqwest::Method::POST, "/_matrix/media/v3/upload");
    let answer = upload.file("text/plain", "lost").await;
    assert_eq!(answer.status, 500, "{answer}");
    alice.get("account/whoami").await.ok();
}

/// A store of the test's own and its address; none where it was not set up.
fn start_store() -> Option<(Process, String)> {
    let Some(python) = std::env::var_os(VARIABLE) else {
        assert!(std::env::var_os("CI").is_none(), "{VARIABLE} is not set: it must be in CI");
        println!("skipped: {VARIABLE} is not set; `make test` sets the store up");
        return None;
    };
    let mut command = Command::new(python);
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
    command.env("PYTHONUNBUFFERED", "1");
    let store = Process::start(command).unwrap();
    let port = store.wait_for(Duration::from_mins(1), |output| {
        let port = output.split("Running on http://127.0.0.1:").nth(1)?;
        Some(port.split_once(|c: char| !c.is_ascii_digit())?.0.to_owned())
    });
    let port = port.unwrap_or_else(|log| panic!("the store did not start:\n{log}"));
    Some((store, format!("http://127.0.0.1:{port}")))
}
