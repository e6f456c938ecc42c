//! The paths of key backups: of a session, of a room, of all; with and without a backup.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use complement_tests::{Client, Server, text};
use serde_json::{Value, json};

fn key(index: u64) -> Value {
    let data = json!({ "ciphertext": "c", "ephemeral": "e", "mac": "m" });
    json!({
        "first_message_index": index, "forwarded_count": 0, "is_verified": true,
        "session_data": data,
    })
}

async fn create(client: &Client) -> String {
    let algorithm = "m.megolm_backup.v1.curve25519-aes-sha2";
    let body = json!({ "algorithm": algorithm, "auth_data": { "public_key": "k" } });
    text(&client.post("room_keys/version", body).await.ok(), "/version")
}

/// The paths with the body that a PUT to each takes.
fn paths() -> [(&'static str, Value); 3] {
    let room = json!({ "sessions": { "s": key(1) } });
    [
        ("room_keys/keys", json!({ "rooms": { "!r:x": room } })),
        ("room_keys/keys/!r:x", room),
        ("room_keys/keys/!r:x/s", key(1)),
    ]
}

#[tokio::test]
async fn each_path_writes_reads_and_deletes_what_it_names() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let version = create(&alice).await;
    for (path, body) in paths() {
        let written = alice.put(path, body.clone()).query("version", &version).await.ok();
        assert_eq!(written["count"], 1, "{path}");
        assert_eq!(alice.get(path).query("version", &version).await.ok(), body, "{path}");
        let left = alice.delete(path).query("version", &version).await.ok();
        assert_eq!(left["count"], 0, "{path}");
        assert_ne!(left["etag"], written["etag"], "{path}");
    }
}

#[tokio::test]
async fn without_a_backup_nothing_is_found_and_an_old_one_takes_nothing() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    alice.get("room_keys/version").await.fails(404, "M_NOT_FOUND");
    for (path, body) in paths() {
        let absent = |request: complement_tests::Request| request.query("version", "7");
        absent(alice.put(path, body)).await.fails(404, "M_NOT_FOUND");
        absent(alice.get(path)).await.fails(404, "M_NOT_FOUND");
        absent(alice.delete(path)).await.fails(404, "M_NOT_FOUND");
    }
    let first = create(&alice).await;
    let second = create(&alice).await;
    for (path, body) in paths() {
        let refusal = alice.put(path, body).query("version", &first).await;
        let refusal = refusal.fails(403, "M_WRONG_ROOM_KEYS_VERSION");
        assert_eq!(refusal["current_version"], second);
    }
    alice.delete(["room_keys/version", "7"]).await.fails(404, "M_NOT_FOUND");
}
