//! Who is typing.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>

use complement_tests::{Client, Server, Sync, ephemeral};
use serde_json::{Value, json};

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidtypinguserid>
#[tokio::test]
async fn typing_is_shown_until_it_ends() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync = alice.sync();
    sync.now().await;
    type_in(&bob, &room, &json!({ "typing": true, "timeout": 60_000 })).await.ok();
    until_typing(&mut sync, &room, &[&bob]).await;
    type_in(&bob, &room, &json!({ "typing": false })).await.ok();
    until_typing(&mut sync, &room, &[]).await;
}

/// A client that went away stops typing by itself.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidtypinguserid>
#[tokio::test]
async fn typing_ends_after_its_time() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync = alice.sync();
    sync.now().await;
    type_in(&bob, &room, &json!({ "typing": true, "timeout": 1_000 })).await.ok();
    until_typing(&mut sync, &room, &[&bob]).await;
    until_typing(&mut sync, &room, &[]).await;
}

/// Several may type at once.
#[tokio::test]
async fn several_may_type() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob, &carol]).await;
    let mut sync = alice.sync();
    for user in [&bob, &carol] {
        type_in(user, &room, &json!({ "typing": true, "timeout": 60_000 })).await.ok();
    }
    until_typing(&mut sync, &room, &[&bob, &carol]).await;
}

/// One types for oneself, in rooms one is in.
#[tokio::test]
async fn typing_for_others_or_elsewhere_is_forbidden() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let room = alice.create_room_with(&[]).await;
    let body = json!({ "typing": true, "timeout": 60_000 });
    type_in(&mallory, &room, &body).await.fails(403, "M_FORBIDDEN");
    mallory.join(&room).await;
    let path = ["rooms", room.as_str(), "typing", &alice.user_id];
    let answer = mallory.put(path, body).await;
    assert!([400, 403].contains(&answer.status), "{answer}");
}

/// One types or not.
#[tokio::test]
async fn typing_is_true_or_false() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    for wrong in [json!("yes"), json!(1), json!(null)] {
        type_in(&alice, &room, &json!({ "typing": wrong })).await.fails(400, "M_BAD_JSON");
    }
}

async fn type_in(user: &Client, room: &str, body: &Value) -> complement_tests::Answer {
    user.put(["rooms", room, "typing", &user.user_id], body.clone()).await
}

async fn until_typing(sync: &mut Sync, room: &str, users: &[&Client]) {
    let mut expected: Vec<&str> = users.iter().map(|user| user.user_id.as_str()).collect();
    expected.sort_unstable();
    sync.until(|response| {
        let content = ephemeral(response, room, "m.typing")?;
        let mut typing: Vec<&str> =
            content["user_ids"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        typing.sort_unstable();
        (typing == expected).then_some(())
    })
    .await;
}
