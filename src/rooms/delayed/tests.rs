//! Delayed events over the memory engine, with a clock that is moved by hand.

use std::time::Duration;

use ruma::OwnedRoomId;
use serde_json::{Value as JsonValue, json};

use super::{
    super::{
        Change, Preset, RoomError,
        tests::{Sim, object},
    },
    Action, DelayedError, DelayedEvents, Ending, NewDelayed,
};
use crate::{
    config::{self, RateLimits},
    storage::{
        Db, Range,
        schema::{
            DELAYED_DUE, DELAYED_EVENTS, DELAYED_STATE, DELAYED_TRANSACTIONS, USER_DELAYED_EVENTS,
        },
    },
    users::session::Session,
};

const MEMBER: &str = "org.matrix.msc3401.call.member";
const DAY: Duration = Duration::from_hours(24);

async fn load(sim: &Sim, max_scheduled: u64) -> DelayedEvents {
    let settings = config::DelayedEvents { max_scheduled, ..config::DelayedEvents::default() };
    let limits = RateLimits { enabled: false, ..RateLimits::default() };
    DelayedEvents::load(sim.rooms.clone(), settings, &limits).await.unwrap()
}

fn message(text: &str, delay_ms: u64) -> NewDelayed {
    NewDelayed {
        event_type: "m.room.message".to_owned(),
        state_key: None,
        content: object(json!({ "msgtype": "m.text", "body": text })),
        delay_ms,
        transaction: None,
    }
}

fn leaving(key: &str, delay_ms: u64) -> NewDelayed {
    NewDelayed {
        event_type: MEMBER.to_owned(),
        state_key: Some(key.to_owned()),
        content: object(json!({})),
        delay_ms,
        transaction: None,
    }
}

/// A room in which everybody may change the state of calls.
async fn call(sim: &Sim, creator: &Session) -> OwnedRoomId {
    let room = sim.room(creator, Preset::Public).await;
    let levels = json!({ "events": { MEMBER: 0 } });
    sim.state(creator, &room, "m.room.power_levels", levels).await.unwrap();
    room
}

async fn content(sim: &Sim, who: &Session, room: &OwnedRoomId, key: &str) -> JsonValue {
    let found = sim.rooms.readable_state_event(who, room, MEMBER, key, false).await;
    serde_json::from_str(found.unwrap().get()).unwrap()
}

async fn is_empty(db: &Db) -> bool {
    DELAYED_EVENTS.scan(db, &Range::all(), 1).await.unwrap().is_empty()
        && DELAYED_DUE.scan(db, &Range::all(), 1).await.unwrap().is_empty()
        && USER_DELAYED_EVENTS.scan(db, &Range::all(), 1).await.unwrap().is_empty()
        && DELAYED_STATE.scan(db, &Range::all(), 1).await.unwrap().is_empty()
        && DELAYED_TRANSACTIONS.scan(db, &Range::all(), 1).await.unwrap().is_empty()
}

/// Also what became due while the server was down, each once and in the order in which it is due.
#[tokio::test]
async fn what_waits_is_sent_in_order_after_a_restart() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Public).await;
    let delayed = load(&sim, 100).await;
    for (text, delay_ms) in [("second", 20_000), ("third", 30_000), ("first", 10_000)] {
        delayed.schedule(&alice, &room, message(text, delay_ms)).await.unwrap();
    }
    delayed.send_due().await.unwrap();
    assert!(sim.texts(&alice, &room).await.is_empty());

    let sim = Sim::over(sim.db.clone()).await;
    let delayed = load(&sim, 100).await;
    sim.clock.advance(Duration::from_secs(25));
    let next = delayed.send_due().await.unwrap().unwrap();
    assert_eq!(next, sim.clock.now_ms() + 5_000);
    assert_eq!(sim.texts(&alice, &room).await, ["first", "second"]);
    sim.clock.advance(Duration::from_secs(25));
    delayed.send_due().await.unwrap();
    delayed.send_due().await.unwrap();
    assert_eq!(sim.texts(&alice, &room).await, ["first", "second", "third"]);
}

#[tokio::test]
async fn what_is_restarted_waits_anew_and_what_is_cancelled_is_not_sent() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Public).await;
    let delayed = load(&sim, 100).await;
    let by = Ok(alice.user);
    let kept = delayed.schedule(&alice, &room, message("kept", 10_000)).await.unwrap();
    let dropped = delayed.schedule(&alice, &room, message("dropped", 10_000)).await.unwrap();
    sim.clock.advance(Duration::from_secs(9));
    delayed.act(by, &kept, Action::Restart).await.unwrap();
    delayed.act(by, &dropped, Action::Cancel).await.unwrap();
    sim.clock.advance(Duration::from_secs(9));
    delayed.send_due().await.unwrap();
    assert!(sim.texts(&alice, &room).await.is_empty());
    sim.clock.advance(Duration::from_secs(1));
    delayed.send_due().await.unwrap();
    assert_eq!(sim.texts(&alice, &room).await, ["kept"]);

    // What is done once more changes nothing; what contradicts it is refused.
    delayed.act(by, &dropped, Action::Cancel).await.unwrap();
    for (id, action) in
        [(&dropped, Action::Send), (&kept, Action::Restart), (&kept, Action::Cancel)]
    {
        let refused = delayed.act(by, id, action).await;
        assert!(matches!(refused, Err(DelayedError::Ended)), "{refused:?}");
    }
    delayed.act(by, &kept, Action::Send).await.unwrap();
    assert_eq!(sim.texts(&alice, &room).await, ["kept"]);
    let unknown = delayed.act(by, "unknown", Action::Send).await;
    assert!(matches!(unknown, Err(DelayedError::Unknown)));
}

/// However many ask for it at once, or do something else with it.
#[tokio::test]
async fn an_event_is_sent_once() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Public).await;
    let delayed = load(&sim, 100).await;
    let id = delayed.schedule(&alice, &room, message("once", 10_000)).await.unwrap();
    sim.clock.advance(Duration::from_secs(10));
    let act = |action| delayed.act(Ok(alice.user), &id, action);
    let (due, send, restart, again) = tokio::join!(
        delayed.send_due(),
        act(Action::Send),
        act(Action::Restart),
        act(Action::Send),
    );
    due.unwrap();
    send.unwrap();
    again.unwrap();
    assert!(matches!(restart, Ok(()) | Err(DelayedError::Ended)), "{restart:?}");
    assert_eq!(sim.texts(&alice, &room).await, ["once"]);
}

#[tokio::test]
async fn the_sender_finds_the_delay_id_in_the_event() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    let delayed = load(&sim, 100).await;
    let id = delayed.schedule(&alice, &room, message("hello", 1)).await.unwrap();
    delayed.act(Err(None), &id, Action::Send).await.unwrap();
    let Some((Ending::Sent(event), _)) = delayed.get(alice.user, &id).await.unwrap().ended else {
        panic!("it was sent");
    };
    let unsigned = async |who: &Session| {
        let event = sim.rooms.event(who, &room, &event).await.unwrap();
        let event: JsonValue = serde_json::from_str(event.get()).unwrap();
        event["unsigned"]["org.matrix.msc4140.delay_id"].clone()
    };
    assert_eq!(unsigned(&alice).await, *id);
    assert!(unsigned(&bob).await.is_null());
    let others = delayed.get(bob.user, &id).await;
    assert!(matches!(others, Err(DelayedError::Unknown)), "it is nobody else's business");
}

/// Whether somebody may send an event is decided when it is sent.
#[tokio::test]
async fn who_was_banned_meanwhile_sends_nothing() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    let delayed = load(&sim, 100).await;
    let first = delayed.schedule(&bob, &room, message("parting", 10_000)).await.unwrap();
    let second = delayed.schedule(&bob, &room, message("again", 20_000)).await.unwrap();
    sim.change(&alice, &room, &bob, Change::Ban).await.unwrap();
    sim.clock.advance(Duration::from_secs(10));
    delayed.send_due().await.unwrap();
    let ended = delayed.get(bob.user, &first).await.unwrap().ended.unwrap();
    assert!(matches!(ended.0, Ending::Refused { forbidden: true, .. }), "{ended:?}");
    let refused = delayed.act(Ok(bob.user), &second, Action::Send).await;
    assert!(matches!(refused, Err(DelayedError::Room(RoomError::Forbidden { .. }))));
    assert!(sim.texts(&alice, &room).await.is_empty());
    let refused = delayed.schedule(&bob, &room, message("third", 10_000)).await;
    assert!(matches!(refused, Err(DelayedError::Room(RoomError::NotInRoom { .. }))));
}

/// Somebody else's state stays: a moderator who ends a call for somebody is not overruled later.
#[tokio::test]
async fn state_of_others_cancels_what_would_replace_it() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = call(&sim, &alice).await;
    sim.join(&bob, &room).await.unwrap();
    // Also after a restart.
    for (key, sim) in [("_a", &sim), ("_b", &Sim::over(sim.db.clone()).await)] {
        let delayed = load(sim, 100).await;
        let put = async |who: &Session, content: JsonValue| {
            sim.rooms.send_state(who, &room, MEMBER, key, object(content)).await.unwrap()
        };
        put(&bob, json!({ "in": "call" })).await;
        let id = delayed.schedule(&bob, &room, leaving(key, 10_000)).await.unwrap();
        let other = delayed.schedule(&bob, &room, leaving("other", 10_000)).await.unwrap();
        put(&bob, json!({ "in": "call", "muted": true })).await;
        assert!(delayed.get(bob.user, &id).await.unwrap().ended.is_none(), "it is bob's own");
        put(&alice, json!({ "put out by": "alice" })).await;
        put(&bob, json!({ "back": "again" })).await;
        sim.clock.advance(Duration::from_secs(20));
        delayed.send_due().await.unwrap();
        assert_eq!(content(sim, &bob, &room, key).await, json!({ "back": "again" }));
        let ended = delayed.get(bob.user, &id).await.unwrap().ended.unwrap();
        assert_eq!(ended.0, Ending::Overtaken);
        let ended = delayed.get(bob.user, &other).await.unwrap().ended.unwrap();
        assert!(matches!(ended.0, Ending::Sent(_)));
    }
}

#[tokio::test]
async fn a_leaving_is_sent_for_a_client_that_is_gone() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = call(&sim, &alice).await;
    let delayed = load(&sim, 100).await;
    let key = "_@alice:localhost_DEVICE_m.call";
    let call = object(json!({ "application": "m.call" }));
    sim.rooms.send_state(&alice, &room, MEMBER, key, call).await.unwrap();
    delayed.schedule(&alice, &room, leaving(key, 8_000)).await.unwrap();
    sim.clock.advance(Duration::from_secs(8));
    delayed.send_due().await.unwrap();
    assert_eq!(content(&sim, &alice, &room, key).await, json!({}));
}

#[tokio::test]
async fn a_repeated_request_schedules_once() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Public).await;
    let delayed = load(&sim, 2).await;
    let new = || NewDelayed { transaction: Some("same".into()), ..message("once", 10_000) };
    let (first, second) = tokio::join!(
        delayed.schedule(&alice, &room, new()),
        delayed.schedule(&alice, &room, new()),
    );
    let id = first.unwrap();
    assert_eq!(id, second.unwrap());
    delayed.act(Ok(alice.user), &id, Action::Send).await.unwrap();
    assert_eq!(delayed.schedule(&alice, &room, new()).await.unwrap(), id, "nor once it is sent");
    assert_eq!(sim.texts(&alice, &room).await, ["once"]);
}

#[tokio::test]
async fn delays_and_how_many_wait_are_bounded() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    let delayed = load(&sim, 2).await;
    let schedule = |delay_ms| delayed.schedule(&alice, &room, message("text", delay_ms));
    assert!(matches!(schedule(0).await, Err(DelayedError::NoDelay)));
    let too_long = schedule(86_400_001).await;
    assert!(matches!(too_long, Err(DelayedError::TooLong { max_ms: 86_400_000 })));
    let first = schedule(86_400_000).await.unwrap();
    let others = futures::future::join_all((0..5).map(|_| schedule(60_000))).await;
    assert_eq!(others.iter().filter(|other| other.is_ok()).count(), 1);
    let Err(DelayedError::TooMany(limit)) = schedule(1).await else { panic!("two wait") };
    assert_eq!(limit.retry_after, Duration::from_mins(1));
    delayed.schedule(&bob, &room, message("bob's own", 1)).await.unwrap();
    delayed.act(Ok(alice.user), &first, Action::Cancel).await.unwrap();
    schedule(1).await.unwrap();
}

/// What ended is told of for a day; then nothing is left of it.
#[tokio::test]
async fn what_ended_is_forgotten_after_a_while() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = call(&sim, &alice).await;
    let delayed = load(&sim, 300).await;
    let sent = delayed.schedule(&alice, &room, leaving("_a", 1_000)).await.unwrap();
    let new = NewDelayed { transaction: Some("t".into()), ..message("x", 1_000) };
    let cancelled = delayed.schedule(&alice, &room, new).await.unwrap();
    delayed.act(Ok(alice.user), &cancelled, Action::Cancel).await.unwrap();
    sim.clock.advance(Duration::from_secs(1));
    delayed.send_due().await.unwrap();
    let ids = async |waiting| {
        let list = delayed.list(alice.user, waiting).await.unwrap();
        list.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(ids(false).await, [cancelled, sent]);
    assert!(ids(true).await.is_empty());
    sim.clock.advance(DAY);
    assert_eq!(delayed.send_due().await.unwrap(), None);
    assert!(is_empty(&sim.db).await);

    // Whoever schedules and cancels without end does not fill the database.
    for _ in 0..super::MAX_ENDED + 20 {
        let id = delayed.schedule(&alice, &room, leaving("_a", 1_000)).await.unwrap();
        delayed.act(Ok(alice.user), &id, Action::Cancel).await.unwrap();
    }
    assert_eq!(ids(false).await.len(), super::MAX_ENDED);
}
