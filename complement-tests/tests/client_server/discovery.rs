//! Finding rooms and people.

use complement_tests::{Client, Server, must_match, text, wait_until};
use serde_json::{Value, json};

/// A word that no other test uses: names of users are given out once.
fn word_of(user: &Client) -> String {
    user.localpart().chars().filter(char::is_ascii_alphanumeric).collect()
}

async fn listed_room(who: &Client, name: &str, more: Value) -> String {
    let mut body = json!({ "preset": "public_chat", "visibility": "public", "name": name });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    who.create_room(body).await
}

fn ids(answer: &Value, list: &str) -> Vec<String> {
    let rooms = answer[list].as_array().cloned().unwrap_or_default();
    rooms.iter().map(|room| text(room, "/room_id")).collect()
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3publicrooms>
#[tokio::test]
async fn public_rooms_are_listed_the_largest_first_and_searched() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let word = format!("x{}", word_of(&alice));
    let small = listed_room(&alice, &format!("{word} small"), json!({})).await;
    bob.join(&small).await;
    let topic = json!({ "topic": format!("about {}", word.to_uppercase()) });
    let large = listed_room(&alice, "large", topic).await;
    bob.join(&large).await;
    carol.join(&large).await;
    let space = json!({ "creation_content": { "type": "m.space" } });
    let space = listed_room(&alice, &format!("{word} space"), space).await;
    alice.create_room(json!({ "name": word, "preset": "public_chat" })).await;
    let search = |more: Value| {
        let (bob, word) = (bob.clone(), word.clone());
        async move {
            let mut body = json!({ "filter": { "generic_search_term": word } });
            for (key, value) in more.as_object().unwrap() {
                match body.get_mut(key).and_then(Value::as_object_mut) {
                    Some(old) => old.extend(value.as_object().unwrap().clone()),
                    None => body[key] = value.clone(),
                }
            }
            bob.post("publicRooms", body).await.ok()
        }
    };
    let all = search(json!({})).await;
    assert_eq!(ids(&all, "chunk"), [large.clone(), small.clone(), space.clone()]);
    must_match(
        &all["chunk"][1],
        &json!({
            "name": format!("{word} small"),
            "num_joined_members": 2,
            "world_readable": false,
            "join_rule": "public",
        }),
    );
    let spaces = search(json!({ "filter": { "room_types": ["m.space"] } })).await;
    assert_eq!(ids(&spaces, "chunk"), std::slice::from_ref(&space));
    assert_eq!(spaces["chunk"][0]["room_type"], "m.space");
    let plain = search(json!({ "filter": { "room_types": [null] } })).await;
    assert_eq!(ids(&plain, "chunk"), [large.clone(), small.clone()]);
    // Page by page, and back.
    let first = search(json!({ "limit": 2 })).await;
    assert_eq!(ids(&first, "chunk"), [large.clone(), small.clone()]);
    let second = search(json!({ "limit": 2, "since": first["next_batch"] })).await;
    assert_eq!(ids(&second, "chunk"), [space]);
    assert_eq!(second["next_batch"], Value::Null);
    let back = search(json!({ "limit": 2, "since": second["prev_batch"] })).await;
    assert_eq!(ids(&back, "chunk"), [large, small.clone()]);
    // Rooms of another server, and from nowhere.
    bob.post("publicRooms?server=other.example", json!({})).await.fails(502, "M_UNKNOWN");
    // Anybody may see the list.
    let open = server.anonymous().get("publicRooms").query("limit", "500").await.ok();
    assert!(ids(&open, "chunk").contains(&small), "{open}");
    // What is taken off the list is gone from it.
    alice.put(["directory/list/room", &small], json!({ "visibility": "private" })).await.ok();
    assert!(!ids(&search(json!({})).await, "chunk").contains(&small));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias>
#[tokio::test]
async fn a_summary_is_for_those_who_may_come_in() {
    const SUMMARY: &str = "/_matrix/client/v1/room_summary";
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let open = alice.create_room(json!({ "preset": "public_chat", "name": "open" })).await;
    must_match(
        &bob.get([SUMMARY, &open]).await.ok(),
        &json!({
            "room_id": open,
            "name": "open",
            "num_joined_members": 1,
            "guest_can_join": false,
            "join_rule": "public",
            "membership": "leave",
            "room_version": "12",
        }),
    );
    let public = server.anonymous().get([SUMMARY, &open]).await.ok();
    assert_eq!(public["membership"], Value::Null);
    let closed = alice.create_room(json!({ "name": "closed" })).await;
    bob.get([SUMMARY, &closed]).await.fails(404, "M_NOT_FOUND");
    server.anonymous().get([SUMMARY, &closed]).await.fails(404, "M_NOT_FOUND");
    alice.invite(&closed, &bob.user_id).await;
    assert_eq!(bob.get([SUMMARY, &closed]).await.ok()["membership"], "invite");
    // A change of the room is seen at once.
    alice.set_state(&closed, "m.room.name", "", json!({ "name": "renamed" })).await;
    assert_eq!(bob.get([SUMMARY, &closed]).await.ok()["name"], "renamed");
    let rules = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": open }],
    });
    alice.set_state(&closed, "m.room.join_rules", "", rules).await;
    let carl = server.register("carl").await;
    carl.get([SUMMARY, &closed]).await.fails(404, "M_NOT_FOUND");
    carl.join(&open).await;
    let seen = carl.get([SUMMARY, &closed]).await.ok();
    assert_eq!(seen["allowed_room_ids"], json!([open]));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy>
#[tokio::test]
async fn a_space_shows_its_rooms_depth_first() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let space = |name: &'static str| {
        let alice = alice.clone();
        async move {
            let content = json!({ "type": "m.space" });
            let body =
                json!({ "preset": "public_chat", "name": name, "creation_content": content });
            alice.create_room(body).await
        }
    };
    let (top, inner) = (space("top").await, space("inner").await);
    let first = alice.create_room(json!({ "preset": "public_chat" })).await;
    let second = alice.create_room(json!({ "preset": "public_chat" })).await;
    let hidden = alice.create_room(json!({})).await;
    let via = json!(["localhost"]);
    for (parent, child, content) in [
        (&top, &first, json!({ "via": via, "order": "b" })),
        (&top, &inner, json!({ "via": via, "order": "a", "suggested": true })),
        (&top, &hidden, json!({ "via": via })),
        (&inner, &second, json!({ "via": via })),
        // A loop, and a child that was taken away.
        (&inner, &top, json!({ "via": via })),
    ] {
        alice.set_state(parent, "m.space.child", child, content).await;
    }
    let gone = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.set_state(&top, "m.space.child", &gone, json!({})).await;
    let path = ["/_matrix/client/v1/rooms", top.as_str(), "hierarchy"];
    let all = bob.get(path).await.ok();
    assert_eq!(
        ids(&all, "rooms"),
        [top.clone(), inner.clone(), second.clone(), first.clone()],
        "ordered, without what bob may not see"
    );
    let children = all["rooms"][0]["children_state"].as_array().unwrap();
    assert_eq!(children.len(), 3);
    must_match(&children[0], &json!({ "type": "m.space.child", "state_key": inner }));
    let shallow = bob.get(path).query("max_depth", "1").await.ok();
    assert_eq!(ids(&shallow, "rooms"), [top.clone(), inner.clone(), first.clone()]);
    let suggested = bob.get(path).query("suggested_only", "true").await.ok();
    assert_eq!(ids(&suggested, "rooms"), [top.clone(), inner]);
    let page = bob.get(path).query("limit", "3").await.ok();
    assert_eq!(ids(&page, "rooms").len(), 3);
    let next = text(&page, "/next_batch");
    let rest = bob.get(path).query("limit", "3").query("from", &next).await.ok();
    assert_eq!(ids(&rest, "rooms"), [first]);
    assert_eq!(rest["next_batch"], Value::Null);
    bob.get(path).query("from", &next).query("max_depth", "1").await.fails(400, "M_INVALID_PARAM");
    bob.get(["/_matrix/client/v1/rooms", &hidden, "hierarchy"]).await.fails(403, "M_FORBIDDEN");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms>
#[tokio::test]
async fn mutual_rooms_are_those_that_both_are_in() {
    const MUTUAL: &str = "/_matrix/client/v1/mutual_rooms";
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let shared = alice.create_room_with(&[&bob]).await;
    alice.create_room(json!({})).await;
    let left = alice.create_room_with(&[&bob]).await;
    bob.leave(&left).await;
    let answer = alice.get(MUTUAL).query("user_id", &bob.user_id).await.ok();
    assert_eq!(answer, json!({ "joined": [shared], "count": 1 }));
    alice.get(MUTUAL).query("user_id", &alice.user_id).await.fails(400, "M_INVALID_PARAM");
    alice
        .get(MUTUAL)
        .query("user_id", &bob.user_id)
        .query("from", "rubbish")
        .await
        .fails(400, "M_INVALID_PARAM");
    let nobody = alice.get(MUTUAL).query("user_id", "@nobody:elsewhere.example").await.ok();
    assert_eq!(nobody["count"], 0);
}

/// Clients from before specification 1.19 ask by another path.
/// Proposal: <https://github.com/matrix-org/matrix-spec-proposals/pull/2666>
#[tokio::test]
async fn mutual_rooms_are_had_by_the_old_path() {
    const OLD: &str = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms";
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let shared = alice.create_room_with(&[&bob]).await;
    let answer = bob.get(OLD).query("user_id", &alice.user_id).await.ok();
    assert_eq!(answer, json!({ "joined": [shared] }));
}

/// Of a network that nobody bridges there are no rooms.
#[tokio::test]
async fn an_unknown_network_has_no_public_rooms() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    listed_room(&alice, "plain", json!({})).await;
    let irc = json!({ "third_party_instance_id": "irc" });
    assert_eq!(alice.post("publicRooms", irc).await.ok()["chunk"], json!([]));
    // Nor is there a page that nobody was given.
    alice.post("publicRooms", json!({ "since": "rubbish" })).await.fails(400, "M_INVALID_PARAM");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3user_directorysearch>
#[tokio::test]
async fn people_are_found_by_those_who_share_a_room_or_in_public_ones() {
    let server = Server::shared();
    let (alice, bob, carl) =
        (server.register("alice").await, server.register("bob").await, server.register("c").await);
    let word = format!("x{}", word_of(&bob));
    let name = json!({ "displayname": format!("Bob {word}") });
    bob.put(["profile", &bob.user_id, "displayname"], name).await.ok();
    let find = |who: &Client, term: &str| {
        let (who, term) = (who.clone(), term.to_owned());
        async move {
            let answer =
                who.post("user_directory/search", json!({ "search_term": term })).await.ok();
            let results = answer["results"].as_array().cloned().unwrap_or_default();
            results.iter().map(|user| text(user, "/user_id")).collect::<Vec<_>>()
        }
    };
    // The directory may follow a little later.
    let found = async |who: &Client, term: &str, expected: bool| {
        wait_until(term, async || {
            (find(who, term).await.contains(&bob.user_id) == expected).then_some(())
        })
        .await;
    };
    let private = bob.create_room(json!({})).await;
    assert!(find(&alice, &word).await.is_empty(), "bob is in no room that alice may see");
    bob.invite(&private, &alice.user_id).await;
    alice.join(&private).await;
    let prefix: String = word.to_uppercase().chars().take(word.len() - 2).collect();
    for term in [word.as_str(), &prefix, &format!("bob {word}"), &bob.user_id, bob.localpart()] {
        found(&alice, term, true).await;
    }
    assert!(find(&carl, &word).await.is_empty());
    alice.leave(&private).await;
    found(&alice, &word, false).await;
    bob.create_room(json!({ "preset": "public_chat" })).await;
    found(&carl, &word, true).await;
    // A new name is found, the old one no more.
    let new = format!("new{word}");
    bob.put(["profile", &bob.user_id, "displayname"], json!({ "displayname": new })).await.ok();
    found(&carl, &new, true).await;
    found(&carl, &word, false).await;
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event>
#[tokio::test]
async fn the_event_closest_to_a_time_is_found() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    let mut events = Vec::new();
    for body in ["one", "two"] {
        let event = alice.say(&room, body).await;
        let shown = alice.get(["rooms", &room, "event", &event]).await.ok();
        events.push((event, shown["origin_server_ts"].as_u64().unwrap()));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let path = ["/_matrix/client/v1/rooms", room.as_str(), "timestamp_to_event"];
    let find = |ts: u64, dir: &'static str| {
        let request = alice.get(path).query("ts", &ts.to_string()).query("dir", dir);
        async move { request.await.ok() }
    };
    let (first, second) = (&events[0], &events[1]);
    assert_eq!(
        find(first.1 + 1, "f").await,
        json!({ "event_id": second.0, "origin_server_ts": second.1 })
    );
    assert_eq!(find(second.1 - 1, "b").await["event_id"], first.0);
    assert_eq!(find(second.1, "b").await["event_id"], second.0);
    assert_eq!(find(second.1 + 1_000_000, "b").await["event_id"], second.0);
    alice
        .get(path)
        .query("ts", &(second.1 + 1_000_000).to_string())
        .query("dir", "f")
        .await
        .fails(404, "M_NOT_FOUND");
    bob.get(path).query("ts", "1").query("dir", "f").await.fails(403, "M_FORBIDDEN");
}
