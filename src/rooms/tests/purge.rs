//! What is removed, what stays, and that nothing of what is removed is left.

use super::*;
use crate::{
    config,
    rooms::{Deletion, HistoryEnd, Status, timeline_key::TimelineKey},
    storage::{
        Table, Value,
        key::{AsKey, Key},
        schema::{
            ALIASES, ANNOTATIONS, AUTH_EVENTS, BACKWARD_EXTREMITIES, BLOCKED_ROOMS, BUNDLED,
            CURRENT_STATE, CURRENT_STATES, EVENT_IDS, EVENT_STATES, EVENTS, GAPS, MEDIA_REFERENCES,
            MEDIA_TO_REMOVE, MEMBERSHIPS, PUBLIC_ROOMS, RELATIONS, ROOM_ALIASES, ROOM_HEADS,
            ROOM_MEMBERS, ROOM_NUMBERS, ROOM_PURGES, ROOM_SERVERS, ROOMS, SEARCH_WORDS,
            STATE_HASHES, STATE_SNAPSHOTS, SUCCEEDED, THREAD_EVENTS, THREAD_PARTICIPANTS,
            TIMESTAMPS, TRANSACTIONS, USER_ROOMS,
        },
    },
};

const DAY_MS: u64 = 86_400_000;

async fn count<K: Key + AsKey<K>, V: Value>(sim: &Sim, table: &Table<K, V>) -> usize {
    table.scan(&sim.db, &Range::all(), usize::MAX).await.unwrap().len()
}

fn picture(text: &str, id: &str) -> CanonicalJsonObject {
    object(json!({ "msgtype": "m.image", "body": text, "url": format!("mxc://localhost/{id}") }))
}

async fn send(sim: &Sim, who: &Session, room: &OwnedRoomId, txn: &str, what: CanonicalJsonObject) {
    sim.rooms.send(who, room, "m.room.message", txn.into(), what).await.unwrap();
}

async fn retain(sim: &Sim, who: &Session, room: &OwnedRoomId, ms: u64) {
    let policy = json!({ "max_lifetime": ms });
    sim.state(who, room, "m.room.retention", policy).await.unwrap();
}

async fn problems(sim: &Sim, room: &OwnedRoomId) -> Vec<String> {
    let room = sim.rooms.room(room).await.unwrap();
    sim.rooms.check_room(&room).await.unwrap().problems
}

#[tokio::test]
async fn what_has_expired_is_not_shown_and_then_gone() {
    let sim = Sim::new().await;
    let [alice, bob] = [sim.user("alice").await, sim.user("bob").await];
    let room = sim.room(&alice, Preset::Public).await;
    let kept = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    retain(&sim, &alice, &room, DAY_MS).await;
    let words = count(&sim, &SEARCH_WORDS).await;
    let old = sim.say(&alice, &room, "old news").await.unwrap();
    sim.say(&bob, &room, "older answers").await.unwrap();
    sim.say(&alice, &kept, "kept").await.unwrap();
    sim.clock.advance(Duration::from_millis(DAY_MS + 1));
    sim.say(&alice, &room, "new").await.unwrap();

    assert_eq!(sim.texts(&bob, &room).await, ["new"], "expired is not shown");
    assert_eq!(sim.rooms.remove_expired().await.unwrap(), 2);
    assert_eq!(sim.texts(&bob, &room).await, ["new"]);
    assert_eq!(sim.texts(&alice, &kept).await, ["kept"]);
    assert!(!EVENT_IDS.contains(&sim.db, &*old).await.unwrap());
    assert_eq!(count(&sim, &SEARCH_WORDS).await, words + 2, "one word in either room");
    let rows = EVENTS.scan(&sim.db, &Range::all(), usize::MAX).await.unwrap();
    assert!(rows.iter().all(|(_, event)| !event.json.contains("old")));
    assert!(sim.rooms.readable_state(&bob, &room).await.unwrap().len() > 5, "state stays");
    assert_eq!(problems(&sim, &room).await, [""; 0]);
    assert_eq!(sim.rooms.remove_expired().await.unwrap(), 0, "once");
    sim.say(&bob, &room, "and on").await.unwrap();
}

#[tokio::test]
async fn the_last_message_stays_until_there_is_another() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    retain(&sim, &alice, &room, DAY_MS).await;
    let last = sim.say(&alice, &room, "last").await.unwrap();
    sim.clock.advance(Duration::from_millis(2 * DAY_MS));
    assert_eq!(sim.rooms.remove_expired().await.unwrap(), 0);
    assert!(EVENT_IDS.contains(&sim.db, &*last).await.unwrap());
    assert!(sim.texts(&alice, &room).await.is_empty());
    sim.say(&alice, &room, "next").await.unwrap();
    // It was looked at before: what is left then is found all the same.
    sim.clock.advance(Duration::from_millis(2 * DAY_MS));
    sim.say(&alice, &room, "end").await.unwrap();
    sim.rooms.remove_expired().await.unwrap();
    assert_eq!(problems(&sim, &room).await, [""; 0]);
}

#[tokio::test]
async fn the_operator_has_a_word_for_rooms_that_say_nothing() {
    let retention = config::Retention {
        enabled: true,
        default_max_lifetime_seconds: Some(3_600),
        ..config::Retention::default()
    };
    let settings = Settings { retention, ..Settings::default() };
    let sim = Sim::with(Db::in_memory().await, settings).await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    sim.say(&alice, &room, "one").await.unwrap();
    sim.clock.advance(Duration::from_secs(3_601));
    sim.say(&alice, &room, "two").await.unwrap();
    assert_eq!(sim.rooms.remove_expired().await.unwrap(), 1);
}

#[tokio::test]
async fn relations_and_media_go_with_their_events() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    retain(&sim, &alice, &room, DAY_MS).await;
    send(&sim, &alice, &room, "1", picture("a cat", "cat")).await;
    let first = sim.say(&alice, &room, "first").await.unwrap();
    for (txn, kind) in [("2", "m.thread"), ("3", "m.reference")] {
        let to = json!({ "rel_type": kind, "event_id": first });
        let what = object(json!({ "msgtype": "m.text", "body": kind, "m.relates_to": to }));
        send(&sim, &alice, &room, txn, what).await;
    }
    assert_eq!(count(&sim, &MEDIA_REFERENCES).await, 1);
    assert_eq!(count(&sim, &RELATIONS).await, 2);
    sim.clock.advance(Duration::from_millis(DAY_MS + 1));
    sim.say(&alice, &room, "new").await.unwrap();
    sim.rooms.remove_expired().await.unwrap();
    for left in [
        count(&sim, &MEDIA_REFERENCES).await,
        count(&sim, &RELATIONS).await,
        count(&sim, &BUNDLED).await,
        count(&sim, &THREAD_EVENTS).await,
        count(&sim, &THREAD_PARTICIPANTS).await,
    ] {
        assert_eq!(left, 0);
    }
    assert_eq!(count(&sim, &TRANSACTIONS).await, 1, "of what is left");
    let rows = MEDIA_TO_REMOVE.scan(&sim.db, &Range::all(), 9).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].0.1.as_str(), rows[0].1), ("cat", alice.user));
}

#[tokio::test]
async fn history_goes_up_to_an_event_and_with_or_without_our_own() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    for index in 0..450 {
        sim.say(&alice, &room, &format!("message {index}")).await.unwrap();
    }
    let end = sim.say(&alice, &room, "end").await.unwrap();
    sim.say(&alice, &room, "after").await.unwrap();
    let key = sim.rooms.key_of_end(&room, &HistoryEnd::Event(end)).await.unwrap();
    for (local_too, left) in [(false, 452), (true, 2)] {
        let id = sim.rooms.order_history_purge(&room, key, local_too).await.unwrap();
        sim.rooms.carry_out_jobs().await.unwrap();
        let job = sim.rooms.job(&id).await.unwrap().unwrap();
        assert_eq!((job.status, job.outcome.events), (Status::Complete, 452 - left));
        assert_eq!(
            sim.rooms
                .messages(&alice, &room, &back(1_000))
                .await
                .unwrap()
                .chunk
                .iter()
                .filter(|event| read(event)["type"] == "m.room.message")
                .count(),
            left
        );
    }
    assert_eq!(problems(&sim, &room).await, [""; 0]);
    let now = sim.clock.now_ms();
    let all = sim.rooms.key_of_end(&room, &HistoryEnd::Time(now + 1)).await.unwrap();
    assert_eq!(all, TimelineKey::MAX);
}

#[tokio::test]
async fn nothing_is_left_of_a_room_that_is_deleted_and_it_can_come_again() {
    let sim = Sim::new().await;
    let [alice, bob] = [sim.user("alice").await, sim.user("bob").await];
    let before: Vec<usize> = everything(&sim).await;
    let room = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    let message = sim.say(&bob, &room, "something to say").await.unwrap();
    let to = json!({ "rel_type": "m.thread", "event_id": message });
    let reply = object(json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": to }));
    send(&sim, &alice, &room, "t", reply).await;
    let number = sim.rooms.room(&room).await.unwrap().number;
    let alias = ruma::RoomAliasId::parse("#a:localhost").unwrap();
    sim.rooms.create_alias(&alice, &alias, &room).await.unwrap();

    let deletion = Deletion {
        by: alice.user_id.clone(),
        block: true,
        purge: true,
        new_room: Some((alice.user_id.clone(), "Gone".to_owned(), "It is gone.".to_owned())),
    };
    let id = sim.rooms.order_deletion(&room, deletion).await.unwrap();
    sim.rooms.carry_out_jobs().await.unwrap();
    let job = sim.rooms.job(&id).await.unwrap().unwrap();
    assert_eq!(job.status, Status::Complete, "{job:?}");
    assert_eq!(job.outcome.left.len(), 2);
    assert_eq!(job.outcome.aliases, vec![alias]);
    let told = job.outcome.new_room.unwrap();
    assert_eq!(sim.texts(&alice, &told).await, ["It is gone."]);
    assert!(matches!(sim.rooms.room(&room).await, Err(RoomError::UnknownRoom { .. })));
    assert!(sim.rooms.user_room(bob.user, number).await.unwrap().is_none());
    assert!(matches!(sim.join(&bob, &room).await, Err(RoomError::Blocked { .. })));
    sim.rooms.set_blocked(&room, &alice.user_id, false).await.unwrap();
    assert!(matches!(sim.join(&bob, &room).await, Err(RoomError::UnknownRoom { .. })));

    // The other one too: then everything is as it was.
    let deletion =
        Deletion { by: alice.user_id.clone(), block: false, purge: true, new_room: None };
    let id = sim.rooms.order_deletion(&told, deletion).await.unwrap();
    sim.rooms.carry_out_jobs().await.unwrap();
    assert_eq!(sim.rooms.job(&id).await.unwrap().unwrap().status, Status::Complete);
    assert!(sim.rooms.block_of(&told).await.unwrap().is_none());
    assert_eq!(everything(&sim).await, before);
}

/// How many rows there are in each table that rooms have rows in.
async fn everything(sim: &Sim) -> Vec<usize> {
    macro_rules! counts {
        ($($table:ident),* $(,)?) => { vec![$(count(sim, &$table).await),*] };
    }
    counts![
        ROOMS,
        ROOM_HEADS,
        EVENTS,
        EVENT_IDS,
        TIMELINE,
        FORWARD_EXTREMITIES,
        CURRENT_STATE,
        AUTH_EVENTS,
        STATE_SNAPSHOTS,
        STATE_HASHES,
        EVENT_STATES,
        CURRENT_STATES,
        MEMBERSHIPS,
        ROOM_SERVERS,
        BACKWARD_EXTREMITIES,
        SUCCEEDED,
        GAPS,
        USER_ROOMS,
        ROOM_MEMBERS,
        TRANSACTIONS,
        ALIASES,
        ROOM_ALIASES,
        PUBLIC_ROOMS,
        RELATIONS,
        BUNDLED,
        ANNOTATIONS,
        THREAD_EVENTS,
        THREAD_PARTICIPANTS,
        TIMESTAMPS,
        SEARCH_WORDS,
        MEDIA_REFERENCES,
        ROOM_PURGES,
        BLOCKED_ROOMS,
        ROOM_NUMBERS,
    ]
}
