//! Logging in, logging out, and the life of tokens.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#legacy-login>

use complement_tests::{Client, Server, must_match, text};
use reqwest::Method;
use serde_json::{Value, json};

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3login>
#[tokio::test]
async fn password_and_token_are_offered() {
    let server = Server::shared();
    let flows = server.get("login").await.ok();
    let types: Vec<&str> = flows["flows"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|flow| flow["type"].as_str())
        .collect();
    assert!(types.contains(&"m.login.password"), "{flows}");
    assert!(types.contains(&"m.login.token"), "{flows}");
}

/// A user may be named by the whole ID or by the localpart.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#password-based>
#[tokio::test]
async fn login_by_user_id_or_localpart() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for user in [alice.user_id.as_str(), alice.localpart()] {
        let answer = login(&alice, json!({ "type": "m.id.user", "user": user }), "a good password");
        let answer = answer.await.ok();
        assert_eq!(answer["user_id"], alice.user_id);
        let again = alice.logged_in(&answer, "");
        must_match(
            &again.get("account/whoami").await.ok(),
            &json!({ "user_id": alice.user_id, "device_id": again.device_id }),
        );
    }
}

/// Old clients put the name in `user` instead of an identifier.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3login>
#[tokio::test]
async fn login_by_the_deprecated_user_field() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let body = json!({
        "type": "m.login.password", "user": alice.localpart(), "password": alice.password,
    });
    must_match(
        &server.anonymous().post("login", body).await.ok(),
        &json!({ "user_id": alice.user_id }),
    );
}

/// Each login without a device ID makes a device; with a known ID it takes that
/// device over, and the token it had before is dead.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#relationship-between-access-tokens-and-devices>
#[tokio::test]
async fn login_with_a_known_device_replaces_its_token() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let mut body = alice.password_login();
    body["device_id"] = json!("LAPTOP");
    body["initial_device_display_name"] = json!("Laptop");
    let first = alice.logged_in(&alice.anonymous().post("login", body.clone()).await.ok(), "");
    assert_eq!(first.device_id, "LAPTOP");

    body["initial_device_display_name"] = json!("Another name");
    let second = alice.logged_in(&alice.anonymous().post("login", body).await.ok(), "");
    assert_eq!(second.device_id, "LAPTOP");
    first.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    second.get("account/whoami").await.ok();
    let device = second.get(["devices", "LAPTOP"]).await.ok();
    assert_eq!(device["display_name"], "Laptop", "the first name of a device is kept");
}

/// A wrong password and an unknown user get the same answer.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3login>
#[tokio::test]
async fn wrong_password_and_unknown_user_look_alike() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let known = json!({ "type": "m.id.user", "user": alice.user_id });
    let unknown = json!({ "type": "m.id.user", "user": format!("{}-unknown", alice.localpart()) });
    let wrong = login(&alice, known, "wrong").await.fails(403, "M_FORBIDDEN");
    let nobody = login(&alice, unknown, "wrong").await.fails(403, "M_FORBIDDEN");
    assert_eq!(wrong, nobody);
}

/// Another server's users cannot log in here.
#[tokio::test]
async fn a_user_of_another_server_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let user = format!("@{}:elsewhere.example", alice.localpart());
    let answer = login(&alice, json!({ "type": "m.id.user", "user": user }), "a good password");
    answer.await.fails(403, "M_FORBIDDEN");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3login>
#[tokio::test]
async fn an_unknown_login_type_is_refused() {
    let server = Server::shared();
    let answer = server.anonymous().post("login", json!({ "type": "org.example.wink" })).await;
    answer.fails(400, "M_UNKNOWN");
}

/// A login token brings a second device in, once.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token>
#[tokio::test]
async fn a_login_token_works_once() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v1/login/get_token";
    let answer = alice.with_password(Method::POST, path, json!({})).await.ok();
    assert!(answer["expires_in_ms"].as_u64().unwrap() > 0);
    let body = json!({ "type": "m.login.token", "token": text(&answer, "/login_token") });
    let login = alice.anonymous().post("login", body.clone()).await.ok();
    let second = alice.logged_in(&login, "");
    must_match(&second.get("account/whoami").await.ok(), &json!({ "user_id": alice.user_id }));
    assert_ne!(second.device_id, alice.device_id);
    alice.anonymous().post("login", body).await.fails(403, "M_FORBIDDEN");
}

/// A login token nobody gave out is refused.
#[tokio::test]
async fn a_made_up_login_token_is_refused() {
    let server = Server::shared();
    let body = json!({ "type": "m.login.token", "token": "made-up" });
    server.anonymous().post("login", body).await.fails(403, "M_FORBIDDEN");
}

/// Logging out ends the token and its device, and nothing else.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logout>
#[tokio::test]
async fn logout_ends_one_device() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let second = alice.log_in_again().await;
    second.post("logout", json!({})).await.ok();
    let refusal = second.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    assert_ne!(refusal["soft_logout"], true);
    alice.get(["devices", &second.device_id]).await.fails(404, "M_NOT_FOUND");
    alice.get("account/whoami").await.ok();
}

/// A logout needs no body at all.
#[tokio::test]
async fn logout_works_without_a_body() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    alice.request(Method::POST, "logout").await.ok();
    alice.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logoutall>
#[tokio::test]
async fn logout_all_ends_every_device_of_this_user() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let second = alice.log_in_again().await;
    let bob = server.register("bob").await;
    second.post("logout/all", json!({})).await.ok();
    alice.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    second.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    bob.get("account/whoami").await.ok();
    let back = alice.log_in_again().await;
    let devices = back.get("devices").await.ok();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1, "{devices}");
}

/// A token that was never given out.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#using-access-tokens>
#[tokio::test]
async fn no_token_and_an_unknown_token_are_told_apart() {
    let server = Server::shared();
    let anonymous = server.anonymous();
    anonymous.get("account/whoami").await.fails(401, "M_MISSING_TOKEN");
    anonymous.with_token("made-up").get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    for header in ["Basic YWxpY2U6cGFzcw==", "Bearer", "Bearer "] {
        let answer = anonymous.get("account/whoami").header("authorization", header).await;
        assert_eq!(answer.status, 401, "{answer}");
    }
}

/// A refresh token brings a new pair; with the new access token in use, the old refresh token is dead.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens>
#[tokio::test]
async fn a_refresh_token_renews_the_session() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let (first, refresh_token) = login_refreshable(&alice).await;

    let renewed = refresh(&server, &refresh_token).await.ok();
    let second = first.with_token(&text(&renewed, "/access_token"));
    must_match(
        &second.get("account/whoami").await.ok(),
        &json!({ "user_id": alice.user_id, "device_id": first.device_id }),
    );
    refresh(&server, &refresh_token).await.fails(401, "M_UNKNOWN_TOKEN");
    refresh(&server, &text(&renewed, "/refresh_token")).await.ok();
}

/// An answer may get lost: until the new access token is used, the old refresh token still works.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens>
#[tokio::test]
async fn a_lost_refresh_answer_can_be_asked_for_again() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let (first, refresh_token) = login_refreshable(&alice).await;
    refresh(&server, &refresh_token).await.ok();
    let renewed = refresh(&server, &refresh_token).await.ok();
    let second = first.with_token(&text(&renewed, "/access_token"));
    second.get("account/whoami").await.ok();
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3refresh>
#[tokio::test]
async fn an_unknown_refresh_token_is_refused() {
    let server = Server::shared();
    refresh(&server, "made-up").await.fails(401, "M_UNKNOWN_TOKEN");
}

/// Logging out also ends the refresh token.
#[tokio::test]
async fn logout_ends_the_refresh_token() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let (first, refresh_token) = login_refreshable(&alice).await;
    first.post("logout", json!({})).await.ok();
    refresh(&server, &refresh_token).await.fails(401, "M_UNKNOWN_TOKEN");
}

/// An access token is no refresh token and the other way round.
#[tokio::test]
async fn the_two_kinds_of_token_cannot_be_confused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let (first, refresh_token) = login_refreshable(&alice).await;
    refresh(&server, first.token.as_ref().unwrap()).await.fails(401, "M_UNKNOWN_TOKEN");
    first.with_token(&refresh_token).get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
}

async fn login(alice: &Client, identifier: Value, password: &str) -> complement_tests::Answer {
    let body = json!({
        "type": "m.login.password", "identifier": identifier, "password": password,
    });
    alice.anonymous().post("login", body).await
}

async fn login_refreshable(alice: &Client) -> (Client, String) {
    let mut body = alice.password_login();
    body["refresh_token"] = json!(true);
    let answer = alice.anonymous().post("login", body).await.ok();
    (alice.logged_in(&answer, ""), text(&answer, "/refresh_token"))
}

async fn refresh(server: &Server, token: &str) -> complement_tests::Answer {
    server.anonymous().post("refresh", json!({ "refresh_token": token })).await
}
