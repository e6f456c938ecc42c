//! Several of these servers among each other: whole ones, one of which is away for a while.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use complement_tests::{Client, Config, Server, federating, wait_until};
use serde_json::{Value, json};

async fn join(client: &Client, room: &str, via: &Server) {
    client.post(format!("join/{room}?via={}", via.name()), json!({})).await.ok();
}

async fn sees(client: &Client, room: &str, event: &str) {
    wait_until(event, async || {
        let answer = client.get(["rooms", room, "event", event]).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// A server that stands still, as one does whose machine is busy, and one that was killed get what
/// they missed; the third one does not wait for them.
#[tokio::test]
async fn who_was_away_catches_up() {
    let [one, two, three] = [(); 3].map(|()| Server::start(&federating(Config::default())));
    let alice = one.register("alice").await;
    let bob = two.register("bob").await;
    let carol = three.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &room, &one).await;
    join(&carol, &room, &one).await;
    let first = alice.say(&room, "are all here?").await;
    sees(&bob, &room, &first).await;
    sees(&carol, &room, &first).await;

    two.pause();
    let paused: Vec<String> = [alice.say(&room, "1").await, alice.say(&room, "2").await].into();
    for event in &paused {
        sees(&carol, &room, event).await;
    }
    two.resume();
    for event in &paused {
        sees(&bob, &room, event).await;
    }

    two.kill();
    let killed = carol.say(&room, "3").await;
    sees(&alice, &room, &killed).await;
    two.start_again();
    // It is known to be back when it says something, at the latest.
    let back = bob.say(&room, "I am back").await;
    sees(&alice, &room, &back).await;
    sees(&bob, &room, &killed).await;
    sees(&carol, &room, &back).await;
}

/// Whatever each of them was told in whichever order, all have the same state in the end.
#[tokio::test]
async fn all_agree_on_what_was_set_at_once() {
    let [one, two] = [(); 2].map(|()| Server::start(&federating(Config::default())));
    let alice = one.register("alice").await;
    let bob = two.register("bob").await;
    let body = json!({
        "preset": "public_chat", "room_version": "11",
        "power_level_content_override": {
            "users": { alice.user_id.as_str(): 100, bob.user_id.as_str(): 100 },
        },
    });
    let room = alice.create_room(body).await;
    join(&bob, &room, &one).await;
    for round in 0..5 {
        // Neither waits for what the other does.
        let topic = |by: &str| json!({ "topic": format!("{by} {round}") });
        let set = [(&alice, "alice"), (&bob, "bob")].map(|(client, by)| {
            let topic = topic(by);
            let room = room.as_str();
            async move { client.set_state(room, "m.room.topic", "", topic).await }
        });
        futures::future::join_all(set).await;
    }
    let state = async |client: &Client| -> Value { client.state(&room, "m.room.topic", "").await };
    // What comes after both shows that either has heard of the other's.
    let (a, b) = (alice.say(&room, "done").await, bob.say(&room, "done").await);
    sees(&alice, &room, &b).await;
    sees(&bob, &room, &a).await;
    wait_until("the same topic", async || (state(&alice).await == state(&bob).await).then_some(()))
        .await;
}
