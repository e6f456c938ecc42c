//! What is answered before or around an endpoint.

use axum::{
    Extension, Json,
    routing::{get, post},
};
use serde_json::{Value, json};

use super::*;
use crate::config::{Contact, Support, TrustedProxy, WellKnown};

async fn fails() {
    panic!("a bug")
}

async fn error_of(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert!(body["error"].is_string());
    (status, body["errcode"].as_str().unwrap().to_owned())
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#common-error-codes>
#[tokio::test]
async fn unknown_paths_and_methods_are_unrecognized() {
    let server = Setup::new(Router::new().route("/a", post(|| async {}))).start().await;
    let answer = client().get(server.url("/b")).send().await.unwrap();
    assert_eq!(error_of(answer).await, (404, "M_UNRECOGNIZED".to_owned()));
    let answer = client().put(server.url("/a")).send().await.unwrap();
    assert_eq!(answer.headers()["allow"], "POST");
    assert_eq!(error_of(answer).await, (405, "M_UNRECOGNIZED".to_owned()));
    server.stop().await;
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients>
#[tokio::test]
async fn every_answer_has_cors_headers_and_options_runs_no_logic() {
    let router = Router::new().route("/a", axum::routing::any(fails));
    let server = Setup::new(router).start().await;
    let preflight = client()
        .request(reqwest::Method::OPTIONS, server.url("/a"))
        .header("origin", "https://app.example")
        .header("access-control-request-method", "PUT")
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), 204);
    let missing = client().get(server.url("/b")).send().await.unwrap();
    for headers in [preflight.headers(), missing.headers()] {
        assert_eq!(headers["access-control-allow-origin"], "*");
        let methods = headers["access-control-allow-methods"].to_str().unwrap();
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            assert!(methods.contains(method));
        }
        assert_eq!(
            headers["access-control-allow-headers"],
            "X-Requested-With, Content-Type, Authorization"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_panic_becomes_an_error_and_the_connection_lives_on() {
    let router = Router::new().route("/a", get(fails));
    let server = Setup::new(router).start().await;
    let client = client();
    let answer = client.get(server.url("/a")).send().await.unwrap();
    assert_eq!(error_of(answer).await, (500, "M_UNKNOWN".to_owned()));
    assert_eq!(client.get(server.url("/health")).send().await.unwrap().status(), 200);
    server.stop().await;
}

#[tokio::test]
async fn what_takes_too_long_is_given_up() {
    let router = Router::new().route("/a", get(std::future::pending::<()>));
    let server = Setup::new(router)
        .limits(|limits| limits.request = Duration::from_millis(50))
        .start()
        .await;
    let answer = client().get(server.url("/a")).send().await.unwrap();
    assert_eq!(error_of(answer).await, (503, "M_UNKNOWN".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn endpoints_learn_who_asks() {
    let whom = |client: Option<Extension<ClientAddress>>| async move {
        client.map_or_else(|| "nobody".to_owned(), |client| client.0.0.to_string())
    };
    let server = Setup::new(Router::new().route("/a", get(whom)))
        .config(|config| {
            config.proxies.trusted = vec!["127.0.0.1".parse::<TrustedProxy>().unwrap()];
        })
        .start()
        .await;
    let ask = client().get(server.url("/a"));
    let answer = ask.try_clone().unwrap().send().await.unwrap();
    let first_id = answer.headers()["x-request-id"].clone();
    assert_eq!(answer.text().await.unwrap(), "127.0.0.1");
    let answer = ask
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-request-id", "abc")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-request-id"], "abc");
    assert_ne!(first_id, "abc");
    assert_eq!(answer.text().await.unwrap(), "1.2.3.4");
    server.stop().await;
}

#[tokio::test]
async fn long_json_is_compressed_for_those_who_can_read_it() {
    let long = || async { Json(json!({ "text": "a".repeat(5000) })) };
    let bytes = || async { vec![b'a'; 5000] };
    let router = Router::new()
        .route("/long", get(long))
        .route("/short", get(|| async { Json(json!({})) }))
        .route("/bytes", get(bytes));
    let server = Setup::new(router).start().await;
    for (path, accept, compressed) in [
        ("/long", "gzip", true),
        ("/long", "identity", false),
        ("/short", "gzip", false),
        ("/bytes", "gzip", false),
    ] {
        let client = reqwest::Client::builder().no_proxy().no_gzip().build().unwrap();
        let ask = client.get(server.url(path)).header("accept-encoding", accept);
        let answer = ask.send().await.unwrap();
        let gzip = answer.headers().get("content-encoding").is_some_and(|kind| kind == "gzip");
        assert_eq!(gzip, compressed, "{path} {accept}");
        if compressed {
            assert!(answer.bytes().await.unwrap().len() < 1000);
        }
    }
    server.stop().await;
}

async fn json_at(server: &Running, path: &str) -> Value {
    let answer = client().get(server.url(path)).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    answer.json().await.unwrap()
}

#[tokio::test]
async fn well_known_files_are_served_as_configured() {
    let well_known = WellKnown {
        client: Some("https://matrix.example.org".to_owned()),
        server: Some("matrix.example.org:443".to_owned()),
        identity_server: None,
        client_extra: json!({ "org.example": { "a": 1 } }).as_object().unwrap().clone(),
        support: Support {
            support_page: None,
            contacts: vec![Contact {
                role: "m.role.admin".to_owned(),
                matrix_id: None,
                email_address: Some("admin@example.org".to_owned()),
            }],
        },
    };
    let server =
        Setup::new(Router::new()).config(|config| config.well_known = well_known).start().await;
    assert_eq!(
        json_at(&server, "/.well-known/matrix/client").await,
        json!({
            "m.homeserver": { "base_url": "https://matrix.example.org" },
            "org.example": { "a": 1 },
        })
    );
    assert_eq!(
        json_at(&server, "/.well-known/matrix/server").await,
        json!({ "m.server": "matrix.example.org:443" })
    );
    assert_eq!(
        json_at(&server, "/.well-known/matrix/support").await,
        json!({ "contacts": [{ "role": "m.role.admin", "email_address": "admin@example.org" }] })
    );
    server.stop().await;
}

#[tokio::test]
async fn well_known_files_that_are_not_configured_are_missing() {
    let server = Setup::new(Router::new()).start().await;
    for name in ["client", "server", "support"] {
        let url = server.url(&format!("/.well-known/matrix/{name}"));
        let answer = client().get(url).send().await.unwrap();
        assert_eq!(error_of(answer).await, (404, "M_NOT_FOUND".to_owned()));
    }
    server.stop().await;
}
