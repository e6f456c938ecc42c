//! Key backup and dehydrated devices.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use complement_tests::{Client, Server, Signer, must_match, text};
use serde_json::{Value, json};

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

async fn create(client: &Client, public_key: &str) -> String {
    let auth_data = json!({ "public_key": public_key, "signatures": {} });
    let body = json!({ "algorithm": ALGORITHM, "auth_data": auth_data });
    text(&client.post("room_keys/version", body).await.ok(), "/version")
}

fn key(first_message_index: u64, forwarded_count: u64, is_verified: bool) -> Value {
    json!({
        "first_message_index": first_message_index,
        "forwarded_count": forwarded_count,
        "is_verified": is_verified,
        "session_data": { "ciphertext": "c", "ephemeral": "e", "mac": "m" },
    })
}

async fn put(client: &Client, version: &str, session: &str, key: Value) -> Value {
    let path = ["room_keys/keys", "!room:example.org", session];
    client.put(path, key).query("version", version).await.ok()
}

async fn get(client: &Client, version: &str, session: &str) -> Value {
    let path = ["room_keys/keys", "!room:example.org", session];
    client.get(path).query("version", version).await.ok()
}

/// Versions count up, are described anew, and their numbers are never used again.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3room_keysversion>
#[tokio::test]
async fn backup_versions_are_made_described_and_deleted() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    alice.get("room_keys/version").await.fails(404, "M_NOT_FOUND");
    let first = create(&alice, "a2V5").await;
    let second = create(&alice, "a2V5Mg").await;
    assert_ne!(first, second);
    let latest = alice.get("room_keys/version").await.ok();
    must_match(&latest, &json!({ "version": second, "algorithm": ALGORITHM, "count": 0 }));
    let path = |version: &str| format!("room_keys/version/{version}");
    let auth_data = json!({ "public_key": "bmV3", "signatures": {} });
    let body = json!({ "algorithm": ALGORITHM, "auth_data": auth_data, "version": second });
    alice.put(path(&second), body.clone()).await.ok();
    assert_eq!(alice.get(path(&second)).await.ok()["auth_data"], auth_data);
    alice.put(path(&first), body.clone()).await.fails(400, "M_INVALID_PARAM");
    let other = json!({ "algorithm": "org.example.other", "auth_data": {} });
    alice.put(path(&second), other).await.fails(400, "M_INVALID_PARAM");
    alice
        .put(path("999"), json!({ "algorithm": ALGORITHM, "auth_data": auth_data }))
        .await
        .fails(404, "M_NOT_FOUND");
    alice.delete(path(&second)).await.ok();
    alice.delete(path(&second)).await.ok();
    alice.get(path(&second)).await.fails(404, "M_NOT_FOUND");
    assert_eq!(alice.get("room_keys/version").await.ok()["version"], first);
    assert_ne!(create(&alice, "a2V5").await, second);
    let bob = server.register("bob").await;
    bob.get(path(&first)).await.fails(404, "M_NOT_FOUND");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#backup-algorithm-mmegolm_backupv1curve25519-aes-sha2>,
/// "the server … keep the key with …".
#[tokio::test]
async fn of_two_keys_for_a_session_the_better_one_stays() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let version = create(&alice, "a2V5").await;
    let first = put(&alice, &version, "s", key(5, 5, false)).await;
    assert_eq!(first["count"], 1);
    // Each of these is better than the one before, in the order of what counts.
    let mut etag = first["etag"].clone();
    for better in [key(5, 4, false), key(4, 9, false), key(9, 9, true)] {
        let state = put(&alice, &version, "s", better.clone()).await;
        assert_ne!(state["etag"], etag);
        assert_eq!(state["count"], 1);
        assert_eq!(get(&alice, &version, "s").await, better);
        etag = state["etag"].clone();
    }
    for worse in [key(0, 0, false), key(9, 10, true), key(10, 0, true)] {
        let state = put(&alice, &version, "s", worse).await;
        assert_eq!(state["etag"], etag, "nothing changed");
        assert_eq!(get(&alice, &version, "s").await, key(9, 9, true));
    }
}

/// Many at once, by room and one by one; counts and etags say what there is.
#[tokio::test]
async fn keys_are_stored_and_removed_by_session_room_and_version() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let version = create(&alice, "a2V5").await;
    let sessions: serde_json::Map<String, Value> =
        (0..600).map(|number| (format!("s{number}"), key(number, 0, true))).collect();
    let rooms = json!({ "rooms": {
        "!a:example.org": { "sessions": sessions },
        "!b:example.org": { "sessions": { "s": key(1, 1, false) } },
    } });
    let state = alice.put("room_keys/keys", rooms.clone()).query("version", &version).await.ok();
    assert_eq!(state["count"], 601);
    let all = alice.get("room_keys/keys").query("version", &version).await.ok();
    assert_eq!(all, rooms);
    let room = ["room_keys/keys", "!a:example.org"];
    let of_room = alice.get(room).query("version", &version).await.ok();
    assert_eq!(of_room["sessions"], rooms["rooms"]["!a:example.org"]["sessions"]);
    let one = ["room_keys/keys", "!a:example.org", "s7"];
    assert_eq!(alice.delete(one).query("version", &version).await.ok()["count"], 600);
    alice.get(one).query("version", &version).await.fails(404, "M_NOT_FOUND");
    assert_eq!(alice.delete(room).query("version", &version).await.ok()["count"], 1);
    assert_eq!(
        alice.get(room).query("version", &version).await.ok(),
        json!({ "sessions": {} }),
        "a room without keys is no error"
    );
    let state = alice.delete("room_keys/keys").query("version", &version).await.ok();
    assert_eq!(state["count"], 0);
    assert_eq!(
        alice.get("room_keys/version").await.ok()["etag"],
        state["etag"],
        "the etag is that of the last change"
    );
}

/// Only the current version takes keys; older ones are still read.
#[tokio::test]
async fn keys_for_an_old_version_are_refused_with_the_current_one() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let path = ["room_keys/keys", "!room:example.org", "s"];
    alice.put(path, key(0, 0, true)).query("version", "1").await.fails(404, "M_NOT_FOUND");
    let first = create(&alice, "a2V5").await;
    put(&alice, &first, "s", key(0, 0, true)).await;
    let second = create(&alice, "a2V5Mg").await;
    let refused = alice.put(path, key(0, 0, true)).query("version", &first).await;
    let refused = refused.fails(403, "M_WRONG_ROOM_KEYS_VERSION");
    assert_eq!(refused["current_version"], second);
    assert_eq!(get(&alice, &first, "s").await, key(0, 0, true));
    alice.put(path, json!({ "no": "key" })).query("version", &second).await.has_status(400);
}

/// A device without anybody on it collects messages, and hands them over once.
/// Proposal: <https://github.com/matrix-org/matrix-spec-proposals/pull/3814>
#[tokio::test]
async fn a_dehydrated_device_receives_messages_until_it_is_taken_over() {
    const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.get(PATH).await.fails(404, "M_NOT_FOUND");
    let mut device = alice.clone();
    "DEHYDRATED".clone_into(&mut device.device_id);
    let signer = Signer::of_device(&device);
    let body = json!({
        "device_id": device.device_id,
        "device_data": { "algorithm": "org.example", "pickle": "p" },
        "device_keys": signer.device_keys(&device),
        "one_time_keys": { "signed_curve25519:A": signer.one_time_key(&device, "a", false) },
        "initial_device_display_name": "Dehydrated",
    });
    let mut unsigned = body.clone();
    unsigned["device_keys"].as_object_mut().unwrap().remove("signatures");
    alice.put(PATH, unsigned).await.fails(400, "M_INVALID_SIGNATURE");
    alice.get(PATH).await.fails(404, "M_NOT_FOUND");
    alice.put(PATH, body.clone()).await.ok();
    let found = alice.get(PATH).await.ok();
    must_match(&found, &json!({ "device_id": "DEHYDRATED", "device_data": body["device_data"] }));
    let keys = bob.post("keys/query", json!({ "device_keys": { &*alice.user_id: [] } })).await.ok();
    assert!(keys["device_keys"][&alice.user_id]["DEHYDRATED"].is_object(), "{keys}");

    for number in 0..3 {
        let number = number.to_string();
        let messages = json!({ &*alice.user_id: { "DEHYDRATED": { "n": number } } });
        let path = ["sendToDevice", "org.example.note", &number];
        bob.put(path, json!({ "messages": messages })).await.ok();
    }
    let events = format!("{PATH}/DEHYDRATED/events");
    let first = alice.get(events.as_str()).query("limit", "2").await.ok();
    assert_eq!(first["events"].as_array().unwrap().len(), 2);
    let next = text(&first, "/next_batch");
    let second = alice.get(events.as_str()).query("from", &next).await.ok();
    assert_eq!(second["events"][0]["content"]["n"], "2");
    assert_eq!(second["next_batch"], Value::Null);
    let old_form = alice.post(events.as_str(), json!({})).await.ok();
    assert_eq!(old_form["events"].as_array().unwrap().len(), 3);
    let end = json!({ "next_batch": old_form["next_batch"] });
    assert_eq!(alice.post(events.as_str(), end).await.ok()["events"], json!([]));
    bob.get(events.as_str()).await.fails(404, "M_NOT_FOUND");

    alice.delete(PATH).await.ok();
    alice.get(PATH).await.fails(404, "M_NOT_FOUND");
    alice.get(["devices", "DEHYDRATED"]).await.fails(404, "M_NOT_FOUND");
}
