//! What the content repository carries: MB/s up and down beside the file system's, memory while
//! large files go through, thumbnails per second.
//!
//! ```sh
//! cargo build --release --bin myelin
//! MYELIN_BIN=target/release/myelin cargo bench -p complement-tests --bench media -- [LARGE_MIB COUNT]
//! ```
//!
//! Client and server share the machine. `TMPDIR` says on which disk. The last two numbers say how
//! large the files are whose passing is watched, and how many there are: 1024 and 10 by default.

#![allow(
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic, and prints rounded figures"
)]

use std::io::{Cursor, Write as _};
use std::time::Duration;

use complement_tests::{Client, Config, Server, media_of};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use reqwest::{Body, Method};
use tokio::time::Instant;

const MIB: usize = 1024 * 1024;

#[tokio::main]
async fn main() {
    let numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let numbers: Vec<usize> = numbers.collect();
    let (large_mib, count) = match numbers[..] {
        [large_mib, count] => (large_mib, count),
        _ => (1024, 10),
    };
    let config =
        Config::default().with("log.level", "warn").with("media.max_upload_bytes", i64::MAX / 2);
    let server = Server::start(&config);
    let alice = server.register("alice").await;

    for (size, times) in [(MIB, 60), (100 * MIB, 4)] {
        transfer(&server, &alice, size, times).await;
    }
    thumbnails(&alice, 60).await;
    memory(&server, &alice, large_mib, count).await;
}

/// Bytes that no other call has had, so that none of them is there already.
fn fresh(size: usize, seed: usize) -> Vec<u8> {
    let mut state = seed as u64 * 2 + 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn row(what: &str, bytes: usize, times: usize, took: Duration) {
    let rate = (bytes * times) as f64 / MIB as f64 / took.as_secs_f64();
    let each = took.as_secs_f64() * 1000.0 / times as f64;
    println!("{what:<44} {rate:>9.1} MiB/s {each:>10.2} ms each");
}

async fn transfer(server: &Server, alice: &Client, size: usize, times: usize) {
    let name = format!("{} MiB", size / MIB);
    let files: Vec<Vec<u8>> = (0..times).map(|number| fresh(size, size + number)).collect();

    let folder = server.directory();
    let began = Instant::now();
    for (number, bytes) in files.iter().enumerate() {
        let mut file = std::fs::File::create(folder.join(format!("plain-{number}"))).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_data().unwrap();
    }
    row(&format!("{name}: write and sync a file"), size, times, began.elapsed());
    let began = Instant::now();
    for number in 0..times {
        let path = folder.join(format!("plain-{number}"));
        assert_eq!(std::fs::read(&path).unwrap().len(), size);
        std::fs::remove_file(path).unwrap();
    }
    row(&format!("{name}: read a file"), size, times, began.elapsed());

    let mut media = Vec::new();
    let began = Instant::now();
    for file in files {
        media.push(alice.upload("application/octet-stream", file).await);
    }
    row(&format!("{name}: upload"), size, times, began.elapsed());
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let began = Instant::now();
    for [server_name, id] in &media {
        let path = format!("/_matrix/client/v1/media/download/{server_name}/{id}");
        let url = format!("{}{path}", server.url());
        let token = alice.token.as_deref().unwrap_or_default();
        let mut answer = http.get(url).bearer_auth(token).send().await.unwrap();
        let mut length = 0;
        while let Some(piece) = answer.chunk().await.unwrap() {
            length += piece.len();
        }
        assert_eq!(length, size);
    }
    row(&format!("{name}: download"), size, times, began.elapsed());
}

/// Photos of 800 × 600, each wanted once in one size.
async fn thumbnails(alice: &Client, times: usize) {
    let mut media = Vec::new();
    for number in 0..times {
        let seed = u32::try_from(number).unwrap_or_default();
        let picture = RgbImage::from_fn(800, 600, |x, y| {
            Rgb([(x ^ y).to_le_bytes()[0], (x + seed).to_le_bytes()[0], y.to_le_bytes()[0]])
        });
        let mut jpeg = Vec::new();
        let picture = DynamicImage::from(picture);
        picture.write_to(&mut Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
        media.push(alice.upload("image/jpeg", jpeg).await);
    }
    for (what, method) in [("scale to 320 × 240", "scale"), ("again, from the store", "scale")] {
        let began = Instant::now();
        for media in &media {
            let answer = alice.thumbnail(media, 320, 240, method).await;
            assert_eq!(answer.status, 200, "{answer}");
        }
        let took = began.elapsed();
        let rate = times as f64 / took.as_secs_f64();
        let each = took.as_secs_f64() * 1000.0 / times as f64;
        let what = format!("thumbnail of 800 × 600: {what}");
        println!("{what:<44} {rate:>9.1} /s    {each:>10.2} ms each");
    }
}

/// Large files at once, up and down again, and what the server's memory does meanwhile.
async fn memory(server: &Server, alice: &Client, mib: usize, count: usize) {
    let before = server.resident_kib();
    let began = Instant::now();
    let token = alice.token.clone().unwrap_or_default();
    let passing: Vec<_> = (0..count)
        .map(|number| tokio::spawn(pass(server.url().to_owned(), token.clone(), mib, number)))
        .collect();
    let mut most = before;
    while passing.iter().any(|task| !task.is_finished()) {
        most = most.max(server.resident_kib());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for task in passing {
        task.await.unwrap();
    }
    println!(
        "{count} files of {mib} MiB at once, up and down in {:.0} s: {} MiB of memory before, at most {} MiB",
        began.elapsed().as_secs_f64(),
        before / 1024,
        most / 1024
    );
}

/// Sends a file piece by piece, and fetches it.
async fn pass(url: String, token: String, mib: usize, number: usize) {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let piece = fresh(MIB, number + 77);
    let pieces = (0..mib).map(move |_| std::io::Result::Ok(piece.clone()));
    let body = Body::wrap_stream(futures::stream::iter(pieces));
    let upload = http.request(Method::POST, format!("{url}/_matrix/media/v3/upload"));
    let answer = upload.bearer_auth(&token).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let [server, id] = media_of(&answer.json().await.unwrap());
    let path = format!("/_matrix/client/v1/media/download/{server}/{id}");
    let mut answer = http.get(format!("{url}{path}")).bearer_auth(&token).send().await.unwrap();
    let mut length = 0;
    while let Some(piece) = answer.chunk().await.unwrap() {
        length += piece.len();
    }
    assert_eq!(length, mib * MIB);
}
