//! Servers with one user each, and answers that are changed on the way.

use axum::{
    body::{Body, to_bytes},
    extract::Request as HttpRequest,
    middleware::{Next, from_fn},
};
use http::header;

use super::*;

/// Alice of a and bob of b.
pub(super) async fn two(network: &Network) -> (TestServer, TestServer, TestUser, TestUser) {
    let a = server(network, "a.example", 1).await;
    let b = server(network, "b.example", 2).await;
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    (a, b, alice, bob)
}

/// The same in a room of bob's.
pub(super) async fn pair(
    network: &Network,
) -> (TestServer, TestServer, TestUser, TestUser, String) {
    let (a, b, alice, bob) = two(network).await;
    let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
    join(&a, &alice, &room).await;
    (a, b, alice, bob, room)
}

/// Alice of a, bob of b and carol of c.
pub(super) struct Three {
    pub(super) network: Network,
    pub(super) a: TestServer,
    pub(super) b: TestServer,
    pub(super) c: TestServer,
    pub(super) alice: TestUser,
    pub(super) bob: TestUser,
    pub(super) carol: TestUser,
}

impl Three {
    pub(super) async fn new() -> Self {
        let network = Network::default();
        let (a, b, alice, bob) = two(&network).await;
        let c = server(&network, "c.example", 3).await;
        let carol = c.register("carol").await;
        Self { network, a, b, c, alice, bob, carol }
    }
}

/// Joins a room of b.
pub(super) async fn join(server: &TestServer, user: &TestUser, room: &str) {
    let path = format!("/v3/join/{room}?via=b.example");
    let (status, answer) = server.post(&path, Some(user), json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// What `server` answers to such requests is from now on what becomes of the right answer.
pub(super) fn change_answers(
    network: &Network,
    server: &TestServer,
    path: &'static str,
    change: impl Fn(String) -> Body + Clone + Send + Sync + 'static,
) {
    let meddle = move |request: HttpRequest, next: Next| {
        let change = change.clone();
        async move {
            let is_meant = request.uri().path().starts_with(path);
            let answer = next.run(request).await;
            if !is_meant {
                return answer;
            }
            let (mut head, body) = answer.into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            head.headers.remove(header::CONTENT_LENGTH);
            http::Response::from_parts(head, change(String::from_utf8(body.into()).unwrap()))
        }
    };
    let name = server.server.federation().server_name();
    network.connect(name, server.server.router().layer(from_fn(meddle)));
}

/// The same for answers that are JSON and stay so.
pub(super) fn change_json(
    network: &Network,
    server: &TestServer,
    path: &'static str,
    change: impl Fn(&mut Value) + Clone + Send + Sync + 'static,
) {
    change_answers(network, server, path, move |answer| {
        let mut json = serde_json::from_str(&answer).unwrap();
        change(&mut json);
        Body::from(json.to_string())
    });
}
