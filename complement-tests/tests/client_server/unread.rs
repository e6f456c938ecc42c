//! Unread counts: what notifies, and what has been read.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>

use complement_tests::{Client, Config, Server, Sync};
use serde_json::{Value, json};

const THREADS: &str = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;

fn counts(notifications: u64, highlights: u64) -> Value {
    json!({ "notification_count": notifications, "highlight_count": highlights })
}

/// The counts of a room as a first sync shows them.
async fn unread(who: &Client, room: &str) -> Value {
    who.sync().now().await["rooms"]["join"][room]["unread_notifications"].clone()
}

/// The counts of the main timeline, and of the threads.
async fn unread_by_thread(who: &Client, room: &str) -> (Value, Value) {
    let response = who.sync().with_filter(THREADS).now().await;
    let room = &response["rooms"]["join"][room];
    (room["unread_notifications"].clone(), room["unread_thread_notifications"].clone())
}

async fn read(who: &Client, room: &str, kind: &str, event: &str, body: Value) {
    who.post(["rooms", room, "receipt", kind, event], body).await.ok();
}

async fn say_with(who: &Client, room: &str, body: &str, more: Value) -> String {
    let mut content = json!({ "msgtype": "m.text", "body": body });
    content.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    who.send(room, "m.room.message", content).await
}

async fn in_thread(who: &Client, room: &str, topic: &str) -> String {
    let relation = json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": topic } });
    say_with(who, room, "in a thread", relation).await
}

async fn put_rule(who: &Client, path: &str, rule: Value) {
    who.put(format!("pushrules/global/{path}"), rule).await.ok();
}

/// Messages count until they are read, by a public or a private receipt.
#[tokio::test]
async fn messages_count_until_they_are_read() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    assert_eq!(unread(&bob, &room).await, counts(0, 0));
    let first = alice.say(&room, "one").await;
    let second = alice.say(&room, "two").await;
    let third = alice.say(&room, "three").await;
    assert_eq!(unread(&bob, &room).await, counts(3, 0));
    assert_eq!(unread(&alice, &room).await, counts(0, 0), "one's own messages do not count");
    read(&bob, &room, "m.read", &first, json!({})).await;
    assert_eq!(unread(&bob, &room).await, counts(2, 0));
    read(&bob, &room, "m.read.private", &second, json!({})).await;
    assert_eq!(unread(&bob, &room).await, counts(1, 0));
    read(&bob, &room, "m.read", &third, json!({})).await;
    assert_eq!(unread(&bob, &room).await, counts(0, 0));
    alice.say(&room, "four").await;
    assert_eq!(unread(&bob, &room).await, counts(1, 0));
}

/// "Servers MUST … update it as it changes."
#[tokio::test]
async fn a_waiting_sync_hears_of_counts_and_of_reading() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut sync: Sync = bob.sync();
    sync.now().await;
    let event = alice.say(&room, "one").await;
    let next = |expected: Value, room: String| {
        move |response: &Value| {
            let found = &response["rooms"]["join"][&room]["unread_notifications"];
            (*found == expected).then_some(())
        }
    };
    sync.until(next(counts(1, 0), room.clone())).await;
    read(&bob, &room, "m.read.private", &event, json!({})).await;
    sync.until(next(counts(0, 0), room.clone())).await;
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-and-room-mentions>
#[tokio::test]
async fn mentions_highlight_and_room_mentions_need_power() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mention = json!({ "m.mentions": { "user_ids": [bob.user_id] } });
    say_with(&alice, &room, "look", mention).await;
    assert_eq!(unread(&bob, &room).await, counts(1, 1));
    let everybody = json!({ "m.mentions": { "room": true } });
    say_with(&alice, &room, "look, all", everybody.clone()).await;
    assert_eq!(unread(&bob, &room).await, counts(2, 2));
    say_with(&bob, &room, "look, all", everybody).await;
    assert_eq!(unread(&alice, &room).await, counts(1, 0), "bob has not the power");
    let nobody = json!({ "m.mentions": {} });
    say_with(&alice, &room, &format!("{} and @room", bob.localpart()), nobody).await;
    assert_eq!(unread(&bob, &room).await, counts(3, 2), "mentions are intentional");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#default-override-rules>
#[tokio::test]
async fn edits_reactions_notices_and_membership_do_not_notify() {
    let server = Server::shared();
    let (alice, bob, carl) =
        (server.register("alice").await, server.register("bob").await, server.register("c").await);
    let room = alice.create_room_with(&[&bob]).await;
    let message = alice.say(&room, "one").await;
    assert_eq!(unread(&bob, &room).await, counts(1, 0));
    let edit = json!({
        "m.new_content": { "msgtype": "m.text", "body": "1" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": message },
    });
    say_with(&alice, &room, "* 1", edit).await;
    say_with(&alice, &room, "beep", json!({ "msgtype": "m.notice" })).await;
    let reaction =
        json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": message, "key": "1" } });
    alice.send(&room, "m.reaction", reaction).await;
    carl.join(&room).await;
    assert_eq!(unread(&bob, &room).await, counts(1, 0));
    alice.send(&room, "m.room.encrypted", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
    assert_eq!(unread(&bob, &room).await, counts(2, 0));
}

/// A redacted message is not unread any more.
#[tokio::test]
async fn a_redacted_message_no_longer_counts() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let message = alice.say(&room, "one").await;
    alice.say(&room, "two").await;
    assert_eq!(unread(&bob, &room).await, counts(2, 0));
    alice.put(["rooms", &room, "redact", &message, "t"], json!({})).await.ok();
    assert_eq!(unread(&bob, &room).await, counts(1, 0));
    let late = server.register("late").await;
    late.join(&room).await;
    assert_eq!(unread(&late, &room).await, counts(0, 0), "what was before one came is not unread");
}

/// Rules of one's own: words, senders, rooms, and switching all off.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules>
#[tokio::test]
async fn rules_decide_what_counts() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    alice.say(&room, "there is CAKE").await;
    alice.say(&room, "there are pancakes").await;
    assert_eq!(unread(&bob, &room).await, counts(2, 0));
    let highlight = json!(["notify", { "set_tweak": "highlight" }]);
    put_rule(&bob, "content/cake", json!({ "pattern": "cake", "actions": highlight })).await;
    assert_eq!(unread(&bob, &room).await, counts(2, 1));
    // The rules of a room stand below those of its content.
    put_rule(&bob, &format!("room/{room}"), json!({ "actions": [] })).await;
    assert_eq!(unread(&bob, &room).await, counts(1, 1));
    bob.delete(format!("pushrules/global/room/{room}")).await.ok();
    put_rule(&bob, &format!("sender/{}", alice.user_id), json!({ "actions": [] })).await;
    assert_eq!(unread(&bob, &room).await, counts(1, 1));
    let few = json!({ "conditions": [{ "kind": "room_member_count", "is": "<3" }], "actions": [] });
    put_rule(&bob, "override/few", few).await;
    assert_eq!(unread(&bob, &room).await, counts(0, 0));
    let third = server.register("third").await;
    third.join(&room).await;
    alice.say(&room, "more cake").await;
    assert_eq!(unread(&bob, &room).await, counts(1, 1));
    bob.put("pushrules/global/override/.m.rule.master/enabled", json!({ "enabled": true }))
        .await
        .ok();
    assert_eq!(unread(&bob, &room).await, counts(0, 0));
}

/// Threads count apart for clients that ask for it, and are read apart.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#threaded-read-receipts>
#[tokio::test]
async fn threads_count_and_are_read_apart() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let topic = alice.say(&room, "a topic").await;
    let first = in_thread(&alice, &room, &topic).await;
    in_thread(&alice, &room, &topic).await;
    let last = alice.say(&room, "beside it").await;
    assert_eq!(unread(&bob, &room).await, counts(4, 0), "together for clients without threads");
    let threads = json!({ &topic: counts(2, 0) });
    assert_eq!(unread_by_thread(&bob, &room).await, (counts(2, 0), threads));
    read(&bob, &room, "m.read", &first, json!({ "thread_id": topic })).await;
    let threads = json!({ &topic: counts(1, 0) });
    assert_eq!(unread_by_thread(&bob, &room).await, (counts(2, 0), threads.clone()));
    read(&bob, &room, "m.read", &topic, json!({ "thread_id": "main" })).await;
    assert_eq!(unread_by_thread(&bob, &room).await, (counts(1, 0), threads.clone()));
    read(&bob, &room, "m.read", &last, json!({ "thread_id": "main" })).await;
    assert_eq!(unread_by_thread(&bob, &room).await, (counts(0, 0), threads));
    read(&bob, &room, "m.read", &last, json!({})).await;
    assert_eq!(unread_by_thread(&bob, &room).await, (counts(0, 0), Value::Null));
    assert_eq!(unread(&bob, &room).await, counts(0, 0));
}

/// Events of ignored users are not shown and do not count.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#ignoring-users>
#[tokio::test]
async fn ignored_users_do_not_count() {
    let server = Server::shared();
    let (alice, troll) = (server.register("alice").await, server.register("troll").await);
    let room = alice.create_room_with(&[&troll]).await;
    let list = json!({ "ignored_users": { &troll.user_id: {} } });
    alice.put(["user", &alice.user_id, "account_data", "m.ignored_user_list"], list).await.ok();
    troll.say(&room, "hey").await;
    assert_eq!(unread(&alice, &room).await, counts(0, 0));
}

/// Counts are made from what is stored: a restart changes none.
#[tokio::test]
async fn counts_are_the_same_after_a_restart() {
    let server = Server::start(&Config::default());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let topic = alice.say(&room, "a topic").await;
    in_thread(&alice, &room, &topic).await;
    // More than are counted without writing it down.
    for number in 0..520 {
        alice.say(&room, &number.to_string()).await;
    }
    let before = unread_by_thread(&bob, &room).await;
    assert_eq!(before, (counts(521, 0), json!({ &topic: counts(1, 0) })));
    server.kill_and_start_again();
    assert_eq!(unread_by_thread(&bob, &room).await, before);
    alice.say(&room, "one more").await;
    assert_eq!(unread_by_thread(&bob, &room).await.0, counts(522, 0));
}
