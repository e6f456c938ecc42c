//! Sliding sync: what a poll reads.

use super::*;
use crate::{
    sync::{DeployedBody, Sliding},
    users::presence::Level,
};

fn everything(to_device: Option<&str>) -> Value {
    json!({
        "lists": {
            "all": { "ranges": [[0, 19]], "timeline_limit": 5, "required_state": [["m.room.name", ""]] },
        },
        "extensions": {
            "to_device": { "enabled": true, "since": to_device },
            "e2ee": { "enabled": true },
            "account_data": { "enabled": true },
            "receipts": { "enabled": true },
            "typing": { "enabled": true },
        },
    })
}

async fn answer(sliding: &Sliding, session: &Session, pos: Option<&str>, ask: Value) -> Value {
    let body: DeployedBody = serde_json::from_value(ask).unwrap();
    let pos = pos.map(str::to_owned);
    let request = body.request(pos, Level::default(), Duration::ZERO).unwrap();
    serde_json::to_value(sliding.answer(session, &request).await.unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).unwrap().as_str().unwrap()
}

#[tokio::test]
async fn a_poll_without_news_reads_nothing() {
    let mut world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let room = world.public_room(&alice).await;
    for _ in 0..20 {
        world.public_room(&alice).await;
    }
    let sliding = Sliding::new(world.sync.clone());
    let first = answer(&sliding, &alice, None, everything(None)).await;
    let inbox = text(&first, "/extensions/to_device/next_batch");
    let before = world.db.round_trips();
    let nothing =
        answer(&sliding, &alice, Some(text(&first, "/pos")), everything(Some(inbox))).await;
    assert_eq!(world.db.round_trips(), before, "reads though nothing happened in 21 rooms");
    assert_eq!(nothing["lists"], first["lists"]);
    assert_eq!(nothing["rooms"], json!({}));
    // It goes on from there.
    let event_id = world.send(&alice, &room, "hello").await;
    let inbox = text(&nothing, "/extensions/to_device/next_batch");
    let pos = text(&nothing, "/pos");
    let news = answer(&sliding, &alice, Some(pos), everything(Some(inbox))).await;
    assert!(news["rooms"][room.as_str()].to_string().contains(event_id.as_str()), "{news}");
}

/// What a message moves up shows in the list, though only its room is looked at.
#[tokio::test]
async fn a_message_in_a_room_out_of_sight_brings_it_into_the_window() {
    let mut world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let mut rooms = Vec::new();
    for _ in 0..5 {
        let room = world.public_room(&alice).await;
        world.change(&bob, &room, Change::Join).await;
        rooms.push(room);
    }
    let sliding = Sliding::new(world.sync.clone());
    let ask = json!({ "lists": { "top": {
        "ranges": [[0, 1]], "timeline_limit": 1, "required_state": [],
        "filters": { "is_dm": false, "not_tags": ["m.lowpriority"] },
    } } });
    let mut last = answer(&sliding, &alice, None, ask.clone()).await;
    for (turn, room) in rooms.iter().enumerate() {
        let event_id = world.send(&bob, room, &format!("{turn}")).await;
        last = answer(&sliding, &alice, Some(text(&last, "/pos")), ask.clone()).await;
        let shown = last["rooms"].as_object().unwrap();
        assert_eq!(shown.keys().collect::<Vec<_>>(), [room.as_str()], "{last}");
        assert_eq!(last["rooms"][room.as_str()]["timeline"][0]["event_id"], event_id.as_str());
        assert_eq!(last["lists"]["top"]["count"], 5);
    }
}

/// Whoever asks for something else gets it, though nothing happened.
#[tokio::test]
async fn a_poll_that_asks_for_more_is_looked_at() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let room = world.public_room(&alice).await;
    let sliding = Sliding::new(world.sync.clone());
    let first = answer(&sliding, &alice, None, json!({})).await;
    let pos = text(&first, "/pos").to_owned();
    let second = answer(&sliding, &alice, Some(&pos), everything(None)).await;
    assert!(second["rooms"][room.as_str()].is_object(), "{second}");
    let mut more = everything(None);
    more["lists"]["all"]["required_state"] = json!([["m.room.create", ""]]);
    let third = answer(&sliding, &alice, Some(text(&second, "/pos")), more).await;
    let state = &third["rooms"][room.as_str()]["required_state"];
    assert_eq!(state[0]["type"], "m.room.create", "{third}");
}

/// A device that has not said that it has its messages gets them again.
#[tokio::test]
async fn messages_that_wait_are_not_overlooked() {
    let world = World::new().await;
    let alice = world.session(user_id!("@alice:localhost")).await;
    let bob = world.session(user_id!("@bob:localhost")).await;
    let sliding = Sliding::new(world.sync.clone());
    let first = answer(&sliding, &bob, None, everything(None)).await;
    let inbox = text(&first, "/extensions/to_device/next_batch").to_owned();
    world.note(&alice, &bob, "1").await;
    let messages = "/extensions/to_device/events/0";
    let second = answer(&sliding, &bob, Some(text(&first, "/pos")), everything(Some(&inbox))).await;
    assert!(second.pointer(messages).is_some(), "{second}");
    let pos = text(&second, "/pos").to_owned();
    let again = answer(&sliding, &bob, Some(&pos), everything(Some(&inbox))).await;
    assert!(again.pointer(messages).is_some(), "{again}");
    let inbox = text(&again, "/extensions/to_device/next_batch").to_owned();
    let done = answer(&sliding, &bob, Some(text(&again, "/pos")), everything(Some(&inbox))).await;
    assert!(done.pointer(messages).is_none(), "{done}");
}
