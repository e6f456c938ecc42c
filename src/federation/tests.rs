//! Servers that meet: keys, signatures, questions.

use federation::Purpose;
use http::{Method, Request, StatusCode, header};
use ruma::{OwnedServerName, server_name};
use serde_json::{Value, json};

use super::testing::Network;
use crate::{
    api::testing::{Answer, TestServer, open_config},
    clock::{Clock, Random},
    config::Config,
    rooms::keys::ServerKey,
    storage::Db,
};

const START_MS: u64 = 1_700_000_000_000;

fn config(name: &str) -> Config {
    let mut config = open_config();
    config.server_name = OwnedServerName::try_from(name).unwrap();
    config
}

async fn server(network: &Network, name: &str, seed: u64) -> TestServer {
    let clock = Clock::manual(START_MS);
    TestServer::among(network, &config(name), Db::in_memory().await, clock, seed).await
}

/// Sends a request signed by `from`, of which something may be changed on the way.
async fn signed(
    from: &TestServer,
    to: &TestServer,
    path: &str,
    change: impl FnOnce(&mut Request<axum::body::Body>),
) -> Answer {
    use ruma::api::federation::authentication::{XMatrix, XMatrixSigningInput};
    let federation = from.server.federation();
    let request = Request::builder().method(Method::GET).uri(path).body(&[][..]).unwrap();
    let destination = to.server.federation().server_name().to_owned();
    let key_pair = &federation.shared.key_pair;
    let input =
        XMatrixSigningInput::new(federation.server_name().to_owned(), destination, key_pair);
    let x_matrix = XMatrix::sign_http_request(&request, input).unwrap();
    let mut request = request.map(|_| axum::body::Body::empty());
    request.headers_mut().insert(header::AUTHORIZATION, (&x_matrix).into());
    change(&mut request);
    let response = to.send(request).await;
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

const QUERY: &str = "/_matrix/federation/v1/query/profile?user_id=%40bob%3Ab.example";

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>
#[tokio::test]
async fn a_request_counts_only_as_it_was_signed_and_only_here() {
    let network = Network::default();
    let a = server(&network, "a.example", 1).await;
    let b = server(&network, "b.example", 2).await;
    let c = server(&network, "c.example", 3).await;
    b.register("bob").await;

    assert_eq!(signed(&a, &b, QUERY, |_| ()).await.0, StatusCode::OK);

    let unauthorized = |answer: Answer| {
        assert_eq!(answer.0, StatusCode::UNAUTHORIZED, "{}", answer.1);
        assert_eq!(answer.1["errcode"], "M_UNAUTHORIZED");
    };
    let no_header = |request: &mut Request<_>| {
        request.headers_mut().remove(header::AUTHORIZATION);
    };
    unauthorized(signed(&a, &b, QUERY, no_header).await);
    let other_path = |request: &mut Request<_>| {
        *request.uri_mut() = QUERY.replace("bob", "eve").parse().unwrap();
    };
    unauthorized(signed(&a, &b, QUERY, other_path).await);
    // What was meant for c is no use at b.
    let mut stolen = None;
    signed(&a, &c, QUERY, |request| {
        stolen = request.headers().get(header::AUTHORIZATION).cloned();
    })
    .await;
    let replay = |request: &mut Request<_>| {
        request.headers_mut().insert(header::AUTHORIZATION, stolen.unwrap());
    };
    unauthorized(signed(&a, &b, QUERY, replay).await);
    // Signed by c, in the name of a.
    let forge = |request: &mut Request<_>| {
        let value = request.headers().get(header::AUTHORIZATION).unwrap().to_str().unwrap();
        let value = value.replace("c.example", "a.example").parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, value);
    };
    unauthorized(signed(&c, &b, QUERY, forge).await);
}

#[tokio::test]
async fn keys_are_fetched_once_and_again_when_they_no_longer_count() {
    let network = Network::default();
    let a = server(&network, "a.example", 1).await;
    let b = server(&network, "b.example", 2).await;
    b.register("bob").await;
    let fetched = || network.count(server_name!("a.example"), "/_matrix/key/v2/server");
    for _ in 0..3 {
        assert_eq!(signed(&a, &b, QUERY, |_| ()).await.0, StatusCode::OK);
    }
    assert_eq!(fetched(), 1);
    // A day later the keys are too old to prove a request.
    let day = std::time::Duration::from_secs(24 * 3_600 + 1);
    a.clock.advance(day);
    b.clock.advance(day);
    assert_eq!(signed(&a, &b, QUERY, |_| ()).await.0, StatusCode::OK);
    assert_eq!(fetched(), 2);
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server>
#[tokio::test]
async fn a_notary_adds_its_signature_and_remembers_servers_that_are_gone() {
    let network = Network::default();
    let a = server(&network, "a.example", 1).await;
    let b = server(&network, "b.example", 2).await;
    let path = "/_matrix/key/v2/query/a.example";
    let query = |server: &str| json!({ "server_keys": { server: {} } });
    let (status, answer) = b.request(Method::GET, path, None, None).await;
    assert_eq!(status, StatusCode::OK);
    let keys = &answer["server_keys"][0];
    assert_eq!(keys["server_name"], "a.example");
    let signers: Vec<&String> = keys["signatures"].as_object().unwrap().keys().collect();
    assert_eq!(signers, ["a.example", "b.example"]);

    network.disconnect(server_name!("a.example"));
    let path = "/_matrix/key/v2/query";
    let (_, answer) = b.request(Method::POST, path, None, Some(&query("a.example"))).await;
    assert_eq!(answer["server_keys"][0]["verify_keys"], keys["verify_keys"]);
    let (_, answer) = b.request(Method::POST, path, None, Some(&query("nobody.example"))).await;
    assert_eq!(answer, json!({ "server_keys": [] }));
    // It is a notary for itself too.
    let (_, answer) = b.request(Method::POST, path, None, Some(&query("b.example"))).await;
    let (_, own) = b.request(Method::GET, "/_matrix/key/v2/server", None, None).await;
    assert_eq!(answer["server_keys"][0], own);
    drop(a);
}

#[tokio::test]
async fn keys_of_a_server_that_is_gone_come_from_a_trusted_notary() {
    let network = Network::default();
    let gone = server(&network, "a.example", 1).await;
    let notary = server(&network, "notary.example", 2).await;
    notary.request(Method::GET, "/_matrix/key/v2/query/a.example", None, None).await;
    network.disconnect(server_name!("a.example"));
    let mut config = config("b.example");
    config.federation.trusted_key_servers = vec![server_name!("notary.example").to_owned()];
    let clock = Clock::manual(START_MS);
    let b = TestServer::among(&network, &config, Db::in_memory().await, clock, 3).await;
    let path = "/_matrix/key/v2/query/a.example";
    // As a notary it asks the server alone; for a signature it asks others too.
    let (_, answer) = b.request(Method::GET, path, None, None).await;
    assert_eq!(answer, json!({ "server_keys": [] }));
    b.server.federation().contacted(server_name!("a.example")).await;
    let answer = signed(&gone, &b, QUERY, |_| ()).await;
    assert_eq!(answer.0, StatusCode::NOT_FOUND, "known as a.example, whose user is not known");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#querying-for-information>
#[tokio::test]
async fn clients_see_profiles_and_aliases_of_other_servers() {
    let network = Network::default();
    let a = server(&network, "a.example", 1).await;
    let b = server(&network, "b.example", 2).await;
    let bob = b.register("bob").await;
    let body = json!({ "displayname": "Bob" });
    b.put("/v3/profile/@bob:b.example/displayname", &bob, body).await;
    let body = json!({ "com.example.mood": "tea" });
    b.put("/v3/profile/@bob:b.example/com.example.mood", &bob, body).await;
    let (_, room) = b.post("/v3/createRoom", Some(&bob), json!({ "room_alias_name": "tea" })).await;

    let (_, profile) = a.get("/v3/profile/@bob:b.example", None).await;
    assert_eq!(profile, json!({ "displayname": "Bob", "com.example.mood": "tea" }));
    let (_, field) = a.get("/v3/profile/@bob:b.example/displayname", None).await;
    assert_eq!(field, json!({ "displayname": "Bob" }));
    let (status, answer) = a.get("/v3/profile/@eve:b.example", None).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")));

    let (_, found) = a.get("/v3/directory/room/%23tea:b.example", None).await;
    assert_eq!(found, json!({ "room_id": room["room_id"], "servers": ["b.example"] }));
    let (status, _) = a.get("/v3/directory/room/%23coffee:b.example", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_left_alone_until_it_is_heard_of() {
    let network = Network::default();
    let a = server(&network, "a.example", 1).await;
    let b = server(&network, "b.example", 2).await;
    a.register("alice").await;
    b.register("bob").await;
    let b_name = server_name!("b.example");
    let ask = || async { a.get("/v3/profile/@bob:b.example", None).await };
    let asked = || network.count(b_name, "/_matrix/federation/v1/query/profile");
    network.disconnect(b_name);
    for _ in 0..3 {
        let (status, answer) = ask().await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_GATEWAY, &json!("M_UNKNOWN")));
    }
    assert_eq!(asked(), 1);
    a.clock.advance(std::time::Duration::from_secs(6));
    ask().await;
    assert_eq!(asked(), 2);
    network.connect(b_name, b.server.router());
    assert_eq!(ask().await.0, StatusCode::BAD_GATEWAY, "it is not tried yet");
    let query = QUERY.replace("bob%3Ab", "alice%3Aa");
    assert_eq!(signed(&b, &a, &query, |_| ()).await.0, StatusCode::OK);
    assert_eq!(ask().await.0, StatusCode::OK, "it spoke, so it is there");
}

#[tokio::test]
async fn without_federation_nobody_is_asked_or_answered() {
    let network = Network::default();
    let mut config = config("a.example");
    config.federation.enabled = false;
    let clock = Clock::manual(START_MS);
    let a = TestServer::among(&network, &config, Db::in_memory().await, clock, 1).await;
    let b = server(&network, "b.example", 2).await;
    b.register("bob").await;
    let (status, answer) = a.get("/v3/profile/@bob:b.example", None).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
    let (status, _) = a.request(Method::GET, "/_matrix/key/v2/server", None, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(network.count(server_name!("b.example"), "/"), 0);
}

#[tokio::test]
async fn the_version_is_told_to_everybody() {
    let server = TestServer::open().await;
    let path = "/_matrix/federation/v1/version";
    let (status, answer): (StatusCode, Value) = server.request(Method::GET, path, None, None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["server"]["name"], "myelin");
}

/// What was signed before is still taken, as far as it says so; requests want the new key.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server>
#[tokio::test]
async fn a_key_that_was_replaced_is_published_as_an_old_one() {
    let network = Network::default();
    let (db, random) = (Db::in_memory().await, Random::seeded(5));
    let name = server_name!("a.example");
    let old = ServerKey::load(&db, &random, name).await.unwrap();
    let new = ServerKey::rotate(&db, &random, name, START_MS).await.unwrap();
    let clock = Clock::manual(START_MS + 1_000);
    let a = TestServer::among(&network, &config("a.example"), db, clock, 1).await;
    let keys = a.request(Method::GET, "/_matrix/key/v2/server", None, None).await.1;
    let old_key = &keys["old_verify_keys"][old.key_id()];
    assert_eq!(*old_key, json!({ "key": old.public_key(), "expired_ts": START_MS }));
    let current: Vec<&String> = keys["verify_keys"].as_object().unwrap().keys().collect();
    assert_eq!(current, [new.key_id()]);
    assert!(keys["signatures"]["a.example"][new.key_id()].is_string());

    let b = server(&network, "b.example", 2).await;
    for federation in [a.server.federation(), b.server.federation()] {
        let key = async |purpose| federation.event_key(name, old.key_id(), purpose, None).await;
        let before = Purpose::Event { origin_server_ts: START_MS - 1 };
        assert_eq!(key(before).await.unwrap(), old.verifying_key());
        let after = Purpose::Event { origin_server_ts: START_MS + 1 };
        assert!(key(after).await.is_err());
        assert!(key(Purpose::Request).await.is_err());
    }
}
