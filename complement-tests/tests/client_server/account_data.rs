//! What clients store with their account, for all rooms or for one, and tags.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#client-config>

use complement_tests::{Server, must_match};
use serde_json::{Value, json};

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridaccount_datatype>
#[tokio::test]
async fn global_data_is_kept_and_synced() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let second = alice.log_in_again().await;
    let mut sync = second.sync();
    sync.now().await;
    let path = ["user", alice.user_id.as_str(), "account_data", "org.example.setting"];
    alice.put(path, json!({ "colour": "blue" })).await.ok();
    let event = sync
        .until(|response| {
            let events = response["account_data"]["events"].as_array()?;
            events.iter().find(|event| event["type"] == "org.example.setting").cloned()
        })
        .await;
    must_match(&event, &json!({ "content": { "colour": "blue" } }));
    assert_eq!(second.get(path).await.ok(), json!({ "colour": "blue" }));
    alice.put(path, json!({ "colour": "red" })).await.ok();
    assert_eq!(second.get(path).await.ok(), json!({ "colour": "red" }));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidaccount_datatype>
#[tokio::test]
async fn room_data_is_kept_and_synced_with_its_room() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut sync = alice.sync();
    sync.now().await;
    let path = ["user", &alice.user_id, "rooms", &room, "account_data", "org.example.setting"];
    alice.put(path, json!({ "muted": true })).await.ok();
    let event = sync
        .until(|response| {
            let events = response["rooms"]["join"][&room]["account_data"]["events"].as_array()?;
            events.iter().find(|event| event["type"] == "org.example.setting").cloned()
        })
        .await;
    must_match(&event, &json!({ "content": { "muted": true } }));
    assert_eq!(alice.get(path).await.ok(), json!({ "muted": true }));
    let global = ["user", alice.user_id.as_str(), "account_data", "org.example.setting"];
    alice.get(global).await.fails(404, "M_NOT_FOUND");
}

/// Who marks a room as unread sees it on every device, and what is unread stays as it is.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#unread-markers>
#[tokio::test]
async fn a_room_is_marked_as_unread_and_no_longer() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut waiting = alice.sync();
    waiting.now().await;
    let path = ["user", &alice.user_id, "rooms", &room, "account_data", "m.marked_unread"];
    for unread in [true, false] {
        let content = json!({ "unread": unread });
        alice.put(path, content.clone()).await.ok();
        let told = waiting
            .until(|response| {
                let room = &response["rooms"]["join"][&room];
                let events = room["account_data"]["events"].as_array()?;
                events.iter().find(|event| event["type"] == "m.marked_unread").cloned()
            })
            .await;
        assert_eq!(told["content"], content);
        // A device that begins is told as well.
        let first = alice.sync().now().await["rooms"]["join"][&room].clone();
        assert!(first["account_data"].to_string().contains("m.marked_unread"), "{first}");
        assert_eq!(first["unread_notifications"]["notification_count"], 0);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridaccount_datatype>
#[tokio::test]
async fn unknown_data_is_not_found() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let global = ["user", alice.user_id.as_str(), "account_data", "org.example.unknown"];
    alice.get(global).await.fails(404, "M_NOT_FOUND");
    let in_room = ["user", &alice.user_id, "rooms", &room, "account_data", "org.example.unknown"];
    alice.get(in_room).await.fails(404, "M_NOT_FOUND");
}

/// Nobody reads or writes another's data.
#[tokio::test]
async fn data_of_others_is_forbidden() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let room = alice.create_room(json!({})).await;
    let user = alice.user_id.as_str();
    let global = ["user", user, "account_data", "org.example.setting"];
    let in_room = ["user", user, "rooms", &room, "account_data", "org.example.setting"];
    mallory.get(global).await.fails(403, "M_FORBIDDEN");
    mallory.put(global, json!({})).await.fails(403, "M_FORBIDDEN");
    mallory.get(in_room).await.fails(403, "M_FORBIDDEN");
    mallory.put(in_room, json!({})).await.fails(403, "M_FORBIDDEN");
    server.anonymous().get(global).await.fails(401, "M_MISSING_TOKEN");
}

/// The server owns some types.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-11>
#[tokio::test]
async fn types_that_the_server_manages_cannot_be_written() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let user = alice.user_id.as_str();
    alice
        .put(["user", user, "rooms", &room, "account_data", "m.fully_read"], json!({}))
        .await
        .fails(405, "M_BAD_JSON");
    for managed in ["m.fully_read", "m.push_rules"] {
        alice
            .put(["user", user, "account_data", managed], json!({}))
            .await
            .fails(405, "M_BAD_JSON");
    }
}

/// The content is a JSON object.
#[tokio::test]
async fn data_that_is_no_object_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let path = ["user", alice.user_id.as_str(), "account_data", "org.example.setting"];
    for body in ["[1]", "\"text\"", "7", "null"] {
        let answer = alice.request(reqwest::Method::PUT, path).raw(body).await;
        answer.fails(400, "M_BAD_JSON");
    }
    let answer = alice.request(reqwest::Method::PUT, path).raw("{\"broken\":").await;
    answer.fails(400, "M_NOT_JSON");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-tagging>
#[tokio::test]
async fn tags_are_set_listed_and_deleted() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let user = alice.user_id.as_str();
    let tags = ["user", user, "rooms", &room, "tags"];
    assert_eq!(alice.get(tags).await.ok(), json!({ "tags": {} }));
    let tag = |name: &'static str| ["user", user, "rooms", &room, "tags", name].map(str::to_owned);
    let put = async |name, body| {
        let path = tag(name);
        alice.put(path.each_ref().map(String::as_str), body).await.ok();
    };
    put("m.favourite", json!({ "order": 0.5 })).await;
    put("u.work", json!({})).await;
    assert_eq!(
        alice.get(tags).await.ok(),
        json!({ "tags": { "m.favourite": { "order": 0.5 }, "u.work": {} } })
    );
    let path = tag("u.work");
    alice.delete(path.each_ref().map(String::as_str)).await.ok();
    assert_eq!(alice.get(tags).await.ok(), json!({ "tags": { "m.favourite": { "order": 0.5 } } }));
    let response = alice.sync().now().await;
    let data = response["rooms"]["join"][&room]["account_data"]["events"].as_array().unwrap();
    let tags_event = data.iter().find(|event| event["type"] == "m.tag").unwrap();
    assert_eq!(tags_event["content"], json!({ "tags": { "m.favourite": { "order": 0.5 } } }));
    let mallory = server.register("mallory").await;
    mallory.get(tags).await.fails(403, "M_FORBIDDEN");
    let path = tag("m.favourite");
    let path = path.each_ref().map(String::as_str);
    mallory.put(path, json!({ "order": 1 })).await.fails(403, "M_FORBIDDEN");
    mallory.delete(path).await.fails(403, "M_FORBIDDEN");
    assert_eq!(alice.get(tags).await.ok(), json!({ "tags": { "m.favourite": { "order": 0.5 } } }));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidaccount_datatype>
#[tokio::test]
async fn a_room_id_that_is_none_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for room in ["nothing", "@alice:complement.test", "$event"] {
        let path = ["user", &alice.user_id, "rooms", room, "account_data", "org.example.setting"];
        alice.get(path).await.fails(400, "M_INVALID_PARAM");
        alice.put(path, json!({})).await.fails(400, "M_INVALID_PARAM");
    }
}

/// The content of a type in a list of account data.
fn datum<'a>(events: &'a Value, kind: &str) -> Option<&'a Value> {
    let mut events = events["account_data"]["events"].as_array().into_iter().flatten();
    events.find(|event| event["type"] == kind).map(|event| &event["content"])
}

/// What is deleted, or set to `{}`, is told once to devices that may have it, and is gone (MSC3391).
#[tokio::test]
async fn deleted_data_is_told_once_and_gone() {
    const BASE: &str = "/_matrix/client/unstable/org.matrix.msc3391";
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let room = alice.create_room(json!({})).await;
    let kind = "org.example.setting";
    let user = alice.user_id.as_str();
    let global = format!("user/{user}/account_data/{kind}");
    let in_room = format!("user/{user}/rooms/{room}/account_data/{kind}");
    for path in [&global, &in_room] {
        let of = |response: &Value| {
            let place = if path == &global { response } else { &response["rooms"]["join"][&room] };
            datum(place, kind).cloned()
        };
        for by_put in [false, true] {
            alice.put(path.as_str(), json!({ "on": true })).await.ok();
            let mut sync = alice.sync();
            assert_eq!(of(&sync.now().await), Some(json!({ "on": true })));
            let delete = format!("{BASE}/{path}");
            mallory.delete(delete.as_str()).await.fails(403, "M_FORBIDDEN");
            if by_put {
                alice.put(path.as_str(), json!({})).await.ok();
            } else {
                alice.delete(delete.as_str()).await.ok();
            }
            let told = sync.until(of).await;
            assert_eq!(told, json!({}));
            assert_eq!(of(&sync.now().await), None);
            alice.get(path.as_str()).await.fails(404, "M_NOT_FOUND");
            let first = alice.sync().now().await;
            assert_eq!(of(&first), None, "{first}");
            // What is not there may be deleted.
            alice.delete(delete.as_str()).await.ok();
        }
    }
    server.anonymous().delete([BASE, "user", user, "account_data", kind]).await.has_status(401);
    alice.put(global.as_str(), json!({ "again": 1 })).await.ok();
    assert_eq!(alice.get(global.as_str()).await.ok(), json!({ "again": 1 }));
}
