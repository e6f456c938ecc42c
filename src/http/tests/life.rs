//! Stopping without leaving anybody in the middle of something.

use std::sync::Arc;

use axum::routing::{get, post};
use tokio::{sync::Notify, time::Instant};

use super::*;

#[tokio::test]
async fn running_requests_are_answered_and_new_connections_refused() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
        move || async move {
            entered.notify_one();
            leave.notified().await;
            "done"
        }
    };
    let server = Setup::new(Router::new().route("/slow", get(handler))).start().await;
    let asking = tokio::spawn(client().get(server.url("/slow")).send());
    within(entered.notified()).await;
    let idle = server.connect().await;

    server.shutdown.start();
    // Refused once the listener is closed, which the idle connection's end shows.
    let mut idle = idle;
    assert_eq!(read_all(&mut idle).await, "");
    assert!(TcpStream::connect(("127.0.0.1", server.port())).await.is_err());
    assert!(!server.serving.is_finished());

    leave.notify_one();
    let answer = within(asking).await.unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "done");
    within(server.serving).await.unwrap();
}

#[tokio::test]
async fn long_polls_return_when_the_server_stops() {
    let entered = Arc::new(Notify::new());
    let told = Arc::clone(&entered);
    let router = |stopping: Stopping| {
        Router::new().route(
            "/sync",
            get(move || async move {
                told.notify_one();
                stopping.wait().await;
                "nothing new"
            }),
        )
    };
    let server = Setup::with_stopping(router).start().await;
    let asking = tokio::spawn(client().get(server.url("/sync")).send());
    within(entered.notified()).await;
    let started = Instant::now();
    server.stop().await;
    assert_eq!(asking.await.unwrap().unwrap().text().await.unwrap(), "nothing new");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn what_does_not_end_is_cut() {
    let entered = Arc::new(Notify::new());
    let told = Arc::clone(&entered);
    let handler = move || async move {
        told.notify_one();
        std::future::pending::<()>().await;
    };
    let server = Setup::new(Router::new().route("/stuck", get(handler)))
        .limits(|limits| limits.grace = Duration::from_millis(50))
        .start()
        .await;
    let asking = tokio::spawn(client().get(server.url("/stuck")).send());
    within(entered.notified()).await;
    server.stop().await;
    assert!(within(asking).await.unwrap().is_err());
}

/// On connections that are still open: a load balancer looks elsewhere.
#[tokio::test]
async fn health_says_that_the_server_is_stopping() {
    let shutdown = Shutdown::new();
    let limits = Limits::new(1, 1);
    let app = App::plain(Router::new(), limits, shutdown.stopping());
    let ask = || {
        let request = http::Request::get("/health").body(axum::body::Body::empty()).unwrap();
        app.handle(peer::Peer::Unix, request)
    };
    assert_eq!(ask().await.status(), 200);
    shutdown.start();
    assert_eq!(ask().await.status(), 503);
}

#[tokio::test]
async fn what_changes_something_goes_on_without_the_client() {
    let (entered, leave, left) =
        (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, leave, left) = (Arc::clone(&entered), Arc::clone(&leave), Arc::clone(&left));
        move || async move {
            entered.notify_one();
            leave.notified().await;
            left.notify_one();
        }
    };
    let server = Setup::new(Router::new().route("/change", post(handler))).start().await;
    let asking = tokio::spawn(client().post(server.url("/change")).send());
    within(entered.notified()).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    leave.notify_one();
    within(left.notified()).await;
    server.stop().await;
}

#[tokio::test]
async fn what_goes_on_without_clients_is_bounded() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
        move || async move {
            entered.notify_one();
            leave.notified().await;
        }
    };
    let router = Router::new().route("/change", post(handler)).route("/read", get(|| async {}));
    let server = Setup::new(router).limits(|limits| limits.connections = 1).start().await;
    let first = tokio::spawn(client().post(server.url("/change")).send());
    within(entered.notified()).await;
    first.abort();
    // Its connection is free again, its place is not.
    let read = within(client().get(server.url("/read")).send()).await.unwrap();
    assert_eq!(read.status(), 200);
    drop(read);
    let second = tokio::spawn(client().post(server.url("/change")).send());
    let early = tokio::time::timeout(Duration::from_millis(200), entered.notified()).await;
    assert!(early.is_err(), "it runs beside the first");
    leave.notify_one();
    within(entered.notified()).await;
    leave.notify_one();
    assert_eq!(within(second).await.unwrap().unwrap().status(), 200);
    server.stop().await;
}

#[tokio::test]
async fn what_only_reads_ends_with_the_client() {
    struct Told(Arc<Notify>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (entered, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, ended) = (Arc::clone(&entered), Arc::clone(&ended));
        move || async move {
            let _told = Told(ended);
            entered.notify_one();
            std::future::pending::<()>().await;
        }
    };
    let router =
        Router::new().route("/read", get(handler.clone())).route("/v4/sync", post(handler));
    let server = Setup::new(router).start().await;
    for request in [client().get(server.url("/read")), client().post(server.url("/v4/sync"))] {
        let asking = tokio::spawn(request.send());
        within(entered.notified()).await;
        asking.abort();
        within(ended.notified()).await;
    }
    server.stop().await;
}
