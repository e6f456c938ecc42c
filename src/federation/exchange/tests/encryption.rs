//! Keys and messages between devices of users on several servers.

use http::Method;
use ruma::server_name;

use super::*;
use crate::e2ee::testing::device_keys;
use crate::storage::{Range, schema::TO_DEVICE_OUT};

pub(super) async fn upload(server: &TestServer, user: &TestUser, seed: u8, one_time: &[&str]) {
    let keys = device_keys(&user.user_id, &user.device_id, seed);
    let one_time: serde_json::Map<String, Value> = one_time
        .iter()
        .map(|id| (format!("signed_curve25519:{id}"), json!({ "key": id, "signatures": {} })))
        .collect();
    let body = json!({ "device_keys": keys, "one_time_keys": one_time });
    let (status, answer) = server.post("/v3/keys/upload", Some(user), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

pub(super) async fn query(server: &TestServer, asking: &TestUser, user: &str) -> Value {
    let body = json!({ "device_keys": { user: [] } });
    server.post("/v3/keys/query", Some(asking), body).await.1
}

async fn claim(server: &TestServer, asking: &TestUser, of: &TestUser) -> Value {
    let device = json!({ of.device_id.clone(): "signed_curve25519" });
    let body = json!({ "one_time_keys": { of.user_id.clone(): device } });
    server.post("/v3/keys/claim", Some(asking), body).await.1
}

async fn sync(server: &TestServer, user: &TestUser, since: &str) -> Value {
    let path = match since {
        "" => "/v3/sync?timeout=0".to_owned(),
        since => format!("/v3/sync?timeout=0&since={since}"),
    };
    server.get(&path, Some(user)).await.1
}

fn next_batch(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}

/// Waits until a sync says of `user` what `kind` is; the token after it.
async fn told(
    server: &TestServer,
    asking: &TestUser,
    since: &str,
    kind: &str,
    user: &str,
) -> String {
    let mut since = since.to_owned();
    for _ in 0..500 {
        let answer = sync(server, asking, &since).await;
        since = next_batch(&answer);
        let users = answer["device_lists"][kind].as_array().cloned().unwrap_or_default();
        if users.contains(&json!(user)) {
            return since;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{kind} never named {user}");
}

async fn send_to_device(server: &TestServer, from: &TestUser, to: &TestUser, body: &str) {
    let content = json!({ to.user_id.clone(): { to.device_id.clone(): { "body": body } } });
    let path = format!("/v3/sendToDevice/m.room.encrypted/{body}");
    let (status, answer) = server.put(&path, from, json!({ "messages": content })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// The bodies of the messages that reach a device, until there are so many.
async fn inbox(server: &TestServer, user: &TestUser, count: usize) -> Vec<String> {
    let (mut since, mut bodies) = (String::new(), Vec::new());
    for _ in 0..500 {
        let answer = sync(server, user, &since).await;
        since = next_batch(&answer);
        for message in answer["to_device"]["events"].as_array().into_iter().flatten() {
            bodies.push(message["content"]["body"].as_str().unwrap().to_owned());
        }
        if bodies.len() >= count {
            return bodies;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("only these came: {bodies:?}");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption>
#[tokio::test]
async fn keys_of_another_server_are_asked_for_once_and_kept_up_to_date() {
    let network = Network::default();
    let (a, b, alice, bob, _) = pair(&network).await;
    upload(&b, &bob, 7, &[]).await;
    let since = next_batch(&sync(&a, &alice, "").await);
    let found = query(&a, &alice, &bob.user_id).await;
    let key = |answer: &Value| {
        answer["device_keys"][&bob.user_id][&bob.device_id]["keys"]
            [format!("ed25519:{}", bob.device_id)]
        .clone()
    };
    let first = key(&found);
    assert!(first.is_string(), "{found}");
    assert!(found["failures"].is_null(), "{found}");
    let b_name = server_name!("b.example");
    let devices = "/_matrix/federation/v1/user/devices";
    let asked = network.count(b_name, devices);
    assert_eq!(key(&query(&a, &alice, &bob.user_id).await), first);
    assert_eq!(network.count(b_name, devices), asked, "what is kept is not asked for again");

    // The change comes by itself, with what changed.
    upload(&b, &bob, 8, &[]).await;
    told(&a, &alice, &since, "changed", &bob.user_id).await;
    let second = key(&query(&a, &alice, &bob.user_id).await);
    assert!(second.is_string() && second != first);

    // A server that is gone is named; what is kept is given.
    network.disconnect(b_name);
    assert_eq!(key(&query(&a, &alice, &bob.user_id).await), second);
    let stranger = query(&a, &alice, "@stranger:b.example").await;
    assert!(stranger["failures"]["b.example"].is_object(), "{stranger}");
}

#[tokio::test]
async fn a_device_that_goes_is_gone_on_the_other_server() {
    let network = Network::default();
    let (a, b, alice, bob, _) = pair(&network).await;
    upload(&b, &bob, 7, &[]).await;
    let login = json!({
        "type": "m.login.password", "password": "secret",
        "identifier": { "type": "m.id.user", "user": "bob" },
    });
    let second = TestUser::from(&b.post("/v3/login", None, login).await.1);
    upload(&b, &second, 9, &[]).await;
    let devices = async || {
        let found = query(&a, &alice, &bob.user_id).await;
        found["device_keys"][&bob.user_id].as_object().map_or(0, serde_json::Map::len)
    };
    eventually("both devices", async || devices().await == 2).await;
    b.post("/v3/logout", Some(&second), json!({})).await;
    eventually("one device", async || devices().await == 1).await;
}

/// The server of the user did not say what it was to say: the next update shows that.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>
#[tokio::test]
async fn an_update_after_one_that_was_lost_has_the_list_fetched_anew() {
    let network = Network::default();
    let (b, bob, peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let list = |stream_id: u64, devices: &[(&str, u8)]| {
        let devices = devices.iter().map(
            |(id, seed)| json!({ "device_id": id, "keys": device_keys(&joined.user, id, *seed) }),
        );
        json!({
            "user_id": joined.user, "stream_id": stream_id, "devices": devices.collect::<Vec<_>>(),
        })
    };
    *peer.devices.lock() = list(1, &[("ONE", 1)]);
    let ids = async || {
        let found = query(&b, &bob, &joined.user).await;
        let devices = found["device_keys"][&joined.user].as_object().cloned().unwrap_or_default();
        devices.keys().cloned().collect::<Vec<String>>()
    };
    assert_eq!(ids().await, ["ONE"]);
    let update = |stream_id: u64, prev_id: &[u64], device: &str| {
        json!({
            "edu_type": "m.device_list_update",
            "content": {
                "user_id": joined.user, "device_id": device, "stream_id": stream_id,
                "prev_id": prev_id, "keys": device_keys(&joined.user, device, 2),
            },
        })
    };
    let path = "/_matrix/federation/v1/user/devices";
    let asked = network.count(peer.name(), path);
    peer.send_edus("e1", &us, &[&update(2, &[1], "TWO")]).await.unwrap();
    assert_eq!(ids().await, ["ONE", "TWO"]);
    assert_eq!(network.count(peer.name(), path), asked, "the update was all that is needed");
    // The same again, and one that is older, change nothing.
    peer.send_edus("e2", &us, &[&update(2, &[1], "TWO"), &update(1, &[], "OLD")]).await.unwrap();
    assert_eq!(ids().await, ["ONE", "TWO"]);

    let since = next_batch(&sync(&b, &bob, "").await);
    *peer.devices.lock() = list(4, &[("ONE", 1), ("THREE", 3), ("FOUR", 4)]);
    peer.send_edus("e3", &us, &[&update(4, &[3], "FOUR")]).await.unwrap();
    told(&b, &bob, &since, "changed", &joined.user).await;
    assert_eq!(
        ids().await,
        ["FOUR", "ONE", "THREE"],
        "what was lost is there, what is gone is not"
    );

    // Nobody tells of another server's users.
    let mut forged = update(9, &[4], "EVIL");
    forged["content"]["user_id"] = json!(bob.user_id);
    peer.send_edus("e4", &us, &[&forged]).await.unwrap();
    let own = query(&b, &bob, &bob.user_id).await;
    assert_eq!(own["device_keys"][&bob.user_id], json!({}));
}

#[tokio::test]
async fn nothing_is_kept_of_those_with_whom_no_room_is_shared_any_more() {
    let network = Network::default();
    let (a, b, alice, bob, room) = pair(&network).await;
    upload(&b, &bob, 7, &[]).await;
    query(&a, &alice, &bob.user_id).await;
    let path = "/_matrix/federation/v1/user/devices";
    let b_name = server_name!("b.example");
    let asked = network.count(b_name, path);
    let since = next_batch(&sync(&a, &alice, "").await);
    a.post(&format!("/v3/rooms/{room}/leave"), Some(&alice), json!({})).await;
    let since = told(&a, &alice, &since, "left", &bob.user_id).await;
    // Nobody tells a of this.
    eventually("the departure", async || {
        membership(&b, &bob, &room, &alice.user_id).await == "leave"
    })
    .await;
    upload(&b, &bob, 8, &[]).await;
    let join = format!("/v3/join/{room}?via=b.example");
    assert_eq!(a.post(&join, Some(&alice), json!({})).await.0, StatusCode::OK);
    told(&a, &alice, &since, "changed", &bob.user_id).await;
    let found = query(&a, &alice, &bob.user_id).await;
    assert!(network.count(b_name, path) > asked, "it was fetched anew");
    let key = format!("ed25519:{}", bob.device_id);
    let new = device_keys(&bob.user_id, &bob.device_id, 8);
    assert_eq!(found["device_keys"][&bob.user_id][&bob.device_id]["keys"][&key], new["keys"][&key],);
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysclaim>
#[tokio::test]
async fn a_one_time_key_is_given_to_one_server_only() {
    let network = Network::default();
    let (a, b, alice, bob, _) = pair(&network).await;
    let c = server(&network, "c.example", 3).await;
    let carol = c.register("carol").await;
    upload(&b, &bob, 7, &["AAAA", "BBBB"]).await;
    let mut given = Vec::new();
    for answer in
        [claim(&a, &alice, &bob).await, claim(&c, &carol, &bob).await, claim(&b, &bob, &bob).await]
    {
        let keys = answer["one_time_keys"][&bob.user_id][&bob.device_id].as_object().cloned();
        given.extend(keys.unwrap_or_default().keys().cloned());
    }
    given.sort();
    assert_eq!(given, ["signed_curve25519:AAAA", "signed_curve25519:BBBB"]);
    network.disconnect(server_name!("b.example"));
    let answer = claim(&a, &alice, &bob).await;
    assert!(answer["failures"]["b.example"].is_object(), "{answer}");
}

/// Over an absence of one server and a restart of the other.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging>
#[tokio::test]
async fn messages_between_devices_arrive_once_and_in_order() {
    let network = Network::default();
    let (a, b, alice, bob, _) = pair(&network).await;
    send_to_device(&a, &alice, &bob, "m00").await;
    assert_eq!(inbox(&b, &bob, 1).await, ["m00"]);
    let b_name = server_name!("b.example");
    network.disconnect(b_name);
    let mut expected = Vec::new();
    for number in 1..=70 {
        let body = format!("m{number:02}");
        send_to_device(&a, &alice, &bob, &body).await;
        expected.push(body);
    }
    // They wait on disk.
    let waiting = TO_DEVICE_OUT.scan(&a.db, &Range::all(), usize::MAX).await.unwrap();
    assert_eq!(waiting.len(), 70);
    let (db, clock) = (a.db.clone(), a.clock.clone());
    drop(a);
    let a = TestServer::among(&network, &config("a.example"), db, clock, 5).await;
    network.connect(b_name, b.server.router());
    // It speaks to the one that waits for it.
    query(&b, &bob, &alice.user_id).await;
    let mut arrived = inbox(&b, &bob, 70).await;
    arrived.retain(|body| body != "m00");
    assert_eq!(arrived, expected);
    eventually("empty queues", async || {
        TO_DEVICE_OUT.scan(&a.db, &Range::all(), 1).await.unwrap().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_message_that_comes_again_in_another_transaction_is_the_same() {
    let network = Network::default();
    let (b, bob, peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let message = |sender: &str, id: &str, body: &str| {
        json!({
            "edu_type": "m.direct_to_device",
            "content": {
                "sender": sender, "type": "m.room.encrypted", "message_id": id,
                "messages": { bob.user_id.clone(): { "*": { "body": body } } },
            },
        })
    };
    let first = message(&joined.user, "one", "first");
    peer.send_edus("t1", &us, &[&first]).await.unwrap();
    peer.send_edus("t2", &us, &[&first, &message(&joined.user, "two", "second")]).await.unwrap();
    let forged = message("@somebody:else.example", "three", "forged");
    peer.send_edus("t3", &us, &[&forged]).await.unwrap();
    peer.send_edus("t4", &us, &[&message(&joined.user, "four", "last")]).await.unwrap();
    assert_eq!(inbox(&b, &bob, 3).await, ["first", "second", "last"]);
}

#[tokio::test]
async fn cross_signing_keys_and_signatures_reach_the_other_server() {
    let network = Network::default();
    let (a, b, alice, bob, _) = pair(&network).await;
    upload(&b, &bob, 7, &[]).await;
    query(&a, &alice, &bob.user_id).await;
    let master = |seed: u8| {
        let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key();
        let public =
            base64::Engine::encode(&base64::prelude::BASE64_STANDARD_NO_PAD, key.as_bytes());
        let keys = json!({ format!("ed25519:{public}"): public });
        json!({ "user_id": bob.user_id, "usage": ["master"], "keys": keys })
    };
    let since = next_batch(&sync(&a, &alice, "").await);
    let body = json!({ "master_key": master(3) });
    let path = "/v3/keys/device_signing/upload";
    assert_eq!(b.post(path, Some(&bob), body).await.0, StatusCode::OK);
    told(&a, &alice, &since, "changed", &bob.user_id).await;
    let found = query(&a, &alice, &bob.user_id).await;
    assert_eq!(found["master_keys"][&bob.user_id]["keys"], master(3)["keys"], "{found}");
}

/// Servers are told neither of devices of users that are not theirs to ask for, nor who is not here.
#[tokio::test]
async fn what_another_server_asks_for_is_checked() {
    let network = Network::default();
    let (b, bob, peer, _) = meeting(&network).await;
    upload(&b, &bob, 7, &[]).await;
    let us = b.server.federation().server_name().to_owned();
    let ask = async |user: &str| {
        let user = user.try_into().unwrap();
        let request = ruma::api::federation::device::get_devices::v1::Request::new(user);
        peer.federation.ask(&us, request, LIMITS).await
    };
    let answer = ask(&bob.user_id).await.unwrap();
    assert_eq!(answer.devices.len(), 1);
    let device: Value = serde_json::from_str(answer.devices[0].keys.json().get()).unwrap();
    assert!(device["unsigned"]["device_display_name"].is_null(), "names are nobody else's concern");
    for nobody in ["@nobody:b.example", "@eve:peer.example"] {
        let error = ask(nobody).await.unwrap_err();
        assert!(matches!(error, PeerError::Refused { status: StatusCode::NOT_FOUND, .. }));
    }
    let path = format!("/_matrix/federation/v1/user/devices/{}", bob.user_id);
    let (status, _) = b.request(Method::GET, &path, None, None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}
