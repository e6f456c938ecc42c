//! How often and how many.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#rate-limiting>

use complement_tests::{Answer, Client, Config, Server};
use serde_json::json;

fn limited(answer: Answer) {
    let after: u64 = answer.header("retry-after").parse().unwrap();
    assert!(after > 0);
    let refusal = answer.fails(429, "M_LIMIT_EXCEEDED");
    assert!(refusal["retry_after_ms"].as_u64().unwrap() > 0, "{refusal}");
}

async fn send(who: &Client, room: &str, txn: &str) -> Answer {
    let path = ["rooms", room, "send", "m.room.message", txn];
    who.put(path, json!({ "msgtype": "m.text", "body": "x" })).await
}

#[tokio::test]
async fn messages_rooms_joins_and_invitations_are_limited_by_user() {
    let mut config = Config::default().with("rate_limits.enabled", true);
    for (what, burst) in
        [("message_user", 3), ("room_creation_user", 2), ("join_user", 1), ("invite_user", 1)]
    {
        config = config
            .with(&format!("rate_limits.{what}.burst"), burst)
            .with(&format!("rate_limits.{what}.per_minute"), 1);
    }
    let server = Server::start(&config);
    let admin = server.register_admin("admin").await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let public = json!({ "preset": "public_chat" });
    let rooms = [alice.create_room(public.clone()).await, alice.create_room(public.clone()).await];
    limited(alice.post(["createRoom"], public).await);
    for txn in ["1", "2", "3"] {
        send(&alice, &rooms[0], txn).await.ok();
    }
    limited(send(&alice, &rooms[0], "4").await);
    send(&alice, &rooms[0], "3").await.ok(); // a retry is free
    bob.post(["rooms", &rooms[0], "join"], json!({})).await.ok();
    limited(bob.post(["rooms", &rooms[1], "join"], json!({})).await);
    let invite = async |whom: &Client| {
        alice.post(["rooms", &rooms[1], "invite"], json!({ "user_id": whom.user_id })).await
    };
    invite(&bob).await.ok();
    limited(invite(&admin).await);

    // The operator lets one of them do as much as they like.
    let path = format!("/_synapse/admin/v1/users/{}/override_ratelimit", alice.user_id);
    assert_eq!(admin.get(path.as_str()).await.ok(), json!({}));
    let free = json!({ "messages_per_second": 0, "burst_count": 0 });
    admin.post(path.as_str(), free.clone()).await.ok();
    assert_eq!(admin.get(path.as_str()).await.ok(), free);
    for txn in 5..20 {
        send(&alice, &rooms[0], &txn.to_string()).await.ok();
    }
    limited(bob.post(["rooms", &rooms[1], "join"], json!({})).await);
    admin.delete(path.as_str()).await.ok();
    limited(send(&alice, &rooms[0], "21").await);
    bob.get(path.as_str()).await.fails(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn nobody_comes_into_a_room_that_is_full() {
    let server = Server::start(&Config::default().with("rooms.max_members", 2));
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    carol.post(["rooms", &room, "join"], json!({})).await.fails(403, "M_FORBIDDEN");
    bob.leave(&room).await;
    carol.join(&room).await;
}

/// A client shares keys with a thousand devices at once; whoever goes on and on has to wait.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid>
#[tokio::test]
async fn messages_between_devices_are_limited_by_sender() {
    let config = Config::default()
        .with("rate_limits.enabled", true)
        .with("rate_limits.to_device_user.burst", 3)
        .with("rate_limits.to_device_user.per_minute", 1);
    let server = Server::start(&config);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let messages = json!({ "messages": { &*bob.user_id: { "*": { "n": 1 } } } });
    let send = async |who: &Client, txn: &str| {
        who.put(["sendToDevice", "org.example.note", txn], messages.clone()).await
    };
    for txn in ["1", "2", "3"] {
        send(&alice, txn).await.ok();
    }
    limited(send(&alice, "4").await);
    send(&alice, "3").await.ok(); // a retry is free
    // Nothing of what was refused has arrived, all else has; others go on.
    send(&bob, "1").await.ok();
    let inbox = bob.sync().now().await["to_device"]["events"].clone();
    assert_eq!(inbox.as_array().unwrap().len(), 4, "{inbox}");
}
