//! What other servers may ask besides: joins without members, old forms of requests, times,
//! invitations by address.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use http::Method;
use ruma::{
    MilliSecondsSinceUnixEpoch,
    api::{
        Direction,
        federation::{event::get_event_by_timestamp, query::get_custom_information},
    },
};
use serde_json::value::RawValue;

use super::*;

fn types(events: &[Box<RawValue>]) -> Vec<String> {
    let read = |event: &RawValue| -> Value { serde_json::from_str(event.get()).unwrap() };
    events.iter().map(|event| read(event)["type"].as_str().unwrap().to_owned()).collect()
}

impl Peer {
    /// A join of this room that is signed and not sent yet.
    async fn prepared(&self, to: &ServerName, room: &str, user: &str) -> (String, Value) {
        let (room_id, user_id) = (room.try_into().unwrap(), user.try_into().unwrap());
        let mut request = prepare_join_event::v1::Request::new(room_id, user_id);
        request.ver = vec![RoomVersionId::V11];
        let made = self.federation.ask(to, request, LIMITS).await.unwrap();
        self.sign(serde_json::from_str(made.event.get()).unwrap())
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
#[tokio::test]
async fn a_join_can_do_without_members() {
    let network = Network::default();
    let (b, bob, _, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let peer = Peer::new(&network, "late.example", 11).await;
    for named in [false, true] {
        if named {
            let path = format!("/v3/rooms/{}/state/m.room.name/", joined.room);
            assert_eq!(b.put(&path, &bob, json!({ "name": "n" })).await.0, StatusCode::OK);
        }
        let (id, join) = peer.prepared(&us, &joined.room, "@lou:late.example").await;
        let mut request = create_join_event::v2::Request::new(
            joined.room.as_str().try_into().unwrap(),
            id.as_str().try_into().unwrap(),
            to_raw_value(&join).unwrap(),
        );
        request.omit_members = true;
        let state = peer.federation.ask(&us, request, LIMITS).await.unwrap().room_state;
        assert!(state.members_omitted);
        let mut servers = state.servers_in_room.unwrap();
        servers.retain(|server| server != "late.example");
        assert_eq!(servers, ["b.example", "peer.example"]);
        let types = types(&state.state);
        assert!(types.iter().any(|kind| kind == "m.room.power_levels"));
        // By whom it is known, as long as it has no name.
        let members = types.iter().filter(|kind| *kind == "m.room.member").count();
        assert_eq!(members > 0, !named, "{types:?}");
        // What authorizes the join is all there.
        let rules = RoomVersionId::V11.rules().unwrap();
        let ids: Vec<String> = state
            .state
            .iter()
            .chain(&state.auth_chain)
            .map(|event| serde_json::from_str::<CanonicalJsonObject>(event.get()).unwrap())
            .map(|event| format!("${}", reference_hash(&event, &rules).unwrap()))
            .collect();
        for cited in join["auth_events"].as_array().unwrap() {
            assert!(ids.iter().any(|id| id == cited.as_str().unwrap()), "{cited}");
        }
        let mut once = ids.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), ids.len(), "nothing comes twice");
    }
}

/// Version 1 of these endpoints puts the status into the body.
#[tokio::test]
async fn old_servers_are_answered_in_their_form() {
    let network = Network::default();
    let (b, bob, _, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let peer = Peer::new(&network, "old.example", 11).await;
    let (id, join) = peer.prepared(&us, &joined.room, "@olga:old.example").await;
    let path = format!("/_matrix/federation/v1/send_join/{}/{id}", joined.room);
    let answer = peer.put(&network, &us, &path, &join).await;
    assert_eq!(answer.0, StatusCode::OK, "{}", answer.1);
    assert_eq!(answer.1[0], 200);
    assert!(!answer.1[1]["state"].as_array().unwrap().is_empty());
    assert_eq!(membership(&b, &bob, &joined.room, "@olga:old.example").await, "join");

    // Rooms of the first versions choose the IDs of their events.
    let invite = json!({
        "type": "m.room.member", "state_key": bob.user_id, "sender": "@olga:old.example",
        "room_id": "!old:old.example", "event_id": "$invite:old.example", "depth": 9,
        "origin_server_ts": START_MS, "content": { "membership": "invite" },
        "prev_events": [], "auth_events": [],
    });
    let mut invite: CanonicalJsonObject = serde_json::from_value(invite).unwrap();
    let rules = RoomVersionId::V1.rules().unwrap();
    let key = &peer.federation.shared.key_pair;
    hash_and_sign_event(peer.name().as_str(), key, &mut invite, &rules.redaction).unwrap();
    let mut invite = json!(invite);
    invite["unsigned"] = json!({ "invite_room_state": [
        { "type": "m.room.name", "state_key": "", "sender": "@olga:old.example",
          "content": { "name": "Old" } },
    ]});
    let path = "/_matrix/federation/v1/invite/!old:old.example/$invite:old.example";
    let (status, answer) = peer.put(&network, &us, path, &invite).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer[1]["event"]["signatures"]["b.example"].is_object(), "{answer}");
    let (_, sync) = b.get("/v3/sync", Some(&bob)).await;
    let state = &sync["rooms"]["invite"]["!old:old.example"]["invite_state"]["events"];
    assert_eq!(state[0]["content"]["name"], "Old", "{sync}");
}

impl Peer {
    /// A signed `PUT` that no type of ruma has.
    async fn put(
        &self,
        network: &Network,
        to: &ServerName,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        use ::federation::Transport as _;
        let bytes = bytes::Bytes::from(body.to_string());
        let key = &self.federation.shared.key;
        let signed = json!({
            "method": "PUT", "uri": path, "origin": self.name(), "destination": to,
            "content": body,
        });
        let signature = key.sign(signed.to_string().as_bytes());
        let header = format!(
            "X-Matrix origin=\"{}\",destination=\"{to}\",key=\"{}\",sig=\"{signature}\"",
            self.name(),
            key.key_id(),
        );
        let request = http::Request::builder()
            .method(Method::PUT)
            .uri(format!("https://{to}{path}"))
            .header(http::header::AUTHORIZATION, header)
            .body(bytes)
            .unwrap();
        let answer = network.send(to, request, LIMITS).await.unwrap();
        (answer.status(), serde_json::from_slice(answer.body()).unwrap())
    }
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid>
#[tokio::test]
async fn a_time_leads_to_an_event_for_who_is_in_the_room() {
    let network = Network::default();
    let (b, bob, peer, joined) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    b.clock.advance(Duration::from_mins(1));
    let event = send(&b, &bob, &joined.room, "later").await;
    let room_id: ruma::OwnedRoomId = joined.room.as_str().try_into().unwrap();
    let ts = MilliSecondsSinceUnixEpoch((START_MS + 1).try_into().unwrap());
    let ask = |direction| get_event_by_timestamp::v1::Request::new(room_id.clone(), ts, direction);
    let answer = peer.federation.ask(&us, ask(Direction::Forward), LIMITS).await.unwrap();
    assert_eq!(answer.event_id, event);
    assert_eq!(u64::from(answer.origin_server_ts.0), START_MS + 60_000);
    let answer = peer.federation.ask(&us, ask(Direction::Backward), LIMITS).await.unwrap();
    assert_eq!(u64::from(answer.origin_server_ts.0), START_MS);
    let stranger = Peer::new(&network, "stranger.example", 10).await;
    let error = stranger.federation.ask(&us, ask(Direction::Forward), LIMITS).await.unwrap_err();
    assert!(matches!(error, PeerError::Refused { status: StatusCode::FORBIDDEN, .. }), "{error:?}");
}

/// What a user is led to by a time may be on another server only.
#[tokio::test]
async fn a_time_before_the_join_is_looked_for_elsewhere() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let room = room(&b, &bob, json!({ "preset": "public_chat" })).await;
    b.clock.advance(Duration::from_mins(1));
    let before = send(&b, &bob, &room, "before").await;
    b.clock.advance(Duration::from_mins(1));
    send(&b, &bob, &room, "between").await;
    a.clock.advance(Duration::from_mins(3));
    join(&a, &alice, &room).await;
    let ts = START_MS + 61_000;
    let path = format!("/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir=b");
    let (status, answer) = a.get(&path, Some(&alice)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["event_id"], json!(before));
    let path = format!("/v3/rooms/{room}/context/{before}");
    assert_eq!(a.get(&path, Some(&alice)).await.0, StatusCode::OK, "and it can be read");
}

#[tokio::test]
async fn a_question_of_no_known_kind_is_not_recognized() {
    let network = Network::default();
    let (b, ..) = meeting(&network).await;
    let us = b.server.federation().server_name().to_owned();
    let peer = Peer::new(&network, "curious.example", 11).await;
    let request =
        get_custom_information::v1::Request::new("weather".to_owned(), BTreeMap::default());
    let error = peer.federation.ask(&us, request, LIMITS).await.unwrap_err();
    assert!(matches!(error, PeerError::Refused { status: StatusCode::NOT_FOUND, .. }), "{error:?}");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>
#[tokio::test]
async fn an_invited_address_becomes_an_invited_user() {
    let network = Network::default();
    let (a, b, alice, bob) = two(&network).await;
    let room = room(&b, &bob, json!({ "preset": "private_chat" })).await;
    let identity = SigningKey::from_bytes(&[7; 32]);
    let public_key = BASE64_STANDARD_NO_PAD.encode(identity.verifying_key().as_bytes());
    let content = json!({
        "display_name": "al...@mail...", "key_validity_url": "https://id.example/valid",
        "public_key": public_key, "public_keys": [{ "public_key": public_key }],
    });
    let path = format!("/v3/rooms/{room}/state/m.room.third_party_invite/tok");
    assert_eq!(b.put(&path, &bob, content).await.0, StatusCode::OK);

    let bound = |token: &str, sender: &str, key: &SigningKey| {
        let unsigned = json!({ "mxid": alice.user_id, "token": token });
        let signature = key.sign(unsigned.to_string().as_bytes()).to_bytes();
        let signature = BASE64_STANDARD_NO_PAD.encode(signature);
        let mut signed = unsigned;
        signed["signatures"] = json!({ "id.example": { "ed25519:0": signature } });
        json!({
            "medium": "email", "address": "alice@mail.example", "mxid": alice.user_id,
            "invites": [{
                "medium": "email", "address": "alice@mail.example", "mxid": alice.user_id,
                "room_id": room, "sender": sender, "signed": signed,
            }],
        })
    };
    let tell = async |body: Value| {
        let path = "/_matrix/federation/v1/3pid/onbind";
        a.request(Method::PUT, path, None, Some(&body)).await
    };
    let forger = SigningKey::from_bytes(&[8; 32]);
    for wrong in [bound("tok", &bob.user_id, &forger), bound("other", &bob.user_id, &identity)] {
        assert_eq!(tell(wrong).await.0, StatusCode::FORBIDDEN);
    }
    assert!(membership(&b, &bob, &room, &alice.user_id).await.is_null());
    let (status, answer) = tell(bound("tok", &bob.user_id, &identity)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(membership(&b, &bob, &room, &alice.user_id).await, "invite");
    let path = format!("/v3/join/{room}");
    assert_eq!(a.post(&path, Some(&alice), json!({})).await.0, StatusCode::OK);
}
