//! Messages that live for a while, and what administrators remove.

use std::time::Duration;

use complement_tests::{Client, Config, Server};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Asks again until it is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn send_picture(who: &Client, room: &str, media: &[String; 2]) -> String {
    let url = format!("mxc://{}/{}", media[0], media[1]);
    who.send(room, "m.room.message", json!({ "msgtype": "m.image", "body": "pic", "url": url }))
        .await
}

async fn bodies(who: &Client, room: &str) -> Vec<Value> {
    let page = who.get(["rooms", room, "messages"]).query("dir", "b").query("limit", "100");
    let page = page.await.ok();
    let events = page["chunk"].as_array().unwrap().iter();
    events.filter_map(|event| event["content"].get("body").cloned()).collect()
}

/// MSC1763: `max_lifetime` in ms.
#[tokio::test]
async fn expired_messages_go_with_their_media_and_state_stays() {
    let config = Config::default().with("retention.enabled", true);
    let server = Server::start(&config.with("retention.interval_seconds", 1));
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "Short" })).await;
    alice.set_state(&room, "m.room.retention", "", json!({ "max_lifetime": 1_000 })).await;
    let [mine, shared] =
        [alice.upload("text/plain", "mine").await, alice.upload("text/plain", "shared").await];
    let elsewhere = alice.create_room(json!({})).await;
    send_picture(&alice, &elsewhere, &shared).await;
    let picture = send_picture(&alice, &room, &mine).await;
    send_picture(&alice, &room, &shared).await;
    alice.say(&room, "ephemeral words").await;
    eventually("the messages are not shown", async || bodies(&alice, &room).await.is_empty()).await;
    // The last message of a room stays as long as nothing comes after it.
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "after" })).await;
    eventually("the media is gone", async || alice.download(&mine).await.status == 404).await;
    alice.get(["rooms", &room, "event", &picture]).await.fails(404, "M_NOT_FOUND");
    alice.download(&shared).await.has_status(200);
    assert_eq!(alice.state(&room, "m.room.name", "").await["name"], "Short");
    assert_eq!(bodies(&alice, &elsewhere).await, ["pic"]);
}

/// Who runs the server decides whether rooms may have anything removed.
#[tokio::test]
async fn rooms_are_not_listened_to_unless_the_operator_says_so() {
    let server = Server::start(&Config::default().with("retention.interval_seconds", 1));
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.set_state(&room, "m.room.retention", "", json!({ "max_lifetime": 1 })).await;
    alice.say(&room, "still here").await;
    alice.say(&room, "after").await;
    assert_eq!(bodies(&alice, &room).await, ["after", "still here"]);
}

async fn complete(admin: &Client, path: &str) -> Value {
    let mut last = Value::Null;
    eventually("the job is done", async || {
        last = admin.get(path).await.ok();
        let status = last.get("status").or_else(|| last["results"][0].get("status")).cloned();
        matches!(status.as_ref().and_then(Value::as_str), Some("complete" | "failed"))
    })
    .await;
    last
}

#[tokio::test]
async fn an_administrator_deletes_a_room_for_everybody() {
    let server = Server::start(&Config::default());
    let admin = server.register_admin("admin").await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room =
        alice.create_room(json!({ "room_alias_name": "bad", "preset": "public_chat" })).await;
    bob.join(&room).await;
    let media = bob.upload("text/plain", "bad").await;
    send_picture(&bob, &room, &media).await;
    let path = format!("/_synapse/admin/v2/rooms/{room}");
    alice.delete(path.as_str()).json(&json!({})).await.fails(403, "M_FORBIDDEN");
    let order = json!({ "block": true, "purge": true, "new_room_user_id": admin.user_id,
        "room_name": "Closed", "message": "It was bad." });
    let ordered = admin.delete(path.as_str()).json(&order).await.ok();
    let id = ordered["delete_id"].as_str().unwrap();
    let done = complete(&admin, &format!("/_synapse/admin/v2/rooms/delete_status/{id}")).await;
    assert_eq!(done["status"], "complete", "{done}");
    let mut kicked: Vec<&str> = done["shutdown_room"]["kicked_users"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    kicked.sort_unstable();
    assert_eq!(kicked, [&alice.user_id, &bob.user_id]);
    let status = admin.get(format!("{path}/delete_status")).await.ok();
    assert_eq!(status["results"][0]["delete_id"], id);
    let told = done["shutdown_room"]["new_room_id"].as_str().unwrap();
    bob.join(told).await;
    assert!(bodies(&bob, told).await.contains(&json!("It was bad.")));

    eventually("the media is gone", async || bob.download(&media).await.status == 404).await;
    assert_eq!(alice.get(["joined_rooms"]).await.ok()["joined_rooms"], json!([]));
    alice.get(["directory", "room", "#bad:complement.test"]).await.fails(404, "M_NOT_FOUND");
    alice.post(["rooms", &room, "join"], json!({})).await.fails(403, "M_FORBIDDEN");
    let block = format!("/_synapse/admin/v1/rooms/{room}/block");
    assert_eq!(admin.get(block.as_str()).await.ok()["block"], true);
    admin.put(block.as_str(), json!({ "block": false })).await.ok();
    alice.post(["rooms", &room, "join"], json!({})).await.fails(404, "M_NOT_FOUND");
    server.kill_and_start_again();
    alice.get(["sync"]).await.ok();
}

#[tokio::test]
async fn an_administrator_removes_history() {
    let server = Server::start(&Config::default());
    let (admin, alice) = (server.register_admin("admin").await, server.register("alice").await);
    let room = alice.create_room(json!({})).await;
    alice.say(&room, "one").await;
    let two = alice.say(&room, "two").await;
    alice.say(&room, "three").await;
    let path = format!("/_synapse/admin/v1/purge_history/{room}");
    admin.post(path.as_str(), json!({})).await.fails(400, "M_INVALID_PARAM");
    alice.post(path.as_str(), json!({ "purge_up_to_ts": 0 })).await.fails(403, "M_FORBIDDEN");
    let order = json!({ "delete_local_events": true });
    let ordered = admin.post(format!("{path}/{two}"), order).await.ok();
    let status = format!(
        "/_synapse/admin/v1/purge_history_status/{}",
        ordered["purge_id"].as_str().unwrap()
    );
    assert_eq!(complete(&admin, &status).await, json!({ "status": "complete" }));
    assert_eq!(bodies(&alice, &room).await, ["three", "two"]);
    let check = format!("/_myelin/admin/v1/rooms/{room}/check");
    alice.post(check.as_str(), json!({})).await.fails(403, "M_FORBIDDEN");
    let found = admin.post(check.as_str(), json!({})).await.ok();
    assert_eq!(found["problems"], json!([]), "{found}");
    assert!(found["events"].as_u64().unwrap() > 5, "{found}");
}

#[tokio::test]
async fn an_administrator_keeps_media_from_people_and_removes_it() {
    let server = Server::start(&Config::default());
    let (admin, alice) = (server.register_admin("admin").await, server.register("alice").await);
    let room = alice.create_room(json!({})).await;
    let [one, two, three] = [
        alice.upload("text/plain", "one").await,
        alice.upload("text/plain", "two").await,
        alice.upload("text/plain", "three").await,
    ];
    let post = async |path: String| admin.post(path.as_str(), json!({})).await.ok();
    let media = |verb: &str, [server, id]: &[String; 2]| {
        format!("/_synapse/admin/v1/media/{verb}/{server}/{id}")
    };
    let is_there = async |media: &[String; 2]| alice.download(media).await.status == 200;
    alice.post(media("quarantine", &one).as_str(), json!({})).await.fails(403, "M_FORBIDDEN");
    post(media("quarantine", &one)).await;
    assert!(!is_there(&one).await);
    // Nor does the same content come back under another ID.
    let again = alice.request(Method::POST, "/_matrix/media/v3/upload");
    again.file("text/plain", "one").await.fails(403, "M_FORBIDDEN");
    post(media("unquarantine", &one)).await;
    assert!(is_there(&one).await);

    send_picture(&alice, &room, &two).await;
    let listed = admin.get(format!("/_synapse/admin/v1/room/{room}/media")).await.ok();
    assert_eq!(listed["local"], json!([format!("mxc://{}/{}", two[0], two[1])]));
    let outcome = post(format!("/_synapse/admin/v1/room/{room}/media/quarantine")).await;
    assert_eq!(outcome["num_quarantined"], 1);
    assert!(!is_there(&two).await && is_there(&three).await);
    let user = format!("/_synapse/admin/v1/user/{}/media/quarantine", alice.user_id);
    assert_eq!(post(user).await["num_quarantined"], 3);
    assert!(!is_there(&three).await);
    post(media("unquarantine", &three)).await;
    assert!(is_there(&three).await);

    let own = "/_myelin/admin/v1/quarantine";
    let wide = json!({ "server": alice.server_name() });
    admin.post(own, wide.clone()).await.ok();
    assert!(!is_there(&three).await);
    let listed = admin.get(own).await.ok();
    let listed = listed["quarantined"].as_array().unwrap();
    assert!(listed.iter().any(|one| one["kind"] == "server"), "{listed:?}");
    admin.delete(own).json(&wide).await.ok();
    assert!(is_there(&three).await);

    let gone = admin.delete(media("", &three).replace("media//", "media/").as_str());
    assert_eq!(gone.json(&json!({})).await.ok()["total"], 1);
    alice.download(&three).await.has_status(404);
    let all = admin.post("/_synapse/admin/v1/media/delete", json!({}));
    let all = all.query("before_ts", "99999999999999").await.ok();
    assert_eq!(all["total"], 2);
}
