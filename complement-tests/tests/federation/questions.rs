//! What other servers ask: about users, files, rooms, keys.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/>

use complement_tests::coverage::Endpoint;
use complement_tests::peer::Peer;
use complement_tests::{text, vast_picture};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Meeting, server};

const FEDERATION: &str = "/_matrix/federation/v1";

/// Nothing that wants a signature is told without one, or with a wrong one.
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>
#[tokio::test]
async fn no_question_is_answered_without_a_signature() {
    let (server, peer) = (server(), Peer::start().await);
    let endpoints = Endpoint::all().into_iter().filter(|endpoint| {
        endpoint.api == "server" && endpoint.is_guarded() && !endpoint.path.contains("/policy/")
    });
    for endpoint in endpoints {
        let path = endpoint.path.replace("{roomId}", "!room:complement.test");
        let path = path.replace("{userId}", "@user:complement.test").replace("{eventId}", "$event");
        let path = path.replace(['{', '}'], "");
        let method: Method = endpoint.method.parse().expect("a method");
        let body = (endpoint.method != "GET").then(|| json!({}));
        let none = peer.request_with(&server, method.clone(), &path, body.as_ref(), "").await;
        none.fails(401, "M_UNAUTHORIZED");
        let other = peer.authorization(&server.name(), &method, "/another/path", body.as_ref());
        let wrong = peer.request_with(&server, method, &path, body.as_ref(), &other).await;
        wrong.fails(401, "M_UNAUTHORIZED");
    }
}

/// Bodies that are no JSON, or of another shape, are refused, signed or not.
#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused() {
    let (server, peer) = (server(), Peer::start().await);
    for endpoint in Endpoint::all() {
        if endpoint.api != "server" || !endpoint.has_body || endpoint.path.contains("/policy/") {
            continue;
        }
        let path = endpoint.path.replace("{roomId}", "!room:complement.test");
        let path = path.replace("{eventId}", "$event").replace(['{', '}'], "");
        let method: Method = endpoint.method.parse().expect("a method");
        let answer = peer.request(&server, method, &path, Some(&json!([7]))).await;
        assert!((400..500).contains(&answer.status), "{answer}");
        assert!(!answer.errcode().is_empty(), "{answer}");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#querying-for-information>
#[tokio::test]
async fn profiles_and_aliases_are_told() {
    let meeting = Meeting::new().await;
    let (peer, server, alice) = (&meeting.peer, &meeting.server, &meeting.alice);
    let query = async |what: &str| peer.get(server, &format!("{FEDERATION}/query/{what}")).await;
    let name = json!({ "displayname": "Alice in Wonderland" });
    alice.put(["profile", &alice.user_id, "displayname"], name).await.ok();
    let user = &alice.user_id;
    let profile = query(&format!("profile?user_id={user}")).await.ok();
    assert_eq!(profile["displayname"], "Alice in Wonderland");
    let field = query(&format!("profile?user_id={user}&field=displayname")).await.ok();
    assert_eq!(field, json!({ "displayname": "Alice in Wonderland" }));
    query("profile?user_id=@nobody:complement.test").await.fails(404, "M_NOT_FOUND");
    let foreign = query(&format!("profile?user_id={}", peer.user("eve"))).await;
    assert!((400..500).contains(&foreign.status), "{foreign}");

    let alias = format!("#{}:complement.test", alice.localpart());
    let room = json!({ "room_id": meeting.room.id });
    alice.put(["directory/room", &alias], room).await.ok();
    let alias = alias.replace('#', "%23");
    let found = query(&format!("directory?room_alias={alias}")).await.ok();
    assert_eq!(found["room_id"], meeting.room.id);
    assert!(found["servers"].as_array().is_some_and(|it| it.contains(&json!("complement.test"))));
    query("directory?room_alias=%23nothing:complement.test").await.fails(404, "M_NOT_FOUND");
    query("no-such-thing").await.fails(404, "M_UNRECOGNIZED");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#public-room-directory>
#[tokio::test]
async fn the_directory_is_shown_where_that_is_allowed() {
    let (server, peer) = (server(), Peer::start().await);
    let alice = server.register("alice").await;
    let body = json!({ "preset": "public_chat", "visibility": "public", "name": "The garden" });
    let room = alice.create_room(body).await;
    let path = format!("{FEDERATION}/publicRooms");
    for answer in [
        peer.get(&server, &format!("{path}?limit=10")).await,
        peer.post(&server, &path, &json!({ "filter": { "generic_search_term": "garden" } })).await,
    ] {
        if answer.status == 403 {
            // Closed unless the configuration opens it.
            continue;
        }
        assert_eq!(answer.ok()["chunk"][0]["room_id"], room);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#spaces>
#[tokio::test]
async fn a_space_is_shown_to_whose_users_may_see_it() {
    let meeting = Meeting::new().await;
    let (peer, server, alice) = (&meeting.peer, &meeting.server, &meeting.alice);
    let space = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
    let space = alice.create_room(space).await;
    let hidden = alice.create_room(json!({ "preset": "private_chat" })).await;
    for child in [&meeting.room.id, &hidden] {
        let via = json!({ "via": ["complement.test"] });
        alice.set_state(&space, "m.space.child", child, via).await;
    }
    let path = |room: &str| format!("{FEDERATION}/hierarchy/{room}?suggested_only=false");
    let shown = peer.get(server, &path(&space)).await.ok();
    assert_eq!(shown["room"]["room_id"], space);
    let children: Vec<&Value> =
        shown["children"].as_array().into_iter().flatten().map(|room| &room["room_id"]).collect();
    assert_eq!(children, [&json!(meeting.room.id)]);
    assert_eq!(shown["inaccessible_children"], json!([hidden]));
    peer.get(server, &path(&hidden)).await.fails(404, "M_NOT_FOUND");
    peer.get(server, &path("!nowhere:complement.test")).await.fails(404, "M_NOT_FOUND");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid>
#[tokio::test]
async fn a_time_leads_to_the_event_before_or_after_it() {
    let meeting = Meeting::new().await;
    let (peer, server, room) = (&meeting.peer, &meeting.server, &meeting.room.id);
    let said = meeting.alice.say(room, "now").await;
    let ask = async |query: &str| {
        peer.get(server, &format!("{FEDERATION}/timestamp_to_event/{room}?{query}")).await
    };
    assert_eq!(ask("ts=9000000000000&dir=b").await.ok()["event_id"], said);
    ask("ts=9000000000000&dir=f").await.fails(404, "M_NOT_FOUND");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#content-repository>
#[tokio::test]
async fn files_are_given_to_servers() {
    let (server, peer) = (server(), Peer::start().await);
    let alice = server.register("alice").await;
    let [_, id] = alice.upload("text/plain", "hello").await;
    let media = async |path: &str| peer.get(&server, &format!("{FEDERATION}/media/{path}")).await;
    let file = media(&format!("download/{id}")).await;
    assert_eq!(file.status, 200, "{file}");
    assert!(file.header("content-type").starts_with("multipart/mixed"), "{file}");
    assert!(file.text.ends_with("--\r\n") || file.text.trim_end().ends_with("--"), "{file}");
    assert!(file.text.contains("\r\n\r\nhello\r\n"), "{file}");
    media("download/nothing").await.fails(404, "M_NOT_FOUND");
    media("thumbnail/nothing?width=1&height=1").await.fails(404, "M_NOT_FOUND");
    // Of a text there is no small picture.
    let none = media(&format!("thumbnail/{id}?width=32&height=32&method=scale")).await;
    assert!((400..500).contains(&none.status), "{none}");

    let mut picture = std::io::Cursor::new(Vec::new());
    let green = image::RgbImage::from_pixel(64, 64, image::Rgb([0, 200, 0]));
    green.write_to(&mut picture, image::ImageFormat::Png).expect("a picture");
    let [_, id] = alice.upload("image/png", picture.into_inner()).await;
    let small = media(&format!("thumbnail/{id}?width=32&height=32&method=scale")).await;
    assert_eq!(small.status, 200, "{small}");
    // A few bytes that say to be a picture of 60,000 × 60,000 pixels.
    let [_, id] = alice.upload("image/png", vast_picture()).await;
    let none = media(&format!("thumbnail/{id}?width=32&height=32&method=scale")).await;
    none.fails(413, "M_TOO_LARGE");

    // What was announced and did not come yet.
    let announced = alice.post("/_matrix/media/v1/create", json!({})).await.ok();
    let uri = text(&announced, "/content_uri");
    let id = uri.rsplit('/').next().expect("an ID");
    for path in [
        format!("download/{id}?timeout_ms=0"),
        format!("thumbnail/{id}?width=1&height=1&timeout_ms=0"),
    ] {
        media(&path).await.fails(504, "M_NOT_YET_UPLOADED");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#openid>
#[tokio::test]
async fn a_token_says_who_it_was_made_for() {
    let server = server();
    let alice = server.register("alice").await;
    let path = ["user", &alice.user_id, "openid", "request_token"];
    let made = alice.post(path, json!({})).await.ok();
    let ask = async |token: &str| {
        server.get(format!("{FEDERATION}/openid/userinfo?access_token={token}")).await
    };
    assert_eq!(ask(&text(&made, "/access_token")).await.ok()["sub"], alice.user_id);
    ask("made-up").await.fails(401, "M_UNKNOWN_TOKEN");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#device-management>
#[tokio::test]
async fn devices_and_keys_are_told_and_a_one_time_key_once() {
    let meeting = Meeting::new().await;
    let (peer, server, alice) = (&meeting.peer, &meeting.server, &meeting.alice);
    let signer = complement_tests::Signer::named(&alice.device_id);
    let algorithms = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"];
    let device = format!("ed25519:{}", alice.device_id);
    let keys = json!({
        "user_id": alice.user_id, "device_id": alice.device_id, "algorithms": algorithms,
        "keys": { device: signer.public_key() },
    });
    let keys = signer.sign(&alice.user_id, &alice.device_id, keys);
    let once = signer.sign(&alice.user_id, &alice.device_id, json!({ "key": "b25l" }));
    let upload =
        json!({ "device_keys": keys, "one_time_keys": { "signed_curve25519:AAAAAQ": once } });
    alice.post("keys/upload", upload).await.ok();

    let user = alice.user_id.as_str();
    let path = format!("{FEDERATION}/user/devices/{user}");
    let devices = peer.get(server, &path).await.ok();
    assert_eq!(devices["devices"][0]["device_id"], alice.device_id);
    let nobody = format!("{FEDERATION}/user/devices/@nobody:complement.test");
    let answer = peer.get(server, &nobody).await;
    assert!([200, 404].contains(&answer.status), "{answer}");

    let path = format!("{FEDERATION}/user/keys/query");
    let body = json!({ "device_keys": { user: [] } });
    let found = peer.post(server, &path, &body).await.ok();
    let shown = &found["device_keys"][user][&alice.device_id];
    assert_eq!(shown["keys"], keys["keys"], "{found}");

    let path = format!("{FEDERATION}/user/keys/claim");
    let body =
        json!({ "one_time_keys": { user: { alice.device_id.as_str(): "signed_curve25519" } } });
    let claimed = peer.post(server, &path, &body).await.ok();
    let given = &claimed["one_time_keys"][user][&alice.device_id];
    assert_eq!(given["signed_curve25519:AAAAAQ"]["key"], "b25l", "{claimed}");
    let again = peer.post(server, &path, &body).await.ok();
    assert_eq!(again["one_time_keys"][user][&alice.device_id], Value::Null, "{again}");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys>
#[tokio::test]
async fn keys_are_published_and_those_of_others_vouched_for() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let own = server.get("/_matrix/key/v2/server").await.ok();
    assert_eq!(own["server_name"], "complement.test");
    assert!(own["signatures"]["complement.test"].is_object(), "{own}");
    let version = server.get(format!("{FEDERATION}/version")).await.ok();
    assert!(version["server"]["name"].is_string(), "{version}");

    let found = server.get(format!("/_matrix/key/v2/query/{}", peer.name())).await.ok();
    let body = json!({ "server_keys": { peer.name(): {} } });
    let asked = server.anonymous().post("/_matrix/key/v2/query", body).await.ok();
    for answer in [found, asked] {
        let keys = &answer["server_keys"][0];
        assert_eq!(keys["server_name"], peer.name(), "{answer}");
        assert_eq!(keys["verify_keys"], peer.keys()["verify_keys"]);
        // Whose they are, and whoever vouches.
        for signer in [peer.name(), "complement.test"] {
            assert!(keys["signatures"][signer].is_object(), "{signer}: {answer}");
        }
    }
    let answer = server.get("/_matrix/key/v2/query/127.0.0.1:1").await.ok();
    assert_eq!(answer["server_keys"], json!([]));
}
