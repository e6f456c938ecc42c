//! Endpoints of accounts through the real router.

mod addresses;
mod devices;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api::testing::{Answer, TestServer, TestUser, open_config};

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["errcode"].as_str().unwrap_or_default())
}

fn password_login(user: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": "secret",
    })
}

/// The flow every client goes through at first.
#[tokio::test]
async fn register_log_in_ask_who_i_am_log_out() {
    let server = TestServer::open().await;
    let asked = server.post("/v3/register", None, json!({})).await;
    assert_eq!(asked.0, StatusCode::UNAUTHORIZED);
    assert_eq!(asked.1["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    assert_eq!(asked.1["params"], json!({}));
    let body = json!({
        "username": "Alice",
        "password": "secret",
        "auth": { "type": "m.login.dummy", "session": asked.1["session"] },
    });
    let (status, answer) = server.post("/v3/register", None, body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["user_id"], "@alice:localhost");
    let again = server.post("/v3/register", None, body).await;
    assert_eq!(refused(&again), (400, "M_USER_IN_USE"));

    for name in ["alice", "@alice:localhost", "ALICE"] {
        let (status, answer) = server.post("/r0/login", None, password_login(name)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let alice = TestUser::from(&answer);
        let (_, me) = server.get("/v3/account/whoami", Some(&alice)).await;
        assert_eq!(me["user_id"], "@alice:localhost");
        assert_eq!(me["device_id"], alice.device_id.as_str());
        server.post("/v3/logout", Some(&alice), json!({})).await;
        let gone = server.get("/v3/account/whoami", Some(&alice)).await;
        assert_eq!(refused(&gone), (401, "M_UNKNOWN_TOKEN"));
        assert_ne!(gone.1["soft_logout"], true);
    }
    let missing = server.get("/v3/account/whoami", None).await;
    assert_eq!(refused(&missing), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn logins_that_are_wrong_are_refused_alike() {
    let server = TestServer::open().await;
    server.register("alice").await;
    let mut wrong = password_login("alice");
    wrong["password"] = json!("guess");
    assert_eq!(refused(&server.post("/v3/login", None, wrong).await), (403, "M_FORBIDDEN"));
    let unknown = server.post("/v3/login", None, password_login("bob")).await;
    assert_eq!(refused(&unknown), (403, "M_FORBIDDEN"));
    let elsewhere = server.post("/v3/login", None, password_login("@alice:other.example")).await;
    assert_eq!(refused(&elsewhere), (403, "M_FORBIDDEN"));
    let no_type = server.post("/v3/login", None, json!({})).await;
    assert_eq!(refused(&no_type), (400, "M_MISSING_PARAM"));
    let odd = server.post("/v3/login", None, json!({ "type": "m.login.magic" })).await;
    assert_eq!(refused(&odd), (400, "M_UNKNOWN"));
    let list = server.post("/v3/login", None, json!([])).await;
    assert_eq!(refused(&list), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn failed_logins_are_limited_by_account() {
    let mut config = open_config();
    config.rate_limits.enabled = true;
    let server = TestServer::new(&config).await;
    server.register("alice").await;
    let mut wrong = password_login("alice");
    wrong["password"] = json!("guess");
    for _ in 0..5 {
        server.post("/v3/login", None, wrong.clone()).await;
    }
    let limited = server.post("/v3/login", None, wrong).await;
    assert_eq!(refused(&limited), (429, "M_LIMIT_EXCEEDED"));
    assert!(limited.1["retry_after_ms"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn names_that_cannot_be_had() {
    let server = TestServer::open().await;
    server.register("alice").await;
    let available = |name: &'static str| {
        let path = format!("/v3/register/available?username={name}");
        let server = &server;
        async move { server.get(&path, None).await }
    };
    assert_eq!(available("bob").await.1, json!({ "available": true }));
    assert_eq!(refused(&available("alice").await), (400, "M_USER_IN_USE"));
    for name in ["", "a%20b", "%C3%A4", "_bridge", "12345", "a!b"] {
        assert_eq!(refused(&available(name).await), (400, "M_INVALID_USERNAME"), "{name}");
    }
    let long = json!({ "username": "a".repeat(250), "password": "secret" });
    let long = server.post("/v3/register", None, long).await;
    assert_eq!(refused(&long), (400, "M_INVALID_USERNAME"));
}

#[tokio::test]
async fn registration_takes_a_token_that_is_made_at_the_first_start() {
    let mut config = open_config();
    config.registration.require_token = true;
    let server = TestServer::new(&config).await;
    let token = server.server.first_registration_token().await.unwrap().unwrap();
    assert_eq!(server.server.first_registration_token().await.unwrap(), None);
    let path = "/v1/register/m.login.registration_token/validity";
    let (_, valid) = server.get(&format!("{path}?token={token}"), None).await;
    assert_eq!(valid, json!({ "valid": true }));
    let (_, valid) = server.get(&format!("{path}?token=guess"), None).await;
    assert_eq!(valid, json!({ "valid": false }));

    let register = |auth: Value| {
        let body = json!({ "username": "alice", "password": "secret", "auth": auth });
        let server = &server;
        async move { server.post("/v3/register", None, body).await }
    };
    let dummy = register(json!({ "type": "m.login.dummy" })).await;
    assert_eq!(refused(&dummy), (401, "M_UNRECOGNIZED"));
    let guess = json!({ "type": "m.login.registration_token", "token": "guess" });
    assert_eq!(refused(&register(guess).await), (401, "M_UNAUTHORIZED"));
    let right = json!({ "type": "m.login.registration_token", "token": token });
    assert_eq!(register(right).await.0, StatusCode::OK);
}

#[tokio::test]
async fn registration_and_guests_are_off_unless_configured() {
    let mut config = open_config();
    config.registration.enabled = false;
    let server = TestServer::new(&config).await;
    let user = server.post("/v3/register", None, json!({ "username": "alice" })).await;
    assert_eq!(refused(&user), (403, "M_FORBIDDEN"));
    let guest = server.post("/v3/register?kind=guest", None, json!({})).await;
    assert_eq!(refused(&guest), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn tokens_survive_a_restart() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let server = server.restarted(&open_config()).await;
    let (_, me) = server.get("/v3/account/whoami", Some(&alice)).await;
    assert_eq!(me["user_id"], "@alice:localhost");
    assert_eq!(server.post("/v3/login", None, password_login("alice")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_closed_account_is_gone_and_its_name_stays_taken() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let user = format!("/v3/user/{}", alice.user_id);
    server.put(&format!("{user}/account_data/a.b"), &alice, json!({})).await;
    let body = json!({
        "erase": true,
        "auth": {
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "secret",
        },
    });
    let (status, answer) = server.post("/v3/account/deactivate", Some(&alice), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["id_server_unbind_result"], "success");
    let gone = server.get("/v3/account/whoami", Some(&alice)).await;
    assert_eq!(refused(&gone), (401, "M_UNKNOWN_TOKEN"));
    let closed = server.post("/v3/login", None, password_login("alice")).await;
    assert_eq!(refused(&closed), (403, "M_USER_DEACTIVATED"));
    let profile = server.get("/v3/profile/@alice:localhost", None).await;
    assert_eq!(refused(&profile), (404, "M_NOT_FOUND"));
    let taken = server.get("/v3/register/available?username=alice", None).await;
    assert_eq!(refused(&taken), (400, "M_USER_IN_USE"));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
#[tokio::test]
async fn a_closed_account_leaves_its_rooms() {
    let server = TestServer::open().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let body = json!({ "invite": [bob.user_id] });
    let (_, room) = server.post("/v3/createRoom", Some(&alice), body).await;
    let path = format!("/v3/rooms/{}", room["room_id"].as_str().unwrap());
    let joined = server.post(&format!("{path}/join"), Some(&bob), json!({})).await;
    assert_eq!(joined.0, StatusCode::OK);
    let body = json!({ "auth": {
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "bob" },
        "password": "secret",
    }});
    let closed = server.post("/v3/account/deactivate", Some(&bob), body).await;
    assert_eq!(closed.0, StatusCode::OK);
    // The answer does not wait for the rooms.
    let members = format!("{path}/joined_members");
    let left = async {
        loop {
            let (_, answer) = server.get(&members, Some(&alice)).await;
            if answer["joined"].as_object().unwrap().keys().eq([&alice.user_id]) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), left).await.unwrap();
    let member = format!("{path}/state/m.room.member/{}", bob.user_id);
    assert_eq!(server.get(&member, Some(&alice)).await.1["membership"], "leave");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidforget>
#[tokio::test]
async fn a_room_is_forgotten_only_after_leaving_it() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let (_, room) = server.post("/v3/createRoom", Some(&alice), json!({})).await;
    let path = format!("/v3/rooms/{}", room["room_id"].as_str().unwrap());
    let forget = async || server.post(&format!("{path}/forget"), Some(&alice), json!({})).await;
    assert_eq!(refused(&forget().await), (400, "M_UNKNOWN"));
    server.post(&format!("{path}/leave"), Some(&alice), json!({})).await;
    assert_eq!(forget().await, (StatusCode::OK, json!({})));
}

#[tokio::test]
async fn a_login_token_logs_in_once() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let asked = server.post("/v1/login/get_token", Some(&alice), json!({})).await;
    assert_eq!(asked.0, StatusCode::UNAUTHORIZED);
    let body = json!({ "auth": {
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "secret",
        "session": asked.1["session"],
    }});
    let (_, given) = server.post("/v1/login/get_token", Some(&alice), body).await;
    assert_eq!(given["expires_in_ms"], 120_000);
    let login = json!({ "type": "m.login.token", "token": given["login_token"] });
    let (status, answer) = server.post("/v3/login", None, login.clone()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let again = server.post("/v3/login", None, login).await;
    assert_eq!(refused(&again), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn profiles_are_public_and_changed_by_their_users_only() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = "/v3/profile/@alice:localhost";
    let (_, profile) = server.get(path, None).await;
    assert_eq!(profile, json!({ "displayname": "alice" }));
    let name = json!({ "displayname": "Alice L." });
    let set = server.put(&format!("{path}/displayname"), &alice, name.clone()).await;
    assert_eq!(set, (StatusCode::OK, json!({})));
    assert_eq!(server.get(&format!("{path}/displayname"), None).await.1, name);
    let other = server.put(&format!("{path}/displayname"), &bob, name).await;
    assert_eq!(refused(&other), (403, "M_FORBIDDEN"));
    let missing = server.put(&format!("{path}/m.tz"), &alice, json!({ "x": 1 })).await;
    assert_eq!(refused(&missing), (400, "M_MISSING_PARAM"));
    let zone = json!({ "m.tz": "Europe/Vienna" });
    server.put(&format!("{path}/m.tz"), &alice, zone.clone()).await;
    assert_eq!(server.get(&format!("{path}/m.tz"), None).await.1, zone);
    server.delete(&format!("{path}/m.tz"), &alice, json!({})).await;
    let gone = server.get(&format!("{path}/m.tz"), None).await;
    assert_eq!(refused(&gone), (404, "M_NOT_FOUND"));
    let key = "k".repeat(256);
    let long = server.put(&format!("{path}/{key}"), &alice, json!({ key: 1 })).await;
    assert_eq!(refused(&long), (400, "M_KEY_TOO_LARGE"));
    let large = json!({ "a.b": "x".repeat(70_000) });
    let large = server.put(&format!("{path}/a.b"), &alice, large).await;
    assert_eq!(refused(&large), (400, "M_PROFILE_TOO_LARGE"));
    let nobody = server.get("/v3/profile/@nobody:localhost", None).await;
    assert_eq!(refused(&nobody), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn account_data_is_ones_own() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = "/v3/user/@alice:localhost/account_data";
    let data = json!({ "@bob:localhost": ["!a:localhost"] });
    let set = server.put(&format!("{path}/m.direct"), &alice, data.clone()).await;
    assert_eq!(set, (StatusCode::OK, json!({})));
    assert_eq!(server.get(&format!("{path}/m.direct"), Some(&alice)).await.1, data);
    let other = server.get(&format!("{path}/m.direct"), Some(&bob)).await;
    assert_eq!(refused(&other), (403, "M_FORBIDDEN"));
    let none = server.get(&format!("{path}/none"), Some(&alice)).await;
    assert_eq!(refused(&none), (404, "M_NOT_FOUND"));
    for kind in ["m.push_rules", "m.fully_read"] {
        let managed = server.put(&format!("{path}/{kind}"), &alice, json!({})).await;
        assert_eq!(refused(&managed), (405, "M_BAD_JSON"));
    }
    let list = server.put(&format!("{path}/a"), &alice, json!([])).await;
    assert_eq!(refused(&list), (400, "M_BAD_JSON"));
    let room = "/v3/user/@alice:localhost/rooms/!unknown:localhost/tags";
    let room = server.get(room, Some(&alice)).await;
    assert_eq!(refused(&room), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn filters_are_stored_and_validated() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let path = "/v3/user/@alice:localhost/filter";
    let filter = json!({ "room": { "timeline": { "limit": 7 } } });
    let (_, answer) = server.post(path, Some(&alice), filter.clone()).await;
    let id = answer["filter_id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{path}/{id}"), Some(&alice)).await.1, filter);
    for wrong in
        [json!({ "room": { "timeline": { "limit": "seven" } } }), json!({ "event_format": "xml" })]
    {
        let wrong = server.post(path, Some(&alice), wrong).await;
        assert_eq!(refused(&wrong), (400, "M_BAD_JSON"));
    }
    let inline = "/v3/sync?filter=%7B%22event_format%22%3A%22xml%22%7D";
    assert_eq!(refused(&server.get(inline, Some(&alice)).await), (400, "M_BAD_JSON"));
    let federation = json!({ "event_format": "federation" });
    assert_eq!(server.post(path, Some(&alice), federation).await.0, StatusCode::OK);
    let none = server.get(&format!("{path}/none"), Some(&alice)).await;
    assert_eq!(refused(&none), (404, "M_NOT_FOUND"));
}

/// As `register_new_matrix_user` does it.
#[tokio::test]
async fn scripts_register_with_the_shared_secret() {
    use hmac::{Hmac, KeyInit, Mac};
    let mut config = open_config();
    config.registration.enabled = false;
    config.registration.shared_secret = Some("shared".into());
    let server = TestServer::new(&config).await;
    let path = "/_synapse/admin/v1/register";
    let (_, answer) = server.request(Method::GET, path, None, None).await;
    let nonce = answer["nonce"].as_str().unwrap();
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"shared").unwrap();
    mac.update(format!("{nonce}\0alice\0secret\0admin").as_bytes());
    let mac: Vec<String> =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let mac = mac.concat();
    let mut body = json!({
        "nonce": nonce, "username": "alice", "password": "secret", "admin": false, "mac": mac,
    });
    let wrong = server.request(Method::POST, path, None, Some(&body)).await;
    assert_eq!(refused(&wrong), (403, "M_UNKNOWN"));
    body["nonce"] = json!("made-up");
    let made_up = server.request(Method::POST, path, None, Some(&body)).await;
    assert_eq!(refused(&made_up), (400, "M_UNKNOWN"));
    body["nonce"] = json!(nonce);
    body["admin"] = json!(true);
    let (status, answer) = server.request(Method::POST, path, None, Some(&body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["user_id"], "@alice:localhost");
    assert_eq!(answer["home_server"], "localhost");
    let again = server.request(Method::POST, path, None, Some(&body)).await;
    assert_eq!(refused(&again), (400, "M_UNKNOWN"));
    assert_eq!(server.post("/v3/login", None, password_login("alice")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn guests_may_look_around_where_they_are_allowed() {
    let mut config = open_config();
    config.registration.allow_guests = true;
    let server = TestServer::new(&config).await;
    let (status, answer) = server.post("/v3/register?kind=guest", None, json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let guest = TestUser::from(&answer);
    let (_, me) = server.get("/v3/account/whoami", Some(&guest)).await;
    assert_eq!(me["is_guest"], true);
    let refused_to_guest = server.get("/v3/capabilities", Some(&guest)).await;
    assert_eq!(refused(&refused_to_guest), (403, "M_GUEST_ACCESS_FORBIDDEN"));
    // These can be used without a token too, but not by a guest.
    for path in ["/v3/account/password", "/v3/account/deactivate"] {
        let answer = server.post(path, Some(&guest), json!({ "new_password": "better" })).await;
        assert_eq!(refused(&answer), (403, "M_GUEST_ACCESS_FORBIDDEN"), "{path}");
    }
    assert_eq!(server.get("/versions", Some(&guest)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn others_ask_who_an_openid_token_names() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let path = "/v3/user/@alice:localhost/openid/request_token";
    let (_, given) = server.post(path, Some(&alice), json!({})).await;
    assert_eq!(given["matrix_server_name"], "localhost");
    let ask = |token: String| {
        let path = format!("/_matrix/federation/v1/openid/userinfo?access_token={token}");
        let server = &server;
        async move { server.request(Method::GET, &path, None, None).await }
    };
    let token = given["access_token"].as_str().unwrap().to_owned();
    assert_eq!(ask(token.clone()).await.1, json!({ "sub": "@alice:localhost" }));
    assert_eq!(refused(&ask("guess".into()).await), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(refused(&ask(alice.token.clone()).await), (401, "M_UNKNOWN_TOKEN"));
    server.clock.advance(std::time::Duration::from_hours(1));
    assert_eq!(refused(&ask(token).await), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn turn_credentials_expire() {
    let mut config = open_config();
    config.turn.uris = vec!["turn:turn.localhost".to_owned()];
    config.turn.shared_secret = Some("shared".into());
    let server = TestServer::new(&config).await;
    let alice = server.register("alice").await;
    let (_, turn) = server.get("/v3/voip/turnServer", Some(&alice)).await;
    assert_eq!(turn["username"], "1700086400:@alice:localhost");
    assert_eq!(turn["ttl"], 86_400);
    assert_eq!(turn["password"].as_str().unwrap().len(), 28);
}

#[tokio::test]
async fn whois_is_for_oneself_and_administrators() {
    let server = TestServer::open().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (_, own) = server.get("/v3/admin/whois/@alice:localhost", Some(&alice)).await;
    let connection = &own["devices"][&alice.device_id]["sessions"][0]["connections"][0];
    assert_eq!(connection["ip"], "192.0.2.1");
    let other = server.get("/v3/admin/whois/@alice:localhost", Some(&bob)).await;
    assert_eq!(refused(&other), (403, "M_FORBIDDEN"));
}
