//! What the content repository stands: uploads that break off, SIGKILL, a full disk, large files.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic; a missing field of JSON is null, and compared as such"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use complement_tests::{Client, Config, Server, federating, media_of};
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const UPLOAD: &str = "/_matrix/media/v3/upload";

/// Every file below the server's media folder.
fn files(server: &Server) -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() { collect(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    collect(&server.directory().join("data/media"), &mut found);
    found
}

/// Waits until the server has just so many files.
async fn has_files(server: &Server, count: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while files(server).len() != count {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", files(server));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends the head of an upload and so much of its body.
async fn begin_upload(server: &Server, token: &str, announced: usize, sent: usize) -> TcpStream {
    let address = server.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {UPLOAD} HTTP/1.1\r\nhost: complement.test\r\nauthorization: Bearer {token}\r\n\
         content-type: application/octet-stream\r\ncontent-length: {announced}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![7; sent]).await.unwrap();
    stream
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let server = Server::start(&Config::default());
    let alice = server.register("alice").await;
    let token = alice.token.clone().unwrap();
    let stream = begin_upload(&server, &token, 50_000_000, 3_000_000).await;
    has_files(&server, 1).await;
    drop(stream);
    has_files(&server, 0).await;
    // One that stands in the middle when the server is killed goes when it starts again.
    let _stream = begin_upload(&server, &token, 50_000_000, 3_000_000).await;
    has_files(&server, 1).await;
    server.kill_and_start_again();
    has_files(&server, 0).await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let server = Server::start(&Config::default());
    let alice = server.register("alice").await;
    let mut acknowledged = Vec::new();
    for round in 0..3_u32 {
        let uploads = (0..4_u32).map(|writer| {
            let alice = alice.clone();
            tokio::spawn(async move {
                let mut done = Vec::new();
                for number in 0_u32.. {
                    // Some of them the same, some large.
                    let size = if number % 5 == 0 { 900_000 } else { 2_000 };
                    let seed = (round << 16) + ((writer % 2) << 8) + number;
                    let file: Vec<u8> = seed.to_be_bytes().repeat(size / 4);
                    let request = alice.request(Method::POST, UPLOAD);
                    match request.file("application/octet-stream", file.clone()).attempt().await {
                        Ok(answer) => done.push((media_of(&answer.ok()), file)),
                        Err(_) => return done,
                    }
                }
                done
            })
        });
        let uploads: Vec<_> = uploads.collect();
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.kill();
        for upload in uploads {
            acknowledged.extend(upload.await.unwrap());
        }
        server.start_again();
    }
    assert!(acknowledged.len() > 20, "only {} were acknowledged", acknowledged.len());
    for (media, file) in &acknowledged {
        let answer = alice.download(media).await;
        assert!(answer.status == 200 && answer.bytes == *file, "{media:?}: {}", answer.status);
    }
    let incoming = server.directory().join("data/media/incoming");
    let left = std::fs::read_dir(incoming).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_full_disk_is_told_and_harms_nothing_else() {
    let server = Server::start(&Config::default());
    let alice = server.register("alice").await;
    let before = alice.upload("text/plain", "before").await;
    server.limit_file_size(4 * 1024 * 1024);
    let upload = alice.request(Method::POST, UPLOAD);
    let answer = upload.file("application/octet-stream", vec![1; 6 * 1024 * 1024]).await;
    assert!(answer.status == 507 && answer.errcode() == "M_UNKNOWN", "{}", answer.text);
    assert!(answer.json["error"].as_str().unwrap().contains("space"), "{}", answer.text);
    has_files(&server, 1).await;
    // Everything else goes on.
    assert_eq!(alice.download(&before).await.text, "before");
    let small = alice.upload("text/plain", "small").await;
    assert_eq!(alice.download(&small).await.text, "small");
    alice.create_room(serde_json::json!({})).await;
}

/// "The uploaded content is too large for the server": 413, whether or not the size is told before.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload>
#[tokio::test]
async fn what_is_too_large_is_refused() {
    let server = Server::start(&Config::default().with("media.max_upload_bytes", 100_000));
    let alice = server.register("alice").await;
    let config = alice.get("/_matrix/client/v1/media/config").await.ok();
    assert_eq!(config["m.upload.size"], 100_000);
    alice.upload("text/plain", vec![b'x'; 100_000]).await;
    let upload = alice.request(Method::POST, UPLOAD).file("text/plain", vec![b'x'; 100_001]);
    upload.await.fails(413, "M_TOO_LARGE");
    let token = alice.token.clone().unwrap();
    let address = server.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {UPLOAD} HTTP/1.1\r\nhost: complement.test\r\nauthorization: Bearer {token}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000));
    for _ in 0..2 {
        stream.write_all(piece.as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 1000];
    let length = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("M_TOO_LARGE"), "{answer}");
    has_files(&server, 1).await;
}

/// What came before the freeze stays open to all, what comes after it does not.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repo-client-behaviour>
#[tokio::test]
async fn what_came_before_the_freeze_stays_open() {
    let server = Server::start(&Config::default().with("media.freeze_unauthenticated", false));
    let alice = server.register("alice").await;
    let before = alice.upload("text/plain", "before").await;
    let open = |media: &[String; 2]| {
        server.anonymous().get(["/_matrix/media/v3/download", &media[0], &media[1]])
    };
    assert_eq!(open(&before).await.text, "before");
    server.configure(|config| config.with("media.freeze_unauthenticated", true));
    server.terminate().await;
    server.start_again();
    let after = alice.upload("text/plain", "after").await;
    assert_eq!(open(&before).await.text, "before");
    open(&after).await.fails(404, "M_NOT_FOUND");
    assert_eq!(alice.download(&after).await.text, "after");
}

/// "The user has reached a quota for uploaded content", "the server does not permit the file type":
/// 403. Too many at a time: 429.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload>
#[tokio::test]
async fn users_have_quotas_rates_and_types() {
    let types = vec!["text/*".to_owned()];
    let config = Config::default()
        .with("media.user_quota_bytes", 1000)
        .with("media.max_pending_uploads", 2)
        .with("media.allowed_types", types);
    let server = Server::start(&config);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let upload = |user: &Client, content_type: &str, size: usize| {
        user.request(Method::POST, UPLOAD).file(content_type, vec![b'x'; size])
    };
    upload(&alice, "text/plain", 600).await.ok();
    upload(&alice, "text/plain", 600).await.fails(403, "M_FORBIDDEN");
    upload(&alice, "image/png", 1).await.fails(403, "M_FORBIDDEN");
    upload(&bob, "text/plain", 600).await.ok();
    let create = || alice.post("/_matrix/media/v1/create", serde_json::json!({}));
    create().await.ok();
    create().await.ok();
    create().await.fails(429, "M_LIMIT_EXCEEDED");

    let config = Config::default()
        .with("rate_limits.enabled", true)
        .with("rate_limits.upload_user.burst", 2)
        .with("rate_limits.upload_user.per_minute", 1);
    let server = Server::start(&config);
    let alice = server.register("alice").await;
    upload(&alice, "text/plain", 1).await.ok();
    upload(&alice, "text/plain", 1).await.ok();
    let refused = upload(&alice, "text/plain", 1).await.fails(429, "M_LIMIT_EXCEEDED");
    assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
}

/// A file is given out only after the scanner has found nothing in it.
#[tokio::test]
async fn a_scanner_sees_files_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/scan", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&request).contains("0\r\n\r\n") {
                let length = stream.read(&mut buffer).await.unwrap();
                assert!(length > 0, "the request broke off");
                request.extend_from_slice(&buffer[..length]);
            }
            let clean = !String::from_utf8_lossy(&request).contains("virus");
            let answer = format!(r#"{{"clean":{clean}}}"#);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", answer.len());
            let answer = format!("{head}connection: close\r\n\r\n{answer}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let server = Server::start(&Config::default().with("media.scan.http_url", address));
    let alice = server.register("alice").await;
    let clean = alice.upload("text/plain", "harmless").await;
    let infected = alice.upload("text/plain", "a virus").await;
    for _ in 0..2 {
        assert_eq!(alice.download(&clean).await.text, "harmless");
        alice.download(&infected).await.fails(403, "M_FORBIDDEN");
        alice.thumbnail(&infected, 32, 32, "crop").await.fails(403, "M_FORBIDDEN");
    }
}

/// Files go through in pieces: memory does not grow with their size.
#[tokio::test]
async fn large_files_go_through_in_flat_memory() {
    const SIZE: usize = 96 * 1024 * 1024;
    let config = Config::default().with("log.level", "warn");
    let server = Server::start(&config);
    let alice = server.register("alice").await;
    let transfer = async |seed: u8, size: usize| {
        let media = alice.upload("application/octet-stream", vec![seed; size]).await;
        let answer = alice.download(&media).await;
        assert!(answer.bytes.len() == size && answer.bytes.iter().all(|byte| *byte == seed));
    };
    transfer(1, 1_000_000).await;
    let before = server.resident_kib();
    tokio::join!(transfer(2, SIZE), transfer(3, SIZE), transfer(4, SIZE));
    let after = server.resident_kib();
    assert!(after < before + 32 * 1024, "memory grew from {before} KiB to {after} KiB");
}

/// What another server has is taken up to a size.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid>
#[tokio::test]
async fn a_file_of_another_server_is_no_larger_than_allowed() {
    let there = Server::start(&federating(Config::default()));
    let bounded = Config::default()
        .with("media.max_remote_bytes", 10_000)
        .with("media.freeze_unauthenticated", false);
    let here = Server::start(&federating(bounded));
    let (alice, bob) = (there.register("alice").await, here.register("bob").await);
    let small = alice.upload("text/plain", vec![b'x'; 10_000]).await;
    assert_eq!(bob.download(&small).await.bytes.len(), 10_000);
    let large = alice.upload("text/plain", vec![b'x'; 10_001]).await;
    for path in ["/_matrix/client/v1/media/download", "/_matrix/media/v3/download"] {
        let whole = bob.get([path, &large[0], &large[1]]).await;
        whole.fails(502, "M_TOO_LARGE");
        let named = bob.get([path, &large[0], &large[1], "large.txt"]).await;
        named.fails(502, "M_TOO_LARGE");
    }
    has_files(&here, 1).await;
}
