//! Following threads.
//!
//! Proposals: <https://github.com/matrix-org/matrix-spec-proposals/pull/4306>,
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4308>

use complement_tests::{Answer, Client, Server, text};
use reqwest::Method;
use serde_json::{Value, json};

const ROOMS: &str = "/_matrix/client/unstable/io.element.msc4306/rooms";
const PAGES: &str = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";
const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const EXTENSION: &str = "io.element.msc4308.thread_subscriptions";
const RULES: &str = "/_matrix/client/v3/pushrules/global";
const ALL_RULES: &str = "/_matrix/client/v3/pushrules/global/";

fn path<'a>(room: &'a str, thread: &'a str) -> [&'a str; 5] {
    [ROOMS, room, "thread", thread, "subscription"]
}

async fn subscribe(who: &Client, room: &str, thread: &str) -> Answer {
    who.put(path(room, thread), json!({})).await
}

async fn subscribe_for(who: &Client, room: &str, thread: &str, cause: &str) -> Answer {
    who.put(path(room, thread), json!({ "automatic": cause })).await
}

async fn unsubscribe(who: &Client, room: &str, thread: &str) -> Answer {
    who.delete(path(room, thread)).await
}

async fn subscription(who: &Client, room: &str, thread: &str) -> Answer {
    who.get(path(room, thread)).await
}

async fn say_in(who: &Client, room: &str, thread: &str, body: &str) -> String {
    say_to(who, room, thread, body, &json!({})).await
}

async fn say_to(who: &Client, room: &str, thread: &str, body: &str, mentions: &Value) -> String {
    let content = json!({
        "msgtype": "m.text",
        "body": body,
        "m.mentions": mentions,
        "m.relates_to": { "rel_type": "m.thread", "event_id": thread },
    });
    who.send(room, "m.room.message", content).await
}

/// A page of what changed.
async fn page(who: &Client, query: &[(&str, &str)]) -> Answer {
    let mut request = who.get(PAGES);
    for (name, value) in query {
        request = request.query(name, value);
    }
    request.await
}

/// What the extension tells, and the position after it.
async fn news(who: &Client, pos: Option<&str>, limit: u64) -> (Value, String) {
    let mut extensions = json!({});
    extensions[EXTENSION] = json!({ "enabled": true, "limit": limit });
    let mut request = who.post(SLIDING, json!({ "extensions": extensions }));
    if let Some(pos) = pos {
        request = request.query("pos", pos).query("timeout", "30000");
    }
    let answer = request.await.ok();
    (answer["extensions"][EXTENSION].clone(), text(&answer, "/pos"))
}

/// The roots of threads in `room`, in what was told.
fn roots(told: &Value, kind: &str, room: &str) -> Vec<String> {
    told[kind][room]
        .as_object()
        .map(|threads| threads.keys().cloned().collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_thread_is_followed_and_no_longer() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let thread = alice.say(&room, "thread").await;
    subscription(&bob, &room, &thread).await.fails(404, "M_NOT_FOUND");
    unsubscribe(&bob, &room, &thread).await.ok();
    let reply = say_in(&alice, &room, &thread, "reply").await;
    subscribe_for(&bob, &room, &thread, &reply).await.ok();
    assert_eq!(subscription(&bob, &room, &thread).await.ok(), json!({ "automatic": true }));
    subscribe(&bob, &room, &thread).await.ok();
    assert_eq!(subscription(&bob, &room, &thread).await.ok(), json!({ "automatic": false }));
    subscribe_for(&bob, &room, &thread, &reply).await.ok();
    assert_eq!(subscription(&bob, &room, &thread).await.ok(), json!({ "automatic": false }));
    subscription(&alice, &room, &thread).await.fails(404, "M_NOT_FOUND");
    unsubscribe(&bob, &room, &thread).await.ok();
    subscription(&bob, &room, &thread).await.fails(404, "M_NOT_FOUND");
    let flags = alice.anonymous().get("/_matrix/client/versions").await.ok();
    assert_eq!(flags["unstable_features"]["org.matrix.msc4306"], true);
}

/// "The server will skip the subscription if it determines that the automatic subscription is for an
/// event that was already acknowledged at the time a manual unsubscription was requested."
#[tokio::test]
async fn who_unsubscribed_is_not_subscribed_again_by_what_was_before() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let thread = alice.say(&room, "thread").await;
    let before = say_in(&alice, &room, &thread, "bob?").await;
    subscribe_for(&bob, &room, &thread, &before).await.ok();
    unsubscribe(&bob, &room, &thread).await.ok();
    let refused = subscribe_for(&bob, &room, &thread, &before).await;
    refused.fails(409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION");
    subscription(&bob, &room, &thread).await.fails(404, "M_NOT_FOUND");
    let after = say_in(&alice, &room, &thread, "bob!").await;
    subscribe_for(&bob, &room, &thread, &after).await.ok();
    assert_eq!(subscription(&bob, &room, &thread).await.ok(), json!({ "automatic": true }));
}

#[tokio::test]
async fn only_threads_and_causes_that_the_user_may_see_are_followed() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let (thread, other) = (alice.say(&room, "thread").await, alice.say(&room, "other").await);
    let reply = say_in(&alice, &room, &other, "reply").await;
    for cause in [&thread, &other, &reply] {
        let refused = subscribe_for(&alice, &room, &thread, cause).await;
        refused.fails(400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD");
    }
    let elsewhere = alice.create_room(json!({})).await;
    let unknown = "$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    subscribe_for(&alice, &room, &other, unknown).await.fails(404, "M_NOT_FOUND");
    for (who, room, thread) in
        [(&bob, &*room, &*thread), (&alice, &*room, unknown), (&alice, &*elsewhere, &*thread)]
    {
        subscribe(who, room, thread).await.fails(404, "M_NOT_FOUND");
        unsubscribe(who, room, thread).await.fails(404, "M_NOT_FOUND");
        subscription(who, room, thread).await.fails(404, "M_NOT_FOUND");
    }
    let nothing = alice.put(path(&room, &thread), json!({ "automatic": true })).await;
    nothing.fails(400, "M_BAD_JSON");
    subscribe(&alice, &room, "thread").await.fails(400, "M_INVALID_PARAM");
    subscribe(&alice.anonymous(), &room, &thread).await.fails(401, "M_MISSING_TOKEN");
}

/// The extension tells of each change once, and wakes; what it has no room for is in pages.
#[tokio::test]
async fn devices_hear_what_is_followed_and_catch_up() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut threads = Vec::new();
    for number in 0..5 {
        let thread = alice.say(&room, &format!("thread {number}")).await;
        subscribe(&alice, &room, &thread).await.ok();
        threads.push(thread);
    }
    let sorted = |roots: &[String]| {
        let mut roots = roots.to_vec();
        roots.sort();
        roots
    };
    let (told, first) = news(&alice, None, 2).await;
    assert_eq!(roots(&told, "subscribed", &room), sorted(&threads[3..]));
    let from = text(&told, "/prev_batch");
    let second = page(&alice, &[("dir", "b"), ("from", &from), ("limit", "2")]).await.ok();
    assert_eq!(roots(&second, "subscribed", &room), sorted(&threads[1..3]));
    let from = text(&second, "/end");
    let third = page(&alice, &[("dir", "b"), ("from", &from), ("limit", "2")]).await.ok();
    assert_eq!(roots(&third, "subscribed", &room), sorted(&threads[..1]));
    assert!(third["end"].is_null(), "{third}");

    let ((told, second), _) = tokio::join!(news(&alice, Some(&first), 2), async {
        unsubscribe(&alice, &room, &threads[0]).await.ok()
    });
    assert_eq!(roots(&told, "unsubscribed", &room), sorted(&threads[..1]));
    assert!(told["prev_batch"].is_null(), "{told}");
    let stamp = &told["unsubscribed"][&room][&threads[0]]["bump_stamp"];
    assert!(stamp.as_u64().is_some_and(|stamp| stamp > 0), "{told}");
    for thread in &threads[1..4] {
        unsubscribe(&alice, &room, thread).await.ok();
        subscribe(&alice, &room, thread).await.ok();
    }
    let (told, _) = news(&alice, Some(&second), 2).await;
    assert_eq!(roots(&told, "subscribed", &room), sorted(&threads[2..4]));
    // "The `pos` parameter in the request would be used for the `to` parameter."
    let from = text(&told, "/prev_batch");
    let rest = page(&alice, &[("dir", "b"), ("from", &from), ("to", &second)]).await.ok();
    assert_eq!(roots(&rest, "subscribed", &room), sorted(&threads[1..2]));
    assert!(rest["end"].is_null() && rest["unsubscribed"].is_null(), "{rest}");
}

#[tokio::test]
async fn pages_have_their_rules() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    assert_eq!(page(&alice, &[("dir", "b")]).await.ok(), json!({}));
    for wrong in [
        [("dir", "f"), ("limit", "1")],
        [("dir", "b"), ("limit", "0")],
        [("dir", "b"), ("limit", "-1")],
        [("dir", "b"), ("from", "x")],
        [("dir", "b"), ("to", "1_2")],
    ] {
        page(&alice, &wrong).await.fails(400, "M_INVALID_PARAM");
    }
    assert_eq!(page(&alice, &[]).await.status, 400);
    page(&alice.anonymous(), &[("dir", "b")]).await.fails(401, "M_MISSING_TOKEN");
}

/// Who follows a thread hears of it whatever the room's rules say; of other threads only who is
/// mentioned there. Who never followed one is notified as ever.
#[tokio::test]
async fn followed_threads_notify_and_others_no_longer_do() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let (followed, other) = (alice.say(&room, "thread").await, alice.say(&room, "other").await);
    let count = async || {
        let response = bob.sync().now().await;
        response["rooms"]["join"][&room]["unread_notifications"]["notification_count"].clone()
    };
    say_in(&alice, &room, &other, "heard").await;
    assert_eq!(count().await, 3);
    assert!(bob.get(ALL_RULES).await.ok()["postcontent"].is_null());
    subscribe(&bob, &room, &followed).await.ok();
    let rules = bob.get(ALL_RULES).await.ok()["postcontent"].clone();
    let [unsubscribed, subscribed] =
        ["unsubscribed", "subscribed"].map(|of| format!(".io.element.msc4306.rule.{of}_thread"));
    assert_eq!(rules[0]["rule_id"], unsubscribed);
    assert_eq!(rules[1]["rule_id"], subscribed);
    assert_eq!(rules[1]["conditions"][0]["kind"], "io.element.msc4306.thread_subscription");
    let mute = [RULES, "room", &room];
    bob.put(mute, json!({ "actions": [] })).await.ok();
    assert_eq!(count().await, 0, "the room is muted");
    say_in(&alice, &room, &followed, "heard").await;
    assert_eq!(count().await, 1);
    say_in(&alice, &room, &other, "not heard").await;
    assert_eq!(count().await, 1);
    say_to(&alice, &room, &other, "heard", &json!({ "user_ids": [bob.user_id] })).await;
    assert_eq!(count().await, 2);
    let listed = bob.get(["notifications"]).await.ok()["notifications"].clone();
    let bodies: Vec<&Value> =
        listed.as_array().unwrap().iter().map(|found| &found["event"]["content"]["body"]).collect();
    assert_eq!(bodies, ["heard", "heard"]);
    bob.delete(mute).await.ok();
    unsubscribe(&bob, &room, &followed).await.ok();
    assert_eq!(count().await, 3, "two outside of threads, and the mention");
    // The rules are the server's: they may be switched off, not be added to.
    for kind in ["postcontent", "io.element.msc4306.postcontent"] {
        let switch = [RULES, kind, &unsubscribed, "enabled"];
        bob.put(switch, json!({ "enabled": kind != "postcontent" })).await.ok();
        let own = json!({ "conditions": [], "actions": [] });
        bob.put([RULES, kind, "own"], own).await.fails(400, "M_INVALID_PARAM");
        bob.delete([RULES, kind, &unsubscribed]).await.fails(400, "M_INVALID_PARAM");
    }
    let switch = [RULES, "postcontent", &unsubscribed, "enabled"];
    bob.put(switch, json!({ "enabled": false })).await.ok();
    assert_eq!(bob.get(switch).await.ok(), json!({ "enabled": false }));
    assert_eq!(count().await, 6, "all of it");
}

/// What is forgotten with a room is forgotten of its threads too, and of a closed account nothing
/// is left.
#[tokio::test]
async fn a_room_that_is_forgotten_takes_its_threads_along() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let thread = alice.say(&room, "thread").await;
    subscribe(&bob, &room, &thread).await.ok();
    bob.leave(&room).await;
    bob.post(["rooms", &room, "forget"], json!({})).await.ok();
    assert_eq!(page(&bob, &[("dir", "b")]).await.ok(), json!({}));
    bob.join(&room).await;
    subscription(&bob, &room, &thread).await.fails(404, "M_NOT_FOUND");
    subscribe(&bob, &room, &thread).await.ok();
    let closed = bob.with_password(Method::POST, ["account", "deactivate"], json!({})).await;
    closed.ok();
    subscribe(&bob, &room, &thread).await.fails(401, "M_UNKNOWN_TOKEN");
}
