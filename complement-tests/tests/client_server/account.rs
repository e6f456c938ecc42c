//! The account itself: who am I, password, end.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-management>

use complement_tests::{Server, must_match};
use reqwest::Method;
use serde_json::{Value, json};

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami>
#[tokio::test]
async fn whoami_names_user_and_device() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let answer = alice.get("account/whoami").await.ok();
    must_match(&answer, &json!({ "user_id": alice.user_id, "device_id": alice.device_id }));
    assert_ne!(answer["is_guest"], true);
}

/// A new password replaces the old one and ends the user's other sessions.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword>
#[tokio::test]
async fn changing_the_password_logs_other_devices_out() {
    let server = Server::shared();
    let mut alice = server.register("alice").await;
    let other = alice.log_in_again().await;
    let body = json!({ "new_password": "a better password" });
    alice.with_password(Method::POST, "account/password", body).await.ok();
    alice.get("account/whoami").await.ok();
    other.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    let old = alice.password_login();
    alice.anonymous().post("login", old).await.fails(403, "M_FORBIDDEN");
    alice.password = "a better password".to_owned();
    alice.log_in_again().await;
}

/// The user may keep the other sessions.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword>
#[tokio::test]
async fn changing_the_password_can_keep_other_devices() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let other = alice.log_in_again().await;
    let body = json!({ "new_password": "a better password", "logout_devices": false });
    alice.with_password(Method::POST, "account/password", body).await.ok();
    other.get("account/whoami").await.ok();
}

/// The old password must be proved.
#[tokio::test]
async fn the_password_is_not_changed_without_proof() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let mut body = json!({ "new_password": "a better password" });
    let challenge = alice.post("account/password", body.clone()).await.has_status(401);
    body["auth"] = alice.password_proof(&challenge);
    body["auth"]["password"] = json!("wrong");
    alice.post("account/password", body).await.fails(401, "M_FORBIDDEN");
    alice.log_in_again().await;
}

/// A deactivated account is over: no session, no login, the name stays taken.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
#[tokio::test]
async fn a_deactivated_account_is_over() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let other = alice.log_in_again().await;
    let answer = alice.with_password(Method::POST, "account/deactivate", json!({})).await.ok();
    let unbound = &answer["id_server_unbind_result"];
    assert!(["success", "no-support"].map(Value::from).contains(unbound), "{answer}");
    alice.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    other.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");

    let login = alice.anonymous().post("login", alice.password_login()).await;
    assert_eq!(login.status, 403, "{login}");
    assert!(["M_FORBIDDEN", "M_USER_DEACTIVATED"].contains(&login.errcode()), "{login}");
    let again = json!({ "username": alice.localpart(), "password": "a good password" });
    let refusal = alice.anonymous().post("register", again).await;
    assert_eq!(refusal.status, 400, "{refusal}");
}

/// Whoever deactivates leaves all rooms and refuses all invites.
#[tokio::test]
async fn deactivation_leaves_rooms() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let joined = bob.create_room_with(&[&alice]).await;
    let invited = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    alice.with_password(Method::POST, "account/deactivate", json!({})).await.ok();

    // Leaving may go on after the answer.
    for room in [joined, invited] {
        let mut sync = bob.sync();
        let gone = |response: &Value| {
            let joined = &response["rooms"]["join"][&room];
            let state = joined["state"]["events"].as_array().into_iter().flatten();
            let timeline = joined["timeline"]["events"].as_array().into_iter().flatten();
            let mut events = state.chain(timeline);
            events
                .rfind(|event| {
                    event["type"] == "m.room.member" && event["state_key"] == alice.user_id
                })
                .filter(|event| event["content"]["membership"] == "leave")
                .map(|_| ())
        };
        sync.until(gone).await;
        assert_eq!(bob.membership(&room, &alice.user_id).await, "leave");
    }
}

/// With `erase`, the profile goes too.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
#[tokio::test]
async fn erasure_removes_the_profile() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice
        .put(["profile", &alice.user_id, "displayname"], json!({ "displayname": "Alice A." }))
        .await
        .ok();
    let body = json!({ "erase": true });
    alice.with_password(Method::POST, "account/deactivate", body).await.ok();
    let profile = bob.get(["profile", &alice.user_id]).await;
    assert!(!profile.text.contains("Alice A."), "{profile}");
}

/// The proof must be right.
#[tokio::test]
async fn deactivation_needs_proof() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let challenge = alice.post("account/deactivate", json!({})).await.has_status(401);
    let mut auth = alice.password_proof(&challenge);
    auth["password"] = json!("wrong");
    let answer = alice.post("account/deactivate", json!({ "auth": auth })).await;
    assert_eq!(answer.status, 401, "{answer}");
    alice.get("account/whoami").await.ok();
}
