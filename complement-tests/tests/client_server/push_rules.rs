//! Reading and changing push rules.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules-api>

use complement_tests::{Client, Server};
use serde_json::{Value, json};

async fn rule(client: &Client, kind: &str, id: &str) -> Value {
    client.get(["pushrules/global", kind, id]).await.ok()
}

fn ids(rules: &Value, kind: &str) -> Vec<String> {
    let rules = rules[kind].as_array().unwrap().iter();
    rules.map(|rule| rule["rule_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_rule_is_made_read_switched_changed_and_deleted() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let path = ["pushrules/global", "content", "cheese"];
    let body = json!({ "pattern": "cheese", "actions": ["notify"] });
    alice.put(path, body).await.ok();
    let made = rule(&alice, "content", "cheese").await;
    assert_eq!(made["pattern"], "cheese");
    assert_eq!((&made["enabled"], &made["default"]), (&json!(true), &json!(false)));

    let part = |what: &'static str| ["pushrules/global", "content", "cheese", what];
    assert_eq!(alice.get(part("enabled")).await.ok(), json!({ "enabled": true }));
    alice.put(part("enabled"), json!({ "enabled": false })).await.ok();
    assert_eq!(alice.get(part("enabled")).await.ok(), json!({ "enabled": false }));
    let actions = json!({ "actions": ["notify", { "set_tweak": "highlight" }] });
    alice.put(part("actions"), actions.clone()).await.ok();
    assert_eq!(alice.get(part("actions")).await.ok(), actions);

    alice.delete(path).await.ok();
    alice.get(path).await.fails(404, "M_NOT_FOUND");
    alice.delete(path).await.fails(404, "M_NOT_FOUND");
}

/// A new rule is the first of its kind, or stands where it is wanted.
#[tokio::test]
async fn rules_stand_in_the_order_that_was_asked_for() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let put = async |id: &str, beside: Option<(&str, &str)>| {
        let body = json!({ "pattern": id, "actions": ["notify"] });
        let mut request = alice.put(["pushrules/global", "content", id], body);
        if let Some((where_to, other)) = beside {
            request = request.query(where_to, other);
        }
        request.await
    };
    put("one", None).await.ok();
    put("two", None).await.ok();
    put("three", Some(("after", "two"))).await.ok();
    put("four", Some(("before", "one"))).await.ok();
    let all = alice.get("pushrules/").await.ok();
    let own = ids(&all["global"], "content");
    let own: Vec<&str> = own.iter().map(String::as_str).filter(|id| !id.starts_with('.')).collect();
    assert_eq!(own, ["two", "three", "four", "one"]);
    let global = alice.get("pushrules/global/").await.ok();
    assert_eq!(global, all["global"]);
    // Beside what is not there nothing can stand.
    let refused = put("five", Some(("before", "nothing"))).await;
    assert!([400, 404].contains(&refused.status), "{refused}");
    assert!(!refused.errcode().is_empty(), "{refused}");
}

#[tokio::test]
async fn rules_of_the_server_are_switched_and_nothing_more() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let path = ["pushrules/global", "override", ".m.rule.master"];
    assert_eq!(alice.get(path).await.ok()["default"], true);
    let enabled = ["pushrules/global", "override", ".m.rule.master", "enabled"];
    alice.put(enabled, json!({ "enabled": true })).await.ok();
    assert_eq!(alice.get(path).await.ok()["enabled"], true);
    let answer = alice.put(path, json!({ "conditions": [], "actions": [] })).await;
    assert_eq!(answer.status, 400, "{answer}");
    let answer = alice.delete(path).await;
    assert!([400, 404].contains(&answer.status), "{answer}");
    assert_eq!(alice.get(path).await.ok()["default"], true);
}

#[tokio::test]
async fn rules_that_are_none_are_not_found_or_refused() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for part in ["", "/enabled", "/actions"] {
        let path = format!("pushrules/global/content/nothing{part}");
        alice.get(path.as_str()).await.fails(404, "M_NOT_FOUND");
        if !part.is_empty() {
            let body = json!({ "enabled": true, "actions": [] });
            alice.put(path.as_str(), body).await.fails(404, "M_NOT_FOUND");
        }
    }
    let put = async |kind: &str, id: &str, body: Value| {
        alice.put(["pushrules/global", kind, id], body).await
    };
    for (kind, id, body) in [
        ("content", "x", json!({ "actions": ["notify"] })),
        ("content", "x", json!({ "pattern": "x" })),
        ("no-such-kind", "x", json!({ "actions": [] })),
        ("override", "a/b", json!({ "actions": [], "conditions": [] })),
        ("override", ".mine", json!({ "actions": [], "conditions": [] })),
    ] {
        let answer = put(kind, id, body).await;
        assert!([400, 404].contains(&answer.status), "{answer}");
        assert!(!answer.errcode().is_empty(), "{answer}");
    }
}

/// Rules of rooms and senders have their IDs.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules>
#[tokio::test]
async fn rules_of_rooms_and_senders_are_named_by_them() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    for (kind, id) in [("room", "no room"), ("sender", "no user")] {
        let answer = alice.put(["pushrules/global", kind, id], json!({ "actions": [] })).await;
        assert_eq!(answer.status, 400, "{answer}");
        alice.get(["pushrules/global", kind, id]).await.fails(404, "M_NOT_FOUND");
    }
}
