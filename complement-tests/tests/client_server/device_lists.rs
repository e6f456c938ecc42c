//! Who hears of whose keys.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user>

use complement_tests::{Client, Server, Signer, Sync};
use serde_json::{Value, json};

async fn upload_identity(client: &Client) {
    let keys = Signer::of_device(client).device_keys(client);
    client.post("keys/upload", json!({ "device_keys": keys })).await.ok();
}

/// `changed` and `left` of the next response.
async fn lists(sync: &mut Sync) -> (Vec<Value>, Vec<Value>) {
    let response = sync.now().await;
    let list = |name: &str| response["device_lists"][name].as_array().cloned().unwrap_or_default();
    (list("changed"), list("left"))
}

fn ids(clients: &[&Client]) -> Vec<Value> {
    clients.iter().map(|client| Value::from(client.user_id.as_str())).collect()
}

/// Those who share a room hear of a change, and the user's other devices; strangers don't.
#[tokio::test]
async fn a_change_is_heard_by_those_who_share_a_room() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let stranger = server.register("stranger").await;
    alice.create_room_with(&[&bob]).await;
    let (mut own, mut bobs, mut strangers) = (alice.sync(), bob.sync(), stranger.sync());
    for sync in [&mut own, &mut bobs, &mut strangers] {
        sync.now().await;
    }
    let from = bobs.token().unwrap().to_owned();
    upload_identity(&alice).await;
    assert_eq!(lists(&mut own).await, (ids(&[&alice]), ids(&[])));
    assert_eq!(lists(&mut bobs).await, (ids(&[&alice]), ids(&[])));
    assert_eq!(lists(&mut strangers).await, (ids(&[]), ids(&[])));
    assert_eq!(lists(&mut bobs).await, (ids(&[]), ids(&[])), "told once");
    let to = bobs.token().unwrap().to_owned();
    let changes = bob.get("keys/changes").query("from", &from).query("to", &to).await.ok();
    assert_eq!(changes, json!({ "changed": ids(&[&alice]), "left": [] }));
    let answer = bob.get("keys/changes").query("from", "x").query("to", &to).await;
    answer.fails_as(400, &["M_INVALID_PARAM", "M_UNKNOWN"]);
    // The same keys again are no change; a logout is one.
    upload_identity(&alice).await;
    assert_eq!(lists(&mut bobs).await, (ids(&[]), ids(&[])));
    alice.post("logout", json!({})).await.ok();
    assert_eq!(lists(&mut bobs).await, (ids(&[&alice]), ids(&[])));
}

/// Joining makes strangers known to each other, leaving ends it with the last room they share.
#[tokio::test]
async fn joins_and_leaves_begin_and_end_the_sharing() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    // Whether one's own devices are named when one comes into a room is the server's choice.
    let lists = async |sync: &mut Sync, own: &Client| {
        let (mut changed, left) = lists(sync).await;
        changed.retain(|user| *user != *own.user_id);
        (changed, left)
    };
    let first = alice.create_room(json!({ "preset": "public_chat" })).await;
    let second = alice.create_room(json!({ "preset": "public_chat" })).await;
    let (mut alices, mut bobs) = (alice.sync(), bob.sync());
    alices.now().await;
    bobs.now().await;
    bob.join(&first).await;
    assert_eq!(lists(&mut alices, &alice).await, (ids(&[&bob]), ids(&[])));
    assert_eq!(lists(&mut bobs, &bob).await, (ids(&[&alice]), ids(&[])));
    bob.join(&second).await;
    lists(&mut alices, &alice).await;
    lists(&mut bobs, &bob).await;
    bob.post(["rooms", &first, "leave"], json!({})).await.ok();
    assert!(lists(&mut alices, &alice).await.1.is_empty(), "they still share the second room");
    assert!(lists(&mut bobs, &bob).await.1.is_empty());
    bob.post(["rooms", &second, "leave"], json!({})).await.ok();
    assert_eq!(lists(&mut alices, &alice).await, (ids(&[]), ids(&[&bob])));
    assert_eq!(lists(&mut bobs, &bob).await, (ids(&[]), ids(&[&alice])));
    // What changes while they are apart is told of when they meet again, and only then.
    upload_identity(&bob).await;
    assert_eq!(lists(&mut alices, &alice).await, (ids(&[]), ids(&[])));
    bob.join(&first).await;
    assert_eq!(lists(&mut alices, &alice).await, (ids(&[&bob]), ids(&[])));
}

/// Left, changed and come back between two syncs: told of as changed, not as gone.
#[tokio::test]
async fn a_change_during_a_short_absence_is_not_missed() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut alices = alice.sync();
    alices.now().await;
    bob.post(["rooms", &room, "leave"], json!({})).await.ok();
    upload_identity(&bob).await;
    bob.join(&room).await;
    assert_eq!(lists(&mut alices).await, (ids(&[&bob]), ids(&[])));
}

/// Whoever left a room shortly before the user did is gone as well as those who stayed.
#[tokio::test]
async fn who_left_before_the_user_is_gone_too() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob, &carol]).await;
    let mut alices = alice.sync();
    alices.now().await;
    for gone in [&bob, &alice] {
        gone.leave(&room).await;
    }
    let (changed, mut left) = lists(&mut alices).await;
    left.sort_by_key(Value::to_string);
    let mut expected = ids(&[&bob, &carol]);
    expected.sort_by_key(Value::to_string);
    assert_eq!((changed, left), (ids(&[]), expected));
}
