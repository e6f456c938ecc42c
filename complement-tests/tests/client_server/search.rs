//! Finding events by their words.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-search>

use complement_tests::{Client, Server, text};
use serde_json::{Value, json};

async fn search(who: &Client, criteria: Value) -> Value {
    let body = json!({ "search_categories": { "room_events": criteria } });
    who.post(["search"], body).await.ok()["search_categories"]["room_events"].take()
}

fn ids(results: &Value) -> Vec<&str> {
    let results = results["results"].as_array().into_iter().flatten();
    results.map(|result| result["result"]["event_id"].as_str().unwrap()).collect()
}

/// "The search is limited to the rooms that the user may read", each event by itself.
#[tokio::test]
async fn a_message_is_found_by_who_may_read_it_only() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let event = alice.say(&room, "The Zyzzogeton sings").await;
    let found = search(&alice, json!({ "search_term": "zyzzogeton SINGS" })).await;
    assert_eq!(ids(&found), [&event]);
    assert_eq!(found["count"], 1);
    // As they were written, or as they were compared.
    let words = found["highlights"].as_array().unwrap().iter();
    let mut words: Vec<String> = words.map(|word| text(word, "").to_lowercase()).collect();
    words.sort();
    assert_eq!(words, ["sings", "zyzzogeton"]);
    assert!(found["results"][0]["rank"].as_f64().unwrap() > 0.0);
    assert_eq!(found["results"][0]["result"]["content"]["body"], "The Zyzzogeton sings");
    assert_eq!(found["results"][0]["result"]["room_id"], room);
    assert_eq!(found.get("next_batch"), None);
    let found = search(&bob, json!({ "search_term": "zyzzogeton" })).await;
    assert_eq!(ids(&found), [""; 0]);
}

#[tokio::test]
async fn words_of_any_script_are_found() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    for (said, term) in [
        ("我喜欢喝绿茶", "绿茶"),
        ("東京都に住んでいます", "京都"),
        ("저는 녹차를 좋아해요", "녹차를"),
        ("ฉันชอบชาเขียว", "ชาเขียว"),
        ("Привет, мир", "МИР"),
        ("مرحبا بالعالم", "مرحبا"),
    ] {
        let event = alice.say(&room, said).await;
        let found = search(&alice, json!({ "search_term": term })).await;
        assert_eq!(ids(&found), [&event], "{term}");
    }
}

/// Spec: `keys`, `filter`, `groupings`, `event_context` and `include_state`.
#[tokio::test]
async fn a_search_is_narrowed_grouped_and_shown_with_what_is_around() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let tea = alice.create_room_with(&[&bob]).await;
    let other = alice.create_room_with(&[&bob]).await;
    alice.say(&tea, "before").await;
    let first = alice.say(&tea, "quux one").await;
    let second = bob.say(&tea, "quux two").await;
    let third = bob.say(&other, "quux three").await;
    alice.set_state(&other, "m.room.topic", "", json!({ "topic": "quux" })).await;

    let found = search(
        &alice,
        json!({
            "search_term": "quux",
            "keys": ["content.body"],
            "order_by": "recent",
            "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
            "event_context": { "before_limit": 1, "after_limit": 1, "include_profile": true },
            "include_state": true,
        }),
    )
    .await;
    assert_eq!(ids(&found), [&third, &second, &first]);
    assert_eq!(found["groups"]["room_id"][&tea]["results"], json!([second, first]));
    assert_eq!(found["groups"]["room_id"][&other]["order"], 0);
    assert_eq!(found["groups"]["sender"][&bob.user_id]["results"], json!([third, second]));
    let context = &found["results"][2]["context"];
    assert_eq!(context["events_before"][0]["content"]["body"], "before");
    assert_eq!(context["events_after"][0]["event_id"], second);
    assert!(context["profile_info"].get(&alice.user_id).is_some(), "{context}");
    let page = alice.get(["rooms", &tea, "messages"]).query("dir", "b").query("limit", "1");
    let page = page.query("from", context["start"].as_str().unwrap()).await.ok();
    assert_ne!(page["chunk"][0]["content"]["body"], "before", "{page}");
    assert!(
        found["state"][&tea]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| { event["type"] == "m.room.create" })
    );

    let only =
        json!({ "search_term": "quux", "filter": { "rooms": [tea], "senders": [bob.user_id] } });
    assert_eq!(ids(&search(&alice, only).await), [&second]);
    let topics = json!({ "search_term": "quux", "keys": ["content.topic"] });
    assert_eq!(search(&alice, topics).await["results"][0]["result"]["type"], "m.room.topic");
}

#[tokio::test]
async fn pages_of_all_results_and_of_one_group_go_on_with_their_tokens() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let rooms = [alice.create_room(json!({})).await, alice.create_room(json!({})).await];
    let mut sent = Vec::new();
    for index in 0..6 {
        sent.push(alice.say(&rooms[index % 2], &format!("page {index}")).await);
    }
    let criteria = json!({
        "search_term": "page",
        "order_by": "recent",
        "filter": { "limit": 2 },
        "groupings": { "group_by": [{ "key": "room_id" }] },
    });
    let body = json!({ "search_categories": { "room_events": criteria } });
    let page = async |token: &str| {
        let answer = alice.post(["search"], body.clone()).query("next_batch", token).await.ok();
        answer["search_categories"]["room_events"].clone()
    };
    let first = page("").await;
    assert_eq!(ids(&first), [&sent[5], &sent[4]]);
    assert_eq!(first["count"], 6);
    let second = page(first["next_batch"].as_str().unwrap()).await;
    assert_eq!(ids(&second), [&sent[3], &sent[2]]);
    let third = page(second["next_batch"].as_str().unwrap()).await;
    assert_eq!(ids(&third), [&sent[1], &sent[0]]);
    assert_eq!(third.get("next_batch"), None);
    let group = first["groups"]["room_id"][&rooms[1]]["next_batch"].as_str().unwrap();
    assert_eq!(ids(&page(group).await), [&sent[3], &sent[1]]);
}

#[tokio::test]
async fn what_was_redacted_or_edited_away_is_not_found() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let event = alice.say(&room, "frobnicate").await;
    let edit = json!({
        "msgtype": "m.text",
        "body": "* gargle",
        "m.new_content": { "msgtype": "m.text", "body": "gargle" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": event },
    });
    alice.send(&room, "m.room.message", edit).await;
    let found = async |term: &str| search(&alice, json!({ "search_term": term })).await;
    assert_eq!(ids(&found("frobnicate").await), [""; 0]);
    let gargle = found("gargle").await;
    assert_eq!(ids(&gargle), [&event]);
    let bundled = &gargle["results"][0]["result"]["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(bundled["content"]["m.new_content"]["body"], "gargle");
    let path = ["rooms", &room, "redact", &event, "r1"];
    alice.put(path, json!({})).await.ok();
    assert_eq!(ids(&found("gargle").await), [""; 0]);
}

#[tokio::test]
async fn a_search_that_makes_no_sense_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for (criteria, errcode) in [
        (json!({}), "M_BAD_JSON"),
        (json!({ "search_term": "a", "order_by": "smell" }), "M_INVALID_PARAM"),
        (json!({ "search_term": "a", "keys": ["content.smell"] }), "M_INVALID_PARAM"),
        (
            json!({ "search_term": "a", "groupings": { "group_by": [{ "key": "smell" }] } }),
            "M_INVALID_PARAM",
        ),
        (json!({ "search_term": "a".repeat(2_000) }), "M_INVALID_PARAM"),
    ] {
        let body = json!({ "search_categories": { "room_events": criteria } });
        alice.post(["search"], body).await.fails(400, errcode);
    }
    let body = json!({ "search_categories": { "room_events": { "search_term": "a" } } });
    let token = alice.post(["search"], body.clone()).query("next_batch", "s1_rubbish");
    token.await.fails(400, "M_INVALID_PARAM");
    server.anonymous().post(["search"], body).await.fails(401, "M_MISSING_TOKEN");
}
