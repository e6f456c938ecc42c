//! Making rooms, naming them, going on elsewhere.

use super::*;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn a_new_room_begins_with_the_events_of_the_spec_in_its_order() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    for version in SUPPORTED_VERSIONS {
        let new = NewRoom {
            version: Some(version.clone()),
            name: Some("Tea".to_owned()),
            topic: Some("Leaves".to_owned()),
            alias_name: Some(format!("tea{version}")),
            invite: vec![bob.user_id.clone()],
            is_direct: true,
            initial_state: vec![Draft::state(
                "m.room.history_visibility",
                "",
                object(json!({ "history_visibility": "joined" })),
            )],
            ..new_room(Preset::Private)
        };
        let room = sim.rooms.create(&alice, &new).await.unwrap();
        let mut page = sim.page(&alice, &room).await.unwrap();
        page.chunk.reverse();
        let events: Vec<JsonValue> = page.chunk.iter().map(|event| read(event)).collect();
        let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(
            types,
            [
                "m.room.create",
                "m.room.member",
                "m.room.power_levels",
                "m.room.canonical_alias",
                "m.room.join_rules",
                "m.room.guest_access",
                "m.room.history_visibility",
                "m.room.name",
                "m.room.topic",
                "m.room.member",
            ]
        );
        assert_eq!(events[0]["content"]["room_version"], version.as_str());
        assert_eq!(events[0]["room_id"], room.as_str());
        assert_eq!(events[6]["content"]["history_visibility"], "joined");
        assert_eq!(events[9]["content"]["is_direct"], true);
        assert_eq!(events[9]["state_key"], "@bob:localhost");
        // Version 12 rooms are named after their create event, and creators are above every level.
        let named_after_it = room.as_str()[1..] == events[0]["event_id"].as_str().unwrap()[1..];
        assert_eq!(named_after_it, version == RoomVersionId::V12);
        let own_level = &events[2]["content"]["users"]["@alice:localhost"];
        assert_eq!(own_level.is_null(), version == RoomVersionId::V12);
        // One extremity, after ten events.
        let number = sim.db.rooms().find(&sim.db, &*room).await.unwrap().unwrap();
        let range = Range::prefix(&(number,));
        assert_eq!(FORWARD_EXTREMITIES.scan(&sim.db, &range, 10).await.unwrap().len(), 1);
        assert_eq!(TIMELINE.scan(&sim.db, &Range::prefix(&(number,)), 99).await.unwrap().len(), 10);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom>
#[tokio::test]
async fn a_room_that_cannot_begin_as_asked_is_not_made_at_all() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let new = NewRoom {
        version: Some(RoomVersionId::V11),
        name: Some("Tea".to_owned()),
        power_levels: object(json!({ "users": { "@alice:localhost": 10 } })),
        ..new_room(Preset::Private)
    };
    let outcome = sim.rooms.create(&alice, &new).await;
    assert!(matches!(outcome, Err(RoomError::InvalidRoomState { .. })));
    assert!(sim.rooms.joined_rooms(alice.user).await.unwrap().is_empty());

    let version = Some("org.example.unheard".try_into().unwrap());
    let old = sim.rooms.create(&alice, &NewRoom { version, ..new_room(Preset::Private) }).await;
    assert!(matches!(old, Err(RoomError::UnsupportedRoomVersion { .. })));

    let alias_name = Some("tea".to_owned());
    let named = NewRoom { alias_name, ..new_room(Preset::Private) };
    sim.rooms.create(&alice, &named).await.unwrap();
    let again = sim.rooms.create(&alice, &named).await;
    assert!(matches!(again, Err(RoomError::AliasTaken { creating: true, .. })));
}

/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#event-format>
#[tokio::test]
async fn rooms_made_in_the_same_moment_are_different_rooms() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let first = sim.room(&alice, Preset::Private).await;
    let second = sim.room(&alice, Preset::Private).await;
    assert_ne!(first, second);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-aliases>
#[tokio::test]
async fn an_alias_leads_to_one_room_and_is_taken_away_by_who_may() {
    let sim = Sim::new().await;
    let (alice, bob) = (sim.user("alice").await, sim.user("bob").await);
    let room = sim.room(&alice, Preset::Public).await;
    sim.join(&bob, &room).await.unwrap();
    let alias = <&ruma::RoomAliasId>::try_from("#tea:localhost").unwrap();
    let canonical = json!({ "alias": alias });
    let early = sim.state(&alice, &room, "m.room.canonical_alias", canonical.clone()).await;
    assert!(matches!(early, Err(RoomError::BadAlias { .. })));
    sim.rooms.create_alias(&alice, alias, &room).await.unwrap();
    sim.state(&alice, &room, "m.room.canonical_alias", canonical).await.unwrap();
    assert_eq!(sim.rooms.resolve(alias).await.unwrap(), room);
    let again = sim.rooms.create_alias(&bob, alias, &room).await;
    assert!(matches!(again, Err(RoomError::AliasTaken { creating: false, .. })));
    assert!(is_forbidden(&sim.rooms.delete_alias(&bob, alias).await));
    assert_eq!(sim.rooms.aliases(&bob, &room).await.unwrap(), [alias]);
    sim.rooms.delete_alias(&alice, alias).await.unwrap();
    assert!(matches!(sim.rooms.resolve(alias).await, Err(RoomError::UnknownAlias { .. })));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>
#[tokio::test]
async fn an_upgraded_room_goes_on_elsewhere_with_its_name_bans_and_aliases() {
    let sim = Sim::new().await;
    let (alice, bob, carl) =
        (sim.user("alice").await, sim.user("bob").await, sim.user("carl").await);
    for (from, to) in [
        (RoomVersionId::V10, RoomVersionId::V12),
        (RoomVersionId::V12, RoomVersionId::V11),
        (RoomVersionId::V1, RoomVersionId::V10),
    ] {
        let alias_name = Some(format!("tea{from}"));
        let version = Some(from.clone());
        let new = NewRoom { version, alias_name, public: true, ..new_room(Preset::Public) };
        let old = sim.rooms.create(&alice, &new).await.unwrap();
        sim.join(&bob, &old).await.unwrap();
        sim.state(&alice, &old, "m.room.name", json!({ "name": "Tea" })).await.unwrap();
        sim.change(&alice, &old, &carl, Change::Ban).await.unwrap();
        assert!(is_forbidden(&sim.rooms.upgrade(&bob, &old, &to, &[]).await));

        let room = sim.rooms.upgrade(&alice, &old, &to, &[]).await.unwrap();
        let state = async |room: &OwnedRoomId, event_type: &str, key: &str| {
            let content = sim.rooms.readable_state_event(&alice, room, event_type, key, false);
            read(&content.await.unwrap())
        };
        let create = state(&room, "m.room.create", "").await;
        assert_eq!(create["predecessor"]["room_id"], old.as_str());
        assert_eq!(create["predecessor"]["event_id"].is_null(), to == RoomVersionId::V12);
        assert_eq!(state(&room, "m.room.name", "").await["name"], "Tea");
        assert_eq!(state(&room, "m.room.join_rules", "").await["join_rule"], "public");
        assert_eq!(state(&room, "m.room.member", "@carl:localhost").await["membership"], "ban");
        let levels = state(&room, "m.room.power_levels", "").await;
        assert_eq!(
            levels["users"]["@alice:localhost"].as_i64(),
            (to != RoomVersionId::V12).then_some(100)
        );
        let tombstone = state(&old, "m.room.tombstone", "").await;
        assert_eq!(tombstone["replacement_room"], room.as_str());
        assert_eq!(state(&old, "m.room.power_levels", "").await["events_default"], 50);
        let alias = ruma::RoomAliasId::parse(format!("#tea{from}:localhost")).unwrap();
        assert_eq!(sim.rooms.resolve(&alias).await.unwrap(), room);
        assert_eq!(state(&room, "m.room.canonical_alias", "").await["alias"], alias.as_str());
        assert_eq!(state(&old, "m.room.canonical_alias", "").await, json!({}));
        assert!(sim.rooms.is_public(&room).await.unwrap());
        assert!(!sim.rooms.is_public(&old).await.unwrap());
        assert!(is_forbidden(&sim.say(&bob, &old, "still here?").await));
        sim.join(&bob, &room).await.unwrap();
        sim.say(&bob, &room, "here").await.unwrap();
    }
    let unheard = "org.example.unheard".try_into().unwrap();
    let room = sim.room(&alice, Preset::Private).await;
    let outcome = sim.rooms.upgrade(&alice, &room, &unheard, &[]).await;
    assert!(matches!(outcome, Err(RoomError::UnsupportedRoomVersion { .. })));
}
