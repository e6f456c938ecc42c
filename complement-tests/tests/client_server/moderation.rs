//! What administrators do about accounts.

use complement_tests::{Client, Server};
use serde_json::{Value, json};

fn path<'a>(what: &'a str, user: &'a str) -> String {
    format!("/_matrix/client/v1/admin/{what}/{user}")
}

async fn set(admin: &Client, what: &str, key: &str, user: &Client, on: bool) -> Value {
    admin.put(path(what, &user.user_id).as_str(), json!({ key: on })).await.ok()
}

/// "clients SHOULD NOT invalidate access tokens on locked accounts"; `M_USER_LOCKED`, `soft_logout`.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-locking>
#[tokio::test]
async fn a_locked_account_can_only_log_out_until_it_is_unlocked() {
    let server = Server::shared();
    let (admin, bob) = (server.register_admin("admin").await, server.register("bob").await);
    assert_eq!(set(&admin, "lock", "locked", &bob, true).await, json!({ "locked": true }));
    let refusal = bob.get(["account", "whoami"]).await.fails(401, "M_USER_LOCKED");
    assert_eq!(refusal["soft_logout"], true);
    bob.get(["sync"]).await.fails(401, "M_USER_LOCKED");
    let status = admin.get(path("lock", &bob.user_id).as_str()).await.ok();
    assert_eq!(status, json!({ "locked": true }));
    set(&admin, "lock", "locked", &bob, false).await;
    bob.get(["account", "whoami"]).await.ok();
    set(&admin, "lock", "locked", &bob, true).await;
    bob.post(["logout"], json!({})).await.ok();
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#account-suspension>
#[tokio::test]
async fn a_suspended_account_reads_and_leaves_and_says_nothing() {
    let server = Server::shared();
    let (admin, bob) = (server.register_admin("admin").await, server.register("bob").await);
    let room = bob.create_room(json!({})).await;
    let message = bob.say(&room, "before").await;
    set(&admin, "suspend", "suspended", &bob, true).await;
    let send = ["rooms", room.as_str(), "send", "m.room.message", "t1"];
    let content = json!({ "msgtype": "m.text", "body": "more" });
    bob.put(send, content.clone()).await.fails(403, "M_USER_SUSPENDED");
    bob.post(["createRoom"], json!({})).await.fails(403, "M_USER_SUSPENDED");
    let name = ["profile", bob.user_id.as_str(), "displayname"];
    bob.put(name, json!({ "displayname": "B" })).await.fails(403, "M_USER_SUSPENDED");
    bob.delete(name).await.fails(403, "M_USER_SUSPENDED");
    bob.post("/_matrix/media/v1/create", json!({})).await.fails(403, "M_USER_SUSPENDED");
    bob.get(["sync"]).await.ok();
    bob.get(["rooms", &room, "messages"]).query("dir", "b").await.ok();
    bob.put(["rooms", &room, "redact", &message, "t2"], json!({})).await.ok();
    let status = admin.get(path("suspend", &bob.user_id).as_str()).await.ok();
    assert_eq!(status, json!({ "suspended": true }));
    set(&admin, "suspend", "suspended", &bob, false).await;
    bob.put(send, content).await.ok();
    set(&admin, "suspend", "suspended", &bob, true).await;
    bob.leave(&room).await;
}

/// "The requesting user is not a server administrator, is not allowed to …, or is trying to … their
/// own account."
#[tokio::test]
async fn only_administrators_lock_and_only_others() {
    let server = Server::shared();
    let admin = server.register_admin("admin").await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for (what, key) in [("lock", "locked"), ("suspend", "suspended")] {
        let body = json!({ key: true });
        for who in [&bob.user_id, "@nobody:complement.test"] {
            let path = path(what, who);
            alice.get(path.as_str()).await.fails(403, "M_FORBIDDEN");
            alice.put(path.as_str(), body.clone()).await.fails(403, "M_FORBIDDEN");
        }
        let own = path(what, &admin.user_id);
        admin.put(own.as_str(), body.clone()).await.fails(403, "M_FORBIDDEN");
        let unknown = path(what, &format!("@nobody-{what}:{}", admin.server_name()));
        admin.put(unknown.as_str(), body.clone()).await.fails(404, "M_NOT_FOUND");
        admin.get(unknown.as_str()).await.fails(404, "M_NOT_FOUND");
        let elsewhere = path(what, "@a:elsewhere.example");
        admin.get(elsewhere.as_str()).await.fails(400, "M_INVALID_PARAM");
        admin.put(elsewhere.as_str(), body).await.fails(400, "M_INVALID_PARAM");
    }
    let capabilities = admin.get(["capabilities"]).await.ok();
    let moderation = &capabilities["capabilities"]["m.account_moderation"];
    assert_eq!(*moderation, json!({ "lock": true, "suspend": true }));
    let capabilities = bob.get(["capabilities"]).await.ok();
    assert_eq!(capabilities["capabilities"].get("m.account_moderation"), None);
}
