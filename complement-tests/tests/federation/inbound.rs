//! Events that another server sends.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>

use complement_tests::peer::Pdu;
use serde_json::json;

use crate::Meeting;

#[tokio::test]
async fn a_true_event_arrives_and_one_of_ours_goes_out() {
    let meeting = Meeting::new().await;
    let pdu = meeting.peer.sign(meeting.room.message(&meeting.eve, "hello"));
    meeting.peer.sends(&meeting.server, &[&pdu]).await;
    assert_eq!(meeting.arrives(&pdu.id).await["content"]["body"], "hello");
    meeting.room.add(&pdu);
    let sent = meeting.alice.say(&meeting.room.id, "answer").await;
    let got = meeting.peer.gets_pdu(|pdu| pdu["content"]["body"] == "answer").await;
    assert_eq!(Pdu::of(got.clone()).id, sent);
    assert_eq!(got["prev_events"], json!([pdu.id]));
}

#[tokio::test]
async fn an_event_that_is_not_signed_as_it_must_be_is_refused() {
    let meeting = Meeting::new().await;
    let (peer, server, room) = (&meeting.peer, &meeting.server, &meeting.room);

    let mut unsigned = peer.sign(room.message(&meeting.eve, "unsigned"));
    unsigned.json["signatures"] = json!({});
    peer.is_refused(server, &unsigned).await;

    let mut damaged = peer.sign(room.message(&meeting.eve, "damaged"));
    let signature = damaged.json["signatures"][peer.name()]["ed25519:hand"].take();
    let other = peer.sign(room.message(&meeting.eve, "other"));
    let wrong = other.json["signatures"][peer.name()]["ed25519:hand"].clone();
    assert_ne!(signature, wrong);
    damaged.json["signatures"][peer.name()]["ed25519:hand"] = wrong;
    peer.is_refused(server, &damaged).await;

    let mut unknown_key = peer.sign(room.message(&meeting.eve, "unknown key"));
    unknown_key.json["signatures"][peer.name()] = json!({ "ed25519:other": signature });
    peer.is_refused(server, &unknown_key).await;

    let forged = peer.sign(room.message(&meeting.alice.user_id, "forged"));
    peer.is_refused(server, &forged).await;
    for pdu in [unsigned, damaged, unknown_key, forged] {
        meeting.is_hidden(&pdu.id).await;
    }
}

/// A signature more does no harm, even one that nobody can check.
#[tokio::test]
async fn a_further_signature_is_no_obstacle() {
    let meeting = Meeting::new().await;
    let mut pdu = meeting.peer.sign(meeting.room.message(&meeting.eve, "twice"));
    pdu.json["signatures"]["gone.example"] = json!({ "ed25519:x": "AAAA" });
    meeting.peer.sends(&meeting.server, &[&pdu]).await;
    meeting.arrives(&pdu.id).await;
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events>
#[tokio::test]
async fn content_that_does_not_fit_its_hash_is_left_out() {
    let meeting = Meeting::new().await;
    let mut pdu = meeting.peer.sign(meeting.room.message(&meeting.eve, "true"));
    pdu.json["content"]["body"] = json!("a lie");
    meeting.peer.sends(&meeting.server, &[&pdu]).await;
    assert_eq!(meeting.arrives(&pdu.id).await["content"], json!({}));
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls>
#[tokio::test]
async fn a_denied_server_sends_nothing() {
    let meeting = Meeting::new().await;
    let list =
        json!({ "allow": ["*"], "deny": ["127.0.0.1", "127.0.0.1:*"], "allow_ip_literals": false });
    meeting.alice.set_state(&meeting.room.id, "m.room.server_acl", "", list).await;
    let pdu = meeting.peer.sign(meeting.room.message(&meeting.eve, "denied"));
    meeting.peer.is_refused(&meeting.server, &pdu).await;
    let path = ["rooms", &meeting.room.id, "event", &pdu.id];
    meeting.alice.get(path).await.fails(404, "M_NOT_FOUND");
}
