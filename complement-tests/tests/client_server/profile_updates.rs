//! Profiles that sliding syncs tell of.
//!
//! Proposal: <https://github.com/matrix-org/matrix-spec-proposals/pull/4262>

use complement_tests::{Client, Server};
use reqwest::Method;
use serde_json::{Value, json};

const EXTENSION: &str = "org.matrix.msc4262.profiles";

/// A connection that asks for profiles, in either form of sliding sync.
struct Connection<'a> {
    client: &'a Client,
    merged: bool,
    /// Whether members are loaded as they speak.
    lazy: bool,
    ask: Value,
    pos: Option<String>,
}

impl<'a> Connection<'a> {
    fn new(client: &'a Client, merged: bool, ask: Value) -> Self {
        Self { client, merged, lazy: false, ask, pos: None }
    }

    /// What the next answer says of profiles: those of users, or null.
    async fn next(&mut self, timeout_ms: u64) -> Value {
        let extensions = json!({ EXTENSION: self.ask });
        let members = if self.lazy { "$LAZY" } else { "*" };
        let (mut list, mut path) = (json!({ "timeline_limit": 1 }), "/_matrix/client/v4/sync");
        if self.merged {
            let all = json!([{ "type": "m.room.member" }]);
            list["required_state"] =
                if self.lazy { json!({ "lazy_members": true }) } else { json!({ "include": all }) };
        } else {
            path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
            list["ranges"] = json!([[0, 9]]);
            list["required_state"] = json!([["m.room.member", members]]);
        }
        let mut body = json!({ "lists": { "all": list }, "extensions": extensions });
        let request = if self.merged {
            body["timeout"] = json!(timeout_ms);
            if let Some(pos) = &self.pos {
                body["pos"] = json!(pos);
            }
            self.client.post(path, body)
        } else {
            let request = self.client.post(path, body).query("timeout", &timeout_ms.to_string());
            match &self.pos {
                Some(pos) => request.query("pos", pos),
                None => request,
            }
        };
        let answer = request.await.ok();
        self.pos = answer["pos"].as_str().map(str::to_owned);
        answer["extensions"][EXTENSION]["users"].clone()
    }

    /// What the answers say from now on of one field of one user, as soon as they say something.
    async fn told_of(&mut self, user: &Client, field: &str) -> Value {
        for _ in 0..20 {
            let users = self.next(2_000).await;
            let update = &users[&user.user_id];
            if update["updated"].get(field).is_some()
                || update["removed"].as_array().is_some_and(|gone| gone.contains(&json!(field)))
                || users.get(&user.user_id).is_some_and(Value::is_null)
            {
                return update.clone();
            }
        }
        panic!("nothing is told of {field} of {}", user.user_id);
    }
}

async fn set(client: &Client, field: &str, value: Value) {
    client.put(["profile", &client.user_id, field], json!({ field: value })).await.ok();
}

/// A client that begins gets its own profile and those of the members it gets, and what changes of
/// them, until they share no room any more. Strangers get nothing.
#[tokio::test]
async fn profiles_come_with_rooms_and_change() {
    let server = Server::shared();
    for merged in [false, true] {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let (carol, stranger) = (server.register("carol").await, server.register("stranger").await);
        let room = alice.create_room_with(&[&bob]).await;
        set(&carol, "m.tz", json!("Europe/Rome")).await;
        set(&alice, "m.tz", json!("Europe/Vienna")).await;
        set(&bob, "org.example.mood", json!({ "good": true })).await;
        let ask = json!({ "enabled": true });
        let mut alices = Connection::new(&alice, merged, ask.clone());
        let mut strangers = Connection::new(&stranger, merged, ask);
        let first = alices.next(0).await;
        assert_eq!(first[&alice.user_id]["updated"]["m.tz"], "Europe/Vienna", "{first:#}");
        let mood = json!({ "good": true });
        assert_eq!(first[&bob.user_id]["updated"]["org.example.mood"], mood, "{first:#}");
        assert!(first[&bob.user_id]["updated"]["displayname"].is_string(), "{first:#}");
        let own = strangers.next(0).await;
        assert_eq!(own.as_object().unwrap().keys().collect::<Vec<_>>(), [&stranger.user_id]);

        // Whoever waits is woken, and told what changed and nothing else.
        let (told, ()) =
            tokio::join!(alices.told_of(&bob, "m.tz"), set(&bob, "m.tz", json!("Asia/Tokyo")),);
        assert_eq!(told, json!({ "updated": { "m.tz": "Asia/Tokyo" } }));
        bob.delete(["profile", &bob.user_id, "org.example.mood"]).await.ok();
        let told = alices.told_of(&bob, "org.example.mood").await;
        assert_eq!(told, json!({ "removed": ["org.example.mood"] }));
        assert_eq!(alices.next(0).await, Value::Null, "it is told once");
        // The user's other devices hear of what they change.
        set(&alice, "m.tz", json!("UTC")).await;
        assert_eq!(alices.told_of(&alice, "m.tz").await["updated"]["m.tz"], "UTC");
        // One who has news of their own hears of nobody else either.
        set(&stranger, "m.tz", json!("UTC")).await;
        let own = strangers.next(0).await;
        assert_eq!(own, json!({ &stranger.user_id: { "updated": { "m.tz": "UTC" } } }));

        bob.leave(&room).await;
        assert_eq!(alices.told_of(&bob, "").await, Value::Null);
        set(&bob, "m.tz", json!("UTC")).await;
        assert_eq!(alices.next(0).await, Value::Null);
        // Who comes again is new.
        alice.invite(&room, &bob.user_id).await;
        bob.join(&room).await;
        assert_eq!(alices.told_of(&bob, "m.tz").await["updated"]["m.tz"], "UTC");
        // So is who never was there, and has changed nothing since long.
        alice.invite(&room, &carol.user_id).await;
        carol.join(&room).await;
        assert_eq!(alices.told_of(&carol, "m.tz").await["updated"]["m.tz"], "Europe/Rome");
    }
}

/// Only the fields that were asked for come; who asks for more gets that too.
#[tokio::test]
async fn fields_are_chosen() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.create_room_with(&[&bob]).await;
    set(&bob, "m.tz", json!("UTC")).await;
    set(&bob, "org.example.a", json!(1)).await;
    let mut connection =
        Connection::new(&alice, false, json!({ "enabled": true, "fields": ["m.tz"] }));
    let first = connection.next(0).await;
    assert_eq!(first, json!({ &bob.user_id: { "updated": { "m.tz": "UTC" } } }));
    set(&bob, "org.example.a", json!(2)).await;
    assert_eq!(connection.next(0).await, Value::Null);
    connection.ask["fields"] = json!(["m.tz", "org.example.a"]);
    let more = connection.next(0).await;
    let expected = json!({ "updated": { "m.tz": "UTC", "org.example.a": 2 } });
    assert_eq!(more[&bob.user_id], expected, "{more:#}");
    connection.ask = json!({ "enabled": false });
    set(&bob, "m.tz", json!("Asia/Tokyo")).await;
    assert_eq!(connection.next(0).await, Value::Null);
}

/// A client that loads members as they speak gets their profiles then.
#[tokio::test]
async fn profiles_come_when_members_matter() {
    let server = Server::shared();
    for merged in [false, true] {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room_with(&[&bob]).await;
        alice.say(&room, "hello").await;
        set(&bob, "m.tz", json!("UTC")).await;
        let mut connection = Connection::new(&alice, merged, json!({ "enabled": true }));
        connection.lazy = true;
        let first = connection.next(0).await;
        assert!(first[&alice.user_id].is_object(), "{first:#}");
        assert_eq!(first.get(&bob.user_id), None, "{first:#}");
        bob.say(&room, "hello").await;
        let told = connection.told_of(&bob, "m.tz").await;
        assert_eq!(told["updated"]["m.tz"], "UTC");
        bob.say(&room, "again").await;
        assert_eq!(connection.next(0).await, Value::Null);
    }
}

/// An account that is closed has no profile any more, and those who knew it are told.
#[tokio::test]
async fn a_closed_account_has_no_fields_left() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.create_room_with(&[&bob]).await;
    set(&bob, "m.tz", json!("UTC")).await;
    let mut connection = Connection::new(&alice, false, json!({ "enabled": true }));
    connection.next(0).await;
    bob.with_password(Method::POST, "account/deactivate", json!({ "erase": true })).await.ok();
    let told = connection.told_of(&bob, "m.tz").await;
    assert!(told.is_null() || told["removed"].as_array().unwrap().contains(&json!("m.tz")));
}
