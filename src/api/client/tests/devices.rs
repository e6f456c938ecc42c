//! Tokens and devices, and how whoever changes them proves who they are.

use super::*;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens>
#[tokio::test]
async fn an_access_token_that_expires_is_refreshed() {
    let server = TestServer::open().await;
    server.register("alice").await;
    let mut login = password_login("alice");
    login["refresh_token"] = json!(true);
    let (_, answer) = server.post("/v3/login", None, login).await;
    let old = TestUser::from(&answer);
    let lifetime = answer["expires_in_ms"].as_u64().unwrap();
    server.clock.advance(std::time::Duration::from_millis(lifetime));
    let expired = server.get("/v3/account/whoami", Some(&old)).await;
    assert_eq!(refused(&expired), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(expired.1["soft_logout"], true);
    let body = json!({ "refresh_token": answer["refresh_token"] });
    let (status, fresh) = server.post("/v3/refresh", None, body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{fresh}");
    let new = TestUser::from(&fresh);
    assert_eq!(server.get("/v3/account/whoami", Some(&new)).await.0, StatusCode::OK);
    let used = server.post("/v3/refresh", None, body).await;
    assert_eq!(refused(&used), (401, "M_UNKNOWN_TOKEN"));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>
#[tokio::test]
async fn deleting_a_device_takes_the_password_and_the_same_request() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let (_, phone) = server.post("/v3/login", None, password_login("alice")).await;
    let phone = TestUser::from(&phone);
    let path = format!("/v3/devices/{}", phone.device_id);
    let asked = server.delete(&path, &alice, json!({})).await;
    assert_eq!(asked.1["flows"], json!([{ "stages": ["m.login.password"] }]));
    let auth = |session: &Value, user: &str, password: &str| {
        json!({ "auth": {
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user },
            "password": password,
            "session": session,
        }})
    };
    let session = &asked.1["session"];
    let wrong = server.delete(&path, &alice, auth(session, "alice", "guess")).await;
    assert_eq!(refused(&wrong), (401, "M_FORBIDDEN"));
    assert_eq!(&wrong.1["session"], session);
    let somebody = server.delete(&path, &alice, auth(session, "bob", "secret")).await;
    assert_eq!(refused(&somebody), (401, "M_FORBIDDEN"));
    let right = auth(session, "alice", "secret");
    let other = format!("/v3/devices/{}", alice.device_id);
    let changed = server.delete(&other, &alice, right.clone()).await;
    assert_eq!(refused(&changed), (403, "M_FORBIDDEN"));
    let stolen = server.delete(&path, &bob, auth(session, "bob", "secret")).await;
    assert_eq!(refused(&stolen), (403, "M_FORBIDDEN"));
    assert_eq!(server.get("/v3/account/whoami", Some(&phone)).await.0, StatusCode::OK);
    assert_eq!(server.delete(&path, &alice, right).await, (StatusCode::OK, json!({})));
    let gone = server.get("/v3/account/whoami", Some(&phone)).await;
    assert_eq!(refused(&gone), (401, "M_UNKNOWN_TOKEN"));
}

/// The homeserver gives out the sessions: one that a client made up, or whose time is over, proves
/// nothing.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>
#[tokio::test]
async fn an_unknown_authentication_session_is_refused_and_a_new_one_given() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let path = format!("/v3/devices/{}", alice.device_id);
    let with = |session: &Value| {
        json!({ "auth": {
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "secret",
            "session": session,
        }})
    };
    for session in ["made-up".to_owned(), String::new(), "x".repeat(1_000)] {
        let made_up = server.delete(&path, &alice, with(&json!(session))).await;
        assert_eq!(refused(&made_up), (401, "M_UNKNOWN"));
        assert_ne!(made_up.1["session"], session.as_str());
    }
    let asked = server.delete(&path, &alice, json!({})).await;
    server.clock.advance(std::time::Duration::from_hours(1));
    let expired = server.delete(&path, &alice, with(&asked.1["session"])).await;
    assert_eq!(refused(&expired), (401, "M_UNKNOWN"));
    assert_eq!(server.get("/v3/account/whoami", Some(&alice)).await.0, StatusCode::OK);
    let right = server.delete(&path, &alice, with(&expired.1["session"])).await;
    assert_eq!(right, (StatusCode::OK, json!({})));
}

#[tokio::test]
async fn devices_are_listed_named_and_found() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let path = format!("/v3/devices/{}", alice.device_id);
    server.put(&path, &alice, json!({ "display_name": "laptop" })).await;
    let (_, device) = server.get(&path, Some(&alice)).await;
    assert_eq!(device["display_name"], "laptop");
    assert_eq!(device["last_seen_ip"], "192.0.2.1");
    let (_, list) = server.get("/v3/devices", Some(&alice)).await;
    assert_eq!(list["devices"].as_array().unwrap().len(), 1);
    let unknown = server.put("/v3/devices/NONE", &alice, json!({})).await;
    assert_eq!(refused(&unknown), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn changing_the_password_logs_out_the_other_devices() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let (_, phone) = server.post("/v3/login", None, password_login("alice")).await;
    let phone = TestUser::from(&phone);
    let body = json!({
        "new_password": "better",
        "auth": {
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "secret",
        },
    });
    let changed = server.post("/v3/account/password", Some(&alice), body).await;
    assert_eq!(changed, (StatusCode::OK, json!({})));
    assert_eq!(server.get("/v3/account/whoami", Some(&alice)).await.0, StatusCode::OK);
    let gone = server.get("/v3/account/whoami", Some(&phone)).await;
    assert_eq!(refused(&gone), (401, "M_UNKNOWN_TOKEN"));
    let old = server.post("/v3/login", None, password_login("alice")).await;
    assert_eq!(refused(&old), (403, "M_FORBIDDEN"));
    let forgotten = json!({ "new_password": "better" });
    let forgotten = server.post("/v3/account/password", None, forgotten).await;
    assert_eq!(refused(&forgotten), (401, "M_MISSING_TOKEN"));
}
