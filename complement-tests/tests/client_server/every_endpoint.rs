//! What holds for all endpoints alike, tried on each one that the specification lists.

use complement_tests::coverage::Endpoint;
use complement_tests::{Answer, Client, Server};
use reqwest::Method;
use serde_json::{Value, json};

/// The endpoints that clients call.
fn endpoints() -> impl Iterator<Item = Endpoint> {
    let all = Endpoint::all().into_iter();
    all.filter(|endpoint| ["client", "media"].contains(&endpoint.api.as_str()))
}

/// The endpoint's path with its placeholders filled by these values.
fn path(endpoint: &Endpoint, values: &[(&str, &str)]) -> String {
    let filled = |segment: &str| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
        None => segment.to_owned(),
        Some(name) => {
            let value = values.iter().find(|(known, _)| *known == name);
            let value = value.map_or("x", |(_, value)| value);
            percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        }
    };
    endpoint.path.split('/').map(filled).collect::<Vec<_>>().join("/")
}

async fn call(client: &Client, endpoint: &Endpoint, path: &str, body: &Value) -> Answer {
    let method: Method = endpoint.method.parse().unwrap();
    let request = client.request(method, path);
    if endpoint.method == "GET" { request.await } else { request.json(body).await }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#using-access-tokens>
#[tokio::test]
async fn nothing_that_takes_a_token_is_done_without_or_with_a_wrong_one() {
    let server = Server::shared();
    let nobody = server.anonymous();
    let stranger = nobody.with_token("made-up");
    for endpoint in endpoints().filter(Endpoint::is_guarded) {
        let user = format!("@nobody:{}", server.name());
        let room = format!("!nowhere:{}", server.name());
        let values = [("userId", user.as_str()), ("roomId", &room), ("serverName", &server.name())];
        let path = path(&endpoint, &values);
        let answer = call(&nobody, &endpoint, &path, &json!({})).await;
        answer.fails(401, "M_MISSING_TOKEN");
        let answer = call(&stranger, &endpoint, &path, &json!({})).await;
        answer.fails(401, "M_UNKNOWN_TOKEN");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#common-error-codes>
#[tokio::test]
async fn a_body_that_is_no_json_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    // Whether somebody is an application service comes first.
    // Of the body for an OpenID token nothing is ever read.
    let by_users = |endpoint: &Endpoint| {
        endpoint.has_body
            && endpoint.auth != "as_token"
            && !endpoint.path.ends_with("/openid/request_token")
    };
    for endpoint in endpoints().filter(by_users) {
        let alias = format!("#x:{}", server.name());
        let values = [
            ("userId", alice.user_id.as_str()),
            ("roomId", &room),
            ("roomAlias", &alias),
            ("roomIdOrAlias", &alias),
            ("eventId", "$event"),
            ("receiptType", "m.read"),
            ("kind", "content"),
        ];
        let path = path(&endpoint, &values);
        let method: Method = endpoint.method.parse().unwrap();
        let answer = alice.request(method, path.as_str()).query("version", "1").raw("{").await;
        answer.fails(400, "M_NOT_JSON");
    }
}

/// Who is not in a private room neither reads nor changes anything of it.
#[tokio::test]
async fn a_stranger_can_do_nothing_in_a_private_room() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let mallory = server.register("mallory").await;
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let event = alice.say(&room, "a secret").await;
    let state = async || {
        let state = alice.get(["rooms", &room, "state"]).await.ok();
        let events = state.as_array().unwrap().iter();
        events.map(|event| event["event_id"].clone()).collect::<Vec<_>>()
    };
    let before = state().await;

    // What is kept for each user, whatever rooms they are in; and a room may be reported by all.
    let own = ["/account_data/", "/tags", "/room_keys/", "/rooms/{roomId}/report"];
    for endpoint in endpoints().filter(|endpoint| endpoint.path.contains("{roomId}")) {
        let is_public = endpoint.method == "GET" && endpoint.path.contains("/directory/list/room/");
        if is_public || own.iter().any(|part| endpoint.path.contains(part)) {
            continue;
        }
        let values = [
            ("roomId", room.as_str()),
            ("eventId", &event),
            ("userId", &mallory.user_id),
            ("eventType", "m.room.topic"),
            ("receiptType", "m.read"),
            ("relType", "m.annotation"),
            ("stateKey", ""),
            ("txnId", "t1"),
            ("networkId", "irc"),
        ];
        let mut path = path(&endpoint, &values);
        if path.ends_with("/timestamp_to_event") {
            path += "?ts=0&dir=f";
        }
        if path.ends_with("/messages") {
            path += "?dir=b";
        }
        // The body that each of them wants, in one.
        let body = json!({
            "user_id": alice.user_id, "typing": true, "timeout": 1000, "visibility": "public",
            "new_version": "11", "m.fully_read": event, "topic": "mine",
        });
        let answer = call(&mallory, &endpoint, &path, &body).await;
        assert!([403, 404].contains(&answer.status), "{answer}");
        assert!(!answer.errcode().is_empty() && !answer.text.contains("a secret"), "{answer}");
    }
    assert_eq!(state().await, before);
}
