//! Keys of devices and users.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#key-distribution>

use complement_tests::{Client, Server, Signer, must_match};
use reqwest::Method;
use serde_json::{Value, json};

async fn upload_identity(client: &Client) -> Signer {
    let signer = Signer::of_device(client);
    client.post("keys/upload", json!({ "device_keys": signer.device_keys(client) })).await.ok();
    signer
}

async fn query(client: &Client, user_id: &str) -> Value {
    client.post("keys/query", json!({ "device_keys": { user_id: [] } })).await.ok()
}

async fn claim(client: &Client, of: &Client) -> Value {
    let wanted = json!({ of.user_id.as_str(): { of.device_id.as_str(): "signed_curve25519" } });
    let claimed = client.post("keys/claim", json!({ "one_time_keys": wanted })).await.ok();
    claimed["one_time_keys"][&of.user_id][&of.device_id].clone()
}

/// The keys of `client`, a device each with a cross-signing identity of the user.
struct Identity {
    master: Signer,
    self_signing: Signer,
    user_signing: Signer,
}

impl Identity {
    fn new(client: &Client, generation: &str) -> Self {
        let key = |usage: &str| Signer::named(&format!("{} {usage} {generation}", client.user_id));
        Self {
            master: key("master"),
            self_signing: key("self_signing"),
            user_signing: key("user_signing"),
        }
    }

    fn upload(&self, client: &Client) -> Value {
        let user = &client.user_id;
        let master = self.master.public_key();
        let signed = |signer: &Signer, usage: &str| {
            self.master.sign(user, &master, signer.cross_signing_key(user, usage))
        };
        json!({
            "master_key": self.master.cross_signing_key(user, "master"),
            "self_signing_key": signed(&self.self_signing, "self_signing"),
            "user_signing_key": signed(&self.user_signing, "user_signing"),
        })
    }
}

/// What was uploaded is what others get, with the device's name beside it.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery>
#[tokio::test]
async fn device_keys_are_given_to_others_as_they_were_uploaded() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let signer = upload_identity(&alice).await;
    let name = json!({ "display_name": "Kitchen" });
    alice.put(["devices", &alice.device_id], name).await.ok();
    let found = query(&bob, &alice.user_id).await;
    let mut device = found["device_keys"][&alice.user_id][&alice.device_id].clone();
    must_match(&device["unsigned"], &json!({ "device_display_name": "Kitchen" }));
    device.as_object_mut().unwrap().remove("unsigned");
    assert_eq!(device, signer.device_keys(&alice));
    // One device of several, and unknown ones.
    let second = alice.log_in_again().await;
    upload_identity(&second).await;
    let wanted = json!({ "device_keys": { &*alice.user_id: [second.device_id, "UNKNOWN"] } });
    let found = bob.post("keys/query", wanted).await.ok();
    let devices = found["device_keys"][&alice.user_id].as_object().unwrap();
    assert_eq!(devices.keys().collect::<Vec<_>>(), [&second.device_id]);
}

/// Nobody uploads keys for another user or device, or without a right signature.
#[tokio::test]
async fn device_keys_must_be_the_devices_own_and_signed() {
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let signer = Signer::of_device(&alice);
    let keys = signer.device_keys(&alice);
    let upload = |keys: Value| json!({ "device_keys": keys });
    mallory.post("keys/upload", upload(keys.clone())).await.fails(400, "M_INVALID_PARAM");
    let mut changed = keys.clone();
    changed["algorithms"] = json!(["m.megolm.v1.aes-sha2"]);
    alice.post("keys/upload", upload(changed)).await.fails(400, "M_INVALID_SIGNATURE");
    let other = Signer::named("another").sign(&alice.user_id, &alice.device_id, keys);
    alice.post("keys/upload", upload(other)).await.fails(400, "M_INVALID_SIGNATURE");
    alice.post("keys/upload", upload(json!({}))).await.fails(400, "M_INVALID_PARAM");
    assert_eq!(query(&mallory, &alice.user_id).await["device_keys"][&alice.user_id], json!({}));
}

/// Spec: "one-time keys … are only used once"; then the fallback key, which sync tells of.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#one-time-and-fallback-keys>
#[tokio::test]
async fn one_time_keys_are_claimed_once_in_their_order_and_then_the_fallback_key() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let signer = upload_identity(&alice).await;
    let key = |name: &str| signer.one_time_key(&alice, name, false);
    let fallback = signer.one_time_key(&alice, "fallback", true);
    let body = json!({
        "one_time_keys": { "signed_curve25519:AAAB": key("b"), "signed_curve25519:AAAA": key("a") },
        "fallback_keys": { "signed_curve25519:FFFF": fallback },
    });
    let counts = alice.post("keys/upload", body.clone()).await.ok();
    assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], 2);
    let state = alice.sync().now().await;
    assert_eq!(state["device_one_time_keys_count"]["signed_curve25519"], 2);
    assert_eq!(state["device_unused_fallback_key_types"], json!(["signed_curve25519"]));
    // Again the same, whose answer was lost: nothing changes.
    let counts = alice.post("keys/upload", body).await.ok();
    assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], 2);
    // Another key of that ID is refused.
    let other = json!({ "one_time_keys": { "signed_curve25519:AAAA": key("other") } });
    let answer = alice.post("keys/upload", other).await;
    answer.fails_as(400, &["M_INVALID_PARAM", "M_UNKNOWN"]);

    assert_eq!(claim(&bob, &alice).await, json!({ "signed_curve25519:AAAA": key("a") }));
    assert_eq!(claim(&bob, &alice).await, json!({ "signed_curve25519:AAAB": key("b") }));
    for _ in 0..2 {
        assert_eq!(claim(&bob, &alice).await, json!({ "signed_curve25519:FFFF": fallback }));
    }
    let state = alice.sync().now().await;
    assert_eq!(state["device_one_time_keys_count"]["signed_curve25519"], 0);
    assert_eq!(state["device_unused_fallback_key_types"], json!([]));
}

/// A device whose key was handed out hears of it at once: it may have few left.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync>
#[tokio::test]
async fn a_claim_wakes_those_whose_key_it_takes() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let signer = upload_identity(&alice).await;
    let keys = json!({ "signed_curve25519:A": signer.one_time_key(&alice, "A", false) });
    alice.post("keys/upload", json!({ "one_time_keys": keys })).await.ok();
    let mut sync = alice.sync();
    sync.now().await;
    sync.now().await;
    let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let body = json!({ "extensions": { "e2ee": { "enabled": true } } });
    let first = alice.post(path, body.clone()).await.ok();
    let pos = first["pos"].as_str().unwrap().to_owned();
    let sliding = alice.post(path, body).query("pos", &pos).query("timeout", "60000");
    let (long_poll, sliding, taken) =
        tokio::join!(sync.next(60_000), async { sliding.await.ok() }, async {
            // Both wait by then, or find it when they come; either is what is asked for.
            claim(&bob, &alice).await
        });
    assert!(taken.is_object(), "{taken}");
    assert_eq!(long_poll["device_one_time_keys_count"]["signed_curve25519"], 0);
    let told = &sliding["extensions"]["e2ee"]["device_one_time_keys_count"];
    assert_eq!(told["signed_curve25519"], 0);
}

/// Many claim at the same time: nobody gets what another one got.
#[tokio::test]
async fn concurrent_claims_never_get_the_same_key() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let signer = upload_identity(&alice).await;
    let keys: serde_json::Map<String, Value> = (0..40)
        .map(|number| {
            let key = signer.one_time_key(&alice, &number.to_string(), false);
            (format!("signed_curve25519:{number}"), key)
        })
        .collect();
    alice.post("keys/upload", json!({ "one_time_keys": keys })).await.ok();
    let claims = (0..50).map(|_| {
        let (alice, bob) = (alice.clone(), bob.clone());
        tokio::spawn(async move { claim(&bob, &alice).await })
    });
    let mut ids = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        if let Some(found) = claim.await.unwrap().as_object() {
            ids.extend(found.keys().cloned());
        }
    }
    ids.sort();
    let before = ids.len();
    ids.dedup();
    assert_eq!((ids.len(), before), (40, 40));
}

/// The first identity is free, the same again is too; another one takes the password.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload>
#[tokio::test]
async fn cross_signing_keys_are_set_freely_once_and_replaced_with_the_password() {
    const PATH: &str = "keys/device_signing/upload";
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let first = Identity::new(&alice, "first").upload(&alice);
    alice.post(PATH, first.clone()).await.ok();
    alice.post(PATH, first.clone()).await.ok();
    let found = query(&bob, &alice.user_id).await;
    assert_eq!(found["master_keys"][&alice.user_id], first["master_key"]);
    assert_eq!(found["self_signing_keys"][&alice.user_id], first["self_signing_key"]);
    assert_eq!(found["user_signing_keys"][&alice.user_id], Value::Null, "only for the user");
    let own = query(&alice, &alice.user_id).await;
    assert_eq!(own["user_signing_keys"][&alice.user_id], first["user_signing_key"]);

    let second = Identity::new(&alice, "second").upload(&alice);
    alice.post(PATH, second.clone()).await.has_status(401);
    alice.with_password(Method::POST, PATH, second.clone()).await.ok();
    let found = query(&bob, &alice.user_id).await;
    assert_eq!(found["master_keys"][&alice.user_id], second["master_key"]);
}

/// What is wrong with an identity is said, and nothing of it is stored.
#[tokio::test]
async fn cross_signing_keys_must_be_signed_by_the_master_key_and_be_no_device() {
    const PATH: &str = "keys/device_signing/upload";
    let server = Server::shared();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let keys = Identity::new(&alice, "first").upload(&alice);
    mallory.post(PATH, keys.clone()).await.fails(400, "M_INVALID_PARAM");
    let alone = json!({ "self_signing_key": keys["self_signing_key"] });
    alice.post(PATH, alone).await.fails(400, "M_MISSING_PARAM");
    let mut unsigned = keys.clone();
    unsigned["self_signing_key"].as_object_mut().unwrap().remove("signatures");
    alice.post(PATH, unsigned).await.fails(400, "M_INVALID_SIGNATURE");
    let mut swapped = keys.clone();
    swapped["master_key"]["usage"] = json!(["user_signing"]);
    alice.post(PATH, swapped).await.fails(400, "M_INVALID_PARAM");
    // A device whose ID is the public key.
    let mut login = alice.password_login();
    login["device_id"] = Identity::new(&alice, "first").master.public_key().into();
    alice.anonymous().post("login", login).await.ok();
    alice.post(PATH, keys).await.fails(403, "M_FORBIDDEN");
    assert_eq!(query(&mallory, &alice.user_id).await["master_keys"], Value::Null);
}

/// Users sign their devices, which all see, and other users, which only they see.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload>
#[tokio::test]
async fn signatures_are_checked_and_shown_to_whom_they_concern() {
    const PATH: &str = "keys/signatures/upload";
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let (identity, bobs) = (Identity::new(&alice, "first"), Identity::new(&bob, "first"));
    for (client, identity) in [(&alice, &identity), (&bob, &bobs)] {
        client.post("keys/device_signing/upload", identity.upload(client)).await.ok();
    }
    let device = upload_identity(&alice).await;
    let (user, device_id) = (alice.user_id.as_str(), alice.device_id.as_str());

    // The device by the self-signing key, the master key by the device.
    let self_signing = identity.self_signing.public_key();
    let signed_device = identity.self_signing.sign(user, &self_signing, device.device_keys(&alice));
    let master = identity.master.public_key();
    let signed_master =
        device.sign(user, device_id, identity.master.cross_signing_key(user, "master"));
    let body = json!({ user: { device_id: signed_device, &*master: signed_master } });
    let answer = alice.post(PATH, body).await.ok();
    assert_eq!(answer["failures"], json!({}), "{answer}");
    let found = query(&carol, user).await;
    let id = format!("ed25519:{self_signing}");
    assert_eq!(
        found["device_keys"][user][device_id]["signatures"][user][&id],
        signed_device["signatures"][user][&id]
    );
    let id = format!("ed25519:{device_id}");
    assert_eq!(
        found["master_keys"][user]["signatures"][user][&id],
        signed_master["signatures"][user][&id]
    );

    // Another user by the user-signing key.
    let user_signing = identity.user_signing.public_key();
    let bobs_key = bobs.master.cross_signing_key(&bob.user_id, "master");
    let signed_bob = identity.user_signing.sign(user, &user_signing, bobs_key.clone());
    let bobs_master = bobs.master.public_key();
    let body = json!({ &*bob.user_id: { &*bobs_master: signed_bob } });
    let answer = alice.post(PATH, body).await.ok();
    assert_eq!(answer["failures"], json!({}), "{answer}");
    let seen = |found: &Value| found["master_keys"][&bob.user_id]["signatures"][user].is_object();
    assert!(seen(&query(&alice, &bob.user_id).await));
    assert!(!seen(&query(&carol, &bob.user_id).await), "whom Alice has verified is her affair");

    // Wrong signatures, wrong signers, unknown and changed keys.
    let forged = Signer::named("forged").sign(user, &user_signing, bobs_key);
    let mut changed = signed_device.clone();
    changed["algorithms"] = json!([]);
    let body = json!({
        &*bob.user_id: { &*bobs_master: forged },
        user: { device_id: changed, "UNKNOWN": signed_device },
    });
    let failures = alice.post(PATH, body).await.ok()["failures"].clone();
    assert_eq!(failures[&bob.user_id][&bobs_master]["errcode"], "M_INVALID_SIGNATURE");
    assert_eq!(failures[user][device_id]["errcode"], "M_INVALID_PARAM");
    assert_eq!(failures[user]["UNKNOWN"]["errcode"], "M_NOT_FOUND");
}

/// A device that is gone leaves nothing behind, also for one that takes its ID.
#[tokio::test]
async fn keys_go_with_their_device() {
    let server = Server::shared();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let second = alice.log_in_again().await;
    let signer = upload_identity(&second).await;
    let key = signer.one_time_key(&second, "a", false);
    let body = json!({ "one_time_keys": { "signed_curve25519:AAAA": key } });
    second.post("keys/upload", body).await.ok();
    assert_eq!(second.sync().now().await["device_one_time_keys_count"]["signed_curve25519"], 1);
    second.post("logout", json!({})).await.ok();
    assert_eq!(query(&bob, &alice.user_id).await["device_keys"][&alice.user_id], json!({}));
    assert_eq!(claim(&bob, &second).await, Value::Null);
    let mut login = alice.password_login();
    login["device_id"] = second.device_id.clone().into();
    let answer = alice.anonymous().post("login", login).await.ok();
    let again = alice.logged_in(&answer, &alice.password);
    assert_eq!(again.sync().now().await["device_one_time_keys_count"]["signed_curve25519"], 0);
}

/// Users of servers that can't be reached are told of as failures, not left out.
#[tokio::test]
async fn unreachable_servers_are_reported() {
    let server = Server::shared();
    let alice = server.register("alice").await;
    let far = "@bob:unreachable.invalid";
    let found = query(&alice, far).await;
    assert!(found["failures"]["unreachable.invalid"].is_object(), "{found}");
    let wanted = json!({ "one_time_keys": { far: { "DEVICE": "signed_curve25519" } } });
    let claimed = alice.post("keys/claim", wanted).await.ok();
    assert!(claimed["failures"]["unreachable.invalid"].is_object(), "{claimed}");
}
