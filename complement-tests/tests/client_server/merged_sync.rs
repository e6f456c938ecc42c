//! Simplified sliding sync in the form in which it was accepted.
//!
//! Proposals: <https://github.com/matrix-org/matrix-spec-proposals/pull/4186>,
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4508>

use complement_tests::{Answer, Client, Server, text};
use serde_json::{Value, json};

const PATH: &str = "/_matrix/client/v4/sync";
const TO_DEVICE: &str = "org.matrix.msc4538.to_device";

async fn ask(client: &Client, body: &Value, pos: Option<&str>, timeout_ms: u64) -> Answer {
    let mut body = body.clone();
    body["timeout"] = json!(timeout_ms);
    if let Some(pos) = pos {
        body["pos"] = json!(pos);
    }
    client.post(PATH, body).await
}

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
        let response = ask(self.client, &self.body, self.pos.as_deref(), timeout_ms).await.ok();
        self.pos = response["pos"].as_str().map(str::to_owned);
        response
    }

    async fn now(&mut self) -> Value {
        self.next(0).await
    }
}

/// All rooms in one list.
fn all(required_state: &Value) -> Value {
    json!({ "lists": { "all": { "timeline_limit": 10, "required_state": required_state } } })
}

fn bodies(room: &Value) -> Vec<Value> {
    let timeline = room["timeline_events"].as_array().cloned().unwrap_or_default();
    let said = timeline.iter().filter(|event| event["type"] == "m.room.message");
    said.map(|event| event["content"]["body"].clone()).collect()
}

fn state_of(room: &Value) -> Vec<String> {
    let state = room["required_state"].as_array().cloned().unwrap_or_default();
    let mut state: Vec<_> = state
        .iter()
        .map(|event| format!("{} {}", text(event, "/type"), text(event, "/state_key")))
        .collect();
    state.sort();
    state
}

fn room_ids(response: &Value) -> Vec<String> {
    response["rooms"].as_object().unwrap().keys().cloned().collect()
}

/// A list without a range has all rooms; a room says what the user is to it and which lists it
/// belongs to; what happens wakes.
#[tokio::test]
async fn rooms_say_what_they_are_to_the_user() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    alice.say(&room, "one").await;
    let mut body = all(&json!({ "include": [{ "type": "m.room.create" }] }));
    body["lists"]["first"] = json!({ "range": [0, 0], "timeline_limit": 1, "required_state": {} });
    let mut connection = Connection::new(&bob, body);
    let first = connection.now().await;
    assert_eq!(first["lists"]["all"]["count"], 1);
    let entry = &first["rooms"][&room];
    assert_eq!(entry["membership"], "join");
    assert_eq!(entry["lists"], json!(["all", "first"]));
    assert_eq!(entry["initial"], true);
    assert_eq!(bodies(entry), ["one"]);
    assert_eq!(state_of(entry), ["m.room.create "]);
    assert!(entry["timeline"].is_null() && first["txn_id"].is_null(), "{first}");

    let (news, _) = tokio::join!(connection.next(30_000), async { alice.say(&room, "two").await });
    assert_eq!(bodies(&news["rooms"][&room]), ["two"]);
    assert_eq!(news["rooms"][&room]["num_live"], 1);
    assert_eq!(room_ids(&connection.now().await), Vec::<String>::new());
    connection.body = json!({ "room_subscriptions": { &room: {
        "timeline_limit": 20, "required_state": { "include": [{ "state_key": "" }], "exclude": [{ "type": "m.room.create" }] },
    } } });
    let more = connection.now().await["rooms"][&room].clone();
    assert_eq!(more["expanded_timeline"], true);
    assert!(more["lists"].is_null() && more["unstable_expanded_timeline"].is_null(), "{more}");
    assert_eq!(bodies(&more), ["one", "two"]);
    let state = state_of(&more);
    assert!(state.contains(&"m.room.power_levels ".to_owned()), "{state:?}");
    assert!(!state.iter().any(|state| state.starts_with("m.room.create")), "{state:?}");
}

/// "`name` can be null if the room name is removed."
#[tokio::test]
async fn a_name_that_is_removed_is_null() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "Kitchen" })).await;
    let mut connection = Connection::new(&alice, all(&json!({})));
    assert_eq!(connection.now().await["rooms"][&room]["name"], "Kitchen");
    alice.say(&room, "hello").await;
    let entry = connection.now().await["rooms"][&room].clone();
    assert!(entry.get("name").is_none(), "it has not changed: {entry}");
    alice.put(["rooms", &room, "state", "m.room.name", ""], json!({})).await.ok();
    let entry = connection.now().await["rooms"][&room].clone();
    assert_eq!(entry.get("name"), Some(&Value::Null), "{entry}");
}

/// "Rooms the user has been kicked or banned from will always be included", those that they left
/// only if the connection has shown them.
#[tokio::test]
async fn rooms_one_was_made_to_leave_stay() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..4 {
        rooms.push(alice.create_room_with(&[&bob]).await);
    }
    let [kicked, banned, left, never] = &rooms[..] else { unreachable!() };
    alice.say(kicked, "before").await;
    let mut watching = Connection::new(&bob, all(&json!({})));
    assert_eq!(watching.now().await["lists"]["all"]["count"], 4);
    let other = server.register("carol").await;
    let whom = json!({ "user_id": bob.user_id });
    alice.post(["rooms", kicked, "kick"], whom.clone()).await.ok();
    alice.post(["rooms", banned, "ban"], whom).await.ok();
    alice.post(["rooms", never, "ban"], json!({ "user_id": other.user_id })).await.ok();
    bob.leave(left).await;
    alice.say(kicked, "after").await;
    let response = watching.now().await;
    assert_eq!(response["lists"]["all"]["count"], 4);
    for (room, membership) in [(kicked, "leave"), (banned, "ban"), (left, "leave")] {
        let entry = &response["rooms"][room];
        assert_eq!(entry["membership"], membership, "{response}");
        assert!(bodies(entry).is_empty(), "{entry}");
        assert!(entry["initial"].is_null(), "{entry}");
    }
    assert_eq!(room_ids(&watching.now().await), Vec::<String>::new());

    let mut new = Connection::new(&bob, all(&json!({ "include": [{ "type": "m.room.create" }] })));
    let response = new.now().await;
    assert_eq!(response["lists"]["all"]["count"], 3, "{response}");
    let entry = &response["rooms"][kicked];
    assert_eq!((&entry["membership"], &entry["initial"]), (&json!("leave"), &json!(true)));
    assert_eq!(bodies(entry), ["before"], "what came after is not theirs to see");
    assert_eq!(state_of(entry), ["m.room.create "]);
    assert!(response["rooms"][left].is_null(), "{response}");
    let mut banned_stranger = Connection::new(&other, all(&json!({})));
    assert_eq!(banned_stranger.now().await["lists"]["all"]["count"], 0, "never came in");
    bob.post(["rooms", kicked, "forget"], json!({})).await.ok();
    assert_eq!(Connection::new(&bob, all(&json!({}))).now().await["lists"]["all"]["count"], 2);
}

#[tokio::test]
async fn invitations_come_stripped_and_are_refused() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "name": "Kitchen", "invite": [bob.user_id] })).await;
    bob.create_room(json!({})).await;
    let mut body = all(&json!({}));
    body["lists"]["all"]["filters"] = json!({ "is_invited": true });
    let mut connection = Connection::new(&bob, body);
    let first = connection.now().await;
    assert_eq!(room_ids(&first), std::slice::from_ref(&room));
    let entry = &first["rooms"][&room];
    assert_eq!(entry["membership"], "invite");
    let stripped = entry["stripped_state"].as_array().unwrap();
    assert!(stripped.iter().any(|event| event["content"]["name"] == "Kitchen"), "{entry}");
    connection.body = all(&json!({}));
    connection.now().await;
    bob.leave(&room).await;
    let entry = connection.now().await["rooms"][&room].clone();
    assert_eq!(entry["membership"], "leave");
    assert!(entry["timeline_events"].is_null() && entry["name"].is_null(), "{entry}");
}

/// "Membership updates … when `limited` is false", members who are spoken of, and no others.
#[tokio::test]
async fn members_come_when_they_matter() {
    let server = Server::shared();
    let (alice, bob, carol) =
        (server.register("alice").await, server.register("bob").await, server.register("c").await);
    let room = alice.create_room_with(&[&bob]).await;
    for number in 0..10 {
        alice.say(&room, &format!("{number}")).await;
    }
    let mut connection = Connection::new(&alice, all(&json!({ "lazy_members": true })));
    let first = connection.now().await["rooms"][&room].clone();
    let member = |who: &Client| format!("m.room.member {}", who.user_id);
    assert_eq!(state_of(&first), [member(&alice)]);
    carol.join(&room).await;
    let entry = connection.now().await["rooms"][&room].clone();
    assert_eq!(state_of(&entry), [member(&carol)]);
    bob.put(["profile", &bob.user_id, "displayname"], json!({ "displayname": "B" })).await.ok();
    let renamed = loop {
        let response = connection.next(30_000).await;
        if let Some(entry) = response["rooms"].get(&room) {
            break entry.clone();
        }
    };
    assert_eq!(state_of(&renamed), [member(&bob)]);
}

/// "`pos` can be used in `/messages` and `/relations` APIs."
#[tokio::test]
async fn a_position_is_a_place_in_timelines() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let parent = alice.say(&room, "before").await;
    let mut connection = Connection::new(&alice, all(&json!({})));
    connection.now().await;
    let pos = connection.pos.clone().unwrap();
    let relates = json!({ "rel_type": "m.thread", "event_id": parent });
    let reply = json!({ "msgtype": "m.text", "body": "after", "m.relates_to": relates });
    alice.send(&room, "m.room.message", reply).await;
    let said = async |dir: &str| {
        let messages = alice.get(["rooms", &room, "messages"]).query("dir", dir);
        let page = messages.query("from", &pos).await.ok();
        let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
        let bodies = chunk.iter().map(|event| event["content"]["body"].clone());
        bodies.filter(|body| !body.is_null()).collect::<Vec<_>>()
    };
    assert_eq!(said("b").await, ["before"]);
    assert_eq!(said("f").await, ["after"]);
    let relations = format!("/_matrix/client/v1/rooms/{room}/relations/{parent}");
    let none = alice.get(relations.clone()).query("from", &pos).await.ok();
    assert_eq!(none["chunk"], json!([]));
    let later = alice.get(relations).query("to", &pos).await.ok();
    assert_eq!(later["chunk"].as_array().map(Vec::len), Some(1));
}

/// Extensions that are not accepted have a key of their own; typing is, and who begins to look at a
/// room is told who types there now.
#[tokio::test]
async fn extensions_have_their_keys() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let typing = ["rooms", &room, "typing", &alice.user_id];
    alice.put(typing, json!({ "typing": true, "timeout": 30_000 })).await.ok();
    let mut body = json!({ "extensions": {
        "typing": { "enabled": true },
        "to_device": { "enabled": true },
        "org.example.unknown": { "enabled": true },
    } });
    body["extensions"][TO_DEVICE] = json!({ "enabled": true });
    body["extensions"]["org.matrix.msc4543.e2ee"] = json!({ "enabled": true });
    let mut connection = Connection::new(&bob, body.clone());
    let first = connection.now().await;
    let extensions = first["extensions"].as_object().unwrap();
    let keys: Vec<_> = extensions.keys().map(String::as_str).collect();
    assert_eq!(keys, [TO_DEVICE, "org.matrix.msc4543.e2ee", "typing"]);
    assert_eq!(extensions["typing"]["rooms"], json!({}), "no room is looked at");
    let subscription = json!({ "timeline_limit": 1, "required_state": {} });
    connection.body["room_subscriptions"] = json!({ &room: subscription });
    let who = |response: &Value| {
        response["extensions"]["typing"]["rooms"][&room]["content"]["user_ids"].clone()
    };
    assert_eq!(who(&connection.now().await), json!([alice.user_id]));
    assert!(who(&connection.now().await).is_null());
    connection.body = body;
    connection.now().await;
    connection.body["room_subscriptions"] = json!({ &room: subscription });
    assert_eq!(who(&connection.now().await), json!([alice.user_id]), "it looks again");
    let flags = alice.anonymous().get("/_matrix/client/versions").await.ok();
    for flag in ["org.matrix.msc4508", "org.matrix.msc4538", "org.matrix.msc4543"] {
        assert_eq!(flags["unstable_features"][flag], true);
    }
}

#[tokio::test]
async fn requests_are_checked() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let list = |list: Value| json!({ "lists": { "a": list } });
    for (body, errcode) in [
        (json!({ "set_presence": "asleep" }), "M_INVALID_PARAM"),
        (json!({ "conn_id": "x".repeat(256) }), "M_INVALID_PARAM"),
        (json!({ "lists": { "a b": all(&json!({}))["lists"]["all"] } }), "M_INVALID_PARAM"),
        (
            json!({ "extensions": { TO_DEVICE: { "enabled": true, "limit": 0 } } }),
            "M_INVALID_PARAM",
        ),
        (json!({ "pos": "1_2_3" }), "M_UNKNOWN_POS"),
        (json!({ "pos": "rubbish" }), "M_UNKNOWN_POS"),
        (list(json!({ "timeline_limit": 1 })), "M_BAD_JSON"),
        (list(json!({ "required_state": {} })), "M_BAD_JSON"),
        (list(json!({ "timeline_limit": 1, "required_state": [["*", "*"]] })), "M_BAD_JSON"),
        (
            list(json!({ "timeline_limit": 1, "required_state": {}, "range": [5, 1] })),
            "M_INVALID_PARAM",
        ),
    ] {
        ask(&alice, &body, None, 0).await.fails(400, errcode);
    }
    ask(&alice.anonymous(), &json!({}), None, 0).await.fails(401, "M_MISSING_TOKEN");
    alice.get(PATH).await.fails(405, "M_UNRECOGNIZED");
    // The forms have connections of their own.
    let pos = text(&ask(&alice, &json!({}), None, 0).await.ok(), "/pos");
    let other = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    alice.post(other, json!({})).query("pos", &pos).await.fails(400, "M_UNKNOWN_POS");
    ask(&alice, &json!({}), Some(&pos), 0).await.ok();
}
