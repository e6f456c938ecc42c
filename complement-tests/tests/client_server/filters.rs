//! Stored filters.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use complement_tests::{Server, must_match, peer::content_hash, text, timeline};
use serde_json::{Value, json};

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridfilter>
#[tokio::test]
async fn a_filter_is_stored_and_read_back() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let filter = json!({
        "room": { "timeline": { "limit": 7, "types": ["m.room.message"] } },
        "presence": { "types": ["m.presence"] },
        "event_fields": ["type", "content"],
    });
    let id = text(
        &alice.post(["user", &alice.user_id, "filter"], filter.clone()).await.ok(),
        "/filter_id",
    );
    assert!(!id.starts_with('{'), "a filter ID is told from a filter by its first character");
    must_match(&alice.get(["user", &alice.user_id, "filter", &id]).await.ok(), &filter);
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridfilterfilterid>
#[tokio::test]
async fn unknown_filters_are_not_found() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    alice.get(["user", &alice.user_id, "filter", "987654"]).await.fails(404, "M_NOT_FOUND");
    let answer = alice.get(["user", &alice.user_id, "filter", "no-number"]).await;
    assert!([400, 404].contains(&answer.status), "{answer}");
}

/// Nobody reads or makes another's filters.
#[tokio::test]
async fn filters_of_others_are_forbidden() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let path = ["user", alice.user_id.as_str(), "filter"];
    let id = text(&alice.post(path, json!({})).await.ok(), "/filter_id");
    mallory.get(["user", &alice.user_id, "filter", &id]).await.fails(403, "M_FORBIDDEN");
    mallory.post(path, json!({})).await.fails(403, "M_FORBIDDEN");
}

/// A filter of wrong types is refused when it is stored, not when it is used.
#[tokio::test]
async fn a_malformed_filter_is_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let path = ["user", alice.user_id.as_str(), "filter"];
    for filter in [
        json!({ "room": { "timeline": { "limit": "many" } } }),
        json!({ "room": { "rooms": "!one:example.org" } }),
        json!({ "event_format": "xml" }),
        json!({ "presence": { "senders": [7] } }),
    ] {
        alice.post(path, filter).await.fails(400, "M_BAD_JSON");
    }
}

/// A filter names the parts of events that are wanted: the rest is left out, of timelines and states,
/// whether the filter is stored or stands in the request.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>
#[tokio::test]
async fn events_come_with_the_fields_that_were_asked_for() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room_with(&[&bob]).await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "fields" })).await;
    let first = alice.say(&room, "hello").await;
    let content = json!({
        "msgtype": "m.text",
        "body": "an answer",
        "m.relates_to": { "rel_type": "m.thread", "event_id": first, "is_falling_back": true },
    });
    alice.send(&room, "m.room.message", content).await;
    bob.post(["rooms", &room, "receipt", "m.read", &first], json!({})).await.ok();
    let filter = json!({
        "event_fields": [
            "type", "content.body", r"content.m\.relates_to.rel_type", "content.topic", "state_key",
            "content.membership.none",
        ],
        "room": { "timeline": { "limit": 2 } },
    });
    let id = alice.post(["user", &alice.user_id, "filter"], filter.clone()).await.ok();
    for filter in [filter.to_string(), text(&id, "/filter_id")] {
        let response = alice.sync().with_filter(&filter).now().await;
        let joined = &response["rooms"]["join"][&room];
        let mut events = timeline(&response, &room);
        // What an event gathered since it was sent may come besides.
        for event in &mut events {
            event.as_object_mut().unwrap().remove("unsigned");
        }
        let hello = json!({ "type": "m.room.message", "content": { "body": "hello" } });
        let answer = json!({
            "type": "m.room.message",
            "content": { "body": "an answer", "m.relates_to": { "rel_type": "m.thread" } },
        });
        assert_eq!(events, [hello, answer], "{response:#}");
        let state = joined["state"]["events"].as_array().unwrap();
        let of = |event_type: &str| state.iter().find(|event| event["type"] == event_type).unwrap();
        let topic =
            json!({ "type": "m.room.topic", "state_key": "", "content": { "topic": "fields" } });
        assert_eq!(*of("m.room.topic"), topic, "{response:#}");
        let member = of("m.room.member");
        assert_eq!(member.get("content"), None, "{response:#}");
        assert!(member["state_key"].is_string(), "{response:#}");
        // Receipts are no events of the room: they have no such fields.
        let receipts = joined["ephemeral"]["events"].as_array().unwrap();
        let receipt = receipts.iter().find(|event| event["type"] == "m.receipt").unwrap();
        assert!(receipt["content"][&first]["m.read"][&bob.user_id].is_object(), "{response:#}");
    }
}

/// No fields at all are no wish, and too many are refused.
#[tokio::test]
async fn the_number_of_fields_is_bounded() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let said = alice.say(&room, "whole").await;
    let response = alice.sync().with_filter(r#"{"event_fields":[]}"#).now().await;
    let last = timeline(&response, &room).pop().unwrap();
    assert_eq!(last["event_id"], said.as_str(), "{last:#}");
    assert_eq!(last["content"]["body"], "whole", "{last:#}");
    let fields: Vec<String> = (0..1_001).map(|number| format!("content.{number}")).collect();
    let path = ["user", alice.user_id.as_str(), "filter"];
    alice.post(path, json!({ "event_fields": fields })).await.fails(413, "M_TOO_LARGE");
}

/// Events come as servers send them to each other, if that is asked for.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridfilter>
#[tokio::test]
async fn events_come_as_servers_send_them() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "room_version": "11" })).await;
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "raw" })).await;
    let redacted = alice.say(&room, "regretted").await;
    alice.put(["rooms", &room, "redact", &redacted, &alice.transaction()], json!({})).await.ok();
    let said = alice.say(&room, "hello").await;
    let mut filter = json!({
        "event_format": "federation",
        "room": { "timeline": { "limit": 3 } },
    });
    let response = alice.sync().with_filter(&filter.to_string()).now().await;
    let events = timeline(&response, &room);
    let joined = &response["rooms"]["join"][&room];
    let state = joined["state"]["events"].as_array().unwrap();
    let is_raw = |event: &Value| {
        assert_eq!(event["room_id"], room.as_str(), "{event:#}");
        assert!(event["signatures"][server.name()].is_object(), "{event:#}");
        for property in ["auth_events", "prev_events"] {
            assert!(event[property].is_array(), "{event:#}");
        }
        assert!(event["depth"].is_u64(), "{event:#}");
        assert!(event["event_id"].is_string(), "{event:#}");
    };
    events.iter().chain(state).for_each(is_raw);
    // What was signed is there as it was: its hash is right, but for what is added to it.
    for event in events.iter().chain(state).filter(|event| event["event_id"] != redacted.as_str()) {
        let mut signed = event.clone();
        signed.as_object_mut().unwrap().retain(|name, _| name != "event_id" && name != "unsigned");
        assert_eq!(event["hashes"]["sha256"], content_hash(&signed).as_str(), "{event:#}");
    }
    let [regretted, redaction, hello] = &events[..] else { panic!("{response:#}") };
    assert_eq!(regretted["content"], json!({}));
    assert_eq!(regretted["unsigned"]["redacted_because"]["event_id"], redaction["event_id"]);
    assert_eq!(hello["event_id"], said.as_str());
    assert_eq!(hello["content"]["body"], "hello");
    assert!(hello["unsigned"]["transaction_id"].is_string(), "{hello:#}");
    assert!(state.iter().any(|event| event["content"]["topic"] == "raw"), "{response:#}");

    // Both wishes together.
    filter["event_fields"] = json!(["hashes", "content.body"]);
    let response = alice.sync().with_filter(&filter.to_string()).now().await;
    let events = timeline(&response, &room);
    let expected = json!({ "hashes": hello["hashes"], "content": { "body": "hello" } });
    assert_eq!(*events.last().unwrap(), expected, "{response:#}");
}
