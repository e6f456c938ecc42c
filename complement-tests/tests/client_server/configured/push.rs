//! Pushers, told through a push gateway of the test's own.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-notifications>

mod gateway;
mod mail;
mod web;

use complement_tests::{Client, Config, Server, must_match, text};
use gateway::{Gateway, Mood};
use serde_json::{Value, json};

fn server() -> Server {
    Server::start(&Config::default().with("outgoing.allow_private_addresses", true))
}

fn pusher(gateway: &Gateway, pushkey: &str) -> Value {
    json!({
        "kind": "http", "app_id": "org.example.app", "pushkey": pushkey, "lang": "en",
        "app_display_name": "App", "device_display_name": "Phone", "profile_tag": "tag",
        "data": { "url": gateway.url(), "custom": { "a": [1] } },
    })
}

async fn set(client: &Client, body: Value) {
    assert_eq!(client.post("pushers/set", body).await.ok(), json!({}));
}

async fn pushkeys(client: &Client) -> Vec<String> {
    let pushers = client.get("pushers").await.ok();
    let pushers = pushers["pushers"].as_array().unwrap().iter();
    pushers.map(|pusher| text(pusher, "/pushkey")).collect()
}

async fn read(client: &Client, room: &str, event: &str) {
    client.post(["rooms", room, "receipt", "m.read", event], json!({})).await.ok();
}

/// "If `kind` is not `null`, the pusher with this `app_id` and `pushkey` for this user is updated,
/// or it is created if it doesn't exist. If `kind` is `null`, the pusher [...] is deleted."
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>
#[tokio::test]
async fn pushers_are_made_changed_listed_and_deleted() {
    let (server, gateway) = (server(), Gateway::start().await);
    let alice = server.register("alice").await;
    assert_eq!(alice.get("pushers").await.ok(), json!({ "pushers": [] }));
    set(&alice, pusher(&gateway, "key")).await;
    let mut other = pusher(&gateway, "other");
    other["org.matrix.msc3881.enabled"] = json!(false);
    set(&alice, other).await;
    let mut changed = pusher(&gateway, "key");
    changed["lang"] = json!("de");
    set(&alice, changed.clone()).await;

    changed["org.matrix.msc3881.enabled"] = json!(true);
    changed["org.matrix.msc3881.device_id"] = json!(alice.device_id);
    let listed = alice.get("pushers").await.ok();
    assert_eq!(listed["pushers"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed["pushers"][0], changed);
    assert_eq!(listed["pushers"][1]["org.matrix.msc3881.enabled"], false);

    let gone = json!({ "kind": null, "app_id": "org.example.app", "pushkey": "key" });
    set(&alice, gone.clone()).await;
    assert_eq!(pushkeys(&alice).await, ["other"]);
    // Again, and of somebody who has none.
    set(&alice, gone.clone()).await;
    set(&server.register("bob").await, gone).await;
}

/// Spec: "One or more of the pusher values were invalid."
#[tokio::test]
async fn pushers_that_make_no_sense_are_refused() {
    let (server, gateway) = (server(), Gateway::start().await);
    let alice = server.register("alice").await;
    let refused = async |change: &dyn Fn(&mut Value), errcode: &str| {
        let mut body = pusher(&gateway, "key");
        change(&mut body);
        alice.post("pushers/set", body).await.fails(400, errcode);
    };
    for name in ["kind", "app_id", "pushkey", "app_display_name", "lang", "data"] {
        let without = |body: &mut Value| drop(body.as_object_mut().unwrap().remove(name));
        refused(&without, "M_MISSING_PARAM").await;
    }
    refused(&|body| body["data"] = json!({}), "M_MISSING_PARAM").await;
    for (pointer, value) in [
        ("/app_id", json!("x".repeat(65))),
        ("/pushkey", json!("x".repeat(513))),
        ("/app_id", json!("")),
        ("/kind", json!("pigeon")),
        ("/data/url", json!("no URL")),
        ("/data/url", json!("ftp://127.0.0.1/_matrix/push/v1/notify")),
        ("/data/url", json!("https://example.org/other")),
        ("/data/url", json!("https://example.org/_matrix/push/v1/notify?to=x")),
        ("/data/url", json!("https://a:b@example.org/_matrix/push/v1/notify")),
        ("/data/custom", json!("x".repeat(10_000))),
        ("/lang", json!("x".repeat(2_000))),
    ] {
        let change = |body: &mut Value| *body.pointer_mut(pointer).unwrap() = value.clone();
        refused(&change, "M_INVALID_PARAM").await;
    }
    refused(&|body| body["lang"] = json!(5), "M_BAD_JSON").await;
    assert!(pushkeys(&alice).await.is_empty());
    for count in 0..50 {
        set(&alice, pusher(&gateway, &format!("key{count}"))).await;
    }
    alice.post("pushers/set", pusher(&gateway, "more")).await.fails(403, "M_FORBIDDEN");

    // Elsewhere the gateway is to be a machine of the Internet, behind TLS.
    let careful = Server::start(&Config::default());
    let alice = careful.register("alice").await;
    for url in ["https://127.0.0.1", "https://10.0.0.1", "http://example.org"] {
        let mut body = pusher(&gateway, "key");
        body["data"]["url"] = json!(format!("{url}/_matrix/push/v1/notify"));
        alice.post("pushers/set", body).await.fails(400, "M_INVALID_PARAM");
    }
}

/// Spec: "If true, the homeserver should add another pusher with the given pushkey and App ID in
/// addition to any others with different user IDs. Otherwise, the homeserver must remove any other
/// pushers with the same App ID and pushkey for different users."
#[tokio::test]
async fn a_pushkey_moves_to_the_next_user_unless_it_is_appended() {
    let (server, gateway) = (server(), Gateway::start().await);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    set(&alice, pusher(&gateway, "key")).await;
    let mut appended = pusher(&gateway, "key");
    appended["append"] = json!(true);
    set(&bob, appended).await;
    assert_eq!((pushkeys(&alice).await.len(), pushkeys(&bob).await.len()), (1, 1));
    set(&carol, pusher(&gateway, "key")).await;
    assert_eq!((pushkeys(&alice).await.len(), pushkeys(&bob).await.len()), (0, 0));
    assert_eq!(pushkeys(&carol).await, ["key"]);
}

/// A device that is logged out is told nothing any more.
#[tokio::test]
async fn pushers_go_with_the_device_that_made_them() {
    let (server, gateway) = (server(), Gateway::start().await);
    let alice = server.register("alice").await;
    let phone = alice.log_in_again().await;
    set(&phone, pusher(&gateway, "phone")).await;
    set(&alice, pusher(&gateway, "desk")).await;
    assert_eq!(pushkeys(&alice).await, ["desk", "phone"]);
    phone.post("logout", json!({})).await.ok();
    assert_eq!(pushkeys(&alice).await, ["desk"]);
    let bob = server.register("bob").await;
    let room = bob.create_room_with(&[&alice]).await;
    let event = bob.say(&room, "hello").await;
    let told = gateway.next().await;
    assert_eq!(
        (&told["event_id"], &told["devices"][0]["pushkey"]),
        (&json!(event), &json!("desk"))
    );
    assert!(gateway.is_empty());
    alice.post("logout", json!({})).await.ok();
    bob.say(&room, "anybody there?").await;
    let other = server.register("other").await;
    set(&other, pusher(&gateway, "other")).await;
    other.join(&room).await;
    let event = bob.say(&room, "at last").await;
    assert_eq!(gateway.next().await["event_id"], event);
}

/// "When pushing notifications for events, the homeserver is expected to include all of the
/// event-related fields".
/// Spec: <https://spec.matrix.org/v1.19/push-gateway-api/>
#[tokio::test]
async fn a_gateway_is_told_all_about_an_event() {
    let (server, gateway) = (server(), Gateway::start().await);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    set(&alice, pusher(&gateway, "key")).await;
    let name = ["profile", bob.user_id.as_str(), "displayname"];
    bob.put(name, json!({ "displayname": "Bob" })).await.ok();

    // The invitation, which is the first to ring.
    let room = bob.create_room(json!({ "name": "Kitchen", "invite": [alice.user_id] })).await;
    let told = gateway.next().await;
    must_match(
        &told,
        &json!({
            "room_id": room, "type": "m.room.member", "sender": bob.user_id,
            "sender_display_name": "Bob", "room_name": "Kitchen", "user_is_target": true,
            "prio": "high", "content": { "membership": "invite" }, "counts": { "unread": 1 },
            "devices": [{
                "app_id": "org.example.app", "pushkey": "key", "data": { "custom": { "a": [1] } },
                "tweaks": { "sound": "default" },
            }],
        }),
    );
    alice.join(&room).await;

    let event = bob.say(&room, "the tea is ready").await;
    let told = gateway.next().await;
    must_match(
        &told,
        &json!({
            "event_id": event, "room_id": room, "type": "m.room.message", "sender": bob.user_id,
            "sender_display_name": "Bob", "room_name": "Kitchen", "prio": "high",
            "content": { "msgtype": "m.text", "body": "the tea is ready" },
            "counts": { "unread": 1 }, "devices": [{ "tweaks": { "sound": "default" } }],
        }),
    );
    assert!(told.get("user_is_target").is_none(), "{told}");
    assert!(told["devices"][0]["pushkey_ts"].as_u64().is_some_and(|ts| ts > 1_600_000_000));

    // A mention, of which only the IDs are wanted.
    let mut brief = pusher(&gateway, "key");
    brief["data"]["format"] = json!("event_id_only");
    set(&alice, brief).await;
    let content = json!({
        "msgtype": "m.text", "body": "Alice?", "m.mentions": { "user_ids": [alice.user_id] },
    });
    let event = bob.send(&room, "m.room.message", content).await;
    let told = gateway.next().await;
    let names: Vec<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["counts", "devices", "event_id", "prio", "room_id"], "{told}");
    must_match(
        &told,
        &json!({
            "event_id": event, "room_id": room, "counts": { "unread": 2 },
            "devices": [{ "data": { "format": "event_id_only" } }],
        }),
    );
}

/// "Homeservers MUST NOT notify the Push Gateway for events that the user has sent themselves."
/// Nor is anybody told of what they have read, what their rules keep quiet, or what was redacted
/// before it could be told.
#[tokio::test]
async fn only_what_is_news_is_told() {
    let (server, gateway) = (server(), Gateway::start().await);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = bob.create_room_with(&[&alice]).await;
    let before = bob.say(&room, "before there was a pusher").await;
    read(&alice, &room, &before).await;
    set(&alice, pusher(&gateway, "key")).await;
    alice.say(&room, "my own").await;
    let notice = json!({ "msgtype": "m.notice", "body": "a bot speaks" });
    bob.send(&room, "m.room.message", notice).await;
    let first = bob.say(&room, "first").await;
    assert_eq!(gateway.next().await["event_id"], first);
    // An edit rings no second time.
    let edit = json!({
        "msgtype": "m.text", "body": "* better", "m.new_content": { "body": "better" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": first },
    });
    bob.send(&room, "m.room.message", edit).await;
    let second = bob.send(
        &room,
        "m.room.encrypted",
        json!({
            "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": "s",
        }),
    );
    let second = second.await;
    must_match(&gateway.next().await, &json!({ "event_id": second, "prio": "high" }));

    // While nothing gets through, some of it becomes old.
    gateway.set(Mood::Failing(503));
    let failing = gateway.attempted(1);
    bob.say(&room, "to be read").await;
    failing.await;
    let secret = bob.say(&room, "to be redacted").await;
    let seen = bob.say(&room, "to be read too").await;
    bob.put(["rooms", &room, "redact", &secret, "t"], json!({})).await.ok();
    read(&alice, &room, &seen).await;
    let last = bob.say(&room, "news").await;
    gateway.set(Mood::Fine);
    must_match(&gateway.next().await, &json!({ "event_id": last, "counts": { "unread": 1 } }));
    assert!(gateway.is_empty());
}

/// "It may be omitted for notifications that only contain updated badge counts."
/// Spec: <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>
#[tokio::test]
async fn reading_takes_the_number_back() {
    let (server, gateway) = (server(), Gateway::start().await);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (one, two) = (bob.create_room_with(&[&alice]).await, bob.create_room_with(&[&alice]).await);
    set(&alice, pusher(&gateway, "key")).await;
    let mut events = Vec::new();
    for (count, room) in [(1, &one), (2, &one), (3, &two)] {
        let event = bob.say(room, "hello").await;
        let told = gateway.next().await;
        must_match(&told, &json!({ "event_id": event, "counts": { "unread": count } }));
        events.push(event);
    }
    for (room, event, left) in [(&one, &events[0], 2), (&two, &events[2], 1), (&one, &events[1], 0)]
    {
        read(&alice, room, event).await;
        let told = gateway.next().await;
        assert_eq!(told["counts"], json!({ "unread": left }), "{told}");
        assert!(told.get("event_id").is_none() && told.get("content").is_none(), "{told}");
    }
}

/// Spec: "Homeservers must cease sending notification requests for these pushkeys and remove the
/// associated pushers."
#[tokio::test]
async fn a_pusher_whose_key_is_rejected_is_removed() {
    let (server, gateway) = (server(), Gateway::start().await);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = bob.create_room_with(&[&alice]).await;
    gateway.set(Mood::Rejecting("key"));
    set(&alice, pusher(&gateway, "key")).await;
    let attempted = gateway.attempted(1);
    bob.say(&room, "hello").await;
    attempted.await;
    while !pushkeys(&alice).await.is_empty() {
        tokio::task::yield_now().await;
    }
    gateway.set(Mood::Fine);
    set(&alice, pusher(&gateway, "new")).await;
    let event = bob.say(&room, "hello again").await;
    must_match(
        &gateway.next().await,
        &json!({ "event_id": event, "devices": [{ "pushkey": "new" }] }),
    );
}

/// A pusher that is switched off is told nothing, also not of what happened meanwhile.
#[tokio::test]
async fn a_pusher_is_switched_off_and_on() {
    let (server, gateway) = (server(), Gateway::start().await);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = bob.create_room_with(&[&alice]).await;
    let with = |on: bool| {
        let mut body = pusher(&gateway, "key");
        body["org.matrix.msc3881.enabled"] = json!(on);
        body
    };
    set(&alice, with(false)).await;
    bob.say(&room, "in silence").await;
    set(&alice, with(true)).await;
    let event = bob.say(&room, "aloud").await;
    assert_eq!(gateway.next().await["event_id"], event);
    assert!(gateway.is_empty());
}

/// One gateway that takes nothing holds up no other.
#[tokio::test]
async fn a_dead_gateway_harms_nobody_else() {
    let server = server();
    let (dead, living) = (Gateway::start().await, Gateway::start().await);
    dead.set(Mood::Silent);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = bob.create_room_with(&[&alice]).await;
    set(&alice, pusher(&dead, "dead")).await;
    set(&alice, pusher(&living, "living")).await;
    for _ in 0..5 {
        let event = bob.say(&room, "hello").await;
        assert_eq!(living.next().await["event_id"], event);
    }
}

/// The gateway is down for a while, and the server is killed meanwhile, more than once: every event
/// is told afterwards, in order, and none twice.
///
/// Twice can come only what the gateway took and answered while the server died before it had noted
/// that: the event ID tells. Here the server is killed while nothing is being taken.
#[tokio::test]
async fn nothing_is_lost_and_nothing_doubled_when_gateway_and_server_fail() {
    let (server, gateway) = (server(), Gateway::start().await);
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let rooms = [bob.create_room_with(&[&alice]).await, bob.create_room_with(&[&alice]).await];
    set(&alice, pusher(&gateway, "key")).await;
    let mut sent = Vec::new();
    for round in 0..3 {
        for count in 0..40 {
            let room = &rooms[count % 2];
            sent.push(bob.say(room, &format!("message {count} of round {round}")).await);
            if count == 5 {
                // Those are told before anything fails.
                for event in sent.drain(..) {
                    assert_eq!(gateway.next().await["event_id"], event);
                }
                let attempted = gateway.attempted(2);
                gateway.set(if round == 1 { Mood::Silent } else { Mood::Failing(502) });
                sent.push(bob.say(room, "nobody hears").await);
                attempted.await;
            }
            if count == 20 {
                server.kill_and_start_again();
            }
        }
        server.kill_and_start_again();
        gateway.set(Mood::Fine);
        for (count, event) in sent.drain(..).enumerate() {
            let told = gateway.next().await;
            assert_eq!(told["event_id"], event, "number {count} of round {round}");
        }
    }
    let end = bob.say(&rooms[0], "the end").await;
    assert_eq!(gateway.next().await["event_id"], end);
    assert!(gateway.is_empty());
}
