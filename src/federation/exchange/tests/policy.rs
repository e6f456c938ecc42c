//! A room that has a policy server: what it does not sign is sent to nobody and shown to nobody.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#policy-servers>

use ed25519_dalek::{Signer as _, SigningKey};
use ruma::{
    CanonicalJsonValue,
    api::federation::event::get_event,
    canonical_json::redact,
    serde::{Base64, base64::Standard},
};

use super::*;

const SIGN: &str = "/_matrix/policy/v1/sign";
const KEY_ID: &str = "ed25519:policy_server";

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn base64(bytes: &[u8]) -> String {
    Base64::<Standard>::new(bytes.to_vec()).encode()
}

/// What a policy server answers: it signs everything but spam.
pub(super) fn sign(name: &ServerName, Json(event): Json<Value>) -> (StatusCode, Json<Value>) {
    if event["content"].to_string().contains("spam") {
        let refusal = json!({ "errcode": "M_FORBIDDEN", "error": "This is spam" });
        return (StatusCode::BAD_REQUEST, Json(refusal));
    }
    (StatusCode::OK, Json(json!({ name.as_str(): { KEY_ID: signature(&event) } })))
}

/// The signature of an event with the key that rooms name.
fn signature(event: &Value) -> String {
    base64(&key().sign(signed(event).as_bytes()).to_bytes())
}

fn signed(event: &Value) -> String {
    let rules = RoomVersionId::V11.rules().unwrap();
    let event: CanonicalJsonObject = serde_json::from_value(event.clone()).unwrap();
    let mut event = redact(event, &rules.redaction, None).unwrap();
    event.remove("signatures");
    CanonicalJsonValue::Object(event).to_string()
}

/// The peer is the policy server of the room.
async fn begin(network: &Network) -> (TestServer, TestUser, Peer, Joined) {
    let (b, bob, peer, joined) = meeting(network).await;
    let key = base64(key().verifying_key().as_bytes());
    name_server(
        &b,
        &bob,
        &joined,
        json!({ "via": peer.name(), "public_keys": { "ed25519": key } }),
    )
    .await;
    (b, bob, peer, joined)
}

async fn name_server(b: &TestServer, bob: &TestUser, joined: &Joined, content: Value) {
    let path = format!("/v3/rooms/{}/state/m.room.policy/", joined.room);
    let (status, answer) = b.put(&path, bob, content).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// An event as the peer gets it when it asks.
async fn as_sent(peer: &Peer, b: &TestServer, event: &str) -> Value {
    let request = get_event::v1::Request::new(event.try_into().unwrap());
    let us = b.server.federation().server_name();
    let answer = peer.federation.ask(us, request, LIMITS).await.unwrap();
    serde_json::from_str(answer.pdu.get()).unwrap()
}

fn is_approved(peer: &Peer, event: &Value) -> bool {
    event["signatures"][peer.name().as_str()][KEY_ID] == signature(event)
}

#[tokio::test]
async fn what_is_sent_carries_the_signature_of_the_rooms_policy_server() {
    let network = Network::default();
    let (b, bob, peer, joined) = begin(&network).await;
    let room = &joined.room;
    assert_eq!(network.count(peer.name(), SIGN), 0, "it is not asked about itself");
    let said = send(&b, &bob, room, "soup").await;
    assert_eq!(network.count(peer.name(), SIGN), 1);
    let sent = as_sent(&peer, &b, &said).await;
    assert!(is_approved(&peer, &sent), "{sent}");
    assert!(sent["signatures"]["b.example"].is_object(), "{sent}");
    assert_eq!(send(&b, &bob, room, "soup").await, said, "a retry is the same event");
    assert_eq!(network.count(peer.name(), SIGN), 1);

    let path = format!("/v3/rooms/{room}/state/m.room.topic/");
    let (_, answer) = b.put(&path, &bob, json!({ "topic": "soup" })).await;
    let topic = as_sent(&peer, &b, answer["event_id"].as_str().unwrap()).await;
    assert!(is_approved(&peer, &topic), "{topic}");
    let path = format!("/v3/rooms/{room}/redact/{said}/r");
    let (_, answer) = b.put(&path, &bob, json!({})).await;
    let redaction = as_sent(&peer, &b, answer["event_id"].as_str().unwrap()).await;
    assert!(is_approved(&peer, &redaction), "{redaction}");
    let (_, redacted) = b.get(&format!("/v3/rooms/{room}/event/{said}"), Some(&bob)).await;
    assert_eq!(redacted["content"], json!({}));
    // What it tells others goes to the peer, once.
    let (_, page) = b.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=3"), Some(&bob)).await;
    let types: Vec<_> =
        page["chunk"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["m.room.redaction", "m.room.topic", "m.room.message"]);
}

#[tokio::test]
async fn what_the_policy_server_refuses_is_not_sent_and_the_reason_is_its_own() {
    let network = Network::default();
    let (b, bob, peer, joined) = begin(&network).await;
    let room = &joined.room;
    let spam = json!({ "msgtype": "m.text", "body": "spam" });
    let path = format!("/v3/rooms/{room}/send/m.room.message/t1");
    let refused = (StatusCode::BAD_REQUEST, json!("M_FORBIDDEN"), json!("This is spam"));
    let (status, answer) = b.put(&path, &bob, spam).await;
    assert_eq!((status, answer["errcode"].clone(), answer["error"].clone()), refused);
    let path = format!("/v3/rooms/{room}/invite");
    let invite = json!({ "user_id": "@frank:peer.example", "reason": "spam" });
    let (status, answer) = b.post(&path, Some(&bob), invite).await;
    assert_eq!((status, answer["errcode"].clone(), answer["error"].clone()), refused);
    assert_eq!(network.count(peer.name(), "/_matrix/federation/v2/invite"), 0);
    // The room goes on.
    send(&b, &bob, room, "soup").await;
    let (_, page) = b.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=50"), Some(&bob)).await;
    assert!(!page.to_string().contains("spam"), "{page}");
}

#[tokio::test]
async fn nothing_is_sent_while_the_policy_server_is_away_or_signs_with_another_key() {
    let network = Network::default();
    let (b, bob, peer, joined) = begin(&network).await;
    let path = format!("/v3/rooms/{}/send/m.room.message/t1", joined.room);
    let body = json!({ "msgtype": "m.text", "body": "soup" });
    let other = base64(SigningKey::from_bytes(&[8; 32]).verifying_key().as_bytes());
    let content = json!({ "via": peer.name(), "public_keys": { "ed25519": other } });
    name_server(&b, &bob, &joined, content).await;
    let (status, answer) = b.put(&path, &bob, body.clone()).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_GATEWAY, &json!("M_UNKNOWN")));
    network.disconnect(peer.name());
    let (status, answer) = b.put(&path, &bob, body.clone()).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_GATEWAY, &json!("M_UNKNOWN")));
    let messages = format!("/v3/rooms/{}/messages?dir=b&limit=50", joined.room);
    let (_, page) = b.get(&messages, Some(&bob)).await;
    assert!(!page.to_string().contains("soup"), "{page}");
    // Whoever may change the room's policy can do without.
    name_server(&b, &bob, &joined, json!({})).await;
    assert_eq!(b.put(&path, &bob, body).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_others_send_unsigned_is_asked_about_and_hidden_if_it_is_refused() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = begin(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let (spam_id, spam) = peer.sign(joined.message(&joined.last, "spam"));
    let (late_id, late) = peer.sign(joined.message(&joined.last, "late"));
    peer.send(&us, &[&spam, &late]).await.unwrap();
    arrives(&b, &bob, &joined.room, &late_id).await;
    assert!(is_approved(&peer, &as_sent(&peer, &b, &late_id).await));
    let asked = network.count(peer.name(), SIGN);
    assert_eq!(asked, 2);
    let (id, mut event) = peer.sign(joined.message(&joined.last, "signed"));
    event["signatures"][peer.name().as_str()][KEY_ID] = signature(&event).into();
    peer.send(&us, &[&event]).await.unwrap();
    arrives(&b, &bob, &joined.room, &id).await;
    assert_eq!(network.count(peer.name(), SIGN), asked, "it has the signature");
    let path = format!("/v3/rooms/{}/event/{spam_id}", joined.room);
    assert_eq!(b.get(&path, Some(&bob)).await.0, StatusCode::NOT_FOUND);
}

/// Nobody is made a policy server who is not in the room.
#[tokio::test]
async fn a_server_that_is_not_in_the_room_has_no_say() {
    let network = Network::default();
    let (b, bob, mut peer, joined) = begin(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let key = base64(key().verifying_key().as_bytes());
    let content = json!({ "via": "stranger.example", "public_keys": { "ed25519": key } });
    name_server(&b, &bob, &joined, content).await;
    send(&b, &bob, &joined.room, "spam").await;
    let (id, event) = peer.sign(joined.message(&joined.last, "unsigned"));
    peer.send(&us, &[&event]).await.unwrap();
    arrives(&b, &bob, &joined.room, &id).await;
    assert_eq!(network.count(peer.name(), SIGN), 0);
}
