//! Changes that come again or at the same time.

use super::*;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers>
#[tokio::test]
async fn a_retry_is_answered_with_the_event_that_was_made() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Private).await;
    let first = sim.say(&alice, &room, "once").await.unwrap();
    // Also when the retries race each other, and on a server that was restarted.
    let sim = Sim::over(sim.db.clone()).await;
    let (again, other, same_other) = tokio::join!(
        sim.say(&alice, &room, "once"),
        sim.say(&alice, &room, "other"),
        sim.say(&alice, &room, "other"),
    );
    assert_eq!(again.unwrap(), first);
    assert_eq!(other.unwrap(), same_other.unwrap());
    assert_eq!(sim.texts(&alice, &room).await, ["once", "other"]);

    let phone = Session { device_id: "phone".into(), ..alice.clone() };
    assert_ne!(sim.say(&phone, &room, "once").await.unwrap(), first, "another device");

    // The device that chose it sees its transaction ID, and nobody else does.
    let transaction = async |who: &Session| {
        read(&sim.rooms.event(who, &room, &first).await.unwrap())["unsigned"]["transaction_id"]
            .clone()
    };
    assert_eq!(transaction(&alice).await, "once");
    assert!(transaction(&phone).await.is_null());
}

#[tokio::test]
async fn many_who_send_at_once_make_one_line_of_events() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let room = sim.room(&alice, Preset::Public).await;
    let before = sim.page(&alice, &room).await.unwrap().chunk.len();
    let mut sending = Vec::new();
    for user in 0..16 {
        let user = sim.user(&format!("user{user}")).await;
        let (rooms, room) = (sim.rooms.clone(), room.clone());
        sending.push(tokio::spawn(async move {
            rooms.change_membership(&user, &room, &user.user_id, Change::Join, None).await.unwrap();
            for n in 0..4 {
                let txn = format!("txn{n}");
                let content = object(json!({ "body": n }));
                let sent = rooms
                    .send(&user, &room, "m.room.message", txn.as_str().into(), content.clone())
                    .await;
                // The same again, as an impatient client would.
                let again =
                    rooms.send(&user, &room, "m.room.message", txn.as_str().into(), content).await;
                assert_eq!(sent.unwrap(), again.unwrap());
            }
        }));
    }
    for task in sending {
        task.await.unwrap();
    }
    let mut page = sim.page(&alice, &room).await.unwrap();
    assert_eq!(page.chunk.len(), before + 16 * 5);
    page.chunk.reverse();
    // Each is deeper than the one before it, and refers to it.
    let number = sim.db.rooms().find(&sim.db, &*room).await.unwrap().unwrap();
    let loaded = sim.rooms.numbered(number).await.unwrap();
    let line = sim
        .rooms
        .timeline(&sim.db, &loaded, Boundary::START, Boundary::END, 999, Direction::Forward)
        .await
        .unwrap();
    for pair in line.windows(2) {
        let [(_, _, parent), (_, _, event)] = pair else { unreachable!() };
        let json: JsonValue = serde_json::from_str(&event.json).unwrap();
        assert_eq!(json["prev_events"], json!([parent.event_id]));
        assert_eq!(event.depth, parent.depth + 1);
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#pdus>
#[tokio::test]
async fn after_many_changes_at_once_what_is_stored_follows_from_the_events() {
    let sim = Sim::new().await;
    let alice = sim.user("alice").await;
    let id = sim.room(&alice, Preset::Public).await;
    let mut tasks = Vec::new();
    for user in 0..16 {
        let user = sim.user(&format!("user{user}")).await;
        let (rooms, id, alice) = (sim.rooms.clone(), id.clone(), alice.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..3 {
                let me = &user.user_id;
                rooms.change_membership(&user, &id, me, Change::Join, None).await.unwrap();
                let content = object(json!({ "body": round }));
                let txn = format!("txn{round}");
                let kind = "m.room.message";
                rooms.send(&user, &id, kind, txn.as_str().into(), content).await.unwrap();
                let levels = object(json!({ "users": { me.as_str(): round } }));
                rooms.send_state(&alice, &id, "m.room.power_levels", "", levels).await.unwrap();
                rooms.change_membership(&user, &id, me, Change::Leave, None).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let room = sim.rooms.room(&id).await.unwrap();
    let findings = sim.rooms.check_room(&room).await.unwrap();
    assert_eq!(findings.problems, Vec::<String>::new());
    assert!(findings.events >= 16 * 3 * 4);
    // The same, read from the tables alone.
    let sim = Sim::over(sim.db.clone()).await;
    let room = sim.rooms.room(&id).await.unwrap();
    assert!(sim.rooms.check_room(&room).await.unwrap().problems.is_empty());
}
