//! User-interactive authentication: proving again who one is, before what cannot be undone.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>

use complement_tests::{Server, text};
use reqwest::Method;
use serde_json::json;

/// A wrong password is answered by 401 with the same session, which goes on.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-api-in-the-rest-api>
#[tokio::test]
async fn a_failed_stage_keeps_the_session() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let other = alice.log_in_again().await;
    let path = ["devices", other.device_id.as_str()];

    let challenge = alice.delete(path).await.has_status(401);
    let flows = challenge["flows"].as_array().unwrap();
    assert!(flows.contains(&json!({ "stages": ["m.login.password"] })), "{challenge}");
    assert!(challenge["errcode"].is_null(), "nothing has failed yet: {challenge}");

    let mut proof = alice.password_proof(&challenge);
    proof["password"] = json!("a wrong password");
    let refusal = alice.delete(path).json(&json!({ "auth": proof })).await;
    assert_eq!((refusal.status, refusal.errcode()), (401, "M_FORBIDDEN"), "{refusal}");
    assert_eq!(refusal.json["session"], challenge["session"]);
    assert_eq!(refusal.json["flows"], challenge["flows"]);

    let proof = alice.password_proof(&challenge);
    alice.delete(path).json(&json!({ "auth": proof })).await.ok();
    alice.get(path).await.fails(404, "M_NOT_FOUND");
}

/// The proof must be of the user whose token is used.
#[tokio::test]
async fn another_users_password_is_no_proof() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let mallory = server.register("mallory").await;
    let path = ["devices", alice.device_id.as_str()];
    let challenge = alice.delete(path).await.has_status(401);
    let proof = mallory.password_proof(&challenge);
    let refusal = alice.delete(path).json(&json!({ "auth": proof })).await;
    assert!([401, 403].contains(&refusal.status), "{refusal}");
    alice.get(path).await.ok();
}

/// A session belongs to the request it was opened for: proofs given to delete
/// one device do not delete another, and end with the request that used them.
#[tokio::test]
async fn a_session_cannot_be_used_for_something_else() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let (first, second) = (alice.log_in_again().await, alice.log_in_again().await);

    let challenge = alice.delete(["devices", &first.device_id]).await.has_status(401);
    let auth = json!({ "auth": alice.password_proof(&challenge) });
    alice.delete(["devices", &first.device_id]).json(&auth).await.ok();

    let session_only = json!({ "auth": { "session": challenge["session"] } });
    let refusal = alice.delete(["devices", &second.device_id]).json(&session_only).await;
    assert!([400, 401, 403].contains(&refusal.status), "{refusal}");
    alice.get(["devices", &second.device_id]).await.ok();
}

/// A session that the server never gave is refused, whatever the proof.
#[tokio::test]
async fn a_made_up_session_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let challenge = json!({ "session": "made-up" });
    let auth = json!({ "auth": alice.password_proof(&challenge) });
    let refusal = alice.delete(["devices", &alice.device_id]).json(&auth).await;
    assert!([400, 401, 403].contains(&refusal.status), "{refusal}");
    alice.get("account/whoami").await.ok();
}

/// The stages of an unknown kind are refused without ending the session.
#[tokio::test]
async fn an_unknown_stage_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let other = alice.log_in_again().await;
    let path = ["devices", other.device_id.as_str()];
    let challenge = alice.delete(path).await.has_status(401);
    let auth = json!({ "auth": { "type": "org.example.wink", "session": challenge["session"] } });
    let refusal = alice.request(Method::DELETE, path).json(&auth).await;
    assert!([400, 401].contains(&refusal.status), "{refusal}");
    let auth = json!({ "auth": alice.password_proof(&challenge) });
    alice.delete(path).json(&auth).await.ok();
}

/// A browser can do a stage for a client that does not know it; stages that
/// need no page are no reason to fail with a server error.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#fallback>
#[tokio::test]
async fn the_fallback_page_of_an_unknown_session_is_no_server_error() {
    let server = Server::shared();
    let path = "auth/m.login.dummy/fallback/web";
    let answer = server.anonymous().get(path).query("session", "made-up").await;
    assert!((200..500).contains(&answer.status), "{answer}");
}

/// Whoever guessed a session could finish what its owner began.
#[tokio::test]
async fn a_session_id_is_long_enough_not_to_be_guessed() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let first = alice.delete(["devices", &alice.device_id]).await.has_status(401);
    let second = alice.delete(["devices", &alice.device_id]).await.has_status(401);
    assert_ne!(first["session"], second["session"]);
    assert!(text(&first, "/session").len() >= 16);
}
