//! `dev.myelin.delivered`: senders hear that their messages have reached a device.

use complement_tests::{Client, Config, Server, ephemeral};
use serde_json::{Value, json};

const KIND: &str = "dev.myelin.delivered";

fn delivered(response: &Value, room: &str, event: &str, to: &Client) -> Option<Value> {
    ephemeral(response, room, "m.receipt")?[event][KIND].get(&to.user_id).cloned()
}

#[tokio::test]
async fn a_sender_hears_of_a_delivery_when_the_device_comes_back() {
    let server = Server::start(&Config::default());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob, &carol]).await;
    let (mut hers, mut his, mut carols) = (alice.sync(), bob.sync(), carol.sync());
    hers.now().await;
    his.now().await;
    carols.now().await;
    let message = alice.say(&room, "hello").await;
    // Bob's device has asked for it, and not said that it has it.
    his.until_event(&room, &message).await;
    let mut seen = String::new();
    hers.until(|response| {
        seen.push_str(&response.to_string());
        complement_tests::timeline(response, &room)
            .iter()
            .any(|event| event["event_id"] == message)
            .then_some(())
    })
    .await;
    assert!(!seen.contains(KIND), "{seen}");
    his.now().await;
    let receipt = hers.until(|response| delivered(response, &room, &message, &bob)).await;
    assert!(receipt["ts"].as_u64().unwrap() > 0);
    assert_eq!(receipt.get("thread_id"), None);
    // It is nobody else's business.
    let last = bob.say(&room, "and you?").await;
    let mut seen = String::new();
    carols
        .until(|response| {
            seen.push_str(&response.to_string());
            seen.contains(&last).then_some(())
        })
        .await;
    assert!(!seen.contains(KIND), "{seen}");
}

#[tokio::test]
async fn sliding_sync_delivers_too() {
    let server = Server::start(&Config::default());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut hers = alice.sync();
    hers.now().await;
    let message = alice.say(&room, "hello").await;
    let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let body = json!({
        "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 5, "required_state": [] } },
    });
    let first = bob.post(path, body.clone()).await.ok();
    assert!(first["rooms"][&room]["timeline"].to_string().contains(&message), "{first}");
    bob.post(path, body).query("pos", first["pos"].as_str().unwrap()).await.ok();
    hers.until(|response| delivered(response, &room, &message, &bob)).await;

    let body = json!({
        "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 5, "required_state": [] } },
        "extensions": { "receipts": { "enabled": true } },
    });
    let shown = alice.post(path, body).await.ok();
    let receipts = &shown["extensions"]["receipts"]["rooms"][&room]["content"][&message];
    assert!(receipts[KIND].get(&bob.user_id).is_some(), "{shown}");
}

#[tokio::test]
async fn nothing_is_told_in_large_rooms_or_where_it_is_off() {
    for config in [
        Config::default().with("receipts.delivered_max_members", 1),
        Config::default().with("receipts.delivered", false),
    ] {
        let server = Server::start(&config);
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room_with(&[&bob]).await;
        let (mut hers, mut his) = (alice.sync(), bob.sync());
        hers.now().await;
        his.now().await;
        let message = alice.say(&room, "hello").await;
        his.until_event(&room, &message).await;
        his.now().await;
        let answer = bob.say(&room, "hello yourself").await;
        let mut seen = String::new();
        hers.until(|response| {
            seen.push_str(&response.to_string());
            seen.contains(&answer).then_some(())
        })
        .await;
        assert!(!seen.contains(KIND), "{seen}");
    }
}
