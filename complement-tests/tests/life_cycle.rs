//! Signals, and what a proxy in front of the server says.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

use complement_tests::{Config, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn quiet() -> Config {
    Config::default().with("log.level", "info")
}

fn find(text: &str) -> impl Fn(&str) -> Option<()> {
    move |log| log.contains(text).then_some(())
}

/// The level changes without a restart, both ways.
#[tokio::test]
async fn sighup_changes_the_log_level() {
    let server = Server::start(&quiet());
    server.get("/health").await.ok();
    assert!(!server.log().contains("/health"), "{}", server.log());

    server.configure(|config| config.with("log.level", "debug"));
    server.hang_up();
    server.wait_for_log(find("read again"));
    server.get("/health").await.ok();
    server.wait_for_log(find("/health"));
}

/// A mistake in the file does not stop a server that runs; it is told.
#[tokio::test]
async fn sighup_with_a_broken_file_changes_nothing() {
    let server = Server::start(&quiet());
    server.configure(|config| config.with("log.levle", "debug"));
    server.hang_up();
    server.wait_for_log(find("log.levle"));
    server.get("/health").await.ok();
    assert!(!server.log().contains("/health"), "{}", server.log());
}

/// The address of a client is believed from a configured proxy only.
#[tokio::test]
async fn forwarded_addresses_are_believed_from_configured_proxies_only() {
    let open = Server::start(&Config::default());
    let trusted = vec!["127.0.0.0/8".to_owned()];
    let behind = Server::start(&Config::default().with("proxies.trusted", trusted));
    for (server, address) in [(&open, "127.0.0.1"), (&behind, "192.0.2.7")] {
        let forwarded = "198.51.100.1, 192.0.2.7";
        server.anonymous().get("/health").header("x-forwarded-for", forwarded).await.ok();
        let shown = format!("client={address}");
        server.wait_for_log(|log| log.contains(&shown).then_some(()));
        assert!(!server.log().contains("198.51.100.1"), "{}", server.log());
    }
}

/// A request that is being sent when the server is told to stop gets its answer.
#[tokio::test]
async fn sigterm_lets_a_running_request_finish() {
    let server = Server::start(&Config::default());
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = "POST /_matrix/client/v3/login HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Answered on another connection, so the first one has been accepted too.
    server.get("/health").await.ok();

    let (exit, answer) = tokio::join!(server.terminate(), async {
        let mut waiting = TcpStream::connect(&address).await;
        while waiting.is_ok() {
            tokio::task::yield_now().await;
            waiting = TcpStream::connect(&address).await;
        }
        stream.write_all(b"}").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    assert_eq!(exit.status.code(), Some(0), "{}", exit.output);
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(answer.contains("errcode"), "{answer}");
}

/// However much is written and read, the process keeps to its budget.
#[tokio::test]
async fn memory_stays_within_its_budget() {
    const BUDGET_BYTES: i64 = 160 << 20;
    const ROOMS: usize = 80;
    const MESSAGES: usize = 60;
    let server = Server::start(&quiet().with("memory.budget_bytes", BUDGET_BYTES));
    let alice = server.register("alice").await;
    let text = "x".repeat(40_000);
    // More than the budget, all in all; the text is compressed on disk, not in memory.
    let fill = async || {
        let room = alice.create_room(serde_json::json!({})).await;
        for number in 0..MESSAGES {
            alice.say(&room, &format!("{number} {text}")).await;
        }
        let page = alice.get(["rooms", &room, "messages"]).query("dir", "b").query("limit", "100");
        let page = page.await.ok();
        assert!(page["chunk"].as_array().unwrap().len() > MESSAGES);
    };
    let mut most = 0;
    for _ in 0..ROOMS {
        fill().await;
        most = most.max(server.resident_kib());
    }
    let budget = u64::try_from(BUDGET_BYTES).unwrap() / 1_024;
    assert!(most <= budget, "{most} KiB are more than {budget} KiB");
}
