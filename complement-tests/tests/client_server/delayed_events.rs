//! Events that are sent later, unless their sender changes that (MSC4140).

use complement_tests::{Client, Server, text, timeline};
use reqwest::Method;
use serde_json::{Value, json};

const BASE: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
const MEMBER: &str = "org.matrix.msc3401.call.member";

/// Schedules by the parameter of the ordinary endpoint.
async fn say_later(client: &Client, room: &str, words: &str, delay_ms: u64) -> String {
    let body = json!({ "msgtype": "m.text", "body": words });
    let request = client.put(["rooms", room, "send", "m.room.message", words], body);
    let answer = request.query("org.matrix.msc4140.delay", &delay_ms.to_string()).await.ok();
    assert!(answer["event_id"].is_null(), "nothing is sent yet: {answer}");
    text(&answer, "/delay_id")
}

async fn act(client: &Client, id: &str, action: &str) -> complement_tests::Answer {
    client.post([BASE, id, action], json!({})).await
}

async fn call_room(alice: &Client) -> String {
    let levels = json!({ "events": { MEMBER: 0 } });
    let body = json!({ "preset": "public_chat", "power_level_content_override": levels });
    alice.create_room(body).await
}

fn body_of(response: &Value, room: &str) -> Option<Value> {
    let event = timeline(response, room);
    event.into_iter().find(|event| event["type"] == "m.room.message")
}

/// The others see it when its time has come, and its sender under which ID it was scheduled.
#[tokio::test]
async fn a_message_is_sent_when_its_time_has_come() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let (mut mine, mut theirs) = (alice.sync(), bob.sync());
    theirs.now().await;
    let id = say_later(&alice, &room, "later", 300).await;
    assert_eq!(id, say_later(&alice, &room, "later", 300).await, "a retry schedules nothing more");
    let event = theirs.until(|response| body_of(response, &room)).await;
    assert_eq!(event["content"]["body"], "later");
    assert!(event["unsigned"]["org.matrix.msc4140.delay_id"].is_null(), "{event}");
    let event = mine.until(|response| body_of(response, &room)).await;
    assert_eq!(event["unsigned"]["org.matrix.msc4140.delay_id"], id.as_str());
}

/// A call: the client schedules its leaving, puts it off, and leaves in the end; the one who knows
/// the ID needs no token.
#[tokio::test]
async fn a_leaving_is_put_off_and_then_sent() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = call_room(&alice).await;
    let key = format!("_{}_DEVICE_m.call", alice.user_id);
    let path = ["rooms", room.as_str(), "state", MEMBER, &key];
    let request = alice.put(path, json!({})).query("org.matrix.msc4140.delay", "3600000");
    let id = text(&request.await.ok(), "/delay_id");
    let call = json!({ "application": "m.call" });
    alice.put(path, call.clone()).await.ok();
    act(&alice, &id, "restart").await.ok();
    act(&server.anonymous(), &id, "restart").await.ok();
    assert_eq!(alice.get(path).await.ok(), call);
    // The older form.
    alice.post([BASE, &id], json!({ "action": "send" })).await.ok();
    assert_eq!(alice.get(path).await.ok(), json!({}));
    act(&alice, &id, "send").await.ok();
    act(&alice, &id, "restart").await.fails(409, "M_UNKNOWN");
}

#[tokio::test]
async fn what_is_scheduled_can_be_read_and_cancelled_by_its_sender() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let id = say_later(&alice, &room, "never", 3_600_000).await;
    let list = alice.get(BASE).await.ok();
    let [event] = list["delayed_events"].as_array().unwrap().as_slice() else {
        panic!("one is scheduled: {list}");
    };
    for (name, value) in [
        ("delay_id", json!(id)),
        ("room_id", json!(room)),
        ("type", json!("m.room.message")),
        ("delay", json!(3_600_000)),
        ("delay_ms", json!(3_600_000)),
        ("content", json!({ "msgtype": "m.text", "body": "never" })),
    ] {
        assert_eq!(event[name], value, "{name}");
    }
    assert_eq!(&alice.get([BASE, &id]).await.ok(), event);
    bob.get([BASE, &id]).await.fails(404, "M_NOT_FOUND");
    assert_eq!(bob.get(BASE).await.ok()["delayed_events"], json!([]));
    server.anonymous().get(BASE).await.fails(401, "M_MISSING_TOKEN");

    act(&alice, &id, "cancel").await.ok();
    act(&alice, &id, "cancel").await.ok();
    act(&alice, &id, "send").await.fails(409, "M_UNKNOWN");
    assert_eq!(alice.get(BASE).await.ok()["delayed_events"], json!([]));
    assert!(alice.get([BASE, &id]).await.ok()["finalised"]["finalised_ts"].is_u64());
}

/// The newer endpoint, for messages and state.
#[tokio::test]
async fn an_event_is_scheduled_by_the_endpoint_of_its_own() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = call_room(&alice).await;
    let schedule = async |body: Value, transaction: &str| {
        let base = "/_matrix/client/unstable/org.matrix.msc4140/rooms";
        alice.put([base, &room, "delayed_event", MEMBER, transaction], body).await
    };
    let new = json!({ "content": { "a": 1 }, "state_key": "_a", "delay_ms": 3_600_000 });
    let id = text(&schedule(new.clone(), "t1").await.ok(), "/delay_id");
    assert_eq!(id, text(&schedule(new, "t1").await.ok(), "/delay_id"));
    let older = json!({ "content": { "a": 2 }, "state_key": "_a", "delay": 3_600_000 });
    let second = text(&schedule(older, "t2").await.ok(), "/delay_id");
    assert_ne!(id, second);
    act(&alice, &second, "send").await.ok();
    let state = alice.get(["rooms", &room, "state", MEMBER, "_a"]).await.ok();
    assert_eq!(state, json!({ "a": 2 }));

    schedule(json!({ "content": {} }), "t3").await.fails(400, "M_BAD_JSON");
    let long = json!({ "content": {}, "delay_ms": 1_000_000_000_000_u64 });
    let refusal = schedule(long, "t4").await.fails(400, "M_MAX_DELAY_EXCEEDED");
    assert_eq!(refusal["max_delay"], 86_400_000);
}

/// A delay that can't be kept is refused: an event sent at once would do what its sender does not
/// want now.
#[tokio::test]
async fn a_delay_is_never_ignored() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let room = call_room(&alice).await;
    let path = ["rooms", room.as_str(), "state", MEMBER, "_a"];
    let later = async |client: &Client, delay: &str| {
        client.put(path, json!({})).query("org.matrix.msc4140.delay", delay).await
    };
    for delay in ["", "soon", "-1", "0", "1.5"] {
        later(&alice, delay).await.fails(400, "M_INVALID_PARAM");
    }
    let refusal = later(&alice, "86400001").await.fails(400, "M_UNKNOWN");
    assert_eq!(refusal["org.matrix.msc4140.errcode"], "M_MAX_DELAY_EXCEEDED");
    assert_eq!(refusal["org.matrix.msc4140.max_delay"], 86_400_000);
    later(&mallory, "1000").await.fails(403, "M_FORBIDDEN");
    alice.get(path).await.fails(404, "M_NOT_FOUND");
    act(&alice, "unknown", "restart").await.fails(404, "M_NOT_FOUND");
    act(&alice, "unknown", "explode").await.fails(404, "M_UNRECOGNIZED");
    alice
        .post([BASE, "unknown"], json!({ "action": "explode" }))
        .await
        .fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn clients_are_told_that_events_can_be_delayed() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let versions = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(versions["unstable_features"]["org.matrix.msc4140"], true);
    let capabilities = alice.get("capabilities").await.ok();
    let capability = &capabilities["capabilities"]["org.matrix.msc4140.delayed_events"];
    assert_eq!(capability["max_delay_ms"], 86_400_000);
    assert_eq!(capability["max_scheduled"], 100);
}

/// Of who may not speak any more nothing is sent, also what was scheduled before.
#[tokio::test]
async fn what_a_closed_account_scheduled_is_not_sent() {
    let server = Server::shared();
    let (admin, bob) = (server.register_admin("admin").await, server.register("bob").await);
    let room = bob.create_room(json!({ "preset": "public_chat" })).await;
    for what in ["lock", "suspend", "deactivate"] {
        let user = server.register(what).await;
        user.join(&room).await;
        let id = say_later(&user, &room, what, 3_600_000).await;
        if what == "deactivate" {
            user.with_password(Method::POST, "account/deactivate", json!({})).await.ok();
        } else {
            let path = format!("/_matrix/client/v1/admin/{what}/{}", user.user_id);
            let body = json!({ "locked": true, "suspended": true });
            admin.put(path.as_str(), body).await.ok();
        }
        // Its time has come, says who knows the ID.
        let answer = act(&user.anonymous(), &id, "send").await;
        assert!([403, 404].contains(&answer.status), "{what}: {answer}");
    }
    let page = bob.get(["rooms", &room, "messages"]).query("dir", "b").await.ok();
    let chunk = page["chunk"].as_array().unwrap();
    assert!(chunk.iter().all(|event| event["type"] != "m.room.message"), "{page}");
}
