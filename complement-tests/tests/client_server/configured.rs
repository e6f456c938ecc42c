//! Accounts on servers with other settings than the usual ones.

mod check_rooms;
mod deliveries;
mod identity;
mod limits;
mod mail;
mod old_media;
mod presence;
mod push;
mod retention;
mod slow_readers;
mod streams;

use complement_tests::{Client, Config, Server, must_match, text};
use serde_json::{Value, json};

/// Where registration is off nobody gets an account, but those who know the shared secret.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register>
#[tokio::test]
async fn closed_registration_refuses() {
    let server = Server::start(&Config::default().with("registration.enabled", false));
    let body = json!({ "username": "alice", "password": "a good password" });
    server.anonymous().post("register", body).await.fails(403, "M_FORBIDDEN");
    server.register_admin("admin").await;
}

/// A registration token opens the door, as often as its owner gave it out.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#token-authenticated-registration>
#[tokio::test]
async fn a_registration_token_is_needed_and_checked() {
    let config = Config::default().with("registration.require_token", true);
    let config = config.with("registration.tokens", vec!["open-sesame".to_owned()]);
    let server = Server::start(&config);
    let anonymous = server.anonymous();

    let mut body = json!({ "username": "alice", "password": "a good password" });
    let challenge = anonymous.post("register", body.clone()).await.has_status(401);
    let flows = challenge["flows"].as_array().unwrap();
    for flow in flows {
        let stages = flow["stages"].as_array().unwrap();
        assert!(stages.contains(&json!("m.login.registration_token")), "{challenge}");
    }
    let auth = |kind: &str, token: &str| {
        json!({
            "type": kind, "token": token, "session": challenge["session"],
        })
    };

    body["auth"] = auth("m.login.registration_token", "wrong");
    let refusal = anonymous.post("register", body.clone()).await.has_status(401);
    assert_eq!(refusal["session"], challenge["session"]);
    assert!(!refusal["completed"].to_string().contains("registration_token"), "{refusal}");

    body["auth"] = auth("m.login.dummy", "");
    anonymous.post("register", body.clone()).await.has_status(401);

    body["auth"] = auth("m.login.registration_token", "open-sesame");
    let mut answer = anonymous.post("register", body.clone()).await;
    if answer.status == 401 {
        // A server may want the dummy stage as well.
        body["auth"] = auth("m.login.dummy", "");
        answer = anonymous.post("register", body).await;
    }
    assert_eq!(answer.ok()["user_id"], "@alice:complement.test");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity>
#[tokio::test]
async fn a_registration_token_can_be_checked_beforehand() {
    let config = Config::default().with("registration.require_token", true);
    let config = config.with("registration.tokens", vec!["open-sesame".to_owned()]);
    let server = Server::start(&config);
    let path = "/_matrix/client/v1/register/m.login.registration_token/validity";
    let check = async |token: &str| server.anonymous().get(path).query("token", token).await.ok();
    assert_eq!(check("open-sesame").await, json!({ "valid": true }));
    assert_eq!(check("wrong").await, json!({ "valid": false }));
}

/// Guests come in without proof, and may do little.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#guest-access>
#[tokio::test]
async fn guests_have_limits() {
    let server = Server::start(&Config::default().with("registration.allow_guests", true));
    let answer = server.anonymous().post("register", json!({})).query("kind", "guest").await.ok();
    let guest = server.anonymous().logged_in(&answer, "");
    must_match(
        &guest.get("account/whoami").await.ok(),
        &json!({ "user_id": guest.user_id, "is_guest": true }),
    );
    let name = ["profile", guest.user_id.as_str(), "displayname"];
    guest.put(name, json!({ "displayname": "A guest" })).await.ok();

    guest.post("createRoom", json!({})).await.fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    let password = json!({ "new_password": "a good password" });
    guest.post("account/password", password).await.fails(403, "M_GUEST_ACCESS_FORBIDDEN");

    let alice = server.register("alice").await;
    let closed = alice.create_room_with(&[]).await;
    guest.post(["rooms", &closed, "join"], json!({})).await.has_status(403);
    let open = alice.create_room_with(&[]).await;
    alice.set_state(&open, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).await;
    guest.join(&open).await;
    guest.say(&open, "hello").await;
    guest
        .post(["rooms", &open, "invite"], json!({ "user_id": alice.user_id }))
        .await
        .has_status(403);
}

/// Too many wrong passwords for one account: the client is told when to come back.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#rate-limiting>
#[tokio::test]
async fn logins_are_limited_by_account() {
    let server = Server::start(&Config::default().with("rate_limits.enabled", true));
    let alice = server.register("alice").await;
    let mut wrong = alice.password_login();
    wrong["password"] = json!("wrong");
    for attempt in 0..50 {
        let answer = alice.anonymous().post("login", wrong.clone()).await;
        if answer.status == 429 {
            assert!(attempt > 0, "the first attempt is free");
            let after: u64 = answer.header("retry-after").parse().unwrap();
            assert!(after > 0);
            answer.fails(429, "M_LIMIT_EXCEEDED");
            return;
        }
        answer.fails(403, "M_FORBIDDEN");
    }
    panic!("fifty wrong passwords in a row were let through");
}

/// Credentials for calls are those that the TURN server computes from the same secret.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3voipturnserver>
#[tokio::test]
async fn turn_credentials_come_from_the_configuration() {
    let config = Config::default()
        .with("turn.uris", vec!["turn:turn.example.org?transport=udp".to_owned()])
        .with("turn.shared_secret", "between us")
        .with("turn.ttl_seconds", 600);
    let server = Server::start(&config);
    let alice = server.register("alice").await;
    let answer = alice.get("voip/turnServer").await.ok();
    must_match(&answer, &json!({ "uris": ["turn:turn.example.org?transport=udp"], "ttl": 600 }));
    let username = text(&answer, "/username");
    let (expires, user) = username.split_once(':').unwrap();
    assert!(expires.parse::<u64>().unwrap() > 1_600_000_000, "{username}");
    assert_eq!(user, alice.user_id);
    assert_eq!(text(&answer, "/password").len(), 28, "HMAC-SHA1 in Base64: {answer}");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#well-known-uris>
#[tokio::test]
async fn well_known_files_are_served_where_configured() {
    let config = Config::default()
        .with("well_known.client", "https://matrix.example.org")
        .with("well_known.server", "matrix.example.org:443")
        .with("well_known.support.support_page", "https://example.org/help");
    let server = Server::start(&config);
    let support = server.get("/.well-known/matrix/support").await.ok();
    assert_eq!(support, json!({ "support_page": "https://example.org/help" }));
    let client = server.get("/.well-known/matrix/client").await;
    assert_eq!(client.header("access-control-allow-origin"), "*");
    must_match(
        &client.ok(),
        &json!({ "m.homeserver": { "base_url": "https://matrix.example.org" } }),
    );
    assert_eq!(
        server.get("/.well-known/matrix/server").await.ok(),
        json!({ "m.server": "matrix.example.org:443" })
    );
    let other = Server::shared();
    assert_eq!(other.get("/.well-known/matrix/client").await.status, 404);
    assert_eq!(other.get("/.well-known/matrix/server").await.status, 404);
    assert_eq!(other.get("/.well-known/matrix/support").await.status, 404);
}

/// A server with no configuration at all prints one token, and lets in who has it.
#[tokio::test]
async fn a_server_without_a_configuration_lets_its_owner_in() {
    let server = Server::start_without_file();
    let token = server.wait_for_log(|log| {
        let after =
            log.split("registration token").nth(1).or(log.split("Registration token").nth(1))?;
        let token = after.split_whitespace().map(|word| word.trim_matches(['"', '`', ':', '.']));
        token.filter(|word| word.len() >= 8).map(str::to_owned).next()
    });
    let alice = register_with_token(&server, "alice", &token).await;
    assert_eq!(alice.user_id, "@alice:localhost");
    alice.create_room(json!({})).await;

    server.kill_and_start_again();
    alice.get("account/whoami").await.ok();
    register_with_token(&server, "bob", &token).await;
}

async fn register_with_token(server: &Server, name: &str, token: &str) -> Client {
    let anonymous = server.anonymous();
    let mut body = json!({ "username": name, "password": "a good password" });
    let challenge = anonymous.post("register", body.clone()).await.has_status(401);
    let session = &challenge["session"];
    body["auth"] =
        json!({ "type": "m.login.registration_token", "token": token, "session": session });
    let mut answer: Value = anonymous.post("register", body.clone()).await.json;
    if answer["completed"].is_array() {
        body["auth"] = json!({ "type": "m.login.dummy", "session": session });
        answer = anonymous.post("register", body).await.json;
    }
    anonymous.logged_in(&answer, "a good password")
}

/// Where delayed events are off nothing is scheduled, and nothing sent at once instead.
#[tokio::test]
async fn delayed_events_can_be_off() {
    let server = Server::start(&Config::default().with("delayed_events.max_delay_ms", 0));
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = ["rooms", room.as_str(), "send", "m.room.message", "t"];
    let request = alice.put(path, json!({ "body": "later" }));
    request.query("org.matrix.msc4140.delay", "1000").await.fails(403, "M_FORBIDDEN");
    let versions = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(versions["unstable_features"]["org.matrix.msc4140"], false);
    let capabilities = alice.get("capabilities").await.ok();
    assert!(capabilities["capabilities"]["org.matrix.msc4140.delayed_events"].is_null());
}
