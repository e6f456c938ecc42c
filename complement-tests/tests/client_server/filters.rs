//! Stored filters.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use complement_tests::{Server, must_match, text};
use serde_json::json;

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
