//! A server that replaces its signing key.

use complement_tests::peer::{is_signature, is_signed};
use serde_json::Value;

use crate::Meeting;

/// The ID of the key in use and the key.
fn in_use(keys: &Value) -> (String, String) {
    let keys = keys["verify_keys"].as_object().expect("keys");
    assert_eq!(keys.len(), 1, "{keys:?}");
    let (id, key) = keys.iter().next().expect("a key");
    (id.clone(), key["key"].as_str().expect("a key").to_owned())
}

/// What a server publishes of its keys is signed by the one in use.
fn is_vouched_for(keys: &Value, server: &str) -> bool {
    let (id, key) = in_use(keys);
    let mut signed = keys.clone();
    let signatures = signed.as_object_mut().expect("an object").remove("signatures");
    let signature = signatures.map(|signatures| signatures[server][&id].clone());
    signature.is_some_and(|signature| is_signature(&signed, signature.as_str().unwrap_or(""), &key))
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#publishing-keys>
#[tokio::test]
async fn events_signed_with_a_replaced_key_can_still_be_checked() {
    let meeting = Meeting::new().await;
    let (peer, server, alice) = (&meeting.peer, &meeting.server, &meeting.alice);
    let published = async || peer.get(server, "/_matrix/key/v2/server").await.ok();
    let first = published().await;
    let (old_id, old_key) = in_use(&first);
    assert!(is_vouched_for(&first, &server.name()));
    assert!(first["old_verify_keys"].as_object().is_none_or(serde_json::Map::is_empty));
    let before = alice.say(&meeting.room.id, "before").await;
    peer.gets_pdu(|pdu| pdu["content"]["body"] == "before").await;

    server.terminate().await;
    let exit = server.run_on_data(&["signing-keys", "--rotate"]).await;
    assert!(exit.status.success(), "{}", exit.output);
    server.start_again();

    let second = published().await;
    let (new_id, new_key) = in_use(&second);
    assert!(is_vouched_for(&second, &server.name()));
    assert_ne!((&new_id, &new_key), (&old_id, &old_key));
    assert_eq!(second["old_verify_keys"][&old_id]["key"], *old_key);
    let path = format!("/_matrix/federation/v1/event/{before}");
    let stored = peer.get(server, &path).await.ok()["pdus"][0].clone();
    assert!(is_signed(&stored, &server.name(), &old_id, &old_key), "{stored}");
    let sent = stored["origin_server_ts"].as_u64().expect("a time");
    let expired = second["old_verify_keys"][&old_id]["expired_ts"].as_u64().expect("a time");
    assert!(sent <= expired, "{sent} {expired}");

    // The room goes on: what it sends is signed anew, and what builds on the old is taken.
    let said = alice.say(&meeting.room.id, "after").await;
    let after = peer.gets_pdu(|pdu| pdu["content"]["body"] == "after").await;
    assert!(is_signed(&after, &server.name(), &new_id, &new_key), "{after}");
    assert!(!is_signed(&after, &server.name(), &old_id, &old_key));
    meeting.arrives(&said).await;
    meeting.all_is_taken_in().await;
}
