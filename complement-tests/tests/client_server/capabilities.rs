//! What the server says of itself, and small services.

use complement_tests::{Server, must_match, text};
use serde_json::json;

/// Anybody may ask, and a client decides by this whether it can talk here at all.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientversions>
#[tokio::test]
async fn versions_are_public_and_well_formed() {
    let server = Server::shared();
    let answer = server.get("/_matrix/client/versions").await.ok();
    let versions = answer["versions"].as_array().unwrap();
    assert!(versions.iter().any(|version| version == "v1.1"), "{answer}");
    for version in versions {
        let version = version.as_str().unwrap();
        let number = version.strip_prefix('v').or(version.strip_prefix('r')).unwrap_or_default();
        assert!(number.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
    }
    for (name, value) in answer["unstable_features"].as_object().into_iter().flatten() {
        assert!(value.is_boolean(), "{name} is {value}");
    }
    let alice = server.register("alice").await;
    alice.get("/_matrix/client/versions").await.ok();
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3capabilities>
#[tokio::test]
async fn capabilities_name_the_room_versions() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let answer = alice.get("capabilities").await.ok();
    let versions = &answer["capabilities"]["m.room_versions"];
    let default = text(versions, "/default");
    assert_eq!(versions["available"][&default], "stable", "{answer}");
    for version in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] {
        assert_eq!(versions["available"][version], "stable", "{answer}");
    }
    // Absent means that it can be changed.
    assert_ne!(answer["capabilities"]["m.change_password"]["enabled"], false, "{answer}");
    server.anonymous().get("capabilities").await.fails(401, "M_MISSING_TOKEN");
}

/// A token for somebody else's service, which may ask this server whose it is.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridopenidrequest_token>
#[tokio::test]
async fn an_openid_token_tells_who_the_user_is() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let path = ["user", alice.user_id.as_str(), "openid", "request_token"];
    let token = alice.post(path, json!({})).await.ok();
    must_match(
        &token,
        &json!({ "token_type": "Bearer", "matrix_server_name": alice.server_name() }),
    );
    assert!(token["expires_in"].as_u64().unwrap() > 0);
    let token = text(&token, "/access_token");
    let user_info = "/_matrix/federation/v1/openid/userinfo";
    let answer = server.anonymous().get(user_info).query("access_token", &token).await.ok();
    assert_eq!(answer, json!({ "sub": alice.user_id }));
    let wrong = server.anonymous().get(user_info).query("access_token", "made-up").await;
    wrong.fails(401, "M_UNKNOWN_TOKEN");
    alice.with_token(&token).get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
}

/// Nobody gets a token in another's name.
#[tokio::test]
async fn openid_tokens_for_others_are_forbidden() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let path = ["user", alice.user_id.as_str(), "openid", "request_token"];
    mallory.post(path, json!({})).await.fails(403, "M_FORBIDDEN");
}

/// A server without a relay for calls has none to name, and says so at once.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3voipturnserver>
#[tokio::test]
async fn without_a_turn_server_none_is_named() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let answer = alice.get("voip/turnServer").await;
    assert!(answer.status == 200 || answer.errcode() == "M_NOT_FOUND", "{answer}");
    assert!(answer.json["uris"].is_null(), "{answer}");
    server.anonymous().get("voip/turnServer").await.fails(401, "M_MISSING_TOKEN");
}

/// Users may look at their own sessions, administrators at everybody's.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3adminwhoisuserid>
#[tokio::test]
async fn whois_is_for_oneself_and_for_administrators() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let own = alice.get(["admin/whois", &alice.user_id]).await.ok();
    assert_eq!(own["user_id"], alice.user_id);
    assert!(own["devices"].is_object(), "{own}");

    let bob = server.register("bob").await;
    bob.get(["admin/whois", &alice.user_id]).await.fails(403, "M_FORBIDDEN");
    let admin = server.register_admin("admin").await;
    must_match(
        &admin.get(["admin/whois", &alice.user_id]).await.ok(),
        &json!({ "user_id": alice.user_id }),
    );
}

/// Old clients ask `/r0`; a whole conversation works there.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#api-standards>
#[tokio::test]
async fn the_old_r0_paths_work() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let r0 = |path: &str| format!("/_matrix/client/r0/{path}");
    let who = alice.get(r0("account/whoami")).await.ok();
    assert_eq!(who["user_id"], alice.user_id);
    let room = text(&alice.post(r0("createRoom"), json!({})).await.ok(), "/room_id");
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let path = ["/_matrix/client/r0/rooms", &room, "send", "m.room.message", "t1"];
    let event = text(&alice.put(path, body).await.ok(), "/event_id");
    let sync = alice.get(r0("sync")).await.ok();
    assert!(sync["rooms"]["join"][&room].to_string().contains(&event));
    alice.get(["/_matrix/client/r0/rooms", &room, "event", &event]).await.ok();
    server.get(r0("login")).await.ok();
    alice.get(["/_matrix/client/r0/profile", &alice.user_id]).await.ok();
}

/// Where nobody else signs users on, there is nothing to be known of it.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1auth_metadata>
#[tokio::test]
async fn without_sign_on_by_others_there_is_no_metadata() {
    let server = Server::shared();
    let answer = server.get("/_matrix/client/v1/auth_metadata").await;
    answer.fails(404, "M_UNRECOGNIZED");
    let redirect = server.get("login/sso/redirect/nobody?redirectUrl=https://example.org").await;
    assert!([400, 404].contains(&redirect.status), "{redirect}");
}
