//! What an application service is asked, and what it asks.
//!
//! Spec: <https://spec.matrix.org/v1.19/application-service-api/#querying>,
//! <https://spec.matrix.org/v1.19/application-service-api/#third-party-networks>,
//! <https://spec.matrix.org/v1.19/application-service-api/#pinging>

use complement_tests::{Appservice, must_match, wait_until};
use serde_json::json;

use crate::server_with;

#[tokio::test]
async fn an_unknown_user_and_alias_are_asked_for_before_they_are_not_found() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let (user, alias) = (irc.user("late"), "#_irc_late:complement.test");
    human.get(["profile", &user]).await.fails(404, "M_NOT_FOUND");
    human.get(["directory", "room", alias]).await.fails(404, "M_NOT_FOUND");
    human.post(["join", alias], json!({})).await.fails(404, "M_NOT_FOUND");
    human.get(["profile", "@nobody:complement.test"]).await.fails(404, "M_NOT_FOUND");
    let asked: Vec<String> = irc.received().into_iter().map(|one| one.line).collect();
    let of_user = "GET /_matrix/app/v1/users/%40_irc_late%3Acomplement.test";
    let of_alias = "GET /_matrix/app/v1/rooms/%23_irc_late%3Acomplement.test";
    assert!(asked.iter().any(|line| line == of_user), "{asked:?}");
    assert_eq!(asked.iter().filter(|line| *line == of_alias).count(), 2, "{asked:?}");
    assert!(!asked.iter().any(|line| line.contains("nobody")), "{asked:?}");
    assert!(irc.received().iter().all(|one| one.token == irc.hs_token()));

    // It makes what it is asked for before it answers; here it was made meanwhile.
    irc.ghost(&server, "late").await;
    let bot = irc.bot(&server);
    let room = bot.create_room(json!({ "room_alias_name": "_irc_late", "preset": "public_chat" }));
    let room = room.await;
    human.get(["profile", &user]).await.ok();
    let joined = human.post(["join", alias], json!({})).await.ok();
    assert_eq!(joined["room_id"], room.as_str());
    // A service that says yes and makes nothing changes nothing.
    irc.answers("GET /_matrix/app/v1/rooms/", 200, json!({}));
    irc.answers("GET /_matrix/app/v1/users/", 200, json!({}));
    let never = ["directory", "room", "#_irc_never:complement.test"];
    human.get(never).await.fails(404, "M_NOT_FOUND");
    human.get(["profile", &irc.user("never")]).await.fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_invited_user_is_asked_for() {
    let irc = Appservice::start("irc", "").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let room = human.create_room(json!({})).await;
    human.invite(&room, &irc.user("new")).await;
    irc.wait_for(|received| {
        received
            .iter()
            .any(|one| one.line.ends_with("/users/%40_irc_new%3Acomplement.test"))
            .then_some(())
    })
    .await;
    irc.item("events", |event| event["state_key"] == irc.user("new").as_str()).await;
}

#[tokio::test]
async fn networks_of_several_services_are_put_together() {
    let protocols = "protocols: [irc, 'od/d']";
    let (one, two) = (
        Appservice::start("one", protocols).await,
        Appservice::start("two", "protocols: [irc]").await,
    );
    let server = server_with(&[&one, &two]);
    let human = server.register("human").await;
    let protocol = |network: &str| {
        json!({
            "user_fields": ["nick"], "location_fields": ["channel"], "icon": "mxc://x/y",
            "field_types": {}, "instances": [{ "desc": network, "network_id": network, "fields": {} }],
        })
    };
    one.answers("GET /_matrix/app/v1/thirdparty/protocol/irc", 200, protocol("libera"));
    two.answers("GET /_matrix/app/v1/thirdparty/protocol/irc", 200, protocol("oftc"));
    let irc = human.get(["thirdparty", "protocol", "irc"]).await.ok();
    assert_eq!(irc["user_fields"], json!(["nick"]));
    let instances = irc["instances"].as_array().unwrap();
    let ids: Vec<_> = instances.iter().map(|one| one["instance_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["one|libera", "two|oftc"]);
    let all = human.get("thirdparty/protocols").await.ok();
    assert_eq!(all, json!({ "irc": irc }), "what nobody answers for is left out");
    human.get(["thirdparty", "protocol", "xmpp"]).await.fails(404, "M_NOT_FOUND");
    human.get(["thirdparty", "protocol", "od/d"]).await.fails(404, "M_NOT_FOUND");
    server.get("thirdparty/protocols").await.fails(401, "M_MISSING_TOKEN");
}

/// What a network is like is asked once, and known also while its service is away; a service that
/// was registered anew is asked again.
#[tokio::test]
async fn what_a_network_is_like_is_remembered() {
    let irc = Appservice::start("irc", "protocols: [irc]").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let line = "GET /_matrix/app/v1/thirdparty/protocol/irc";
    let protocol = |field: &str| {
        json!({
            "user_fields": [field], "location_fields": [], "icon": "mxc://x/y",
            "field_types": {}, "instances": [],
        })
    };
    let shown = async || human.get(["thirdparty", "protocol", "irc"]).await;
    // What was no answer is not remembered.
    irc.answers(line, 500, json!({}));
    shown().await.fails(404, "M_NOT_FOUND");
    irc.answers(line, 200, protocol("nick"));
    assert_eq!(shown().await.ok()["user_fields"], json!(["nick"]));
    let asked = || irc.received().iter().filter(|one| one.line.starts_with(line)).count();
    let before = asked();
    irc.answers(line, 500, json!({}));
    assert_eq!(shown().await.ok()["user_fields"], json!(["nick"]));
    let all = human.get("thirdparty/protocols").await.ok();
    assert_eq!(all["irc"]["user_fields"], json!(["nick"]));
    assert_eq!(asked(), before, "asked again");

    irc.answers(line, 200, protocol("account"));
    server.hang_up();
    wait_until("the service is asked again", async || {
        (shown().await.ok()["user_fields"] == json!(["account"])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn places_and_people_are_looked_up_at_all_services() {
    let one = Appservice::start("one", "protocols: [irc]").await;
    let two = Appservice::start("two", "protocols: [irc]").await;
    let server = server_with(&[&one, &two]);
    let human = server.register("human").await;
    let place = json!({ "alias": "#_one_a:complement.test", "protocol": "irc", "fields": {} });
    let person = json!({ "userid": "@_two_a:complement.test", "protocol": "irc", "fields": {} });
    one.answers("GET /_matrix/app/v1/thirdparty/location", 200, json!([place]));
    two.answers("GET /_matrix/app/v1/thirdparty/user", 200, json!([person, "rubbish"]));
    let fields = human.get(["thirdparty", "location", "irc"]).query("channel", "#a b&c");
    assert_eq!(fields.await.ok(), json!([place]));
    assert!(
        one.received()
            .iter()
            .any(|one| one.line
                == "GET /_matrix/app/v1/thirdparty/location/irc?channel=%23a%20b%26c")
    );
    let people = human.get(["thirdparty", "user", "irc"]).query("nick", "a").await.ok();
    assert_eq!(people, json!([person]));
    let by_alias = human.get("thirdparty/location").query("alias", "#_one_a:complement.test");
    assert_eq!(by_alias.await.ok(), json!([place]));
    let by_user = human.get("thirdparty/user").query("userid", "@_two_a:complement.test");
    assert_eq!(by_user.await.ok(), json!([person]));
    one.answers("GET /_matrix/app/v1/thirdparty/location", 200, json!({ "not": "a list" }));
    human.get(["thirdparty", "location", "irc"]).await.fails(404, "M_NOT_FOUND");
    human.get(["thirdparty", "location", "xmpp"]).await.fails(404, "M_NOT_FOUND");
    human.get("thirdparty/user").query("userid", "rubbish").await.fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn rooms_of_a_network_are_listed_apart() {
    let irc = Appservice::start("irc", "protocols: [irc]").await;
    let server = server_with(&[&irc]);
    let human = server.register("human").await;
    let bot = irc.bot(&server);
    let bridged = bot.create_room(json!({ "name": "bridged", "preset": "public_chat" })).await;
    let public = human.create_room(json!({ "name": "public", "visibility": "public" })).await;
    let list = |network: &str, room: &str| {
        ["directory", "list", "appservice"].join("/") + &format!("/{network}/{room}")
    };
    let public_body = json!({ "visibility": "public" });
    bot.put(list("libera", &bridged), public_body.clone()).await.ok();
    human.put(list("libera", &public), public_body.clone()).await.fails(403, "M_FORBIDDEN");
    bot.put(list("libera", "!nowhere:complement.test"), public_body)
        .await
        .fails(404, "M_NOT_FOUND");
    let listed = async |request: serde_json::Value| {
        let answer = human.post("publicRooms", request).await.ok();
        let mut names: Vec<String> = answer["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .map(|room| room["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(listed(json!({})).await, ["public"]);
    let network = json!({ "third_party_instance_id": "irc|libera" });
    assert_eq!(listed(network.clone()).await, ["bridged"]);
    assert!(listed(json!({ "third_party_instance_id": "irc|oftc" })).await.is_empty());
    assert!(listed(json!({ "third_party_instance_id": "irc" })).await.is_empty());
    assert_eq!(listed(json!({ "include_all_networks": true })).await, ["bridged", "public"]);
    server.kill_and_start_again();
    assert_eq!(listed(network.clone()).await, ["bridged"]);
    bot.put(list("libera", &bridged), json!({ "visibility": "private" })).await.ok();
    assert!(listed(network).await.is_empty());
}

#[tokio::test]
async fn a_ping_comes_back_or_says_what_is_wrong() {
    let irc = Appservice::start("irc", "").await;
    let silent = Appservice::start("silent", "").await;
    let address = silent.registration("").lines().nth(1).unwrap().to_owned();
    silent.write(&silent.registration("").replace(&address, "url: ''"));
    let server = server_with(&[&irc, &silent]);
    let bot = irc.bot(&server);
    let ping = |id: &str| format!("/_matrix/client/v1/appservice/{id}/ping");
    let answer = bot.post(ping("irc"), json!({ "transaction_id": "meow" })).await.ok();
    assert!(answer["duration_ms"].is_u64(), "{answer}");
    let got = irc.received().into_iter().find(|one| one.line.ends_with("/ping")).unwrap();
    assert_eq!(
        (got.line.as_str(), got.body),
        ("POST /_matrix/app/v1/ping", json!({ "transaction_id": "meow" }))
    );
    assert_eq!(got.token, irc.hs_token());
    let unstable = "/_matrix/client/unstable/fi.mau.msc2659/appservice/irc/ping";
    bot.post(unstable, json!({})).await.ok();
    bot.post(ping("silent"), json!({})).await.fails(403, "M_FORBIDDEN");
    silent.bot(&server).post(ping("silent"), json!({})).await.fails(400, "M_URL_NOT_SET");
    irc.answers("POST /_matrix/app/v1/ping", 403, json!({ "errcode": "M_FORBIDDEN" }));
    let refused = bot.post(ping("irc"), json!({})).await.fails(502, "M_BAD_STATUS");
    must_match(&refused, &json!({ "status": 403, "body": "{\"errcode\":\"M_FORBIDDEN\"}" }));
    let asked = irc.received().len();
    assert!(asked >= 3);
    irc.stop();
    bot.post(ping("irc"), json!({})).await.fails(502, "M_CONNECTION_FAILED");
    let features = server.get("/_matrix/client/versions").await.ok();
    assert_eq!(features["unstable_features"]["fi.mau.msc2659.stable"], true);
}
