//! A user's devices.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#device-management>

use complement_tests::{Server, must_match};
use reqwest::Method;
use serde_json::json;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3devices>
#[tokio::test]
async fn devices_are_listed_with_when_and_where_they_were_seen() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let second = alice.log_in_again().await;
    let list = alice.get("devices").await.ok();
    let devices = list["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2, "{list}");
    for id in [&alice.device_id, &second.device_id] {
        let device = devices.iter().find(|device| device["device_id"] == id.as_str()).unwrap();
        assert_eq!(&alice.get(["devices", id]).await.ok()["device_id"], &device["device_id"]);
    }
    let seen = alice.get(["devices", &alice.device_id]).await.ok();
    assert!(seen["last_seen_ts"].as_u64().is_none_or(|ms| ms > 1_600_000_000_000), "{seen}");
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3devicesdeviceid>
#[tokio::test]
async fn a_device_can_be_renamed() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let path = ["devices", alice.device_id.as_str()];
    alice.put(path, json!({ "display_name": "Kitchen" })).await.ok();
    must_match(&alice.get(path).await.ok(), &json!({ "display_name": "Kitchen" }));
    alice.put(path, json!({})).await.ok();
    must_match(&alice.get(path).await.ok(), &json!({ "display_name": "Kitchen" }));
}

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3devicesdeviceid>
#[tokio::test]
async fn unknown_devices_and_those_of_others_are_not_found() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let mallory = server.register("mallory").await;
    alice.get(["devices", "UNKNOWN"]).await.fails(404, "M_NOT_FOUND");
    alice
        .put(["devices", "UNKNOWN"], json!({ "display_name": "x" }))
        .await
        .fails(404, "M_NOT_FOUND");
    let foreign = ["devices", alice.device_id.as_str()];
    mallory.get(foreign).await.fails(404, "M_NOT_FOUND");
    mallory.put(foreign, json!({ "display_name": "mine" })).await.fails(404, "M_NOT_FOUND");
    server.anonymous().get(foreign).await.fails(401, "M_MISSING_TOKEN");
}

/// Deleting a device ends its token.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3devicesdeviceid>
#[tokio::test]
async fn deleting_a_device_ends_its_session() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let second = alice.log_in_again().await;
    let path = ["devices", second.device_id.as_str()];
    alice.with_password(Method::DELETE, path, json!({})).await.ok();
    second.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    alice.get(path).await.fails(404, "M_NOT_FOUND");
}

/// Several at once, in one step of authentication; unknown ones are no error.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3delete_devices>
#[tokio::test]
async fn many_devices_are_deleted_at_once() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let (second, third) = (alice.log_in_again().await, alice.log_in_again().await);
    let body = json!({ "devices": [second.device_id, third.device_id, "UNKNOWN"] });
    alice.with_password(Method::POST, "delete_devices", body).await.ok();
    for gone in [&second, &third] {
        gone.get("account/whoami").await.fails(401, "M_UNKNOWN_TOKEN");
    }
    alice.get("account/whoami").await.ok();
}

/// Nobody deletes another's devices, password or not.
#[tokio::test]
async fn devices_of_others_stay() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let mallory = server.register("mallory").await;
    let path = ["devices", alice.device_id.as_str()];
    let challenge = mallory.delete(path).await;
    if challenge.status == 401 {
        let auth = json!({ "auth": mallory.password_proof(&challenge.json) });
        mallory.delete(path).json(&auth).await;
    }
    alice.get("account/whoami").await.ok();
}
