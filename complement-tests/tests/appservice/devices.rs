//! Devices of bridges that encrypt: managed, spoken for, and told of keys and messages.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#device-management>; MSC3202,
//! MSC4190, MSC4203

use complement_tests::{Appservice, Client, Signer, must_match};
use serde_json::{Value, json};

use crate::server_with;

const ENCRYPTS: &str =
    "receive_ephemeral: true\norg.matrix.msc3202: true\nio.element.msc4190: true";

/// Makes a device for a user of a bridge.
async fn device(user: &Client, id: &str) -> Client {
    let body = json!({ "display_name": "bridge" });
    user.put(["devices", id], body).await.has_status(201);
    let mut user = user.clone().asserting("device_id", id);
    id.clone_into(&mut user.device_id);
    user
}

async fn upload_keys(who: &Client) {
    let signer = Signer::of_device(who);
    let (keys, one_time) = (signer.device_keys(who), signer.one_time_key(who, "one", false));
    let body =
        json!({ "device_keys": keys, "one_time_keys": { "signed_curve25519:one": one_time } });
    who.post("keys/upload", body).await.ok();
}

#[tokio::test]
async fn devices_are_made_renamed_and_deleted_without_passwords() {
    let irc = Appservice::start("irc", ENCRYPTS).await;
    let server = server_with(&[&irc]);
    let bot = irc.bot(&server);
    let on_device = device(&bot, "BRIDGE").await;
    let who = on_device.get("account/whoami").await.ok();
    assert_eq!(who["device_id"], "BRIDGE");
    let old_name = bot.clone().asserting("org.matrix.msc3202.device_id", "BRIDGE");
    assert_eq!(old_name.get("account/whoami").await.ok()["device_id"], "BRIDGE");
    bot.put(["devices", "BRIDGE"], json!({ "display_name": "new" })).await.has_status(200);
    must_match(
        &bot.get(["devices", "BRIDGE"]).await.ok(),
        &json!({ "device_id": "BRIDGE", "display_name": "new" }),
    );
    bot.put(["devices", "\u{7}"], json!({})).await.fails(400, "M_INVALID_PARAM");
    let unknown = bot.clone().asserting("device_id", "NOWHERE");
    unknown.get("account/whoami").await.fails(400, "M_UNKNOWN_DEVICE");
    upload_keys(&on_device).await;
    bot.post("keys/upload", json!({})).await.fails(400, "M_MISSING_PARAM");

    bot.delete(["devices", "BRIDGE"]).await.ok();
    on_device.get("account/whoami").await.fails(400, "M_UNKNOWN_DEVICE");
    for id in ["A", "B"] {
        device(&bot, id).await;
    }
    bot.post("delete_devices", json!({ "devices": ["A", "B"] })).await.ok();
    assert_eq!(bot.get("devices").await.ok()["devices"], json!([]));
    // People still can't make devices, and need their password.
    let human = server.register("human").await;
    human.put(["devices", "NEW"], json!({})).await.fails(404, "M_NOT_FOUND");
    human.delete(["devices", &human.device_id]).await.has_status(401);
}

#[tokio::test]
async fn a_device_belongs_to_its_user() {
    let irc = Appservice::start("irc", ENCRYPTS).await;
    let server = server_with(&[&irc]);
    let (one, two) = (irc.ghost(&server, "one").await, irc.ghost(&server, "two").await);
    device(&one, "ONE").await;
    let wrong = two.asserting("device_id", "ONE");
    wrong.get("account/whoami").await.fails(400, "M_UNKNOWN_DEVICE");
}

#[tokio::test]
async fn messages_to_devices_arrive_with_their_recipient_and_key_counts() {
    let irc = Appservice::start("irc", ENCRYPTS).await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let ghost = irc.ghost(&server, "ghost").await;
    let ghost = device(&ghost, "GHOST").await;
    upload_keys(&ghost).await;
    let claim = json!({ "one_time_keys": { &ghost.user_id: { "GHOST": "signed_curve25519" } } });
    human.post("keys/claim", claim).await.ok();
    let messages = json!({ "messages": { &ghost.user_id: { "GHOST": { "secret": 1 } } } });
    human.put(["sendToDevice", "m.room.encrypted", "t1"], messages.clone()).await.ok();
    human.put(["sendToDevice", "m.room.encrypted", "t1"], messages).await.ok();
    let list = "de.sorunome.msc2409.to_device";
    let message = irc.item(list, |_| true).await;
    assert_eq!(
        message,
        json!({
            "type": "m.room.encrypted", "sender": human.user_id, "content": { "secret": 1 },
            "to_user_id": ghost.user_id, "to_device_id": "GHOST",
        })
    );
    let of_ghost = |body: &Value, key: &str| {
        let found = &body[key][&ghost.user_id]["GHOST"];
        (!found.is_null() && body[list].is_array()).then(|| found.clone())
    };
    for name in ["device_one_time_keys_count", "device_one_time_key_counts"] {
        let key = format!("org.matrix.msc3202.{name}");
        let counts = irc.transaction(|body| of_ghost(body, &key)).await;
        assert_eq!(counts, json!({ "signed_curve25519": 0 }));
    }
    let key = "org.matrix.msc3202.device_unused_fallback_key_types";
    assert_eq!(irc.transaction(|body| of_ghost(body, key)).await, json!([]));
    // The bridge has it: it does not wait for a sync that never comes.
    let sync = ghost.sync().now().await;
    assert_eq!(sync["to_device"]["events"].as_array().map_or(0, Vec::len), 0, "{sync}");
}

#[tokio::test]
async fn messages_outlive_a_kill_while_the_bridge_is_away() {
    let irc = Appservice::start("irc", ENCRYPTS).await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let bot = device(&irc.bot(&server), "BRIDGE").await;
    irc.takes_transactions(false);
    for number in 0..150 {
        let content = json!({ "number": number });
        let messages = json!({ "messages": { &bot.user_id: { "BRIDGE": content } } });
        human.put(["sendToDevice", "m.test", &format!("t{number}")], messages).await.ok();
    }
    server.kill_and_start_again();
    irc.takes_transactions(true);
    irc.ping(&server).await;
    let list = "de.sorunome.msc2409.to_device";
    irc.item(list, |message| message["content"]["number"] == 149).await;
    let numbers: Vec<i64> = irc
        .transactions()
        .iter()
        .flat_map(|(_, body)| body[list].as_array().cloned().unwrap_or_default())
        .filter_map(|message| message["content"]["number"].as_i64())
        .collect();
    assert_eq!(numbers, (0..150).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_bridge_that_syncs_for_its_messages_finds_them_there_too() {
    let irc = Appservice::start("irc", "receive_ephemeral: true").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let bot = device(&irc.bot(&server), "BRIDGE").await;
    let messages = json!({ "messages": { &bot.user_id: { "*": { "secret": 1 } } } });
    human.put(["sendToDevice", "m.test", "t1"], messages).await.ok();
    irc.item("de.sorunome.msc2409.to_device", |one| one["type"] == "m.test").await;
    let sync = bot.sync().now().await;
    must_match(&sync["to_device"]["events"][0], &json!({ "type": "m.test" }));
}

#[tokio::test]
async fn a_bridge_hears_whose_devices_changed_and_who_left() {
    let irc = Appservice::start("irc", ENCRYPTS).await;
    let server = server_with(&[&irc]);
    let (human, stranger) = (server.register("human").await, server.register("stranger").await);
    let bot = irc.bot(&server);
    let room = bot.create_room(json!({ "preset": "public_chat" })).await;
    let lists = "org.matrix.msc3202.device_lists";
    let listed = |kind: &'static str, user: &str| {
        let user = json!(user);
        move |body: &Value| body[lists][kind].as_array()?.contains(&user).then_some(())
    };
    human.join(&room).await;
    irc.transaction(listed("changed", &human.user_id)).await;
    let told = irc.transactions().len();
    upload_keys(&stranger).await;
    upload_keys(&human).await;
    irc.wait_for(|_| {
        let found = listed("changed", &human.user_id);
        irc.transactions()[told..].iter().find_map(|(_, body)| found(body))
    })
    .await;
    human.leave(&room).await;
    irc.transaction(listed("left", &human.user_id)).await;
    let strange = listed("changed", &stranger.user_id);
    assert!(irc.transactions().iter().all(|(_, body)| strange(body).is_none()));
}

#[tokio::test]
async fn cross_signing_keys_are_replaced_without_a_password() {
    let irc = Appservice::start("irc", ENCRYPTS).await;
    let server = server_with(&[&irc]);
    let bot = device(&irc.bot(&server), "BRIDGE").await;
    for name in ["first", "second"] {
        let keys = Signer::named(name).cross_signing_key(&bot.user_id, "master");
        bot.post("keys/device_signing/upload", json!({ "master_key": keys })).await.ok();
    }
}
