//! What is found, and what is not any more.

use ruma::{EventId, OwnedTransactionId};

use super::*;
use crate::{
    config,
    rooms::{Around, Field, Found, Order, SearchRequest},
    storage::schema::SEARCH_WORDS,
};

fn request(term: &str) -> SearchRequest {
    SearchRequest {
        term: term.to_owned(),
        fields: vec![Field::Body, Field::Name, Field::Topic],
        filter: EventFilter::any(100),
        order: Order::Recent,
        around: None,
        with_state: false,
        after: None,
    }
}

async fn find(sim: &Sim, who: &Session, term: &str) -> Found {
    sim.rooms.search(who, &request(term)).await.unwrap()
}

/// The IDs of what is found, latest first.
async fn found(sim: &Sim, who: &Session, term: &str) -> Vec<String> {
    find(sim, who, term).await.hits.into_iter().map(|hit| hit.event_id.to_string()).collect()
}

async fn edit(sim: &Sim, who: &Session, room: &OwnedRoomId, of: &EventId, text: &str) {
    let content = object(json!({
        "msgtype": "m.text",
        "body": format!("* {text}"),
        "m.new_content": { "msgtype": "m.text", "body": text },
        "m.relates_to": { "rel_type": "m.replace", "event_id": of },
    }));
    sim.rooms.send(who, room, "m.room.message", text.into(), content).await.unwrap();
}

async fn rows(sim: &Sim) -> usize {
    SEARCH_WORDS.scan(&sim.db, &Range::all(), usize::MAX).await.unwrap().len()
}

#[tokio::test]
async fn messages_names_and_topics_are_found_by_all_their_words() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    let tea = sim.say(&alice, &room, "Green TEA tonight?").await.unwrap();
    sim.say(&alice, &room, "the green door").await.unwrap();
    let name =
        sim.state(&alice, &room, "m.room.name", json!({ "name": "Tea house" })).await.unwrap();
    let topic =
        sim.state(&alice, &room, "m.room.topic", json!({ "topic": "我们喝绿茶" })).await.unwrap();

    assert_eq!(found(&sim, &alice, "tea green").await, [tea.as_str()]);
    assert_eq!(found(&sim, &alice, "tea").await, [name.as_str(), tea.as_str()]);
    assert_eq!(found(&sim, &alice, "绿茶").await, [topic.as_str()]);
    assert!(found(&sim, &alice, "coffee").await.is_empty());
    assert!(found(&sim, &alice, "?!").await.is_empty());

    let bodies = SearchRequest { fields: vec![Field::Body], ..request("tea") };
    let bodies = sim.rooms.search(&alice, &bodies).await.unwrap();
    assert_eq!(bodies.hits.len(), 1);
    assert_eq!(bodies.hits[0].event_id, tea);
}

#[tokio::test]
async fn nobody_finds_what_they_may_not_see() {
    let sim = Sim::new().await;
    let [alice, bob, carol] =
        [sim.user("alice").await, sim.user("bob").await, sim.user("carol").await];
    let room = sim.room(&alice, Preset::Public).await;
    let visibility = json!({ "history_visibility": "joined" });
    sim.state(&alice, &room, "m.room.history_visibility", visibility).await.unwrap();
    sim.say(&alice, &room, "secret before").await.unwrap();
    sim.join(&bob, &room).await.unwrap();
    let with_bob = sim.say(&alice, &room, "secret with bob").await.unwrap();
    sim.change(&bob, &room, &bob, Change::Leave).await.unwrap();
    sim.say(&alice, &room, "secret after").await.unwrap();

    assert_eq!(found(&sim, &alice, "secret").await.len(), 3);
    assert_eq!(found(&sim, &bob, "secret").await, [with_bob.as_str()]);
    assert!(found(&sim, &carol, "secret").await.is_empty());
    sim.rooms.forget(&bob, &room).await.unwrap();
    assert!(found(&sim, &bob, "secret").await.is_empty(), "what is forgotten is not found");
}

#[tokio::test]
async fn a_message_is_found_as_it_now_is() {
    let sim = Sim::new().await;
    let [alice, bob] = [sim.user("alice").await, sim.user("bob").await];
    let room = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    let message = sim.say(&alice, &room, "green tea").await.unwrap();
    edit(&sim, &bob, &room, &message, "bob was here").await;
    assert!(found(&sim, &alice, "bob").await.is_empty(), "nobody edits what others sent");
    edit(&sim, &alice, &room, &message, "green coffee").await;
    assert!(found(&sim, &alice, "tea").await.is_empty());
    assert_eq!(found(&sim, &alice, "coffee").await, [message.as_str()]);
    assert_eq!(found(&sim, &alice, "green").await, [message.as_str()], "once");
    edit(&sim, &alice, &room, &message, "cocoa").await;
    assert!(found(&sim, &alice, "coffee").await.is_empty());
    assert_eq!(found(&sim, &alice, "cocoa").await, [message.as_str()]);

    sim.rooms.redact(&alice, &room, &message, "r".into(), None).await.unwrap();
    assert!(found(&sim, &alice, "cocoa").await.is_empty());
}

#[tokio::test]
async fn redaction_takes_the_words_out_of_the_index() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    let before = rows(&sim).await;
    let message = sim.say(&alice, &room, "three different words").await.unwrap();
    assert_eq!(rows(&sim).await, before + 3);
    sim.rooms.redact(&alice, &room, &message, "r".into(), None).await.unwrap();
    assert_eq!(rows(&sim).await, before);
}

#[tokio::test]
async fn pages_follow_each_other_in_either_order() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let rooms = [sim.room(&alice, Preset::Private).await, sim.room(&alice, Preset::Private).await];
    let mut sent = Vec::new();
    for index in 0..130 {
        let text = format!("tea {}", "and more ".repeat(index % 7));
        let content = object(json!({ "msgtype": "m.text", "body": text }));
        let txn: OwnedTransactionId = index.to_string().into();
        let room = &rooms[index % 2];
        sent.push(sim.rooms.send(&alice, room, "m.room.message", &txn, content).await.unwrap());
    }
    for order in [Order::Recent, Order::Rank] {
        let mut request = SearchRequest { order, filter: EventFilter::any(40), ..request("tea") };
        let mut all = Vec::new();
        let mut ranks = Vec::new();
        for page in 0..4 {
            let found = sim.rooms.search(&alice, &request).await.unwrap();
            assert_eq!(found.count, 130, "page {page}");
            assert_eq!(found.more, page < 3);
            request.after = found.hits.last().map(|hit| hit.place);
            ranks.extend(found.hits.iter().map(|hit| hit.rank));
            all.extend(found.hits.into_iter().map(|hit| hit.event_id));
            sim.say(&alice, &rooms[0], &format!("tea {page} {order:?}")).await.unwrap();
        }
        if order == Order::Recent {
            assert!(all.iter().eq(sent.iter().rev()));
        } else {
            assert!(ranks.is_sorted_by(|a, b| a >= b), "{ranks:?}");
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 130, "nothing twice, nothing left out, nothing new");
        for event in all {
            assert!(sent.contains(&event));
        }
        // The messages that came in between are taken out of the way of the other order.
        let new = found(&sim, &alice, &format!("{order:?}")).await;
        for (index, event) in new.into_iter().enumerate() {
            let txn: OwnedTransactionId = format!("{order:?}{index}").into();
            let event = EventId::parse(event).unwrap();
            sim.rooms.redact(&alice, &rooms[0], &event, &txn, None).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_around_a_result_comes_with_it() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let profile = Profile { displayname: Some("Alice".to_owned()), avatar_url: None };
    sim.profiles.lock().insert(alice.user, profile.clone());
    let room = sim.room(&alice, Preset::Private).await;
    for text in ["one", "two", "tea", "three", "four"] {
        sim.say(&alice, &room, text).await.unwrap();
    }
    let around = Some(Around { before: 1, after: 2, profiles: true });
    let request = SearchRequest { around, with_state: true, ..request("tea") };
    let mut found = sim.rooms.search(&alice, &request).await.unwrap();
    let around = found.hits.remove(0).surroundings.unwrap();
    let bodies = |events: &[Box<RawValue>]| -> Vec<String> {
        events.iter().map(|one| read(one)["content"]["body"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(bodies(&around.before), ["two"]);
    assert_eq!(bodies(&around.after), ["three", "four"]);
    assert_eq!(around.profiles, [(alice.user_id.clone(), profile)]);
    assert!(found.state[&room].iter().any(|event| read(event)["type"] == "m.room.create"));

    let mut earlier = back(1);
    earlier.from = Some(around.start);
    let page = sim.rooms.messages(&alice, &room, &earlier).await.unwrap();
    assert_eq!(bodies(&page.chunk), ["one"]);
}

#[tokio::test]
async fn what_was_there_before_the_index_gets_into_it_and_leaves_with_it() {
    let without = |enabled| Settings { search: config::Search { enabled }, ..Settings::default() };
    let db = Db::in_memory().await;
    let sim = Sim::with(db.clone(), without(false)).await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    for index in 0..120 {
        sim.say(&alice, &room, &format!("tea {index}")).await.unwrap();
    }
    assert_eq!(rows(&sim).await, 0);
    let refused = sim.rooms.search(&alice, &request("tea")).await;
    assert!(matches!(refused, Err(RoomError::SearchDisabled)));

    let sim = Sim::with(db.clone(), without(true)).await;
    sim.rooms.keep_search_index().await.unwrap();
    assert_eq!(find(&sim, &alice, "tea").await.count, 120);
    let indexed = rows(&sim).await;
    sim.rooms.keep_search_index().await.unwrap();
    assert_eq!(rows(&sim).await, indexed, "what is done is not done again");

    let sim = Sim::with(db, without(false)).await;
    sim.rooms.keep_search_index().await.unwrap();
    assert_eq!(rows(&sim).await, 0);
}
