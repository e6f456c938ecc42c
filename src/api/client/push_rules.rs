//! Push rules.

use axum::{Json, extract::State};
use ruma::api::client::push::{
    delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
    get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
};
use serde_json::Value;

use crate::{
    api::{
        error::ApiError,
        extract::{Client, Ruma},
    },
    push::{PushRules, rules},
};

/// `GET /_matrix/client/v3/pushrules/`
///
/// The rules are written as sync shows them: ruma's response leaves out kinds without rules.
pub(crate) async fn get_pushrules_all(
    State(rules): State<PushRules>,
    Client { session, .. }: Client<get_pushrules_all::v3::Request>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(rules::content(&rules.get(session.user, &session.user_id).await?)))
}

/// `GET /_matrix/client/v3/pushrules/global/`
pub(crate) async fn get_pushrules_global(
    State(rules): State<PushRules>,
    Client { session, .. }: Client<get_pushrules_global_scope::v3::Request>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(rules::global(&rules.get(session.user, &session.user_id).await?)))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn get_pushrule(
    State(rules): State<PushRules>,
    Client { session, request, .. }: Client<get_pushrule::v3::Request>,
) -> Result<Ruma<get_pushrule::v3::Response>, ApiError> {
    let rule = rules.rule(session.user, &session.user_id, &request.kind, &request.rule_id).await?;
    Ok(Ruma(get_pushrule::v3::Response::new(rule)))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn set_pushrule(
    State(rules): State<PushRules>,
    Client { session, request, .. }: Client<set_pushrule::v3::Request>,
) -> Result<Ruma<set_pushrule::v3::Response>, ApiError> {
    let set_pushrule::v3::Request { rule, before, after, .. } = request;
    rules.put(session.user, &session.user_id, &rule, after.as_deref(), before.as_deref()).await?;
    Ok(Ruma(set_pushrule::v3::Response::new()))
}

/// `DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn delete_pushrule(
    State(rules): State<PushRules>,
    Client { session, request, .. }: Client<delete_pushrule::v3::Request>,
) -> Result<Ruma<delete_pushrule::v3::Response>, ApiError> {
    rules.remove(session.user, &session.user_id, &request.kind, &request.rule_id).await?;
    Ok(Ruma(delete_pushrule::v3::Response::new()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub(crate) async fn get_pushrule_actions(
    State(rules): State<PushRules>,
    Client { session, request, .. }: Client<get_pushrule_actions::v3::Request>,
) -> Result<Ruma<get_pushrule_actions::v3::Response>, ApiError> {
    let rule = rules.rule(session.user, &session.user_id, &request.kind, &request.rule_id).await?;
    Ok(Ruma(get_pushrule_actions::v3::Response::new(rule.actions)))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub(crate) async fn set_pushrule_actions(
    State(rules): State<PushRules>,
    Client { session, request, .. }: Client<set_pushrule_actions::v3::Request>,
) -> Result<Ruma<set_pushrule_actions::v3::Response>, ApiError> {
    let set_pushrule_actions::v3::Request { kind, rule_id, actions, .. } = request;
    rules.set_actions(session.user, &session.user_id, &kind, &rule_id, &actions).await?;
    Ok(Ruma(set_pushrule_actions::v3::Response::new()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub(crate) async fn get_pushrule_enabled(
    State(rules): State<PushRules>,
    Client { session, request, .. }: Client<get_pushrule_enabled::v3::Request>,
) -> Result<Ruma<get_pushrule_enabled::v3::Response>, ApiError> {
    let rule = rules.rule(session.user, &session.user_id, &request.kind, &request.rule_id).await?;
    Ok(Ruma(get_pushrule_enabled::v3::Response::new(rule.enabled)))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub(crate) async fn set_pushrule_enabled(
    State(rules): State<PushRules>,
    Client { session, request, .. }: Client<set_pushrule_enabled::v3::Request>,
) -> Result<Ruma<set_pushrule_enabled::v3::Response>, ApiError> {
    let set_pushrule_enabled::v3::Request { kind, rule_id, enabled, .. } = request;
    rules.set_enabled(session.user, &session.user_id, &kind, &rule_id, enabled).await?;
    Ok(Ruma(set_pushrule_enabled::v3::Response::new()))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value, json};

    use crate::api::testing::{Answer, TestServer, TestUser};

    const GLOBAL: &str = "/v3/pushrules/global";

    fn refused(answer: &Answer) -> (u16, &str) {
        (answer.0.as_u16(), answer.1["errcode"].as_str().unwrap_or_default())
    }

    async fn get(server: &TestServer, alice: &TestUser, path: &str) -> Answer {
        server.get(&format!("{GLOBAL}{path}"), Some(alice)).await
    }

    async fn put(server: &TestServer, alice: &TestUser, path: &str, body: Value) -> Answer {
        server.put(&format!("{GLOBAL}{path}"), alice, body).await
    }

    /// The `m.push_rules` of a sync, and where the next one begins.
    async fn synced(server: &TestServer, alice: &TestUser, since: &str) -> (Value, String) {
        let path = format!("/v3/sync?{since}");
        let (status, answer) = server.get(&path, Some(alice)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let events = answer["account_data"]["events"].as_array().cloned().unwrap_or_default();
        let rules = events.into_iter().find(|event| event["type"] == "m.push_rules");
        let next = answer["next_batch"].as_str().unwrap_or_default();
        (rules.map_or(Value::Null, |rules| rules["content"].clone()), format!("since={next}"))
    }

    /// Clients don't start without them.
    #[tokio::test]
    async fn a_new_user_has_the_servers_rules_and_syncs_them() {
        let server = TestServer::open().await;
        let alice = server.register("alice").await;
        let (status, all) = server.get("/v3/pushrules/", Some(&alice)).await;
        assert_eq!(status, StatusCode::OK, "{all}");
        assert_eq!(all["global"]["override"][0]["rule_id"], ".m.rule.master");
        assert_eq!(all["global"]["content"], json!([]));
        assert_eq!(server.get("/r0/pushrules/", Some(&alice)).await.1, all);
        assert_eq!(get(&server, &alice, "/").await.1, all["global"]);
        assert_eq!(synced(&server, &alice, "").await.0, all);
        let stranger = server.get("/v3/pushrules/", None).await;
        assert_eq!(refused(&stranger), (401, "M_MISSING_TOKEN"));
    }

    #[tokio::test]
    async fn a_rule_is_made_read_changed_and_deleted_and_sync_shows_it() {
        let server = TestServer::open().await;
        let alice = server.register("alice").await;
        let (_, since) = synced(&server, &alice, "").await;
        let rule = json!({ "pattern": "cake*lie", "actions": ["notify", "dont_notify"] });
        assert_eq!(put(&server, &alice, "/content/cake", rule).await, (StatusCode::OK, json!({})));
        let made = get(&server, &alice, "/content/cake").await.1;
        let expected = json!({
            "rule_id": "cake",
            "pattern": "cake*lie",
            "actions": ["notify"],
            "enabled": true,
            "default": false,
        });
        assert_eq!(made, expected);
        let (rules, since) = synced(&server, &alice, &since).await;
        assert_eq!(rules["global"]["content"], json!([made]));

        put(&server, &alice, "/content/cake/enabled", json!({ "enabled": false })).await;
        let enabled = get(&server, &alice, "/content/cake/enabled").await.1;
        assert_eq!(enabled, json!({ "enabled": false }));
        let highlight = json!({ "actions": [{ "set_tweak": "highlight" }] });
        put(&server, &alice, "/content/cake/actions", highlight.clone()).await;
        assert_eq!(get(&server, &alice, "/content/cake/actions").await.1, highlight);

        let path = format!("{GLOBAL}/content/cake");
        let deleted = server.delete(&path, &alice, json!({})).await;
        assert_eq!(deleted, (StatusCode::OK, json!({})));
        let (rules, _) = synced(&server, &alice, &since).await;
        assert_eq!(rules["global"]["content"], json!([]));
        for path in ["/content/cake", "/content/cake/enabled", "/content/cake/actions"] {
            assert_eq!(refused(&get(&server, &alice, path).await), (404, "M_NOT_FOUND"));
        }
        let again = server.delete(&path, &alice, json!({})).await;
        assert_eq!(refused(&again), (404, "M_NOT_FOUND"));
    }

    #[tokio::test]
    async fn rules_of_rooms_and_senders_are_placed() {
        let server = TestServer::open().await;
        let alice = server.register("alice").await;
        let mute = json!({ "actions": [] });
        for path in [
            "/room/%21b%3Alocalhost",
            "/room/%21a%3Alocalhost?after=%21b%3Alocalhost",
            "/sender/%40spam%3Alocalhost",
        ] {
            assert_eq!(put(&server, &alice, path, mute.clone()).await.0, StatusCode::OK, "{path}");
        }
        let all = get(&server, &alice, "/").await.1;
        assert_eq!(all["room"][0]["rule_id"], "!b:localhost");
        assert_eq!(all["room"][1]["rule_id"], "!a:localhost");
        assert_eq!(all["sender"][0]["rule_id"], "@spam:localhost");
        // Below the last one, where there is no place to move to.
        let path = "/room/%21b%3Alocalhost?after=%21a%3Alocalhost";
        assert_eq!(put(&server, &alice, path, mute).await.0, StatusCode::OK);
        let all = get(&server, &alice, "/").await.1;
        assert_eq!(all["room"][1]["rule_id"], "!b:localhost");
    }

    #[tokio::test]
    async fn the_servers_rules_are_switched_off_but_not_replaced_or_deleted() {
        let server = TestServer::open().await;
        let alice = server.register("alice").await;
        let path = "/underride/.m.rule.message";
        put(&server, &alice, &format!("{path}/enabled"), json!({ "enabled": false })).await;
        put(&server, &alice, &format!("{path}/actions"), json!({ "actions": [] })).await;
        let rule = get(&server, &alice, path).await.1;
        assert_eq!((&rule["enabled"], &rule["actions"]), (&json!(false), &json!([])));
        let body = json!({ "conditions": [], "actions": [] });
        let replaced = put(&server, &alice, path, body).await;
        assert_eq!(refused(&replaced), (400, "M_INVALID_PARAM"));
        let deleted = server.delete(&format!("{GLOBAL}{path}"), &alice, json!({})).await;
        assert_eq!(refused(&deleted), (400, "M_INVALID_PARAM"));
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_rule_is_told() {
        let server = TestServer::open().await;
        let alice = server.register("alice").await;
        let content = json!({ "pattern": "x", "actions": ["notify"] });
        for (path, body, status, code) in [
            ("/content/a", json!({ "actions": [] }), 400, "M_BAD_JSON"),
            ("/content/a", json!({ "pattern": "x" }), 400, "M_BAD_JSON"),
            ("/content/a", json!({ "pattern": "", "actions": [] }), 400, "M_INVALID_PARAM"),
            ("/content/a", json!({ "pattern": "x", "actions": ["ring"] }), 400, "M_INVALID_PARAM"),
            ("/content/a", json!({ "pattern": "x", "actions": [7] }), 400, "M_BAD_JSON"),
            ("/content/.a", content.clone(), 400, "M_INVALID_PARAM"),
            ("/content/a%2Fb", content.clone(), 400, "M_INVALID_PARAM"),
            ("/content/a%5Cb", content.clone(), 400, "M_INVALID_PARAM"),
            ("/content/a?before=b", content.clone(), 400, "M_UNKNOWN"),
            ("/contents/a", content, 400, "M_INVALID_PARAM"),
            ("/room/nowhere", json!({ "actions": [] }), 400, "M_INVALID_PARAM"),
            ("/override/a", json!({ "conditions": [{}], "actions": [] }), 400, "M_BAD_JSON"),
            (
                "/override/a",
                json!({ "conditions": [], "actions": [{ "set_tweak": "x", "value": "x".repeat(5000) }] }),
                413,
                "M_TOO_LARGE",
            ),
            ("/content/a/enabled", json!({ "enabled": true }), 404, "M_NOT_FOUND"),
            ("/content/a/enabled", json!({ "enabled": "yes" }), 400, "M_BAD_JSON"),
            ("/content/a/actions", json!({ "actions": [] }), 404, "M_NOT_FOUND"),
            (
                "/override/.m.rule.master/actions",
                json!({ "actions": ["ring"] }),
                400,
                "M_INVALID_PARAM",
            ),
        ] {
            let answer = put(&server, &alice, path, body.clone()).await;
            assert_eq!(refused(&answer), (status, code), "{path} {body} {}", answer.1);
        }
        for (kind, answer) in [
            ("contents", (400, "M_INVALID_PARAM")),
            ("postcontent", (404, "M_NOT_FOUND")),
            ("io.element.msc4306.postcontent", (404, "M_NOT_FOUND")),
        ] {
            let unknown = get(&server, &alice, &format!("/{kind}/a")).await;
            assert_eq!(refused(&unknown), answer);
        }
        assert_eq!(get(&server, &alice, "/").await.1["content"], json!([]));
    }
}
