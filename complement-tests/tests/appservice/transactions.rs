//! Events on their way to an application service: all of them, in order, each in one transaction.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#pushing-events>

use complement_tests::{Appservice, must_match};
use serde_json::{Value, json};

use crate::server_with;

fn bodies(events: &[Value]) -> Vec<String> {
    let messages = events.iter().filter(|event| event["type"] == "m.room.message");
    messages.map(|event| event["content"]["body"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn events_of_rooms_with_a_namespaced_member_arrive_with_the_right_token() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let ghost = irc.ghost(&server, "ghost").await;
    let room = ghost.create_room(json!({ "preset": "public_chat" })).await;
    let elsewhere = human.create_room(json!({})).await;
    human.join(&room).await;
    human.say(&elsewhere, "secret").await;
    let event_id = human.say(&room, "hello").await;
    let event = irc.event(&event_id).await;
    must_match(
        &event,
        &json!({
            "type": "m.room.message", "room_id": room, "sender": human.user_id,
            "content": { "msgtype": "m.text", "body": "hello" },
        }),
    );
    assert!(event["origin_server_ts"].is_u64() && event["unsigned"]["age"].is_u64());
    let received = irc.received();
    assert!(received.iter().all(|one| one.token == irc.hs_token()), "{received:?}");
    let events = irc.events();
    assert!(events.iter().all(|event| event["room_id"] == room.as_str()), "{events:?}");
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds[0..2], ["m.room.create", "m.room.member"], "from the first event on");
    assert_eq!(events.iter().filter(|event| event["event_id"] == event_id.as_str()).count(), 1);
}

#[tokio::test]
async fn an_invitation_and_the_last_event_of_a_user_arrive() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let ghost = irc.ghost(&server, "ghost").await;
    let room = human.create_room(json!({ "preset": "private_chat" })).await;
    human.say(&room, "before").await;
    human.invite(&room, &ghost.user_id).await;
    let is_member = |membership: &'static str, user: &str| {
        let user = user.to_owned();
        move |event: &Value| {
            event["state_key"] == user.as_str() && event["content"]["membership"] == membership
        }
    };
    irc.item("events", is_member("invite", &ghost.user_id)).await;
    human.say(&room, "not yet").await;
    ghost.join(&room).await;
    human.say(&room, "now").await;
    human.post(["rooms", &room, "kick"], json!({ "user_id": ghost.user_id })).await.ok();
    irc.item("events", is_member("leave", &ghost.user_id)).await;
    human.say(&room, "after").await;
    ghost.create_room(json!({ "name": "the end" })).await;
    irc.item("events", |event| event["content"]["name"] == "the end").await;
    assert_eq!(bodies(&irc.events()), ["now"]);
}

#[tokio::test]
async fn rooms_are_of_interest_by_alias_and_by_id() {
    let irc = Appservice::start("irc", "").await;
    let all = Appservice::start("all", "  rooms:\n  - exclusive: false\n    regex: '!.*'").await;
    let silent = Appservice::start("silent", "").await;
    let address = silent.registration("").lines().nth(1).unwrap().to_owned();
    silent.write(&silent.registration("").replace(&address, "url: null"));
    let server = server_with(&[&irc, &all, &silent]);
    let human = server.register("human").await;
    let room = human.create_room(json!({ "preset": "public_chat" })).await;
    let unbridged = human.say(&room, "unbridged").await;
    all.event(&unbridged).await;
    let bot = irc.bot(&server);
    bot.join(&room).await;
    let alias = ["directory", "room", "#_irc_chan:complement.test"];
    bot.put(alias, json!({ "room_id": room })).await.ok();
    bot.leave(&room).await;
    let bridged = human.say(&room, "bridged").await;
    irc.event(&bridged).await;
    bot.delete(alias).await.ok();
    let over = human.say(&room, "over").await;
    all.event(&over).await;
    let mark = bot.create_room(json!({})).await;
    irc.item("events", |event| event["room_id"] == mark.as_str()).await;
    assert_eq!(bodies(&irc.events()), ["bridged"]);
    assert!(silent.received().is_empty());
    silent.bot(&server).get("account/whoami").await.ok();
}

#[tokio::test]
async fn a_service_that_is_away_gets_everything_later_and_holds_nobody_up() {
    let irc = Appservice::start("irc", "").await;
    let other = Appservice::start("other", "").await;
    let server = server_with(&[&irc, &other]);
    let bot = irc.bot(&server);
    let room = bot.create_room(json!({ "preset": "public_chat" })).await;
    other.bot(&server).join(&room).await;
    irc.takes_transactions(false);
    let mut sent = Vec::new();
    for number in 0..250 {
        sent.push(number.to_string());
        bot.say(&room, &number.to_string()).await;
    }
    let last = bot.say(&room, "last").await;
    sent.push("last".to_owned());
    other.event(&last).await;
    assert_eq!(bodies(&other.events()), sent);
    irc.takes_transactions(true);
    irc.ping(&server).await;
    irc.event(&last).await;
    assert_eq!(bodies(&irc.events()), sent, "in order, none missing, none twice");
    for (_, body) in irc.transactions() {
        assert!(body["events"].as_array().unwrap().len() <= 100, "a transaction is bounded");
    }
}

#[tokio::test]
async fn what_is_sent_again_is_the_same_transaction() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let bot = irc.bot(&server);
    let room = bot.create_room(json!({ "preset": "public_chat" })).await;
    bot.say(&room, "first").await;
    irc.item("events", |event| event["content"]["body"] == "first").await;
    let before = irc.transactions().len();
    irc.takes_transactions(false);
    bot.say(&room, "second").await;
    irc.refused("second").await;
    server.kill_and_start_again();
    let last = bot.say(&room, "third").await;
    irc.takes_transactions(true);
    irc.ping(&server).await;
    irc.event(&last).await;
    let transactions = irc.transactions();
    let ids: Vec<u64> = transactions.iter().map(|(id, _)| id.parse().unwrap()).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert_eq!(bodies(&irc.events()), ["first", "second", "third"]);
    let second = bodies(transactions[before].1["events"].as_array().unwrap());
    assert_eq!(second, ["second"], "what was begun before the server died stays as it was");
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_the_server_is_killed_again_and_again() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let bot = irc.bot(&server);
    let room = bot.create_room(json!({ "preset": "public_chat" })).await;
    let mut sent = Vec::new();
    for round in 0..4 {
        // Up in even rounds, away in odd ones.
        irc.takes_transactions(round % 2 == 0);
        for number in 0..15 {
            let body = format!("{round}.{number}");
            bot.say(&room, &body).await;
            sent.push(body);
        }
        server.kill_and_start_again();
    }
    irc.takes_transactions(true);
    let last = bot.say(&room, "last").await;
    sent.push("last".to_owned());
    irc.ping(&server).await;
    irc.event(&last).await;
    assert_eq!(bodies(&irc.events()), sent);
    let mut contents = std::collections::BTreeMap::new();
    for (id, body) in irc.transactions() {
        let before = contents.insert(id, body.clone());
        assert!(before.is_none_or(|before| before == body), "a repetition is the same");
    }
}

#[tokio::test]
async fn old_services_get_transactions_by_the_old_path() {
    let irc = Appservice::start("irc", "").await;
    irc.answers("PUT /_matrix/app/", 404, json!({ "errcode": "M_UNRECOGNIZED", "error": "?" }));
    let server = server_with(&[&irc]);
    let room = irc.bot(&server).create_room(json!({})).await;
    irc.wait_for(|received| {
        let old = received.iter().find(|one| one.line.starts_with("PUT /transactions/"))?;
        (old.body["events"][0]["room_id"] == room.as_str()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redacted_event_says_so() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let bot = irc.bot(&server);
    let room = bot.create_room(json!({ "preset": "public_chat" })).await;
    irc.takes_transactions(false);
    bot.set_state(&room, "m.room.topic", "", json!({ "topic": "one" })).await;
    let changed = bot.set_state(&room, "m.room.topic", "", json!({ "topic": "two" })).await;
    let bad = bot.say(&room, "bad").await;
    let by = bot.put(["rooms", &room, "redact", &bad, "t"], json!({ "reason": "spam" })).await.ok();
    let by = by["event_id"].as_str().unwrap().to_owned();
    irc.takes_transactions(true);
    irc.ping(&server).await;
    let redaction = irc.event(&by).await;
    assert_eq!(redaction["redacts"], bad.as_str());
    let events = irc.events();
    let found = |id: &str| events.iter().find(|event| event["event_id"] == id).unwrap().clone();
    assert_eq!(found(&changed)["unsigned"]["prev_content"]["topic"], "one");
    // It was made before, or it is gone by now.
    let content = &found(&bad)["content"];
    assert!(content["body"] == "bad" || *content == json!({}), "{content}");
}
