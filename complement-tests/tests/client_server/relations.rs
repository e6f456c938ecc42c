//! Events that relate to others: edits, references, threads, reactions.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events>

use complement_tests::{Answer, Client, Server, must_match, text, timeline};
use serde_json::{Value, json};

fn related(rel_type: &str, parent: &str) -> Value {
    json!({
        "msgtype": "m.text",
        "body": rel_type,
        "m.relates_to": { "rel_type": rel_type, "event_id": parent },
    })
}

fn edit(parent: &str, body: &str) -> Value {
    let mut content = related("m.replace", parent);
    content["m.new_content"] = json!({ "msgtype": "m.text", "body": body });
    content
}

async fn say(who: &Client, room: &str, content: Value) -> String {
    who.send(room, "m.room.message", content).await
}

async fn try_send(who: &Client, room: &str, event_type: &str, content: Value) -> Answer {
    who.put(["rooms", room, "send", event_type, &who.transaction()], content).await
}

async fn react(who: &Client, room: &str, parent: &str, key: &str) -> Answer {
    let mut content = related("m.annotation", parent);
    content["m.relates_to"]["key"] = json!(key);
    try_send(who, room, "m.reaction", content).await
}

async fn redact(who: &Client, room: &str, event: &str) {
    who.put(["rooms", room, "redact", event, &who.transaction()], json!({})).await.ok();
}

/// What is bundled with an event.
async fn bundle(who: &Client, room: &str, event: &str) -> Value {
    who.get(["rooms", room, "event", event]).await.ok()["unsigned"]["m.relations"].clone()
}

async fn listed(who: &Client, path: &[&str], query: &[(&str, &str)]) -> (Vec<String>, Value) {
    let path = format!("/_matrix/client/v1/rooms/{}", path.join("/"));
    let mut request = who.get(path);
    for (name, value) in query {
        request = request.query(name, value);
    }
    let answer = request.await.ok();
    let chunk = answer["chunk"].as_array().cloned().unwrap_or_default();
    (chunk.iter().map(|event| text(event, "/event_id")).collect(), answer)
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mreplace-relationships>
#[tokio::test]
async fn an_edited_message_comes_with_its_most_recent_edit() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let message = alice.say(&room, "tea").await;
    assert_eq!(bundle(&bob, &room, &message).await, Value::Null);
    let first = say(&alice, &room, edit(&message, "green tea")).await;
    let second = say(&alice, &room, edit(&message, "black tea")).await;
    must_match(
        &bundle(&bob, &room, &message).await["m.replace"],
        &json!({
            "event_id": second,
            "sender": alice.user_id,
            "type": "m.room.message",
            "content": { "m.new_content": { "body": "black tea" } },
        }),
    );
    // "the content of the original event is left intact"
    let event = bob.get(["rooms", &room, "event", &message]).await.ok();
    assert_eq!(event["content"]["body"], "tea");
    // In a sync that does not begin with the room, in pages and in contexts too.
    let three = r#"{"room":{"timeline":{"limit":3}}}"#;
    let synced = bob.sync().with_filter(three).now().await;
    let page = bob.get(["rooms", &room, "messages"]).query("dir", "b").await.ok();
    let context = bob.get(["rooms", &room, "context", &message]).await.ok();
    let find = |events: &[Value]| {
        events.iter().find(|event| event["event_id"] == message).cloned().unwrap_or_default()
    };
    for shown in [
        find(&timeline(&synced, &room)),
        find(page["chunk"].as_array().unwrap()),
        context["event"].clone(),
    ] {
        assert_eq!(shown["unsigned"]["m.relations"]["m.replace"]["event_id"], second, "{shown}");
    }
    // "if it was the most recent edit, the event is in effect reverted"
    redact(&alice, &room, &second).await;
    assert_eq!(bundle(&bob, &room, &message).await["m.replace"]["event_id"], first);
    redact(&alice, &room, &message).await;
    assert_eq!(bundle(&bob, &room, &message).await, Value::Null);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events>
#[tokio::test]
async fn an_invalid_edit_is_not_shown() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let message = alice.say(&room, "tea").await;
    // Another sender, another type, no new content.
    say(&bob, &room, edit(&message, "coffee")).await;
    alice.send(&room, "m.sticker", edit(&message, "sticker")).await;
    say(&alice, &room, related("m.replace", &message)).await;
    assert_eq!(bundle(&alice, &room, &message).await["m.replace"], Value::Null);
    let valid = say(&alice, &room, edit(&message, "green tea")).await;
    assert_eq!(bundle(&alice, &room, &message).await["m.replace"]["event_id"], valid);
    // "you cannot edit an edit"
    say(&alice, &room, edit(&valid, "black tea")).await;
    assert_eq!(bundle(&alice, &room, &valid).await["m.replace"], Value::Null);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mreference>
#[tokio::test]
async fn references_are_listed_with_their_parent() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let message = alice.say(&room, "tea").await;
    let one = say(&alice, &room, related("m.reference", &message)).await;
    let two = say(&alice, &room, related("m.reference", &message)).await;
    assert_eq!(
        bundle(&alice, &room, &message).await["m.reference"],
        json!({ "chunk": [{ "event_id": one }, { "event_id": two }] })
    );
    redact(&alice, &room, &one).await;
    assert_eq!(
        bundle(&alice, &room, &message).await["m.reference"],
        json!({ "chunk": [{ "event_id": two }] })
    );
}

/// Votes and the end of a poll are references (MSC3381): clients list them by type and count.
#[tokio::test]
async fn a_poll_is_voted_on_and_ended() {
    const START: &str = "org.matrix.msc3381.poll.start";
    const RESPONSE: &str = "org.matrix.msc3381.poll.response";
    const END: &str = "org.matrix.msc3381.poll.end";
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let answers = [("y", "yes"), ("n", "no")]
        .map(|(id, text)| json!({ "id": id, "org.matrix.msc1767.text": text }));
    let question = json!({
        "question": { "org.matrix.msc1767.text": "Tea?" },
        "kind": "org.matrix.msc3381.poll.disclosed",
        "max_selections": 1,
        "answers": answers,
    });
    let poll = alice.send(&room, START, json!({ START: question })).await;
    let vote = |answer: &str| {
        let mut content = related("m.reference", &poll);
        content[RESPONSE] = json!({ "answers": [answer] });
        content
    };
    let hasty = bob.send(&room, RESPONSE, vote("n")).await;
    let better = bob.send(&room, RESPONSE, vote("y")).await;
    let own = alice.send(&room, RESPONSE, vote("y")).await;
    let mut over = related("m.reference", &poll);
    over[END] = json!({});
    let end = alice.send(&room, END, over).await;
    let (votes, _) = listed(&bob, &[&room, "relations", &poll, "m.reference", RESPONSE], &[]).await;
    assert_eq!(votes, [own.clone(), better.clone(), hasty.clone()]);
    let (ends, _) = listed(&bob, &[&room, "relations", &poll, "m.reference", END], &[]).await;
    assert_eq!(ends, std::slice::from_ref(&end));
    let all = [hasty, better, own, end].map(|event| json!({ "event_id": event }));
    assert_eq!(bundle(&bob, &room, &poll).await["m.reference"], json!({ "chunk": all }));
    // A poll can be put right like a message.
    let mut corrected = related("m.replace", &poll);
    corrected["m.new_content"] = json!({ START: { "question": { "body": "Green tea?" } } });
    let corrected = alice.send(&room, START, corrected).await;
    let bundled = bundle(&bob, &room, &poll).await;
    assert_eq!(bundled["m.replace"]["event_id"], corrected);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mthread-relationships>
#[tokio::test]
async fn a_root_comes_with_its_thread() {
    let server = Server::shared();
    let (alice, bob, carl) =
        (server.register("alice").await, server.register("bob").await, server.register("c").await);
    let room = alice.create_room_with(&[&bob, &carl]).await;
    let topic = alice.say(&room, "tea?").await;
    let one = say(&bob, &room, related("m.thread", &topic)).await;
    let two = say(&bob, &room, related("m.thread", &topic)).await;
    let edit = say(&bob, &room, edit(&two, "green")).await;
    for (who, participated) in [(&alice, true), (&bob, true), (&carl, false)] {
        must_match(
            &bundle(who, &room, &topic).await["m.thread"],
            &json!({
                "count": 2,
                "current_user_participated": participated,
                "latest_event": {
                    "event_id": two,
                    "unsigned": { "m.relations": { "m.replace": { "event_id": edit } } },
                },
            }),
        );
    }
    redact(&bob, &room, &two).await;
    must_match(
        &bundle(&bob, &room, &topic).await["m.thread"],
        &json!({ "count": 1, "latest_event": { "event_id": one } }),
    );
    redact(&bob, &room, &one).await;
    assert_eq!(bundle(&bob, &room, &topic).await, Value::Null);
}

/// "It does not include events sent by ignored users."
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-aggregation-of-mthread-relationships>
#[tokio::test]
async fn ignored_users_do_not_count_in_threads() {
    let server = Server::shared();
    let (alice, troll) = (server.register("alice").await, server.register("troll").await);
    let room = alice.create_room_with(&[&troll]).await;
    let topic = alice.say(&room, "tea?").await;
    let mine = say(&alice, &room, related("m.thread", &topic)).await;
    say(&troll, &room, related("m.thread", &topic)).await;
    let list = json!({ "ignored_users": { &troll.user_id: {} } });
    alice.put(["user", &alice.user_id, "account_data", "m.ignored_user_list"], list).await.ok();
    must_match(
        &bundle(&alice, &room, &topic).await["m.thread"],
        &json!({ "count": 1, "latest_event": { "event_id": mine } }),
    );
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#validation-of-mthread-relationships>
#[tokio::test]
async fn a_thread_does_not_begin_within_another() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let topic = alice.say(&room, "tea?").await;
    let child = say(&alice, &room, related("m.thread", &topic)).await;
    try_send(&alice, &room, "m.room.message", related("m.thread", &child))
        .await
        .fails(400, "M_UNKNOWN");
    let elsewhere = alice.create_room(json!({})).await;
    try_send(&alice, &elsewhere, "m.room.message", related("m.thread", &topic))
        .await
        .fails(400, "M_UNKNOWN");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#avoiding-duplicate-annotations>
#[tokio::test]
async fn the_same_reaction_again_is_refused() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let message = alice.say(&room, "tea").await;
    let first = text(&react(&alice, &room, &message, "👍").await.ok(), "/event_id");
    react(&alice, &room, &message, "👍").await.fails(400, "M_DUPLICATE_ANNOTATION");
    react(&alice, &room, &message, "🎉").await.ok();
    react(&bob, &room, &message, "👍").await.ok();
    redact(&alice, &room, &first).await;
    react(&alice, &room, &message, "👍").await.ok();
    // "`m.annotation` is not included in the `m.relations` property."
    assert_eq!(bundle(&alice, &room, &message).await, Value::Null);
}

/// Of the same reaction sent by two devices in the same moment one counts.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#avoiding-duplicate-annotations>
#[tokio::test]
async fn of_reactions_sent_at_once_one_counts() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let message = alice.say(&room, "tea").await;
    let requests: Vec<_> = (0..8)
        .map(|_| {
            let (alice, room, message) = (alice.clone(), room.clone(), message.clone());
            tokio::spawn(async move { react(&alice, &room, &message, "👍").await })
        })
        .collect();
    let (mut sent, mut refused) = (Vec::new(), Vec::new());
    for request in requests {
        let answer = request.await.unwrap();
        if answer.status == 200 { sent.push(answer) } else { refused.push(answer) }
    }
    assert_eq!(sent.len(), 1);
    for answer in refused {
        answer.fails(400, "M_DUPLICATE_ANNOTATION");
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventid>
#[tokio::test]
async fn relations_are_listed_by_type_in_pages_both_ways() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let message = alice.say(&room, "tea").await;
    let mut all = Vec::new();
    for rel_type in ["m.reference", "m.thread", "org.example.other", "m.thread"] {
        all.push(say(&alice, &room, related(rel_type, &message)).await);
        alice.say(&room, "between").await;
    }
    all.push(text(&react(&alice, &room, &message, "👍").await.ok(), "/event_id"));
    let newest_first: Vec<String> = all.iter().rev().cloned().collect();
    let path = [room.as_str(), "relations", &message];
    assert_eq!(listed(&alice, &path, &[]).await.0, newest_first);
    assert_eq!(listed(&alice, &path, &[("dir", "f")]).await.0, all);
    for (kind, expected) in [
        ("m.thread", vec![&all[3], &all[1]]),
        ("org.example.other", vec![&all[2]]),
        ("m.annotation", vec![&all[4]]),
        ("m.replace", vec![]),
    ] {
        let path = [room.as_str(), "relations", &message, kind];
        assert_eq!(listed(&alice, &path, &[]).await.0.iter().collect::<Vec<_>>(), expected);
    }
    let path = [room.as_str(), "relations", &message, "m.annotation", "m.reaction"];
    assert_eq!(listed(&alice, &path, &[]).await.0.len(), 1);
    let path = [room.as_str(), "relations", &message, "m.annotation", "m.room.message"];
    assert_eq!(listed(&alice, &path, &[]).await.0.len(), 0);
    for (dir, expected) in [("b", &newest_first), ("f", &all)] {
        let mut found = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let mut query = vec![("limit", "2"), ("dir", dir)];
            query.extend(from.as_deref().map(|from| ("from", from)));
            let path = [room.as_str(), "relations", &message];
            let (page, answer) = listed(&alice, &path, &query).await;
            found.extend(page);
            match answer["next_batch"].as_str() {
                Some(next) => from = Some(next.to_owned()),
                None => break,
            }
        }
        assert_eq!(found, *expected);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventid>
#[tokio::test]
async fn indirect_relations_are_listed_when_asked_for() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let topic = alice.say(&room, "tea?").await;
    let reply = say(&alice, &room, related("m.thread", &topic)).await;
    let edit = say(&alice, &room, edit(&reply, "green")).await;
    let reaction = text(&react(&alice, &room, &reply, "👍").await.ok(), "/event_id");
    let path = [room.as_str(), "relations", &topic];
    let (direct, answer) = listed(&alice, &path, &[]).await;
    assert_eq!(direct, std::slice::from_ref(&reply));
    assert_eq!(answer["recursion_depth"], Value::Null);
    let (indirect, answer) = listed(&alice, &path, &[("recurse", "true")]).await;
    assert_eq!(indirect, [reaction.clone(), edit, reply]);
    assert_eq!(answer["recursion_depth"], 3);
    let path = [room.as_str(), "relations", &topic, "m.annotation"];
    assert_eq!(listed(&alice, &path, &[("recurse", "true")]).await.0, [reaction]);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventid>
#[tokio::test]
async fn relations_of_what_one_may_not_see_are_not_found() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    let message = alice.say(&room, "secret").await;
    say(&alice, &room, related("m.reference", &message)).await;
    for event in [message.as_str(), "$nothing"] {
        let path = ["/_matrix/client/v1/rooms", &room, "relations", event];
        bob.get(path).await.fails(404, "M_NOT_FOUND");
    }
    bob.get(["/_matrix/client/v1/rooms", &room, "threads"]).await.fails(403, "M_FORBIDDEN");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidthreads>
#[tokio::test]
async fn threads_are_listed_by_their_latest_event() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    let mut roots = Vec::new();
    for number in 0..3 {
        let topic = alice.say(&room, &format!("topic {number}")).await;
        say(&alice, &room, related("m.thread", &topic)).await;
        roots.push(topic);
    }
    // The oldest has the latest event.
    say(&bob, &room, related("m.thread", &roots[0])).await;
    let path = [room.as_str(), "threads"];
    let expected = vec![roots[0].clone(), roots[2].clone(), roots[1].clone()];
    let (found, answer) = listed(&alice, &path, &[]).await;
    assert_eq!(found, expected);
    assert_eq!(answer["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"], 2);
    let (found, answer) = listed(&alice, &path, &[("limit", "2")]).await;
    assert_eq!(found, expected[..2]);
    let next = text(&answer, "/next_batch");
    assert_eq!(listed(&alice, &path, &[("from", &next)]).await.0, expected[2..]);
    let (found, _) = listed(&bob, &path, &[("include", "participated")]).await;
    assert_eq!(found, expected[..1]);
    alice
        .get(["/_matrix/client/v1/rooms", &room, "threads"])
        .query("include", "none")
        .await
        .fails(400, "M_INVALID_PARAM");
}
