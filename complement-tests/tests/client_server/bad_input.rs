//! What is not as it should be is refused with the specification's error, and changes nothing.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#standard-error-response>

use complement_tests::{Client, Server};
use reqwest::Method;
use serde_json::json;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#common-error-codes>
#[tokio::test]
async fn broken_json_is_not_json() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for body in ["{", "{\"preset\":", "preset=private_chat", "{'preset':1}", "{}{}", "\u{0}"] {
        alice.request(Method::POST, "createRoom").raw(body).await.fails(400, "M_NOT_JSON");
        server.anonymous().request(Method::POST, "login").raw(body).await.fails(400, "M_NOT_JSON");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#common-error-codes>
#[tokio::test]
async fn json_of_the_wrong_shape_is_bad_json() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let refused = async |client: &Client, method: Method, path: &str, body: &str| {
        client.request(method, path).raw(body).await.fails(400, "M_BAD_JSON");
    };
    for body in ["[]", "7", "\"text\"", "{\"name\":7}", "{\"invite\":\"@bob:example.org\"}"] {
        refused(&alice, Method::POST, "createRoom", body).await;
    }
    refused(&alice, Method::POST, "delete_devices", "{\"devices\":\"all\"}").await;
    let anonymous = server.anonymous();
    refused(&anonymous, Method::POST, "register", "{\"username\":7}").await;
    refused(&anonymous, Method::POST, "refresh", "{\"refresh_token\":{}}").await;
    refused(&anonymous, Method::POST, "login", "{\"type\":\"m.login.password\",\"password\":7}")
        .await;
}

/// JSON is UTF-8.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#api-standards>
#[tokio::test]
async fn invalid_utf8_is_not_json() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    for bytes in [&b"\xff\xfe"[..], b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"] {
        let body = [b"{\"msgtype\":\"m.text\",\"body\":\"", bytes, b"\"}"].concat();
        let path = ["rooms", room.as_str(), "send", "m.room.message", "t"];
        alice.request(Method::PUT, path).raw(body).await.fails(400, "M_NOT_JSON");
    }
    let answer = alice.get("/_matrix/client/v3/profile/%FF%FE").await;
    assert_eq!(answer.status, 400, "{answer}");
}

/// A body nested without end does not end the server.
#[tokio::test]
async fn deep_nesting_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let body = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let answer = alice.request(Method::POST, "createRoom").raw(body).await;
    assert!([400, 413].contains(&answer.status), "{answer}");
    let body = format!("{{\"a\":{}1{}}}", "{\"a\":".repeat(50_000), "}".repeat(50_000));
    let answer = alice.request(Method::POST, "createRoom").raw(body).await;
    // What is not asked for may be skipped over, as long as that has an end.
    assert!(answer.status < 500, "{}", answer.status);
    alice.get("account/whoami").await.ok();
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#common-error-codes>
#[tokio::test]
async fn unknown_paths_and_methods_are_unrecognized() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for client in [&alice, &server.anonymous()] {
        for path in ["no/such/endpoint", "/_matrix/client/v99/sync", "/_matrix/nothing/v1/x"] {
            client.get(path).await.fails(404, "M_UNRECOGNIZED");
            client.post(path, json!({})).await.fails(404, "M_UNRECOGNIZED");
        }
        client.post("account/whoami", json!({})).await.fails(405, "M_UNRECOGNIZED");
        client.delete("createRoom").await.fails(405, "M_UNRECOGNIZED");
    }
}

/// IDs are those of the grammar.
/// Spec: <https://spec.matrix.org/v1.19/appendices/#common-identifier-format>
#[tokio::test]
async fn malformed_ids_are_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let long = format!("@{}:{}", "x".repeat(300), alice.server_name());
    for user in ["alice", "@alice", "@:", long.as_str(), "!alice:complement.test"] {
        let answer = alice.get(["profile", user]).await;
        assert!([400, 404].contains(&answer.status), "{answer}");
        assert!(!answer.errcode().is_empty(), "{answer}");
    }
    for room in ["room", "#room:complement.test", "!", "!a b:c"] {
        let answer = alice.get(["rooms", room, "state"]).await;
        assert!([400, 403, 404].contains(&answer.status), "{answer}");
        assert!(!answer.errcode().is_empty(), "{answer}");
    }
}

/// Strange tokens are only unknown.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#using-access-tokens>
#[tokio::test]
async fn strange_tokens_are_unknown() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let own = alice.token.clone().unwrap();
    let long = "x".repeat(5_000);
    let cut = own[..own.len() - 1].to_owned();
    let grown = format!("{own}x");
    let swapped = own.chars().rev().collect::<String>();
    for token in ["-", "../../etc/passwd", "%00", &long, &cut, &grown, &swapped] {
        let answer = alice.with_token(token).get("account/whoami").await;
        answer.fails(401, "M_UNKNOWN_TOKEN");
    }
}

/// Browsers ask first, from any origin.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients>
#[tokio::test]
async fn web_clients_of_any_origin_are_let_in() {
    let server = Server::shared();
    let anonymous = server.anonymous();
    let preflight = anonymous
        .request(Method::OPTIONS, "createRoom")
        .header("origin", "https://app.example.org")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
        .await;
    assert!((200..300).contains(&preflight.status), "{preflight}");
    assert_eq!(preflight.header("access-control-allow-origin"), "*");
    let methods = preflight.header("access-control-allow-methods").to_uppercase();
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        assert!(methods.contains(method), "{methods}");
    }
    let headers = preflight.header("access-control-allow-headers").to_lowercase();
    for name in ["x-requested-with", "content-type", "authorization"] {
        assert!(headers.contains(name), "{headers}");
    }
    // Errors, too, must be readable for a page.
    for path in ["account/whoami", "no/such/endpoint", "login"] {
        let answer = anonymous.get(path).header("origin", "https://app.example.org").await;
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{answer}");
    }
}

/// Answers are JSON and say so.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#api-standards>
#[tokio::test]
async fn answers_are_declared_as_json() {
    let server = Server::shared();
    for path in ["/_matrix/client/versions", "login", "account/whoami", "no/such/endpoint"] {
        let answer = server.get(path).await;
        let content_type = answer.header("content-type").to_owned();
        assert!(content_type.starts_with("application/json"), "{content_type} for {answer}");
    }
}
