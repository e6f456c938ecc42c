//! Configuration and life cycle of the server, as its operator meets them.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic; a missing field of JSON is null, and compared as such"
)]

use std::time::Duration;

use complement_tests::{Client, Config, Server};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A key that does not exist is an error that names it, and the one that was meant.
#[tokio::test]
async fn an_unknown_key_is_named_with_the_nearest_known_one() {
    for (wrong, right) in [
        ("registration.enable", "enabled"),
        ("serve_name", "server_name"),
        ("log.leveel", "level"), // typo on purpose
    ] {
        let config = Config::default().with(wrong, "x");
        let exit = Server::run(&config, &[]).await;
        assert!(!exit.status.success(), "{wrong} was accepted:\n{}", exit.output);
        let last = wrong.rsplit('.').next().unwrap();
        assert!(exit.output.contains(last), "{wrong} is not named:\n{}", exit.output);
        assert!(exit.output.contains(right), "{right} is not named:\n{}", exit.output);
    }
}

/// A value of the wrong type is an error that names its key.
#[tokio::test]
async fn a_value_of_the_wrong_type_names_its_key() {
    let config = Config::default().with("media.max_upload_bytes", "large");
    let exit = Server::run(&config, &[]).await;
    assert!(!exit.status.success());
    assert!(exit.output.contains("max_upload_bytes"), "{}", exit.output);
}

/// `myelin check` says what a configuration resolves to, and hides secrets.
#[tokio::test]
async fn check_prints_the_resolved_configuration() {
    let config = Config::default().with("registration.shared_secret", "not-to-be-shown");
    let exit = Server::run(&config, &["check"]).await;
    assert!(exit.status.success(), "{}", exit.output);
    assert!(exit.output.contains("complement.test"), "{}", exit.output);
    assert!(exit.output.contains("budget_bytes"), "defaults are shown too:\n{}", exit.output);
    assert!(!exit.output.contains("not-to-be-shown"), "{}", exit.output);
    let exit = Server::run(&config.with("serve_name", "x"), &["check"]).await;
    assert!(!exit.status.success());
}

/// Two servers cannot share a port.
#[tokio::test]
async fn a_port_in_use_is_said() {
    let server = Server::start(&Config::default());
    let address = server.url().trim_start_matches("http://").to_owned();
    let config = Config::default().with_listener(&format!("{{ address = \"{address}\" }}"));
    let exit = Server::run(&config, &[]).await;
    assert!(!exit.status.success());
    assert!(exit.output.contains("in use"), "{}", exit.output);
    assert!(exit.output.contains(&address), "the address is named:\n{}", exit.output);
}

/// Two servers cannot share a data directory.
#[tokio::test]
async fn a_locked_data_directory_is_said() {
    let server = Server::start(&Config::default());
    let data = server.directory().join("data");
    let config = Config::default().with("data_dir", data.to_str().unwrap());
    let exit = Server::run(&config, &[]).await;
    assert!(!exit.status.success());
    assert!(exit.output.contains("lock") || exit.output.contains("in use"), "{}", exit.output);
    assert!(exit.output.contains(data.to_str().unwrap()), "{}", exit.output);
    server.get("/health").await.ok();
}

/// The server's name is in every ID it has made: it cannot change.
#[tokio::test]
async fn a_database_is_refused_under_another_name() {
    let server = Server::start(&Config::default());
    let alice = server.register("alice").await;
    server.terminate().await;
    let data = server.directory().join("data");
    let config = Config::default()
        .with("server_name", "another.test")
        .with("data_dir", data.to_str().unwrap());
    let exit = Server::run(&config, &[]).await;
    assert!(!exit.status.success());
    for name in ["complement.test", "another.test"] {
        assert!(exit.output.contains(name), "{name} is not named:\n{}", exit.output);
    }
    server.start_again();
    alice.get("account/whoami").await.ok();
}

/// SIGTERM ends the server in good order and in time, also while clients wait for news.
#[tokio::test]
async fn sigterm_ends_the_server_in_order() {
    let server = Server::start(&Config::default());
    let alice = server.register("alice").await;
    let mut sync = alice.sync();
    sync.now().await;
    let waiting = alice.get("sync").query("since", sync.token().unwrap()).query("timeout", "60000");
    let waiting = tokio::spawn(waiting.attempt());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = tokio::time::Instant::now();
    let exit = server.terminate().await;
    assert_eq!(exit.status.code(), Some(0), "{}", exit.output);
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    // Whatever the waiting client got, it was not a server error.
    if let Ok(answer) = waiting.await.unwrap() {
        assert!(answer.status < 500 || answer.status == 503, "{answer}");
    }
}

/// `/health` answers as soon as the server listens.
#[tokio::test]
async fn health_is_answered() {
    let server = Server::shared();
    server.get("/health").await.ok();
}

/// Numbers for Prometheus have a listener of their own; the public one has none.
#[tokio::test]
async fn metrics_have_their_own_listener() {
    let config = Config::default().with("metrics.address", "127.0.0.1:0");
    let server = Server::start(&config);
    server.register("alice").await;
    assert_eq!(server.get("/metrics").await.status, 404);
    let address = server.wait_for_log(|log| {
        let line =
            log.lines().find(|line| line.contains("metrics") && line.contains("127.0.0.1:"))?;
        let address = line.split("127.0.0.1:").nth(1)?;
        let digits: String = address.chars().take_while(char::is_ascii_digit).collect();
        (!digits.is_empty()).then(|| format!("http://127.0.0.1:{digits}"))
    });
    let metrics = client_at(&address).get("/metrics").await;
    assert_eq!(metrics.status, 200, "{metrics}");
    assert!(metrics.text.contains("# TYPE"), "{metrics}");
    assert!(!metrics.text.contains("alice"), "no names in metrics: {metrics}");
}

/// A Unix socket serves as well as a port.
#[tokio::test]
async fn a_unix_socket_is_served() {
    let config = Config::default()
        .with_listener("{ address = \"127.0.0.1:0\" }")
        .with_listener("{ unix_socket = \"server.sock\" }");
    let server = Server::start(&config);
    let path = server.directory().join("server.sock");
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let request = "GET /_matrix/client/versions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("versions"), "{answer}");
}

/// TLS with HTTP/2 and HTTP/1.1, and a new certificate without a restart.
#[tokio::test]
async fn tls_is_served_and_certificates_are_read_again() {
    let first = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let second = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let install = |certified: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        std::fs::write(&cert, certified.cert.pem()).unwrap();
        std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    };
    install(&first);
    let tls = format!(
        "{{ address = \"127.0.0.1:0\", tls = {{ certificate = {cert:?}, private_key = {key:?} }} }}"
    );
    let config =
        Config::default().with_listener("{ address = \"127.0.0.1:0\" }").with_listener(&tls);
    let server = Server::start(&config);
    let port = server.wait_for_log(|log| {
        let after = log.split("listening on https://127.0.0.1:").nth(1)?;
        after.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u16>().ok()
    });
    let client = |certified: &rcgen::CertifiedKey<rcgen::KeyPair>, http1: bool| {
        let pem = certified.cert.pem();
        let root = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        let builder = builder.resolve("localhost", ([127, 0, 0, 1], port).into());
        let builder = if http1 { builder.http1_only() } else { builder };
        builder.build().unwrap()
    };
    let url = format!("https://localhost:{port}/_matrix/client/versions");
    let answer = client(&first, false).get(&url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    let answer = client(&first, true).get(&url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_11));
    assert!(client(&second, false).get(&url).send().await.is_err(), "not that certificate yet");

    install(&second);
    server.hang_up();
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while client(&second, false).get(&url).send().await.is_err() {
        assert!(tokio::time::Instant::now() < end, "the new certificate was not taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Answers are compressed for those who can read it.
#[tokio::test]
async fn large_answers_are_compressed() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let path = ["user", alice.user_id.as_str(), "account_data", "org.example.large"];
    alice.put(path, json!({ "text": "x".repeat(50_000) })).await.ok();
    let http = reqwest::Client::builder().no_proxy().no_gzip().no_brotli().tls_certs_only([]);
    let plain = Client::with_http(http.build().unwrap(), server.url());
    let plain = plain.with_token(alice.token.as_ref().unwrap());
    let answer = plain.get(path).header("accept-encoding", "gzip").await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    assert!(answer.text.len() < 5_000);
    let answer = plain.get(path).await;
    assert_eq!(answer.header("content-encoding"), "");
}

/// Logs name requests, and neither tokens nor passwords nor what people say.
#[tokio::test]
async fn logs_keep_secrets() {
    let server =
        Server::start(&Config::default().with("log.level", "info").with("log.format", "json"));
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "The secret room" })).await;
    alice.say(&room, "the secret message").await;
    alice.sync().now().await;
    alice.anonymous().post("login", alice.password_login()).await.ok();
    let log = server.log();
    let token = alice.token.as_ref().unwrap();
    for secret in [token, "a good password", "the secret message", "The secret room"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    for line in log.lines().filter(|line| !line.starts_with("listening on ")) {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "not JSON: {line}");
    }
}

fn client_at(base: &str) -> Client {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    Client::with_http(http, base)
}
