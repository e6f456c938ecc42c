//! Typing, receipts and presence.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#pushing-ephemeral-data>

use complement_tests::{Appservice, Server, must_match};
use serde_json::{Value, json};

use crate::{config_with, server_with};

fn of_kind(kind: &'static str) -> impl Fn(&Value) -> bool {
    move |event| event["type"] == kind
}

#[tokio::test]
async fn typing_and_receipts_arrive_with_their_room() {
    let irc = Appservice::start("irc", "receive_ephemeral: true").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let ghost = irc.ghost(&server, "ghost").await;
    let room = ghost.create_room(json!({ "preset": "public_chat" })).await;
    human.join(&room).await;
    let event = ghost.say(&room, "read this").await;
    let body = json!({ "typing": true, "timeout": 30_000 });
    human.put(["rooms", &room, "typing", &human.user_id], body).await.ok();
    let typing = irc.item("ephemeral", of_kind("m.typing")).await;
    must_match(&typing, &json!({ "room_id": room, "content": { "user_ids": [human.user_id] } }));
    human.post(["rooms", &room, "receipt", "m.read", &event], json!({})).await.ok();
    let receipt = irc.item("ephemeral", of_kind("m.receipt")).await;
    assert_eq!(receipt["room_id"], room.as_str());
    let read = &receipt["content"][&event]["m.read"][&human.user_id];
    assert!(read["ts"].is_u64() && read["thread_id"].is_null(), "{receipt}");
    let body = json!({ "thread_id": "main" });
    human.post(["rooms", &room, "receipt", "m.read", &event], body).await.ok();
    irc.item("ephemeral", |one| {
        one["content"][&event]["m.read"][&human.user_id]["thread_id"] == "main"
    })
    .await;
}

#[tokio::test]
async fn private_receipts_are_for_the_users_own_service_and_others_rooms_for_nobody() {
    let irc = Appservice::start("irc", "receive_ephemeral: true").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let ghost = irc.ghost(&server, "ghost").await;
    let room = ghost.create_room(json!({ "preset": "public_chat" })).await;
    human.join(&room).await;
    let event = human.say(&room, "read this").await;
    let private = human.create_room(json!({})).await;
    let unseen = human.say(&private, "mine").await;
    human.post(["rooms", &private, "receipt", "m.read", &unseen], json!({})).await.ok();
    human.post(["rooms", &room, "receipt", "m.read.private", &event], json!({})).await.ok();
    ghost.post(["rooms", &room, "receipt", "m.read.private", &event], json!({})).await.ok();
    irc.item("ephemeral", |one| {
        one["content"][&event]["m.read.private"][&ghost.user_id].is_object()
    })
    .await;
    let told = irc.transactions();
    let told =
        serde_json::to_string(&told.iter().map(|(_, body)| &body["ephemeral"]).collect::<Vec<_>>());
    let told = told.unwrap();
    assert!(!told.contains(&human.user_id) && !told.contains(&private), "{told}");
}

#[tokio::test]
async fn receipts_of_while_a_service_was_away_arrive_after_a_restart() {
    let irc = Appservice::start("irc", "receive_ephemeral: true").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let bot = irc.bot(&server);
    let room = bot.create_room(json!({ "preset": "public_chat" })).await;
    human.join(&room).await;
    let event = bot.say(&room, "read this").await;
    irc.event(&event).await;
    irc.takes_transactions(false);
    human.post(["rooms", &room, "receipt", "m.read", &event], json!({})).await.ok();
    server.kill_and_start_again();
    irc.takes_transactions(true);
    irc.ping(&server).await;
    irc.item("ephemeral", |one| one["content"][&event]["m.read"][&human.user_id].is_object()).await;
}

#[tokio::test]
async fn presence_arrives_of_those_who_share_a_room() {
    let irc = Appservice::start("irc", "receive_ephemeral: true").await;
    let config = config_with(&[&irc]).with("presence.enabled", true).with("presence.interval_s", 1);
    let server = Server::start(&config);
    let (human, stranger) = (server.register("human").await, server.register("stranger").await);
    let bot = irc.bot(&server);
    let room = bot.create_room(json!({ "preset": "public_chat" })).await;
    human.join(&room).await;
    for who in [&stranger, &human] {
        let body = json!({ "presence": "online", "status_msg": "here" });
        who.put(["presence", &who.user_id, "status"], body).await.ok();
    }
    let presence = irc.item("ephemeral", of_kind("m.presence")).await;
    must_match(
        &presence,
        &json!({ "sender": human.user_id, "content": { "presence": "online", "status_msg": "here" } }),
    );
    let all = irc.received();
    assert!(!all.iter().any(|one| one.body.to_string().contains(&stranger.user_id)));
}

#[tokio::test]
async fn a_service_that_knows_the_old_name_gets_the_old_name() {
    let old = Appservice::start("old", "de.sorunome.msc2409.push_ephemeral: true").await;
    let deaf = Appservice::start("deaf", "").await;
    let server = server_with(&[&old, &deaf]);
    let human = server.register("human").await;
    let bot = old.bot(&server);
    let room = bot.create_room(json!({ "preset": "public_chat" })).await;
    deaf.bot(&server).join(&room).await;
    human.join(&room).await;
    let event = bot.say(&room, "read this").await;
    human.post(["rooms", &room, "receipt", "m.read", &event], json!({})).await.ok();
    old.item("de.sorunome.msc2409.ephemeral", of_kind("m.receipt")).await;
    let last = bot.say(&room, "last").await;
    deaf.event(&last).await;
    let told = deaf.transactions();
    assert!(told.iter().all(|(_, body)| body.as_object().unwrap().len() == 1), "{told:?}");
}
