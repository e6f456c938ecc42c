//! Peers that send too much, too slowly, or do not read.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    response::IntoResponse as _,
    routing::{get, post},
};
use tokio::sync::Notify;

use super::*;
use crate::api::extract::read_body;

const MIB: usize = 1024 * 1024;

fn reading_router() -> Router {
    Router::new().route(
        "/a",
        post(|body: Body| async move {
            match read_body(body).await {
                Ok(body) => body.len().to_string().into_response(),
                Err(error) => error.into_response(),
            }
        }),
    )
}

/// The client sends everything before it reads: the error must reach it, and nothing be kept.
#[tokio::test]
async fn a_body_announced_as_too_large_is_refused_and_thrown_away() {
    let server = Setup::new(reading_router()).start().await;
    let client = client();
    for path in ["/a", "/nowhere"] {
        let answer = client.post(server.url(path)).body(vec![b' '; 40 * MIB]).send().await.unwrap();
        assert_eq!(answer.status(), 413);
        assert!(answer.text().await.unwrap().contains("M_TOO_LARGE"));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_at_the_limit() {
    let server = Setup::new(reading_router()).start().await;
    let pieces = (0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; MIB]));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let answer = client().post(server.url("/a")).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert!(answer.text().await.unwrap().contains("M_TOO_LARGE"));
    server.stop().await;
}

/// For instance because the token is bad.
#[tokio::test]
async fn an_answer_given_without_reading_the_body_arrives() {
    let router = Router::new().route("/a", post(|| async { http::StatusCode::FORBIDDEN }));
    let server = Setup::new(router).start().await;
    let client = client();
    for _ in 0..3 {
        let answer = client.post(server.url("/a")).body(vec![b' '; 3 * MIB]).send().await.unwrap();
        assert_eq!(answer.status(), 403);
    }
    server.stop().await;
}

/// curl does this for large bodies: none of it is sent if the head is refused.
#[tokio::test]
async fn who_asks_first_need_not_send_a_refused_body() {
    let server = Setup::new(reading_router()).start().await;
    let mut stream = server.connect().await;
    let head =
        "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n";
    let answer = say(&mut stream, head).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn uploads_have_a_limit_of_their_own() {
    let router = Router::new().route(
        "/_matrix/media/v3/upload",
        post(|body: Bytes| async move { body.len().to_string() })
            .layer(axum::extract::DefaultBodyLimit::disable()),
    );
    let server =
        Setup::new(router).limits(|limits| limits.upload_bytes = 20 * MIB as u64).start().await;
    for (size, status) in [(19 * MIB, 200), (21 * MIB, 413)] {
        let ask = client().post(server.url("/_matrix/media/v3/upload")).body(vec![b' '; size]);
        assert_eq!(ask.send().await.unwrap().status(), status);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let server = Setup::new(reading_router())
        .limits(|limits| limits.stall = Duration::from_millis(50))
        .start()
        .await;
    let mut stream = server.connect().await;
    let answer =
        say(&mut stream, "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn connections_without_a_request_are_closed() {
    let server = Setup::new(Router::new())
        .limits(|limits| limits.first_request = Duration::from_millis(50))
        .start()
        .await;
    // Silent, and with a head or an HTTP/2 preface that never ends.
    for start in ["", "GET /health HTTP/1.1\r\nHost: a\r\nX-A: ", "PRI * HTTP/2.0\r\n"] {
        let mut stream = server.connect().await;
        assert_eq!(say(&mut stream, start).await, "", "{start}");
    }
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let server = Setup::new(Router::new())
        .limits(|limits| limits.idle = Duration::from_millis(50))
        .start()
        .await;
    let mut stream = server.connect().await;
    let answer = say(&mut stream, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.ends_with("ok"), "{answer}");

    // A second head that comes drop by drop does not keep it open either.
    let mut stream = server.connect().await;
    let answer =
        say(&mut stream, "GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nX").await;
    assert!(answer.ends_with("ok"), "{answer}");
    server.stop().await;
}

/// A long-poll is not idle.
#[tokio::test]
async fn a_waiting_request_keeps_its_connection() {
    let slow = || async { tokio::time::sleep(Duration::from_millis(300)).await };
    let server = Setup::new(Router::new().route("/slow", get(slow)))
        .limits(|limits| {
            limits.idle = Duration::from_millis(20);
            limits.first_request = Duration::from_millis(20);
            limits.stall = Duration::from_millis(20);
        })
        .start()
        .await;
    assert_eq!(client().get(server.url("/slow")).send().await.unwrap().status(), 200);
    server.stop().await;
}

#[tokio::test]
async fn who_does_not_read_the_answer_is_cut_off() {
    struct Tell(Arc<Notify>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let gone = Arc::new(Notify::new());
    let tell = Arc::clone(&gone);
    let endless = move || {
        let tell = Tell(Arc::clone(&tell));
        async move {
            let pieces = futures::stream::repeat_with(move || {
                let _held_until_the_stream_is_dropped = &tell;
                Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 8 * 1024]))
            });
            Body::from_stream(pieces)
        }
    };
    let server = Setup::new(Router::new().route("/endless", get(endless)))
        .limits(|limits| limits.stall = Duration::from_millis(50))
        .start()
        .await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(gone.notified()).await;
    server.stop().await;
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let server = Setup::new(Router::new()).limits(|limits| limits.connections = 1).start().await;
    let first = server.connect().await;
    let url = server.url("/health");
    let mut second = tokio::spawn(client().get(url).send());
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err());
    drop(first);
    assert_eq!(within(second).await.unwrap().unwrap().status(), 200);
    server.stop().await;
}
