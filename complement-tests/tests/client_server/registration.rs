//! Making accounts.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-registration>

use complement_tests::{Config, Server, must_match, registration_mac, text};
use serde_json::{Value, json};

/// Without `auth` the server says which proofs it wants, and keeps a session for them.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-api-in-the-rest-api>
#[tokio::test]
async fn registration_asks_for_proof_and_then_logs_in() {
    let server = Server::shared();
    let anonymous = server.anonymous();
    let mut body = json!({
        "username": unused_name(&server).await, "password": "a good password",
        "device_id": "PHONE", "initial_device_display_name": "Alice's phone",
    });
    let challenge = anonymous.post("register", body.clone()).await.has_status(401);
    assert!(!text(&challenge, "/session").is_empty());
    assert!(
        challenge["flows"].as_array().unwrap().contains(&json!({ "stages": ["m.login.dummy"] })),
        "{challenge}"
    );

    body["auth"] = json!({ "type": "m.login.dummy", "session": challenge["session"] });
    let answer = anonymous.post("register", body.clone()).await.ok();
    assert_eq!(answer["device_id"], "PHONE");
    let alice = anonymous.logged_in(&answer, "a good password");
    assert!(alice.user_id.starts_with(&format!("@{}:", text(&body, "/username"))));
    must_match(
        &alice.get("account/whoami").await.ok(),
        &json!({ "user_id": alice.user_id, "device_id": "PHONE" }),
    );
    must_match(
        &alice.get(["devices", "PHONE"]).await.ok(),
        &json!({ "display_name": "Alice's phone" }),
    );
}

/// `inhibit_login` makes the account but no session.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register>
#[tokio::test]
async fn registration_can_leave_out_the_login() {
    let server = Server::shared();
    let name = unused_name(&server).await;
    let answer = register(
        &server,
        json!({ "username": name, "password": "a good password", "inhibit_login": true }),
    )
    .await;
    assert!(text(&answer, "/user_id").starts_with(&format!("@{name}:")));
    assert_eq!(answer["access_token"], Value::Null);
    assert_eq!(answer["device_id"], Value::Null);
    let login = json!({
        "type": "m.login.password", "password": "a good password",
        "identifier": { "type": "m.id.user", "user": name },
    });
    server.anonymous().post("login", login).await.ok();
}

/// If the username is omitted, the server makes one up.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register>
#[tokio::test]
async fn registration_without_a_username_gets_one() {
    let server = Server::shared();
    let first = register(&server, json!({ "password": "a good password" })).await;
    let second = register(&server, json!({ "password": "a good password" })).await;
    assert!(text(&first, "/user_id").len() > "@:".len());
    assert_ne!(first["user_id"], second["user_id"]);
}

/// A name is taken once; the check comes before the proof, so that nobody proves in vain.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register>
#[tokio::test]
async fn a_name_in_use_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let body = json!({ "username": alice.localpart(), "password": "another password" });
    server.anonymous().post("register", body).await.fails(400, "M_USER_IN_USE");
    server
        .anonymous()
        .get("register/available")
        .query("username", alice.localpart())
        .await
        .fails(400, "M_USER_IN_USE");
}

/// New user IDs hold lower-case letters, digits and `._=-/+` only, and fit in 255 bytes.
/// Spec: <https://spec.matrix.org/v1.19/appendices/#user-identifiers>
#[tokio::test]
async fn a_name_outside_the_grammar_is_refused() {
    let server = Server::shared();
    let too_long = "x".repeat(256);
    for name in ["sp ace", "ümlaut", "semi;colon", "colon:colon", "@at", &too_long] {
        let body = json!({ "username": name, "password": "a good password" });
        server.anonymous().post("register", body).await.fails(400, "M_INVALID_USERNAME");
        server
            .anonymous()
            .get("register/available")
            .query("username", name)
            .await
            .fails(400, "M_INVALID_USERNAME");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3registeravailable>
#[tokio::test]
async fn a_free_name_is_available() {
    let server = Server::shared();
    let name = unused_name(&server).await;
    let answer = server.anonymous().get("register/available").query("username", &name).await.ok();
    assert_eq!(answer["available"], true);
}

/// `kind` is `user` or `guest`, nothing else.
#[tokio::test]
async fn an_unknown_kind_of_account_is_refused() {
    let server = Server::shared();
    let answer = server
        .anonymous()
        .post("register", json!({ "password": "a good password" }))
        .query("kind", "robot")
        .await;
    assert_eq!(answer.status, 400, "{answer}");
}

/// Guests are off unless the configuration allows them.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#guest-access>
#[tokio::test]
async fn guests_are_refused_by_default() {
    let server = Server::shared();
    server
        .anonymous()
        .post("register", json!({}))
        .query("kind", "guest")
        .await
        .fails(403, "M_FORBIDDEN");
}

/// Whoever knows the shared secret makes an account with one request after the nonce.
#[tokio::test]
async fn the_shared_secret_makes_accounts() {
    let server = Server::shared();
    let admin = server.register_admin("admin").await;
    must_match(&admin.get("account/whoami").await.ok(), &json!({ "user_id": admin.user_id }));
    admin.log_in_again().await;
}

/// A nonce works once, and only with the right proof over all that is sent.
#[tokio::test]
async fn the_shared_secret_needs_a_fresh_nonce_and_the_right_mac() {
    let server = Server::shared();
    let anonymous = server.anonymous();
    let path = "/_synapse/admin/v1/register";
    let name = unused_name(&server).await;
    let request = async |secret: &str, nonce: &str, name: &str, mac_for_admin: bool| {
        let mac = registration_mac(secret, nonce, name, "a good password", mac_for_admin);
        let body = json!({
            "nonce": nonce, "username": name, "password": "a good password",
            "admin": false, "mac": mac,
        });
        anonymous.post(path, body).await
    };
    let nonce = async || text(&anonymous.get(path).await.ok(), "/nonce");

    let made_up = "0".repeat(64);
    assert_eq!(request(Config::SHARED_SECRET, &made_up, &name, false).await.status, 400);
    request("wrong secret", &nonce().await, &name, false).await.fails(403, "M_UNKNOWN");
    request(Config::SHARED_SECRET, &nonce().await, &name, true).await.fails(403, "M_UNKNOWN");

    let used = nonce().await;
    request(Config::SHARED_SECRET, &used, &name, false).await.ok();
    let again = request(Config::SHARED_SECRET, &used, &format!("{name}x"), false).await;
    assert_eq!(again.status, 400, "{again}");
    let taken = request(Config::SHARED_SECRET, &nonce().await, &name, false).await;
    taken.fails(400, "M_USER_IN_USE");
}

/// Registers with whatever `body` says and the dummy proof.
async fn register(server: &Server, mut body: Value) -> Value {
    let challenge = server.anonymous().post("register", body.clone()).await.has_status(401);
    body["auth"] = json!({ "type": "m.login.dummy", "session": challenge["session"] });
    server.anonymous().post("register", body).await.ok()
}

/// A name that nobody has: that of a new user with something added.
async fn unused_name(server: &Server) -> String {
    format!("{}-free", server.register("somebody").await.localpart())
}
