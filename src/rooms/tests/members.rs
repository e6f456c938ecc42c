//! Who comes in, who goes, what is told of them.

use super::*;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-membership>
#[tokio::test]
async fn who_may_come_in_and_who_may_throw_out() {
    let sim = Sim::new().await;
    let (alice, bob, carl) =
        (sim.user("alice").await, sim.user("bob").await, sim.user("carl").await);
    let room = sim.room(&alice, Preset::Private).await;
    assert!(is_forbidden(&sim.join(&bob, &room).await), "bob is not invited");
    sim.change(&alice, &room, &bob, Change::Invite).await.unwrap();
    let number = sim.db.rooms().find(&sim.db, &*room).await.unwrap().unwrap();
    let invited = sim.rooms.user_room(bob.user, number).await.unwrap().unwrap();
    assert_eq!(invited.membership, Membership::Invite);
    let stripped: Vec<JsonValue> = serde_json::from_str(&invited.stripped_state).unwrap();
    assert!(stripped.iter().any(|event| event["type"] == "m.room.create"));
    assert!(stripped.iter().all(|event| event.get("event_id").is_none()));

    sim.join(&bob, &room).await.unwrap();
    let last = sim.rooms.last_position(number).await.unwrap();
    sim.join(&bob, &room).await.unwrap();
    assert_eq!(sim.rooms.last_position(number).await.unwrap(), last, "he was there already");
    assert_eq!(sim.rooms.numbered(number).await.unwrap().local_members().len(), 2);

    assert!(is_forbidden(&sim.change(&bob, &room, &alice, Change::Kick).await));
    assert!(is_forbidden(&sim.change(&alice, &room, &carl, Change::Kick).await));
    sim.change(&alice, &room, &bob, Change::Ban).await.unwrap();
    assert!(is_forbidden(&sim.join(&bob, &room).await));
    assert!(is_forbidden(&sim.say(&bob, &room, "hello?").await));
    assert!(is_forbidden(&sim.change(&alice, &room, &carl, Change::Unban).await));
    sim.change(&alice, &room, &bob, Change::Unban).await.unwrap();
    assert_eq!(sim.rooms.numbered(number).await.unwrap().local_members().len(), 1);
    let members = sim.rooms.members(&sim.db, number, Membership::Leave).await.unwrap();
    assert_eq!(members, [bob.user]);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>
#[tokio::test]
async fn a_restricted_room_lets_in_the_members_of_the_rooms_it_names() {
    let sim = Sim::new().await;
    let (alice, bob, carl) =
        (sim.user("alice").await, sim.user("bob").await, sim.user("carl").await);
    let club = sim.room(&alice, Preset::Public).await;
    let back_room = sim.room(&alice, Preset::Private).await;
    let rule = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": club }],
    });
    sim.state(&alice, &back_room, "m.room.join_rules", rule).await.unwrap();
    sim.join(&bob, &club).await.unwrap();
    sim.join(&bob, &back_room).await.unwrap();
    assert!(is_forbidden(&sim.join(&carl, &back_room).await));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#guest-access>
#[tokio::test]
async fn guests_join_only_where_guests_may() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let guest = Session { guest: true, ..sim.user("guest").await };
    let room = sim.room(&alice, Preset::Public).await;
    assert!(matches!(sim.join(&guest, &room).await, Err(RoomError::GuestAccess)));
    let open = json!({ "guest_access": "can_join" });
    sim.state(&alice, &room, "m.room.guest_access", open).await.unwrap();
    sim.join(&guest, &room).await.unwrap();
    let outcome = sim.change(&guest, &room, &alice, Change::Kick).await;
    assert!(matches!(outcome, Err(RoomError::GuestAccess)));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#events-on-change-of-profile-information>
#[tokio::test]
async fn a_changed_name_reaches_the_rooms_once() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    let number = sim.db.rooms().find(&sim.db, &*room).await.unwrap().unwrap();
    let profile = Profile { displayname: Some("Alice".to_owned()), avatar_url: None };
    sim.profiles.lock().insert(alice.user, profile);
    let mut batch = crate::storage::Batch::new();
    PROFILE_UPDATES.put(&mut batch, &alice.user, &());
    sim.db.commit(batch).await.unwrap();
    sim.rooms.drain_profile_updates().await.unwrap();
    let members = sim.rooms.joined_members(&alice, &room).await.unwrap();
    assert_eq!(members[0].1.displayname.as_deref(), Some("Alice"));
    assert!(!PROFILE_UPDATES.contains(&sim.db, &alice.user).await.unwrap());
    let last = sim.rooms.last_position(number).await.unwrap();
    sim.rooms.propagate_profile(alice.user, &members[0].1).await.unwrap();
    assert_eq!(sim.rooms.last_position(number).await.unwrap(), last);
}

/// What was interrupted goes on after a restart, and rooms that were left already are left alone.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
#[tokio::test]
async fn a_closed_account_leaves_all_its_rooms_also_after_an_interruption() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let left = sim.room(&alice, Preset::Public).await;
    let joined = sim.room(&alice, Preset::Public).await;
    let invited = sim.room(&alice, Preset::Private).await;
    let knocked = sim.room(&alice, Preset::Private).await;
    let banned = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &left).await.unwrap();
    sim.join(&bob, &joined).await.unwrap();
    sim.change(&alice, &invited, &bob, Change::Invite).await.unwrap();
    let rule = json!({ "join_rule": "knock" });
    sim.state(&alice, &knocked, "m.room.join_rules", rule).await.unwrap();
    sim.change(&bob, &knocked, &bob, Change::Knock).await.unwrap();
    sim.change(&alice, &banned, &bob, Change::Ban).await.unwrap();
    let mut batch = crate::storage::Batch::new();
    CLOSED_ACCOUNTS.put(&mut batch, &bob.user, &());
    sim.db.commit(batch).await.unwrap();
    sim.change(&bob, &left, &bob, Change::Leave).await.unwrap();
    let number = sim.db.rooms().find(&sim.db, &*left).await.unwrap().unwrap();
    let last = sim.rooms.last_position(number).await.unwrap();

    let sim = Sim::over(sim.db.clone()).await;
    sim.rooms.drain_closed_accounts().await.unwrap();
    for room in [&left, &joined, &invited, &knocked, &banned] {
        let room = sim.rooms.room(room).await.unwrap();
        let row = sim.rooms.user_room(bob.user, room.number).await.unwrap().unwrap();
        let expected = if room.id == banned { Membership::Ban } else { Membership::Leave };
        assert_eq!(row.membership, expected);
    }
    assert_eq!(sim.rooms.last_position(number).await.unwrap(), last);
    assert!(!CLOSED_ACCOUNTS.contains(&sim.db, &bob.user).await.unwrap());
    assert_eq!(sim.rooms.joined_rooms(alice.user).await.unwrap().len(), 5);
}

#[tokio::test]
async fn members_are_filtered_and_read_as_of_a_position() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = sim.room(&alice, Preset::Public).await;
    let alone = sim.db.visible_position();
    sim.join(&bob, &room).await.unwrap();
    sim.clock.advance(Duration::from_secs(1));
    sim.change(&bob, &room, &bob, Change::Leave).await.unwrap();
    let members = async |at, is, not| {
        sim.rooms.member_events(&alice, &room, at, is, not).await.unwrap().len()
    };
    assert_eq!(members(None, None, None).await, 2);
    assert_eq!(members(None, Some("join"), None).await, 1);
    assert_eq!(members(None, None, Some("join")).await, 1);
    assert_eq!(members(Some(alone), None, None).await, 1);
    assert_eq!(sim.rooms.joined_room_ids(bob.user).await.unwrap(), Vec::<OwnedRoomId>::new());
    assert!(matches!(
        sim.rooms.joined_members(&bob, &room).await,
        Err(RoomError::NotInRoom { .. })
    ));
    let stranger = UserId::parse("@far:elsewhere.example").unwrap();
    let outcome = sim.rooms.change_membership(&alice, &room, &stranger, Change::Invite, None).await;
    assert!(matches!(outcome, Err(RoomError::RemoteUser { .. })));
}
