//! What is seen of what was sent.

use super::*;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#redactions>
#[tokio::test]
async fn redaction_takes_the_content_and_says_why() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    for version in SUPPORTED_VERSIONS {
        let new = NewRoom { version: Some(version.clone()), ..new_room(Preset::Public) };
        let room = sim.rooms.create(&alice, &new).await.unwrap();
        sim.join(&bob, &room).await.unwrap();
        let rude = sim.say(&bob, &room, "rude").await.unwrap();
        let fine = sim.say(&alice, &room, "fine").await.unwrap();
        let outcome = sim.rooms.redact(&bob, &room, &fine, "r0".into(), None).await;
        assert!(is_forbidden(&outcome), "bob has not the power");
        let redaction =
            sim.rooms.redact(&alice, &room, &rude, "r1".into(), Some("rude")).await.unwrap();
        let again = sim.rooms.redact(&alice, &room, &rude, "r1".into(), Some("rude")).await;
        assert_eq!(again.unwrap(), redaction, "a retry");

        let event = read(&sim.rooms.event(&bob, &room, &rude).await.unwrap());
        assert_eq!(event["content"], json!({}));
        let because = &event["unsigned"]["redacted_because"];
        assert_eq!(because["event_id"], redaction.as_str());
        assert_eq!(because["content"]["reason"], "rude");
        // Clients find what was redacted in both places, whatever the version.
        assert_eq!(because["redacts"], rude.as_str());
        assert_eq!(because["content"]["redacts"], rude.as_str());

        let no = <&ruma::EventId>::try_from("$no").unwrap();
        let missing = sim.rooms.redact(&alice, &room, no, "r2".into(), None).await;
        assert!(matches!(missing, Err(RoomError::UnknownEvent { .. })));
    }
}

/// Redacting a state event changes what later events are judged by.
/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#redactions>
#[tokio::test]
async fn a_redacted_name_is_gone_from_the_state_and_the_membership_stays() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    let name = sim.state(&alice, &room, "m.room.name", json!({ "name": "Tea" })).await.unwrap();
    sim.rooms.redact(&alice, &room, &name, "r1".into(), None).await.unwrap();
    let content = sim.rooms.readable_state_event(&alice, &room, "m.room.name", "", false).await;
    assert_eq!(content.unwrap().get(), "{}");
    let key = alice.user_id.as_str();
    let member = sim.rooms.readable_state_event(&alice, &room, "m.room.member", key, true).await;
    let member: OwnedEventId =
        read(&member.unwrap())["event_id"].as_str().unwrap().try_into().unwrap();
    sim.rooms.redact(&alice, &room, &member, "r2".into(), None).await.unwrap();
    sim.say(&alice, &room, "still here").await.unwrap();
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-5>
#[tokio::test]
async fn history_is_shown_by_the_visibility_at_each_event() {
    let sim = Sim::new().await;
    let (alice, bob, carl) =
        (sim.user("alice").await, sim.user("bob").await, sim.user("carl").await);
    let room = sim.room(&alice, Preset::Private).await;
    let set = async |visibility: &str| {
        let content = json!({ "history_visibility": visibility });
        sim.state(&alice, &room, "m.room.history_visibility", content).await.unwrap();
    };
    set("joined").await;
    sim.say(&alice, &room, "joined").await.unwrap();
    set("invited").await;
    sim.say(&alice, &room, "before the invitation").await.unwrap();
    sim.change(&alice, &room, &bob, Change::Invite).await.unwrap();
    sim.say(&alice, &room, "after the invitation").await.unwrap();
    set("shared").await;
    let shared = sim.say(&alice, &room, "shared").await.unwrap();
    assert!(matches!(sim.page(&carl, &room).await, Err(RoomError::NotInRoom { .. })));
    let unseen = sim.rooms.event(&carl, &room, &shared).await;
    assert!(matches!(unseen, Err(RoomError::UnknownEvent { .. })));
    sim.join(&bob, &room).await.unwrap();
    sim.say(&alice, &room, "to all").await.unwrap();
    let seen = ["after the invitation", "shared", "to all"];
    assert_eq!(sim.texts(&bob, &room).await, seen);
    // Who leaves keeps what they saw, and sees nothing more.
    sim.change(&bob, &room, &bob, Change::Leave).await.unwrap();
    sim.say(&alice, &room, "behind his back").await.unwrap();
    assert_eq!(sim.texts(&bob, &room).await, seen);
    let name = sim.state(&alice, &room, "m.room.name", json!({ "name": "Us" })).await;
    name.unwrap();
    let state = sim.rooms.readable_state_event(&bob, &room, "m.room.name", "", false).await;
    assert!(matches!(state, Err(RoomError::NoSuchState)), "named after he left");
    sim.rooms.forget(&bob, &room).await.unwrap();
    assert!(matches!(sim.page(&bob, &room).await, Err(RoomError::NotInRoom { .. })));
    // What is for all to read is for carl too, from then on.
    set("world_readable").await;
    sim.say(&alice, &room, "read all about it").await.unwrap();
    assert_eq!(sim.texts(&carl, &room).await, ["read all about it"]);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>
#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition_both_ways() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    for n in 0..25 {
        sim.say(&alice, &room, &n.to_string()).await.unwrap();
    }
    let mut all: Vec<JsonValue> =
        sim.page(&alice, &room).await.unwrap().chunk.iter().map(|event| read(event)).collect();
    for direction in [Direction::Backward, Direction::Forward] {
        let mut read_so_far = Vec::new();
        let mut request = PageRequest { direction, ..back(7) };
        loop {
            let page = sim.rooms.messages(&alice, &room, &request).await.unwrap();
            assert!(page.chunk.len() <= 7);
            read_so_far.extend(page.chunk.iter().map(|event| read(event)));
            let Some(end) = page.end else { break };
            // As a client would: the token is text.
            request.from = Some(end.to_string().parse().unwrap());
        }
        assert_eq!(read_so_far, all);
        all.reverse();
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>
#[tokio::test]
async fn a_filter_is_applied_before_the_limit_and_members_come_with_their_messages() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    sim.say(&bob, &room, "first").await.unwrap();
    for n in 0..30 {
        sim.say(&alice, &room, &n.to_string()).await.unwrap();
    }
    let filter: ruma::api::client::filter::RoomEventFilter = serde_json::from_value(json!({
        "types": ["m.room.mess*"],
        "senders": ["@bob:localhost"],
        "lazy_load_members": true,
    }))
    .unwrap();
    let request = PageRequest { filter: filter.into(), ..back(1) };
    let page = sim.rooms.messages(&alice, &room, &request).await.unwrap();
    assert_eq!(page.chunk.len(), 1);
    assert_eq!(read(&page.chunk[0])["content"]["body"], "first");
    assert_eq!(page.state.len(), 1);
    assert_eq!(read(&page.state[0])["state_key"], "@bob:localhost");
}

#[tokio::test]
async fn state_at_a_position_is_what_it_was_then() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let id = sim.room(&alice, Preset::Private).await;
    let number = sim.db.rooms().find(&sim.db, &*id).await.unwrap().unwrap();
    let room = sim.rooms.numbered(number).await.unwrap();
    let mut history = Vec::new();
    for name in ["a", "b", "c"] {
        let position = sim.rooms.last_position(number).await.unwrap();
        let state = sim.rooms.state_at(&sim.db, &room, position).await.unwrap();
        history.push((position, state));
        sim.state(&alice, &id, "m.room.name", json!({ "name": name })).await.unwrap();
    }
    for (position, state) in &history {
        let now = sim.rooms.state_at(&sim.db, &room, *position).await.unwrap();
        assert_eq!(now, *state);
        for (_, event) in state {
            let key = event.state_key.as_deref().unwrap();
            let single =
                sim.rooms.state_event_at(&sim.db, &room, &event.event_type, key, *position).await;
            assert_eq!(single.unwrap().as_ref(), Some(event));
        }
    }
    // Of what changed twice, the delta tells the last.
    let delta = sim.rooms.state_delta(&sim.db, &room, history[0].0, u64::MAX).await.unwrap();
    assert_eq!(delta.len(), 1);
    assert_eq!(delta[0].1.content(), r#"{"name":"c"}"#);
    let shown = sim.rooms.readable_state_event(&alice, &id, "m.room.name", "", true).await.unwrap();
    assert_eq!(read(&shown)["unsigned"]["prev_content"], json!({ "name": "b" }));
}
