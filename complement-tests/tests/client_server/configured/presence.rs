//! Who is online.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#presence>

use complement_tests::{Client, Config, Server, Sync};
use serde_json::{Value, json};

/// A server that tells presence; the usual one does not, since that wakes syncs at any time.
fn server() -> Server {
    Server::start(&Config::default().with("presence.enabled", true).with("presence.interval_s", 1))
}

async fn set(client: &Client, presence: &str, message: &str) {
    let path = ["presence", client.user_id.as_str(), "status"];
    client.put(path, json!({ "presence": presence, "status_msg": message })).await.ok();
}

/// Syncs until the presence of `user_id` is told and is as wanted.
async fn until(sync: &mut Sync, user_id: &str, presence: &str) -> Value {
    sync.until(|response| {
        let events = response["presence"]["events"].as_array()?;
        let event = events.iter().find(|event| event["sender"] == user_id)?;
        Some(event["content"].clone()).filter(|content| content["presence"] == presence)
    })
    .await
}

/// Those who share a room see who is there, and what they say of themselves.
#[tokio::test]
async fn presence_is_told_to_those_who_share_a_room() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.create_room_with(&[&bob]).await;
    let mut bobs = bob.sync();
    bobs.now().await;
    set(&alice, "online", "Making tea").await;
    let content = until(&mut bobs, &alice.user_id, "online").await;
    assert_eq!(content["status_msg"], "Making tea");
    assert_eq!(content["currently_active"], true);
    assert!(content["last_active_ago"].as_u64().unwrap() < 60_000, "{content}");
    let path = ["presence", alice.user_id.as_str(), "status"];
    let status = bob.get(path).await.ok();
    assert_eq!(
        (&status["presence"], &status["status_msg"]),
        (&json!("online"), &json!("Making tea"))
    );
    set(&alice, "unavailable", "").await;
    assert_eq!(until(&mut bobs, &alice.user_id, "unavailable").await["status_msg"], Value::Null);
    // Also to a client that begins.
    until(&mut bob.sync(), &alice.user_id, "unavailable").await;
    set(&alice, "offline", "").await;
    until(&mut bobs, &alice.user_id, "offline").await;
}

/// A sync is a sign of life, unless it says that it is none.
#[tokio::test]
async fn a_sync_in_the_background_is_no_sign_of_life() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.create_room_with(&[&bob]).await;
    let path = ["presence", alice.user_id.as_str(), "status"];
    alice.get("sync").query("set_presence", "offline").await.ok();
    assert_eq!(bob.get(path).await.ok()["presence"], "offline");
    alice.get("sync").query("set_presence", "unavailable").await.ok();
    assert_eq!(bob.get(path).await.ok()["presence"], "unavailable");
    alice.get("sync").await.ok();
    assert_eq!(bob.get(path).await.ok()["presence"], "online");
}

/// Strangers learn nothing, and nobody speaks for others.
#[tokio::test]
async fn presence_is_for_those_who_share_a_room() {
    let server = server();
    let (alice, stranger) = (server.register("alice").await, server.register("stranger").await);
    let path = ["presence", alice.user_id.as_str(), "status"];
    stranger.get(path).await.fails(403, "M_FORBIDDEN");
    stranger.put(path, json!({ "presence": "online" })).await.fails(403, "M_FORBIDDEN");
    alice.put(path, json!({ "presence": "dancing" })).await.fails(400, "M_INVALID_PARAM");
    let long = json!({ "presence": "online", "status_msg": "x".repeat(2_000) });
    alice.put(path, long).await.fails(400, "M_INVALID_PARAM");
    alice.get(path).await.ok();
    let unknown = ["presence", "@nobody:unreachable.invalid", "status"];
    alice.get(unknown).await.fails(403, "M_FORBIDDEN");
}

/// A filter leaves presence out.
#[tokio::test]
async fn presence_is_filtered() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.create_room_with(&[&bob]).await;
    let mut bobs = bob.sync();
    bobs.now().await;
    set(&alice, "online", "x").await;
    until(&mut bobs, &alice.user_id, "online").await;
    for filter in [
        json!({ "presence": { "types": [] } }),
        json!({ "presence": { "not_types": ["m.presence"] } }),
        json!({ "presence": { "not_senders": [alice.user_id] } }),
        json!({ "presence": { "senders": ["@carol:example.org"] } }),
    ] {
        let response = bob.sync().with_filter(&filter.to_string()).now().await;
        let told = response["presence"]["events"].as_array().cloned().unwrap_or_default();
        assert!(told.iter().all(|event| event["sender"] != *alice.user_id), "{filter}");
    }
    let only_alice = json!({ "presence": { "senders": [alice.user_id] } });
    let response = bob.sync().with_filter(&only_alice.to_string()).now().await;
    assert_eq!(response["presence"]["events"][0]["sender"], *alice.user_id);
}
