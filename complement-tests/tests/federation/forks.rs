//! Graphs that are made to be expensive, and gaps in them.

use complement_tests::peer::Pdu;
use serde_json::json;

use crate::Meeting;

/// Many ends of the graph at once: what is sent here builds on no more of them than an event may.
#[tokio::test]
async fn a_flood_of_forks_is_held_down() {
    let meeting = Meeting::new().await;
    let (peer, room) = (&meeting.peer, &meeting.room);
    let forks: Vec<Pdu> = (0..250)
        .map(|number| peer.sign(room.message(&meeting.eve, &format!("fork {number}"))))
        .collect();
    for part in forks.chunks(50) {
        let part: Vec<&Pdu> = part.iter().collect();
        peer.sends(&meeting.server, &part).await;
    }
    meeting.arrives(&forks[249].id).await;
    for number in 0..20 {
        let sent = meeting.alice.say(&room.id, &format!("join {number}")).await;
        let got = peer.gets_pdu(|pdu| Pdu::of(pdu.clone()).id == sent).await;
        let parents = got["prev_events"].as_array().map_or(0, Vec::len);
        assert!((1..=20).contains(&parents), "{parents} parents");
        if parents == 1 {
            return;
        }
    }
    panic!("the ends never come together again");
}

/// The deepest possible event leaves room for others after it.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v11/#event-format>
#[tokio::test]
async fn the_deepest_event_is_not_the_last() {
    let meeting = Meeting::new().await;
    let mut draft = meeting.room.message(&meeting.eve, "deep");
    let deepest = (1_u64 << 53) - 1;
    draft["depth"] = json!(deepest);
    let pdu = meeting.peer.sign(draft);
    meeting.peer.sends(&meeting.server, &[&pdu]).await;
    meeting.arrives(&pdu.id).await;
    let sent = meeting.alice.say(&meeting.room.id, "after").await;
    let got = meeting.peer.gets_pdu(|pdu| Pdu::of(pdu.clone()).id == sent).await;
    assert_eq!((&got["depth"], &got["prev_events"]), (&json!(deepest), &json!([pdu.id])));
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid>
#[tokio::test]
async fn a_gap_is_filled_before_what_comes_after_it() {
    let meeting = Meeting::new().await;
    let (peer, room, eve) = (&meeting.peer, &meeting.room, &meeting.eve);
    let content = |body: &str| json!({ "msgtype": "m.text", "body": body });
    let missed: Vec<Pdu> = (0..3)
        .map(|number| {
            room.send(peer, eve, "m.room.message", None, content(&format!("missed {number}")))
        })
        .collect();
    let last = room.send(peer, eve, "m.room.message", None, content("last"));
    let events: Vec<_> = missed.iter().map(|pdu| pdu.json.clone()).collect();
    peer.answer("/get_missing_events/", 200, json!({ "events": events }));
    peer.sends(&meeting.server, &[&last]).await;
    for pdu in missed.iter().chain([&last]) {
        meeting.arrives(&pdu.id).await;
    }
    let asked = &peer.received("/get_missing_events/")[0].body;
    assert_eq!(asked["latest_events"], json!([last.id]));
}

/// Lies about what lies between do not get in, and do not keep the rest out.
#[tokio::test]
async fn a_gap_that_is_filled_with_lies_stays_harmless() {
    let meeting = Meeting::new().await;
    let (peer, room, eve) = (&meeting.peer, &meeting.room, &meeting.eve);
    let content = json!({ "msgtype": "m.text", "body": "missed" });
    let missed = room.send(peer, eve, "m.room.message", None, content);
    let last = peer.sign(room.message(eve, "last"));
    let forged = peer.sign(room.message(&meeting.alice.user_id, "forged"));
    let mut elsewhere = room.message(eve, "elsewhere");
    elsewhere["room_id"] = json!("!elsewhere:127.0.0.1");
    let elsewhere = peer.sign(elsewhere);
    let lies = json!([forged.json, elsewhere.json, "rubbish", { "not": "an event" }, last.json]);
    peer.answer("/get_missing_events/", 200, json!({ "events": lies }));
    // Nor is there a state that is worth anything.
    peer.answer("/state_ids/", 200, json!({ "pdu_ids": ["$nowhere"], "auth_chain_ids": [] }));
    peer.sends(&meeting.server, &[&last]).await;
    peer.gets("/state_ids/").await;
    let said = meeting.alice.say(&room.id, "still here").await;
    meeting.arrives(&said).await;
    for pdu in [&forged, &elsewhere, &missed] {
        let path = ["rooms", &room.id, "event", &pdu.id];
        meeting.alice.get(path).await.fails(404, "M_NOT_FOUND");
    }
    let me = &meeting.alice.user_id;
    assert_eq!(meeting.alice.membership(&room.id, me).await, "join");
}
