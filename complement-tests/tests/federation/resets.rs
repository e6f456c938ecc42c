//! State that state resolution takes away again.

use complement_tests::peer::Pdu;
use serde_json::{Value, json};

use crate::Meeting;

/// Eve may set the topic, but not once Carol, who did not know of it, has taken that right from her:
/// where both meet there is no topic, as there was none before. A client that was shown the topic is
/// told that it is no longer there.
///
/// Proposal: <https://github.com/matrix-org/matrix-spec-proposals/pull/4186>
#[tokio::test]
async fn state_that_is_taken_away_leaves_a_stub() {
    let meeting = Meeting::new().await;
    let (server, alice) = (&meeting.server, &meeting.alice);
    let (peer, room, eve) = (&meeting.peer, &meeting.room, &meeting.eve);
    let carol = &peer.user("carol");
    let join = json!({ "membership": "join" });
    let join = room.send(peer, carol, "m.room.member", Some(carol), join);
    peer.sends(server, &[&join]).await;
    meeting.arrives(&join.id).await;
    let mut levels = alice.state(&room.id, "m.room.power_levels", "").await;
    levels["users"][carol] = json!(100);
    levels["users"][eve] = json!(50);
    alice.set_state(&room.id, "m.room.power_levels", "", levels.clone()).await;
    let promotion = |pdu: &Value| pdu["content"]["users"][carol] == 100;
    room.add(&Pdu::of(peer.gets_pdu(promotion).await));

    // Neither knows of the other.
    let topic = json!({ "topic": "contested" });
    let topic = peer.sign(room.draft(eve, "m.room.topic", Some(""), topic));
    levels["users"][eve] = json!(0);
    let demotion = peer.sign(room.draft(carol, "m.room.power_levels", Some(""), levels));
    peer.sends(server, &[&topic]).await;
    meeting.arrives(&topic.id).await;

    let state = json!({ "include": [{ "type": "m.room.topic" }, { "type": "m.room.name" }] });
    let ask = async |pos: &Value| {
        let mut body =
            json!({ "lists": { "all": { "timeline_limit": 5, "required_state": state } } });
        if pos.is_string() {
            body["pos"] = pos.clone();
        }
        alice.post("/_matrix/client/v4/sync", body).await.ok()
    };
    let first = ask(&Value::Null).await;
    let shown = &first["rooms"][&room.id]["required_state"];
    assert_eq!(shown[0]["content"]["topic"], "contested", "{first:#}");

    peer.sends(server, &[&demotion]).await;
    meeting.arrives(&demotion.id).await;
    alice.get(["rooms", &room.id, "state", "m.room.topic", ""]).await.fails(404, "M_NOT_FOUND");
    let second = ask(&first["pos"]).await;
    let told = &second["rooms"][&room.id];
    let stub = json!({ "type": "m.room.topic", "state_key": "" });
    assert_eq!(told["required_state"], json!([stub]), "{second:#}");
    assert_eq!(told["timeline_events"][0]["event_id"], demotion.id.as_str(), "{second:#}");
    let third = ask(&second["pos"]).await;
    assert_eq!(third["rooms"], json!({}), "it is told once");
}
