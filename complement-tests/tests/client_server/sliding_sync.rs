//! Simplified sliding sync, as Element X uses it.
//!
//! Proposal: <https://github.com/matrix-org/matrix-spec-proposals/pull/4186>

use complement_tests::{Client, Server};
use serde_json::{Value, json};

const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// A connection that asks the same again and again.
struct Connection<'a> {
    client: &'a Client,
    body: Value,
    pos: Option<String>,
}

impl<'a> Connection<'a> {
    fn new(client: &'a Client, body: Value) -> Self {
        Self { client, body, pos: None }
    }

    async fn next(&mut self, timeout_ms: u64) -> Value {
        let mut request = self.client.post(PATH, self.body.clone());
        request = request.query("timeout", &timeout_ms.to_string());
        if let Some(pos) = &self.pos {
            request = request.query("pos", pos);
        }
        let response = request.await.ok();
        self.pos = response["pos"].as_str().map(str::to_owned);
        response
    }

    async fn now(&mut self) -> Value {
        self.next(0).await
    }
}

fn list(ranges: &Value, timeline_limit: u64, required_state: &Value) -> Value {
    json!({ "lists": { "all": {
        "ranges": ranges, "timeline_limit": timeline_limit, "required_state": required_state,
    } } })
}

fn bodies(room: &Value) -> Vec<Value> {
    let timeline = room["timeline"].as_array().cloned().unwrap_or_default();
    timeline
        .iter()
        .filter(|event| event["type"] == "m.room.message")
        .map(|event| event["content"]["body"].clone())
        .collect()
}

fn state_of(room: &Value) -> Vec<(String, String)> {
    let state = room["required_state"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut state: Vec<_> =
        state.iter().map(|event| (text(&event["type"]), text(&event["state_key"]))).collect();
    state.sort();
    state
}

fn rooms(response: &Value) -> Vec<String> {
    response["rooms"].as_object().unwrap().keys().cloned().collect()
}

/// The latest rooms first, as many as the window shows; growing it brings the rest.
#[tokio::test]
async fn a_list_shows_the_latest_rooms_and_grows() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let mut ids = Vec::new();
    for number in 0..3 {
        let room = alice.create_room(json!({ "name": format!("Room {number}") })).await;
        alice.say(&room, &format!("in {number}")).await;
        ids.push(room);
    }
    let state = json!([["m.room.name", ""], ["m.room.create", ""]]);
    let mut connection = Connection::new(&alice, list(&json!([[0, 0]]), 1, &state));
    let first = connection.now().await;
    assert_eq!(first["lists"]["all"]["count"], 3);
    assert_eq!(rooms(&first), [ids[2].clone()]);
    let room = &first["rooms"][&ids[2]];
    assert_eq!(room["initial"], true);
    assert_eq!(room["name"], "Room 2");
    assert_eq!(room["joined_count"], 1);
    assert_eq!(bodies(room), ["in 2"]);
    assert_eq!(room["limited"], true);
    let wanted = [("m.room.create", ""), ("m.room.name", "")];
    assert_eq!(state_of(room), wanted.map(|(of, key)| (of.to_owned(), key.to_owned())));
    assert!(room["bump_stamp"].as_u64().unwrap() > 0);

    connection.body = list(&json!([[0, 19]]), 1, &state);
    let second = connection.next(30_000).await;
    let mut rest = rooms(&second);
    rest.sort();
    let mut expected = vec![ids[0].clone(), ids[1].clone()];
    expected.sort();
    assert_eq!(rest, expected, "what the client has is not sent again");
    assert_eq!(rooms(&connection.now().await), Vec::<String>::new());
}

/// A message wakes the client, and comes alone.
#[tokio::test]
async fn news_come_once_and_wake() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let body = list(&json!([[0, 19]]), 20, &json!([["m.room.topic", ""]]));
    let mut connection = Connection::new(&bob, body);
    connection.now().await;
    let (response, _) =
        tokio::join!(connection.next(30_000), async { alice.say(&room, "hello").await });
    let entry = &response["rooms"][&room];
    assert_eq!(bodies(entry), ["hello"]);
    assert_eq!(entry["initial"], Value::Null);
    assert_eq!(entry["num_live"], 1);
    assert_eq!(entry["required_state"], Value::Null);
    let topic = json!({ "topic": "Tea" });
    alice.put(["rooms", &room, "state", "m.room.topic", ""], topic).await.ok();
    let entry = connection.now().await["rooms"][&room].clone();
    assert_eq!(state_of(&entry), [("m.room.topic".to_owned(), String::new())]);
    assert_eq!(rooms(&connection.now().await), Vec::<String>::new());
}

/// An answer may be lost: the position before works until the next one is used.
#[tokio::test]
async fn a_position_may_be_repeated_but_not_an_old_one() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut connection = Connection::new(&alice, list(&json!([[0, 9]]), 5, &json!([])));
    connection.now().await;
    let first = connection.pos.clone();
    alice.say(&room, "one").await;
    assert_eq!(bodies(&connection.now().await["rooms"][&room]), ["one"]);
    connection.pos = first.clone();
    assert_eq!(bodies(&connection.now().await["rooms"][&room]), ["one"]);
    alice.say(&room, "two").await;
    assert_eq!(bodies(&connection.now().await["rooms"][&room]), ["two"]);
    for unknown in [first.unwrap().as_str(), "rubbish"] {
        let request = alice.post(PATH, connection.body.clone()).query("pos", unknown);
        request.await.fails(400, "M_UNKNOWN_POS");
    }
    // Another connection of the device stands for itself.
    let mut other = connection.body.clone();
    other["conn_id"] = "other".into();
    let request = alice.post(PATH, other).query("pos", connection.pos.as_deref().unwrap());
    request.await.fails(400, "M_UNKNOWN_POS");
}

/// More events and more state than before are sent when they are asked for, without being news.
#[tokio::test]
async fn a_subscription_brings_what_was_missing() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "topic": "Tea" })).await;
    for number in 0..5 {
        alice.say(&room, &number.to_string()).await;
    }
    let mut connection =
        Connection::new(&alice, list(&json!([[0, 9]]), 1, &json!([["m.room.name", ""]])));
    assert_eq!(bodies(&connection.now().await["rooms"][&room]), ["4"]);
    connection.body["room_subscriptions"] = json!({ &*room: {
        "timeline_limit": 4, "required_state": [["m.room.topic", ""]],
    } });
    let entry = connection.next(30_000).await["rooms"][&room].clone();
    assert_eq!(bodies(&entry), ["1", "2", "3", "4"]);
    assert_eq!(entry["unstable_expanded_timeline"], true);
    assert_eq!(entry["num_live"], 0);
    assert_eq!(state_of(&entry), [("m.room.topic".to_owned(), String::new())]);
    assert_eq!(rooms(&connection.now().await), Vec::<String>::new());
}

/// `$ME` is the user, `$LAZY` whoever speaks, once.
#[tokio::test]
async fn members_come_when_they_speak() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room_with(&[&bob, &carol]).await;
    bob.say(&room, "hello").await;
    let state = json!([["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]);
    let mut connection = Connection::new(&alice, list(&json!([[0, 9]]), 1, &state));
    let member = |client: &Client| ("m.room.member".to_owned(), client.user_id.clone());
    let mut expected = vec![member(&alice), member(&bob)];
    expected.sort();
    let first = connection.now().await;
    assert_eq!(state_of(&first["rooms"][&room]), expected);
    assert_eq!(first["rooms"][&room]["joined_count"], 3);
    bob.say(&room, "again").await;
    carol.say(&room, "hi").await;
    connection.body = list(&json!([[0, 9]]), 5, &state);
    assert_eq!(state_of(&connection.now().await["rooms"][&room]), [member(&carol)]);
}

/// Invitations come with their stripped state; joined, the room is new; left, it goes.
#[tokio::test]
async fn invitations_joins_and_leaves() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "name": "Kitchen" })).await;
    let state = json!([["m.room.member", "$ME"]]);
    let mut connection = Connection::new(&bob, list(&json!([[0, 9]]), 5, &state));
    assert_eq!(connection.now().await["lists"]["all"]["count"], 0);
    alice.invite(&room, &bob.user_id).await;
    let invited = connection.next(30_000).await;
    let stripped = invited["rooms"][&room]["invite_state"].as_array().unwrap();
    assert!(stripped.iter().any(|event| event["content"]["name"] == "Kitchen"), "{invited}");
    assert_eq!(invited["lists"]["all"]["count"], 1);
    bob.join(&room).await;
    let joined = connection.next(30_000).await["rooms"][&room].clone();
    assert_eq!(joined["initial"], true);
    assert_eq!(joined["name"], "Kitchen");
    bob.post(["rooms", &room, "leave"], json!({})).await.ok();
    let left = connection.next(30_000).await;
    let own = &left["rooms"][&room]["required_state"][0];
    assert_eq!(
        (&own["state_key"], &own["content"]["membership"]),
        (&json!(bob.user_id), &json!("leave"))
    );
    let after = connection.now().await;
    assert_eq!(after["lists"]["all"]["count"], 0);
    assert_eq!(rooms(&after), Vec::<String>::new());
}

/// Lists hold what their filters say.
#[tokio::test]
async fn lists_are_filtered() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let encrypted = json!({ "type": "m.room.encryption", "content": algorithm });
    let secret = alice.create_room(json!({ "initial_state": [encrypted] })).await;
    let child = alice.create_room(json!({})).await;
    let space = alice.create_room(json!({ "creation_content": { "type": "m.space" } })).await;
    let via = json!({ "via": [alice.server_name()] });
    alice.put(["rooms", &space, "state", "m.space.child", &child], via).await.ok();
    let invitation = bob.create_room(json!({})).await;
    bob.invite(&invitation, &alice.user_id).await;
    let direct = json!({ &*bob.user_id: [secret] });
    alice.put(["user", &alice.user_id, "account_data", "m.direct"], direct).await.ok();
    alice
        .put(["user", &alice.user_id, "rooms", &child, "tags", "m.favourite"], json!({}))
        .await
        .ok();
    for (filters, expected) in [
        (json!({ "is_encrypted": true }), vec![&secret]),
        (json!({ "is_dm": true }), vec![&secret]),
        (json!({ "is_invite": true }), vec![&invitation]),
        (json!({ "room_types": ["m.space"] }), vec![&space]),
        (json!({ "not_room_types": ["m.space"], "is_invite": false }), vec![&secret, &child]),
        (json!({ "room_types": [null], "is_dm": false, "is_invite": false }), vec![&child]),
        (json!({ "spaces": [space] }), vec![&child]),
        (json!({ "tags": ["m.favourite"] }), vec![&child]),
        (json!({ "not_tags": ["m.favourite"], "is_encrypted": true }), vec![&secret]),
    ] {
        let mut body = list(&json!([[0, 9]]), 1, &json!([]));
        body["lists"]["all"]["filters"] = filters.clone();
        let response = Connection::new(&alice, body).now().await;
        let mut expected: Vec<String> = expected.into_iter().cloned().collect();
        expected.sort();
        assert_eq!(rooms(&response), expected, "{filters}");
        assert_eq!(response["lists"]["all"]["count"], expected.len());
    }
}

/// To-device messages, keys, account data, receipts and typing, each once.
#[tokio::test]
async fn extensions_bring_what_is_not_in_rooms() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut body = list(&json!([[0, 9]]), 1, &json!([]));
    let on = json!({ "enabled": true });
    body["extensions"] = json!({
        "to_device": on, "e2ee": on, "account_data": on, "receipts": on, "typing": on,
    });
    let mut connection = Connection::new(&bob, body);
    let first = connection.now().await;
    let extensions = &first["extensions"];
    assert_eq!(extensions["e2ee"]["device_one_time_keys_count"]["signed_curve25519"], 0);
    assert_eq!(extensions["e2ee"]["device_unused_fallback_key_types"], json!([]));
    let global = extensions["account_data"]["global"].as_array().unwrap();
    assert!(global.iter().any(|event| event["type"] == "m.push_rules"), "{first}");
    connection.body["extensions"]["to_device"]["since"] =
        extensions["to_device"]["next_batch"].clone();

    let messages = json!({ &*bob.user_id: { "*": { "n": 1 } } });
    let path = ["sendToDevice", "org.example.note", "t"];
    alice.put(path, json!({ "messages": messages })).await.ok();
    let second = connection.next(30_000).await;
    let inbox = &second["extensions"]["to_device"];
    assert_eq!(inbox["events"][0]["content"]["n"], 1);
    // Without the new token it comes again; with it, it does not.
    assert_eq!(connection.now().await["extensions"]["to_device"]["events"], inbox["events"]);
    connection.body["extensions"]["to_device"]["since"] = inbox["next_batch"].clone();
    assert_eq!(connection.now().await["extensions"]["to_device"]["events"], json!([]));

    let event = alice.say(&room, "hello").await;
    alice.post(["rooms", &room, "receipt", "m.read", &event], json!({})).await.ok();
    let typing = ["rooms", room.as_str(), "typing", &alice.user_id];
    alice.put(typing, json!({ "typing": true, "timeout": 30_000 })).await.ok();
    let data = ["user", bob.user_id.as_str(), "rooms", &room, "account_data", "org.example.x"];
    bob.put(data, json!({ "x": 1 })).await.ok();
    let third = connection.now().await;
    let extensions = &third["extensions"];
    let receipt = &extensions["receipts"]["rooms"][&room];
    assert!(receipt["content"][&event]["m.read"][&alice.user_id].is_object(), "{third}");
    let types = extensions["typing"]["rooms"][&room]["content"]["user_ids"].clone();
    assert_eq!(types, json!([alice.user_id]));
    assert_eq!(extensions["account_data"]["rooms"][&room][0]["content"], json!({ "x": 1 }));
    let fourth = connection.now().await;
    assert_eq!(fourth["extensions"]["receipts"]["rooms"], json!({}));
    assert_eq!(fourth["extensions"]["typing"]["rooms"], json!({}));
    assert_eq!(fourth["extensions"]["account_data"]["rooms"], json!({}));
}

/// What is beyond the bounds is refused.
#[tokio::test]
async fn requests_are_bounded() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for body in [
        json!({ "conn_id": "seventeen letters" }),
        list(&json!([[5, 4]]), 1, &json!([])),
        json!({ "lists": { "x".repeat(65): { "ranges": [[0, 1]] } } }),
        json!({ "extensions": { "to_device": { "enabled": true, "since": "x" } } }),
        json!({ "extensions": { "to_device": { "enabled": true, "since": u64::MAX.to_string() } } }),
    ] {
        alice.post(PATH, body).await.fails(400, "M_INVALID_PARAM");
    }
    alice.post(PATH, json!({ "lists": 1 })).await.fails(400, "M_BAD_JSON");
    server.anonymous().post(PATH, json!({})).await.fails(401, "M_MISSING_TOKEN");
}
