//! A room that has a policy server: what it does not sign is sent to nobody and shown to nobody.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#policy-servers>

use complement_tests::Signer;
use complement_tests::peer::{Pdu, Received, is_signed, signature_of};
use serde_json::{Value, json};

use crate::Meeting;

const SIGN: &str = "/_matrix/policy/v1/sign";
const KEY_ID: &str = "ed25519:policy_server";

fn key() -> Signer {
    Signer::named("policy")
}

/// The peer decides what may be sent: it signs everything but spam.
async fn begin() -> Meeting {
    let meeting = Meeting::new().await;
    let name = meeting.peer.name().to_owned();
    meeting.peer.on(move |request: &Received| {
        if request.path != SIGN {
            return None;
        }
        if request.body["content"].to_string().contains("spam") {
            return Some((400, json!({ "errcode": "M_FORBIDDEN", "error": "This is spam" })));
        }
        let signature = signature_of(&request.body, &key());
        Some((200, json!({ &name: { KEY_ID: signature } })))
    });
    name_server(&meeting, &key()).await;
    meeting
}

async fn name_server(meeting: &Meeting, key: &Signer) {
    let content =
        json!({ "via": meeting.peer.name(), "public_keys": { "ed25519": key.public_key() } });
    let id = meeting.alice.set_state(&meeting.room.id, "m.room.policy", "", content).await;
    let pdu = meeting.peer.gets_pdu(|pdu| Pdu::of(pdu.clone()).id == id).await;
    meeting.room.add(&Pdu::of(pdu));
}

fn is_approved(meeting: &Meeting, event: &Value) -> bool {
    is_signed(event, meeting.peer.name(), KEY_ID, &key().public_key())
}

#[tokio::test]
async fn what_is_sent_carries_the_signature_of_the_rooms_policy_server() {
    let meeting = begin().await;
    let (alice, peer, room) = (&meeting.alice, &meeting.peer, &meeting.room.id);
    assert!(peer.received(SIGN).is_empty(), "it is not asked about itself");
    let said = alice.say(room, "soup is ready").await;
    let sent = peer.gets_pdu(|pdu| pdu["content"]["body"] == "soup is ready").await;
    assert_eq!(Pdu::of(sent.clone()).id, said);
    assert!(is_approved(&meeting, &sent), "{sent}");
    assert_eq!(peer.received(SIGN).len(), 1);
    meeting.arrives(&said).await;

    // State, redactions and what follows from them, too; and a retry is the same event.
    alice.set_state(room, "m.room.topic", "", json!({ "topic": "soup" })).await;
    let sent = peer.gets_pdu(|pdu| pdu["type"] == "m.room.topic").await;
    assert!(is_approved(&meeting, &sent), "{sent}");
    let message = json!({ "msgtype": "m.text", "body": "once" });
    let first = alice.put(["rooms", room, "send", "m.room.message", "t"], message.clone()).await;
    let again = alice.put(["rooms", room, "send", "m.room.message", "t"], message).await;
    assert_eq!(first.ok()["event_id"], again.ok()["event_id"]);
    alice.put(["rooms", room, "redact", &said, "r"], json!({})).await.ok();
    let sent = peer.gets_pdu(|pdu| pdu["type"] == "m.room.redaction").await;
    assert!(is_approved(&meeting, &sent), "{sent}");
    let redacted = alice.get(["rooms", room, "event", &said]).await.ok();
    assert_eq!(redacted["content"], json!({}));
}

#[tokio::test]
async fn what_the_policy_server_refuses_is_not_sent() {
    let meeting = begin().await;
    let (alice, room) = (&meeting.alice, &meeting.room.id);
    let content = json!({ "msgtype": "m.text", "body": "spam" });
    let answer = alice.put(["rooms", room, "send", "m.room.message", "t1"], content).await;
    assert_eq!(answer.json["error"], "This is spam");
    answer.fails(400, "M_FORBIDDEN");
    let answer =
        alice.put(["rooms", room, "state", "m.room.topic"], json!({ "topic": "spam" })).await;
    answer.fails(400, "M_FORBIDDEN");
    let after = alice.say(room, "fence").await;
    let sent = meeting.peer.gets_pdu(|pdu| pdu["content"]["body"] == "fence").await;
    assert_eq!(Pdu::of(sent).id, after);
    let transactions = meeting.peer.received("/_matrix/federation/v1/send/");
    assert!(transactions.iter().all(|sent| !sent.body.to_string().contains("spam")));
    let page = alice.get(["rooms", room, "messages"]).query("dir", "b").await.ok();
    assert!(!page.to_string().contains("spam"), "{page}");
}

#[tokio::test]
async fn nothing_is_sent_while_the_policy_server_makes_no_sense() {
    let meeting = begin().await;
    let (alice, room) = (&meeting.alice, &meeting.room.id);
    let content = json!({ "msgtype": "m.text", "body": "lost" });
    let wrong = json!({ meeting.peer.name(): { KEY_ID: "AAAA" } });
    for (number, answer) in [json!({}), wrong, json!("yes")].into_iter().enumerate() {
        meeting.peer.answer(SIGN, 200, answer);
        let path = ["rooms", room, "send", "m.room.message", &format!("t{number}")];
        alice.put(path, content.clone()).await.fails(502, "M_UNKNOWN");
    }
    let page = alice.get(["rooms", room, "messages"]).query("dir", "b").await.ok();
    assert!(!page.to_string().contains("lost"), "{page}");
}

#[tokio::test]
async fn what_others_send_without_the_signature_is_asked_about_and_hidden_if_it_is_refused() {
    let meeting = begin().await;
    let (peer, server, room) = (&meeting.peer, &meeting.server, &meeting.room);
    let spam = peer.sign(room.message(&meeting.eve, "spam"));
    peer.sends(server, &[&spam]).await;
    // Not signed yet, but it would be.
    let late = peer.sign(room.message(&meeting.eve, "late"));
    peer.sends(server, &[&late]).await;
    meeting.arrives(&late.id).await;
    let asked = peer.received(SIGN).len();
    assert!(asked >= 2, "{asked}");
    let mut signed = peer.sign(room.message(&meeting.eve, "signed"));
    signed.json["signatures"][peer.name()][KEY_ID] = signature_of(&signed.json, &key()).into();
    peer.sends(server, &[&signed]).await;
    meeting.arrives(&signed.id).await;
    assert_eq!(peer.received(SIGN).len(), asked, "it has the signature");
    let path = ["rooms", &room.id, "event", &spam.id];
    meeting.alice.get(path).await.fails(404, "M_NOT_FOUND");
    let page = meeting.alice.get(["rooms", &room.id, "messages"]).query("dir", "b").await.ok();
    assert!(!page.to_string().contains("spam"), "{page}");
}

/// Nobody is made a policy server who is not in the room, and what names none has no effect.
#[tokio::test]
async fn a_server_that_is_not_in_the_room_has_no_say() {
    let meeting = begin().await;
    let (alice, room) = (&meeting.alice, &meeting.room.id);
    let stranger = json!({
        "via": "127.0.0.1:1", "public_keys": { "ed25519": key().public_key() },
    });
    let keyless = json!({ "via": meeting.peer.name(), "public_keys": {} });
    for content in [stranger, keyless, json!({})] {
        alice.set_state(room, "m.room.policy", "", content).await;
        alice.say(room, "spam").await;
    }
    assert!(meeting.peer.received(SIGN).is_empty());
    let pdu = meeting.peer.sign(meeting.room.message(&meeting.eve, "unsigned"));
    meeting.peer.sends(&meeting.server, &[&pdu]).await;
    meeting.arrives(&pdu.id).await;
}

/// Those who come in are asked about as well; another user's server is not bothered with what is
/// refused.
#[tokio::test]
async fn invitations_and_joins_are_asked_about() {
    let meeting = begin().await;
    let (alice, peer, room) = (&meeting.alice, &meeting.peer, &meeting.room.id);
    let body = json!({ "user_id": peer.user("frank"), "reason": "spam" });
    let answer = alice.post(["rooms", room, "invite"], body).await;
    answer.fails(400, "M_FORBIDDEN");
    assert!(peer.received("/invite/").is_empty());
    let bob = meeting.server.register("bob").await;
    bob.post(["rooms", room, "join"], json!({})).await.ok();
    let sent = peer.gets_pdu(|pdu| pdu["state_key"] == *bob.user_id).await;
    assert!(is_approved(&meeting, &sent), "{sent}");
}
