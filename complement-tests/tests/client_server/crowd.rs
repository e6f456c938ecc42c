//! Many who change one room at the same time.

use std::collections::BTreeSet;

use complement_tests::{Client, Server};
use futures::future::join_all;
use serde_json::{Value, json};

/// Sixteen users come, speak, change the power levels and go, all at once: nothing is lost, nothing
/// is there twice, and everybody sees the same in the same order.
#[tokio::test]
async fn sixteen_at_once_leave_one_history() {
    come_and_go(&Server::shared()).await;
}

/// Who made the room in which they did so, and its ID.
pub(crate) async fn come_and_go(server: &Server) -> (Client, String) {
    let alice = server.register("alice").await;
    let levels = json!({ "events": { "m.room.power_levels": 0 }, "users_default": 0 });
    let room = alice
        .create_room(json!({
            "preset": "public_chat", "room_version": "11",
            "power_level_content_override": levels,
        }))
        .await;
    let users = (0..16).map(|n| async move { server.register(&format!("crowd{n}")).await });
    let users = join_all(users).await;
    let room_id = room.as_str();
    let sent = join_all(users.iter().enumerate().map(|(n, user)| async move {
        let mut sent = Vec::new();
        for round in 0..3 {
            user.join(room_id).await;
            sent.push(user.say(room_id, &format!("{n}.{round}")).await);
            let mut levels = user.state(room_id, "m.room.power_levels", "").await;
            levels["events"][format!("org.example.{n}")] = json!(0);
            let path = ["rooms", room_id, "state", "m.room.power_levels"];
            let answer = user.put(path, levels).await;
            assert!([200, 403].contains(&answer.status), "{answer}");
            if round < 2 {
                user.leave(room_id).await;
            }
        }
        sent
    }));
    let sent: BTreeSet<String> = sent.await.into_iter().flatten().collect();
    assert_eq!(sent.len(), 48);

    let mut all = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let request = alice.get(["rooms", &room, "messages"]).query("dir", "f");
        let request = match &from {
            Some(from) => request.query("from", from),
            None => request,
        };
        let page = request.query("limit", "100").await.ok();
        all.extend(page["chunk"].as_array().unwrap().iter().cloned());
        let Some(end) = page["end"].as_str() else { break };
        from = Some(end.to_owned());
    }
    let ids: Vec<&str> = all.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "nothing is there twice");
    let messages = all.iter().filter(|event| event["type"] == "m.room.message");
    let messages: BTreeSet<String> =
        messages.map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages, sent);
    let members = alice.get(["rooms", &room, "joined_members"]).await.ok();
    assert_eq!(members["joined"].as_object().unwrap().len(), 17);
    // The last power levels of the history are those of the state.
    let last = all.iter().rev().find(|event| event["type"] == "m.room.power_levels");
    let state = alice.state(&room, "m.room.power_levels", "").await;
    assert_eq!(last.map(|event| &event["content"]), Some::<&Value>(&state));
    (alice, room)
}
