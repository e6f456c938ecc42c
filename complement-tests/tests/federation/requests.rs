//! Requests that are not what they say, and transactions that are too large or come twice.

use reqwest::Method;
use serde_json::{Value, json};

use crate::Meeting;

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>
#[tokio::test]
async fn a_request_counts_only_as_it_was_signed() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let path = format!("/_matrix/federation/v1/state_ids/{}", meeting.room.id);
    let path = format!("{path}?event_id={}", meeting.room.last());
    let signed = |destination: &str, method: &Method, path: &str| {
        peer.authorization(destination, method, path, None)
    };
    let ask =
        async |header: &str| peer.request_with(server, Method::GET, &path, None, header).await;
    ask(&signed(&server.name(), &Method::GET, &path)).await.ok();
    // Meant for another server, another path, another method.
    for header in [
        signed("other.example", &Method::GET, &path),
        signed(&server.name(), &Method::GET, "/_matrix/federation/v1/version"),
        signed(&server.name(), &Method::PUT, &path),
    ] {
        ask(&header).await.fails(401, "M_UNAUTHORIZED");
    }
    // Another server's name on it.
    let header = signed(&server.name(), &Method::GET, &path);
    ask(&header.replace(peer.name(), "127.0.0.1:1")).await.fails(401, "M_UNAUTHORIZED");
    for rubbish in ["", "X-Matrix", "X-Matrix origin=", "Bearer x", "X-Matrix origin=\"\",sig=\"\""]
    {
        ask(rubbish).await.fails(401, "M_UNAUTHORIZED");
    }
}

#[tokio::test]
async fn the_body_is_part_of_what_is_signed() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let path = "/_matrix/federation/v1/send/1";
    let body = |pdus: Value| json!({ "origin": peer.name(), "origin_server_ts": 1, "pdus": pdus, "edus": [] });
    let header = peer.authorization(&server.name(), &Method::PUT, path, Some(&body(json!([]))));
    let other = body(json!([{ "room_id": "!x:y" }]));
    let answer = peer.request_with(server, Method::PUT, path, Some(&other), &header).await;
    answer.fails(401, "M_UNAUTHORIZED");
    let mut foreign = body(json!([]));
    foreign["origin"] = json!("other.example");
    peer.put(server, path, &foreign).await.fails(403, "M_FORBIDDEN");
}

/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>
#[tokio::test]
async fn a_transaction_that_comes_again_counts_once() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let first = peer.sign(meeting.room.message(&meeting.eve, "first"));
    let second = peer.sign(meeting.room.message(&meeting.eve, "second"));
    let answer = peer.transact_as(server, "same", &[&first], &[]).await.ok();
    assert_eq!(answer["pdus"], json!({ &first.id: {} }));
    meeting.arrives(&first.id).await;
    let again = peer.transact_as(server, "same", &[&second], &[]).await.ok();
    assert_eq!(again, answer);
    meeting.is_hidden(&second.id).await;
    // The event that comes again in another one is taken, and shown once.
    peer.sends(server, &[&first, &first]).await;
    meeting.all_is_taken_in().await;
    let path = format!("rooms/{}/messages?dir=b&limit=100", meeting.room.id);
    let page = meeting.alice.get(path).await.ok();
    let chunk = page["chunk"].as_array().into_iter().flatten();
    assert_eq!(chunk.filter(|event| event["event_id"] == first.id).count(), 1);
}

/// Old room versions allow numbers that canonical JSON has no place for.
#[tokio::test]
async fn an_event_with_a_number_out_of_bounds_harms_no_other() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let good = peer.sign(meeting.room.message(&meeting.eve, "good"));
    for number in [json!(9_007_199_254_740_993_u64), json!(0.5)] {
        let mut bad = peer.sign(meeting.room.message(&meeting.eve, "bad"));
        bad.json["content"]["number"] = number;
        let answer = peer.transact(server, &[&bad, &good], &[]).await.ok();
        assert_eq!(answer["pdus"], json!({ &good.id: {} }));
    }
    meeting.arrives(&good.id).await;
}

#[tokio::test]
async fn a_transaction_has_bounds() {
    let meeting = Meeting::new().await;
    let (peer, server) = (&meeting.peer, &meeting.server);
    let pdu = peer.sign(meeting.room.message(&meeting.eve, "many"));
    peer.transact(server, &[&pdu; 51], &[]).await.fails(400, "M_INVALID_PARAM");
    let edu = json!({ "edu_type": "org.example.unknown", "content": {} });
    peer.transact(server, &[], &vec![edu.clone(); 101]).await.fails(400, "M_INVALID_PARAM");
    peer.transact(server, &[], &vec![edu; 100]).await.ok();
    let long = "t".repeat(300);
    peer.transact_as(server, &long, &[], &[]).await.fails(400, "M_INVALID_PARAM");
    // Of rooms that are not here there is nothing to say.
    let mut elsewhere = meeting.room.message(&meeting.eve, "elsewhere");
    elsewhere["room_id"] = json!("!elsewhere:127.0.0.1");
    let elsewhere = peer.sign(elsewhere);
    let answer = peer.transact(server, &[&elsewhere, &pdu], &[]).await.ok();
    assert_eq!(answer["pdus"], json!({ &pdu.id: {} }));
}
