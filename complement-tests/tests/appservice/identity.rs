//! Who an application service is, and for whom it speaks.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#client-server-api-extensions>

use complement_tests::{Appservice, must_match};
use serde_json::json;

use crate::server_with;

const LOGIN: &str = "m.login.application_service";

#[tokio::test]
async fn the_bot_is_there_from_the_start() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let bot = irc.bot(&server);
    let who = bot.get("account/whoami").await.ok();
    assert_eq!(who, json!({ "user_id": irc.user("bot") }), "no device");
    let body = json!({ "type": LOGIN, "username": "_irc_bot", "inhibit_login": true });
    bot.post("register", body).await.fails(400, "M_USER_IN_USE");
    let room = bot.create_room(json!({})).await;
    bot.say(&room, "hello").await;
    bot.post("logout", json!({})).await.fails(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn users_are_made_and_spoken_for_without_passwords() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let alice = irc.ghost(&server, "alice.2").await;
    must_match(
        &alice.get("account/whoami").await.ok(),
        &json!({ "user_id": "@_irc_alice.2:complement.test" }),
    );
    alice
        .put(["profile", &alice.user_id, "displayname"], json!({ "displayname": "Al" }))
        .await
        .ok();
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let event = alice.say(&room, "as alice").await;
    let seen = irc.bot(&server).acting_as(&alice.user_id);
    must_match(
        &seen.get(["rooms", &room, "event", &event]).await.ok(),
        &json!({ "sender": alice.user_id }),
    );
    let again = json!({ "type": LOGIN, "username": "_irc_alice.2", "inhibit_login": true });
    irc.bot(&server).post("register", again).await.fails(400, "M_USER_IN_USE");
}

#[tokio::test]
async fn nobody_outside_the_namespace_is_spoken_for() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let bot = irc.bot(&server);
    bot.acting_as(&human.user_id).get("account/whoami").await.fails(403, "M_FORBIDDEN");
    bot.acting_as("@_irc_a:elsewhere.test").get("account/whoami").await.fails(403, "M_FORBIDDEN");
    bot.acting_as(&irc.user("nobody")).get("account/whoami").await.fails(403, "M_FORBIDDEN");
    bot.acting_as("rubbish").get("account/whoami").await.fails(403, "M_FORBIDDEN");
    for name in ["other", "alice"] {
        let body = json!({ "type": LOGIN, "username": name, "inhibit_login": true });
        bot.post("register", body).await.fails(400, "M_EXCLUSIVE");
    }
    let body = json!({ "type": LOGIN, "inhibit_login": true });
    bot.post("register", body).await.fails(400, "M_MISSING_PARAM");
    let body = json!({ "type": LOGIN, "username": "_irc_\u{7}", "inhibit_login": true });
    bot.post("register", body).await.fails(400, "M_INVALID_USERNAME");
    // The user ID in a query means nothing with a user's own token.
    let other = human.acting_as(&irc.user("bot")).get("account/whoami").await.ok();
    assert_eq!(other["user_id"], human.user_id.as_str());
}

#[tokio::test]
async fn a_wrong_token_opens_nothing() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let register = json!({ "type": LOGIN, "username": "_irc_x", "inhibit_login": true });
    let login = json!({ "type": LOGIN, "identifier": { "type": "m.id.user", "user": "_irc_bot" } });
    for (path, body) in [("register", register), ("login", login)] {
        server.anonymous().post(path, body.clone()).await.fails(401, "M_MISSING_TOKEN");
        // Neither the token for the other way nor that of a user is an application service's.
        for token in [irc.hs_token(), human.token.clone().unwrap(), "x".to_owned()] {
            let wrong = server.anonymous().with_token(&token);
            wrong.post(path, body.clone()).await.fails(401, "M_UNKNOWN_TOKEN");
        }
    }
    let wrong = server.anonymous().with_token(&irc.hs_token());
    wrong.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    let ping = ["/_matrix/client/v1/appservice", "irc", "ping"];
    human.post(ping, json!({})).await.fails(403, "M_FORBIDDEN");
    wrong.post(ping, json!({})).await.fails(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn an_exclusive_namespace_is_closed_to_others() {
    let irc = Appservice::start("irc", "").await;
    let shared = Appservice::start("shared", "").await;
    shared.write(&shared.registration("").replace("exclusive: true", "exclusive: false"));
    let server = server_with(&[&irc, &shared]);
    let free = server.register("human").await;
    let taken = server.anonymous().get("register/available").query("username", "_irc_x").await;
    taken.fails(400, "M_EXCLUSIVE");
    let body = json!({ "username": "_irc_x", "password": "a good password" });
    server.anonymous().post("register", body).await.fails(400, "M_EXCLUSIVE");
    let body = json!({ "type": LOGIN, "username": "_irc_x", "inhibit_login": true });
    shared.bot(&server).post("register", body).await.fails(400, "M_EXCLUSIVE");

    let room = free.create_room(json!({ "preset": "public_chat" })).await;
    let alias = |name: &str| format!("#_{name}:complement.test");
    let put = async |who: &complement_tests::Client, name: &str, room: &str| {
        who.put(["directory", "room", &alias(name)], json!({ "room_id": room })).await
    };
    put(&free, "irc_a", &room).await.fails(400, "M_EXCLUSIVE");
    put(&free, "shared_a", &room).await.ok();
    let create = json!({ "room_alias_name": "_irc_a" });
    free.post("createRoom", create).await.fails(400, "M_EXCLUSIVE");
    let bot = irc.bot(&server);
    bot.join(&room).await;
    put(&bot, "other_a", &room).await.fails(400, "M_EXCLUSIVE");
    put(&bot, "irc_a", &room).await.ok();
    free.delete(["directory", "room", &alias("irc_a")]).await.fails(400, "M_EXCLUSIVE");
    let theirs = bot.create_room(json!({ "room_alias_name": "_irc_b" })).await;
    let found = free.get(["directory", "room", &alias("irc_b")]).await.ok();
    assert_eq!(found["room_id"], theirs.as_str());
    // What another user of the service made is the service's all the same.
    let ghost = irc.ghost(&server, "ghost").await;
    ghost.delete(["directory", "room", &alias("irc_a")]).await.ok();
}

#[tokio::test]
async fn an_appservice_logs_its_users_in_unless_it_manages_devices() {
    let irc = Appservice::start("irc", "").await;
    let modern = Appservice::start("modern", "io.element.msc4190: true").await;
    let server = server_with(&[&irc, &modern]);
    let flows = server.anonymous().get("login").await.ok();
    assert!(flows["flows"].as_array().unwrap().contains(&json!({ "type": LOGIN })));
    let login = |user: &str| {
        json!({ "type": LOGIN, "identifier": { "type": "m.id.user", "user": user },
                "device_id": "BRIDGE" })
    };
    let bot = irc.bot(&server);
    let ghost = irc.ghost(&server, "ghost").await;
    let answer = bot.post("login", login(&ghost.user_id)).await.ok();
    let session = bot.logged_in(&answer, "");
    must_match(
        &server
            .anonymous()
            .with_token(session.token.as_deref().unwrap())
            .get("account/whoami")
            .await
            .ok(),
        &json!({ "user_id": ghost.user_id, "device_id": "BRIDGE" }),
    );
    bot.post("login", login("_irc_ghost")).await.ok();
    let human = server.register("human").await;
    bot.post("login", login(&human.user_id)).await.fails(400, "M_EXCLUSIVE");
    bot.post("login", login("_irc_nobody")).await.fails(403, "M_FORBIDDEN");
    let with_token = json!({ "type": LOGIN, "username": "_irc_second" });
    let answer = bot.post("register", with_token).await.ok();
    assert!(answer["access_token"].is_string());

    let bot = modern.bot(&server);
    let body = json!({ "type": LOGIN, "username": "_modern_a" });
    bot.post("register", body).await.fails(400, "M_APPSERVICE_LOGIN_UNSUPPORTED");
    bot.post("login", login("_modern_bot")).await.fails(400, "M_APPSERVICE_LOGIN_UNSUPPORTED");
    modern.ghost(&server, "a").await;
}

#[tokio::test]
async fn events_get_the_time_that_an_appservice_says() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let bot = irc.bot(&server);
    let room = bot.create_room(json!({ "preset": "public_chat" })).await;
    let then = bot.clone().asserting("ts", "1234567890123");
    let message = then.say(&room, "long ago").await;
    let state = then.set_state(&room, "m.room.topic", "", json!({ "topic": "old" })).await;
    for event in [message, state] {
        let event = bot.get(["rooms", &room, "event", &event]).await.ok();
        assert_eq!(event["origin_server_ts"], 1_234_567_890_123_u64);
    }
    let path = ["rooms", &room, "send", "m.room.message", "t1"];
    let rubbish = bot.clone().asserting("ts", "yesterday");
    assert_eq!(rubbish.put(path, json!({ "msgtype": "m.text", "body": "" })).await.status, 400);
    // Other endpoints, and people, have no say.
    then.post(["rooms", &room, "invite"], json!({ "user_id": irc.user("x") })).await.ok();
    let invited = bot.get(["rooms", &room, "state", "m.room.member", &irc.user("x")]);
    let invited = invited.query("format", "event").await.ok();
    assert_ne!(invited["origin_server_ts"], 1_234_567_890_123_u64);
    let human = server.register("human").await;
    human.join(&room).await;
    let event = human.clone().asserting("ts", "1234567890123").say(&room, "now").await;
    let event = human.get(["rooms", &room, "event", &event]).await.ok();
    assert_ne!(event["origin_server_ts"], 1_234_567_890_123_u64);
}

#[tokio::test]
async fn a_transaction_id_belongs_to_the_user_that_is_spoken_for() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let (one, two) = (irc.ghost(&server, "one").await, irc.ghost(&server, "two").await);
    let room = one.create_room(json!({ "preset": "public_chat" })).await;
    two.join(&room).await;
    let path = ["rooms", &room, "send", "m.room.message", "same"];
    let body = json!({ "msgtype": "m.text", "body": "hi" });
    let first = one.put(path, body.clone()).await.ok();
    assert_eq!(one.put(path, body.clone()).await.ok(), first);
    assert_ne!(two.put(path, body).await.ok(), first);
}
