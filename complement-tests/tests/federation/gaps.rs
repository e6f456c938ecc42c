//! A gap in a room's history: what came before an event that arrived was not to be had then, and is
//! when somebody reads there.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use complement_tests::peer::Peer;
use complement_tests::{Client, timeline};
use serde_json::{Value, json};

use crate::server;

/// The IDs of a list of events.
fn ids(events: &Value) -> Vec<String> {
    let events = events.as_array().into_iter().flatten();
    events.filter_map(|event| Some(event["event_id"].as_str()?.to_owned())).collect()
}

/// All events of a room from a token on, page by page.
async fn pages(client: &Client, room: &str, dir: &str, from: Option<&str>) -> Vec<String> {
    let (mut found, mut from) = (Vec::new(), from.map(str::to_owned));
    for _ in 0..50 {
        let mut page = client.get(["rooms", room, "messages"]).query("dir", dir);
        page = page.query("limit", "3");
        if let Some(from) = &from {
            page = page.query("from", from);
        }
        let page = page.await.ok();
        found.extend(ids(&page["chunk"]));
        let Some(end) = page["end"].as_str() else { return found };
        from = Some(end.to_owned());
    }
    panic!("it never ended: {found:?}");
}

/// An event with its surroundings.
async fn context(client: &Client, room: &str, event: &str, limit: &str) -> Value {
    client.get(["rooms", room, "context", event]).query("limit", limit).await.ok()
}

/// The room's name in the state of an event's surroundings.
fn name(context: &Value) -> Value {
    let state = context["state"].as_array().into_iter().flatten();
    let mut names = state.filter(|event| event["type"] == "m.room.name");
    names.next().map_or(Value::Null, |event| event["content"]["name"].clone())
}

#[tokio::test]
async fn what_fills_a_gap_stands_where_it_belongs_and_is_no_news() {
    let (server, peer) = (server(), Peer::start().await);
    let bob = server.register("bob").await;
    let room = peer.host("eve", "public");
    let eve = peer.user("eve");
    bob.post(format!("join/{}?via={}", room.id, peer.name()), json!({})).await.ok();
    let before = bob.say(&room.id, "before").await;
    let mut sync = bob.sync();
    let since = sync.now().await["next_batch"].as_str().expect("a token").to_owned();
    let from_before = context(&bob, &room.id, &before, "0").await["end"].clone();

    // Of these the server hears nothing.
    let say = |body: &str| {
        let content = json!({ "msgtype": "m.text", "body": body });
        room.send(&peer, &eve, "m.room.message", None, content).id
    };
    let rename =
        |name: &str| room.send(&peer, &eve, "m.room.name", Some(""), json!({ "name": name })).id;
    let missed =
        [say("one"), rename("first"), say("two"), rename("second"), say("three"), say("four")];
    // It is told of what comes after them, and not of them.
    peer.answer("/get_missing_events/", 200, json!({ "events": [] }));
    let behind = peer.sign(room.message(&eve, "behind"));
    room.add(&behind);
    peer.sends(&server, &[&behind]).await;
    let heard = sync.until_event(&room.id, &behind.id).await;
    assert!(heard.is_object());
    let after = bob.say(&room.id, "after").await;
    sync.until_event(&room.id, &after).await;
    let up_to_date = sync.token().expect("a token").to_owned();
    assert_eq!(bob.state(&room.id, "m.room.name", "").await["name"], "second");

    // Who reads back comes to them where they were said, each once.
    let back = pages(&bob, &room.id, "b", None).await;
    let mut here = vec![before.clone()];
    here.extend(missed.iter().cloned());
    here.extend([behind.id.clone(), after.clone()]);
    let mut latest: Vec<String> = back.iter().take(here.len()).cloned().collect();
    latest.reverse();
    assert_eq!(latest, here);
    let asked = peer.received("/backfill/").len();
    // The other way it is the same, also from a token of before the gap was filled.
    let mut on = pages(&bob, &room.id, "f", None).await;
    let from_before = from_before.as_str();
    assert_eq!(pages(&bob, &room.id, "f", from_before).await, here[1..]);
    on.reverse();
    assert_eq!(on, back);
    assert_eq!(peer.received("/backfill/").len(), asked, "now they are here");

    // What is around each, and the state that it was said in.
    let around = context(&bob, &room.id, &missed[2], "4").await;
    assert_eq!(ids(&around["events_before"]), [missed[1].clone(), missed[0].clone()]);
    assert_eq!(ids(&around["events_after"]), [missed[3].clone(), missed[4].clone()]);
    let (start, end) = (around["start"].as_str(), around["end"].as_str());
    assert_eq!(pages(&bob, &room.id, "b", start).await.first(), Some(&before));
    assert_eq!(pages(&bob, &room.id, "f", end).await.first(), Some(&missed[5]));
    for (event, then) in [
        (&missed[0], Value::Null),
        (&missed[1], json!("first")),
        (&missed[2], json!("first")),
        (&missed[4], json!("second")),
        (&behind.id, json!("second")),
    ] {
        assert_eq!(name(&context(&bob, &room.id, event, "0").await), then, "{event}");
    }

    // No device that was there hears of them.
    let news = sync.now().await;
    assert_eq!(timeline(&news, &room.id), Vec::<Value>::new());
    for token in [&since, &up_to_date] {
        let answer = bob.get(["sync"]).query("since", token).query("timeout", "0").await.ok();
        let told = ids(&answer["rooms"]["join"][&room.id]["timeline"]["events"]);
        assert!(!told.iter().any(|event| missed.contains(event)), "{told:?}");
    }
    // Who begins goes back to them from where the timeline begins.
    let fresh = bob.get(["sync"]).await.ok();
    let fresh = &fresh["rooms"]["join"][&room.id]["timeline"];
    assert_eq!(ids(&fresh["events"]), [behind.id.clone(), after.clone()]);
    assert_eq!(fresh["limited"], true);
    let back = pages(&bob, &room.id, "b", fresh["prev_batch"].as_str()).await;
    assert_eq!(back.first(), Some(&missed[5]));

    // It is all there after a restart.
    server.kill_and_start_again();
    assert_eq!(pages(&bob, &room.id, "f", from_before).await, here[1..]);
}
