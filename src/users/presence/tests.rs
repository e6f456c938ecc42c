//! Who is there, by what devices do.

use ruma::user_id;

use super::*;

async fn world() -> (Presence, Clock, Session) {
    let (db, clock) = (Db::in_memory().await, Clock::manual(1_000_000_000));
    let user_id = user_id!("@alice:localhost").to_owned();
    let user = db.users().intern(&db, &*user_id).await.unwrap();
    let session =
        Session { user_id, user, device_id: "PHONE".into(), guest: false, appservice: None };
    (Presence::new(db, clock.clone(), config::Presence::default()), clock, session)
}

fn on(session: &Session, device: &str) -> Session {
    Session { device_id: device.into(), ..session.clone() }
}

fn level(presence: &Presence, session: &Session) -> Level {
    presence.status(session.user).map_or(Level::Offline, |(status, _)| status.level)
}

#[tokio::test]
async fn a_device_is_there_while_it_waits_and_a_little_longer() {
    let (presence, clock, alice) = world().await;
    let waiting = presence.syncing(&alice, Level::Online);
    clock.advance(Duration::from_mins(2));
    assert_eq!(level(&presence, &alice), Level::Online);
    assert!(!presence.status(alice.user).unwrap().0.currently_active);
    clock.advance(Duration::from_mins(4));
    assert_eq!(level(&presence, &alice), Level::Unavailable, "nothing for five minutes");
    drop(waiting);
    clock.advance(Duration::from_secs(29));
    assert_eq!(level(&presence, &alice), Level::Unavailable);
    clock.advance(Duration::from_secs(2));
    assert_eq!(level(&presence, &alice), Level::Offline);
}

#[tokio::test]
async fn of_several_devices_the_one_that_is_there_most_counts() {
    let (presence, _, alice) = world().await;
    let laptop = on(&alice, "LAPTOP");
    let _phone = presence.syncing(&alice, Level::Unavailable);
    assert_eq!(level(&presence, &alice), Level::Unavailable);
    let online = presence.syncing(&laptop, Level::Online);
    assert_eq!(level(&presence, &alice), Level::Online);
    drop(online);
    presence.forget(alice.user, &laptop.device_id);
    assert_eq!(level(&presence, &alice), Level::Unavailable);
}

#[tokio::test]
async fn a_sync_in_the_background_is_no_sign_of_anybody() {
    let (presence, _, alice) = world().await;
    assert!(presence.syncing(&alice, Level::Offline).is_none());
    assert!(presence.status(alice.user).is_none());
}

#[tokio::test]
async fn changes_are_told_together_and_the_last_one_counts() {
    let (presence, clock, alice) = world().await;
    let db = presence.shared.db.clone();
    let before = db.visible_position();
    presence.set(&alice, &alice.user_id, &PresenceState::Online, Some("tea".into())).unwrap();
    assert!(presence.changed(Some(before), db.visible_position()).is_empty(), "not yet told");
    presence.tell().await.unwrap();
    let first = db.visible_position();
    assert_eq!(presence.changed(Some(before), first), [alice.user]);
    presence.tell().await.unwrap();
    assert_eq!(db.visible_position(), first, "nothing changed");
    clock.advance(Duration::from_mins(1));
    presence.tell().await.unwrap();
    let second = db.visible_position();
    assert_eq!(presence.changed(Some(before), first), [], "it moved on");
    assert_eq!(presence.changed(Some(first), second), [alice.user]);
    assert_eq!(presence.changed(None, second), [], "nobody is there");
    // After a restart it is known when she was last here.
    let again = Presence::new(db, clock, config::Presence::default());
    let (status, ago) = again.of(&alice, &alice.user_id).await.unwrap();
    assert_eq!((status.level, status.message.as_deref()), (Level::Offline, Some("tea")));
    assert_eq!(ago, Some(60_000));
}

#[tokio::test]
async fn nonsense_and_the_presence_of_others_are_refused() {
    let (presence, _, alice) = world().await;
    let bob = user_id!("@bob:localhost");
    let set = |of, state: &str, message: Option<String>| {
        presence.set(&alice, of, &PresenceState::from(state), message)
    };
    assert!(matches!(set(bob, "online", None), Err(PresenceError::NotOwn)));
    assert!(matches!(set(&alice.user_id, "rubbish", None), Err(PresenceError::UnknownState)));
    let long = Some("x".repeat(2_000));
    assert!(matches!(set(&alice.user_id, "online", long), Err(PresenceError::TooLong)));
    assert!(matches!(presence.of(&alice, bob).await, Err(PresenceError::NotVisible)));
}
