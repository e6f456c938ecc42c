//! A room that was joined without most of its members becomes whole, whoever comes and goes
//! meanwhile, and whatever those answer that are asked.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>

use complement_tests::peer::Pdu;
use complement_tests::wait_until;
use serde_json::{Value, json};

use crate::partial::{LAZY, Meeting};

#[tokio::test]
async fn who_left_before_all_members_were_known_comes_again() {
    let meeting = Meeting::new().await;
    let (bob, id) = (&meeting.bob, &meeting.room.id);
    bob.leave(id).await;
    let left = meeting.peer.gets_pdu(|pdu| pdu["content"]["membership"] == "leave").await;
    meeting.room.add(&Pdu::of(left));
    let unheard = meeting.room.message(&meeting.peer.user("eve"), "unheard");
    meeting.room.add(&meeting.peer.sign(unheard));
    meeting.server.kill_and_start_again();
    meeting.tell();
    meeting.comes_in(bob).await.ok();
    meeting.is_whole().await;
    meeting.talks("again").await;
}

/// Whether the rules let somebody in hangs on what they are to the room.
#[tokio::test]
async fn whoever_else_comes_in_waits_until_all_members_are_known() {
    let meeting = Meeting::new().await;
    let carol = meeting.server.register("carol").await;
    let (bob, id) = (&meeting.bob, &meeting.room.id);
    let joining = async {
        wait_until("the join", async || {
            let answer = meeting.comes_in(&carol).await;
            // So it says if it took too long.
            (answer.status != 503).then(|| answer.ok())
        })
        .await
    };
    let telling = async {
        let said = meeting.says(&meeting.other, "grace", "meanwhile").await;
        bob.sync().with_filter(LAZY).until_event(id, &said.id).await;
        assert_eq!(carol.get("joined_rooms").await.ok()["joined_rooms"], json!([]));
        meeting.tell();
    };
    tokio::join!(joining, telling);
    assert_eq!(carol.membership(id, &carol.user_id).await, "join");
    // The room goes on when whoever brought it here leaves.
    let came = meeting.peer.gets_pdu(|pdu| pdu["state_key"] == carol.user_id.as_str()).await;
    meeting.room.add(&Pdu::of(came));
    bob.leave(id).await;
    for peer in [&meeting.peer, &meeting.other] {
        peer.gets_pdu(|pdu| pdu["content"]["membership"] == "leave").await;
    }
    let members = carol.get(["rooms", id, "joined_members"]).await.ok();
    assert_eq!(members["joined"].as_object().map(serde_json::Map::len), Some(4), "{members}");
    let said = carol.say(id, "still here").await;
    meeting.other.gets_pdu(|pdu| Pdu::of(pdu.clone()).id == said).await;
}

/// What the server that the room was joined through may answer instead of the state.
async fn another_is_asked_after(status: u16, body: Value) {
    let meeting = Meeting::new().await;
    meeting.peer.answer("/state_ids/", status, body);
    meeting.other_tells();
    meeting.is_whole().await;
    assert!(!meeting.peer.received("/state_ids/").is_empty());
    meeting.talks("whole").await;
}

#[tokio::test]
async fn another_server_is_asked_if_the_first_is_overburdened() {
    another_is_asked_after(503, json!({ "errcode": "M_UNKNOWN", "error": "too much" })).await;
}

#[tokio::test]
async fn another_server_is_asked_if_the_first_answers_nonsense() {
    another_is_asked_after(200, json!({ "pdu_ids": "all", "auth_chain_ids": 7 })).await;
}

#[tokio::test]
async fn another_server_is_asked_if_the_first_names_a_state_that_can_not_be() {
    another_is_asked_after(200, json!({ "pdu_ids": [], "auth_chain_ids": [] })).await;
}

#[tokio::test]
async fn another_server_is_asked_if_the_first_is_gone() {
    let meeting = Meeting::new().await;
    meeting.peer.gets("/state_ids/").await;
    meeting.peer.go_away().await;
    meeting.other_tells();
    meeting.is_whole().await;
    meeting.peer.come_back().await;
    meeting.talks("whole").await;
}

#[tokio::test]
async fn the_only_server_that_tells_may_be_away_for_a_while() {
    let meeting = Meeting::naming(|peer, _| vec![peer.name().to_owned()]).await;
    meeting.peer.gets("/state_ids/").await;
    meeting.peer.go_away().await;
    let said = meeting.bob.say(&meeting.room.id, "is anybody there").await;
    meeting.server.kill_and_start_again();
    meeting.tell();
    assert!(!meeting.is_shown().await);
    meeting.peer.come_back().await;
    let is_said = |pdu: &Value| Pdu::of(pdu.clone()).id == said;
    // Whoever is heard of is asked again.
    meeting.says(&meeting.peer, "frank", "back").await;
    meeting.is_whole().await;
    for peer in [&meeting.peer, &meeting.other] {
        peer.gets_pdu(is_said).await;
    }
}
