//! Keys and messages under concurrency and over restarts.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use ruma::{OwnedDeviceId, OwnedUserId, server_name, user_id};
use serde_json::{json, value::RawValue};

use super::{Delivery, E2eeError, Keys, Target, ToDevice, Upload, testing::device_keys};
use crate::{
    api::testing::{TestServer, open_config},
    clock::{Clock, Random},
    config::{Rate, RateLimits},
    storage::{
        Batch, Db, Json,
        schema::{DEVICES, TO_DEVICE},
    },
    users::{limits::Limits, rows::Device, session::Session},
};

const DEVICE: &str = "DEVICE";

async fn session(db: &Db) -> Session {
    let user_id = user_id!("@alice:localhost").to_owned();
    let user = db.users().intern(db, &*user_id).await.unwrap();
    let mut batch = Batch::new();
    let device_id = OwnedDeviceId::from(DEVICE);
    DEVICES.put(&mut batch, &(user, &*device_id), &Json(Device::default()));
    db.commit(batch).await.unwrap();
    Session { user_id, user, device_id, guest: false, appservice: None }
}

fn one_time_keys(ids: impl Iterator<Item = u32>) -> Upload {
    let key = |id: u32| {
        let key = json!({ "key": format!("key {id}"), "signatures": {} }).to_string();
        (format!("signed_curve25519:{id:04}"), RawValue::from_string(key).unwrap())
    };
    Upload { one_time: ids.map(key).collect(), ..Upload::default() }
}

fn wanted() -> BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>> {
    let device = (OwnedDeviceId::from(DEVICE), "signed_curve25519".to_owned());
    BTreeMap::from([(user_id!("@alice:localhost").to_owned(), BTreeMap::from([device]))])
}

async fn claim(keys: &Keys) -> Option<String> {
    let claimed = keys.claim(&wanted()).await.unwrap();
    claimed.keys.values().next()?.values().next()?.keys().next().cloned()
}

/// Also when several processes share a database: each has its own memory.
#[tokio::test]
async fn no_two_claims_get_the_same_key() {
    let db = Db::in_memory().await;
    let session = session(&db).await;
    let one = Keys::new(db.clone(), server_name!("localhost"), None);
    let other = Keys::new(db.clone(), server_name!("localhost"), None);
    one.upload(&session, &one_time_keys(0..60)).await.unwrap();
    let claims = (0..70).map(|number| claim(if number % 2 == 0 { &one } else { &other }));
    let claimed: Vec<String> =
        futures::future::join_all(claims).await.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 60);
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), 60);
    assert_eq!(one.counts(session.user, &session.device_id).await.unwrap().one_time.len(), 1);
    assert!(one.shared.claimed.lock().is_empty(), "no mark stays behind");
}

#[tokio::test]
async fn uploads_at_the_same_time_keep_all_their_keys() {
    let db = Db::in_memory().await;
    let session = session(&db).await;
    let keys = Keys::new(db.clone(), server_name!("localhost"), None);
    let uploads = (0..8).map(|part| {
        let (keys, session) = (&keys, &session);
        async move { keys.upload(session, &one_time_keys(part * 5..(part + 1) * 5)).await.unwrap() }
    });
    futures::future::join_all(uploads).await;
    let counts = keys.counts(session.user, &session.device_id).await.unwrap();
    assert_eq!(counts.one_time["signed_curve25519"], 40);
    let claimed: BTreeSet<String> = futures::future::join_all((0..40).map(|_| claim(&keys)))
        .await
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(claimed.len(), 40);
}

#[tokio::test]
async fn a_device_keeps_a_bounded_number_of_keys() {
    let db = Db::in_memory().await;
    let session = session(&db).await;
    let keys = Keys::new(db.clone(), server_name!("localhost"), None);
    keys.upload(&session, &one_time_keys(0..1_000)).await.unwrap();
    keys.upload(&session, &one_time_keys(1_000..1_001)).await.unwrap_err();
}

fn note(number: u32) -> Delivery {
    let content = RawValue::from_string(json!({ "n": number }).to_string()).unwrap();
    let messages = BTreeMap::from([(Target::All, content)]);
    Delivery::from([(user_id!("@alice:localhost").to_owned(), messages)])
}

#[tokio::test]
async fn concurrent_requests_of_one_transaction_send_once() {
    let db = Db::in_memory().await;
    let session = session(&db).await;
    let to_device = between_devices(&db);
    let delivery = note(1);
    let sends = (0..10).map(|_| to_device.send(&session, "m.x", "t".into(), &delivery));
    for sent in futures::future::join_all(sends).await {
        sent.unwrap();
    }
    let window = (0, db.visible_position());
    let inbox = to_device.inbox(&db, session.user, &session.device_id, window, 100).await.unwrap();
    assert_eq!(inbox.events.len(), 1);
}

#[tokio::test]
async fn an_inbox_is_read_in_parts_and_emptied_up_to_a_position() {
    let db = Db::in_memory().await;
    let session = session(&db).await;
    let to_device = between_devices(&db);
    for number in 0..5 {
        let transaction = number.to_string();
        let transaction = transaction.as_str().into();
        to_device.send(&session, "m.x", transaction, &note(number)).await.unwrap();
    }
    let (user, device, until) = (session.user, &session.device_id, db.visible_position());
    let first = to_device.inbox(&db, user, device, (0, until), 3).await.unwrap();
    assert_eq!(first.events.len(), 3);
    let second = to_device.inbox(&db, user, device, (first.upto, until), 3).await.unwrap();
    assert_eq!((second.events.len(), second.upto), (2, until));
    to_device.delivered(user, device, first.upto).await.unwrap();
    let rest = to_device.inbox(&db, user, device, (0, until), 100).await.unwrap();
    assert_eq!(rest.events.len(), 2);
}

fn between_devices(db: &Db) -> ToDevice {
    let random = Random::seeded(1);
    ToDevice::new(db.clone(), Clock::manual(1), random, server_name!("localhost"), false)
}

/// Whoever fills an inbox hears that it is full; what was taken stays, and others have their place.
#[tokio::test]
async fn one_sender_has_a_bounded_place_in_an_inbox() {
    let db = Db::in_memory().await;
    let session = session(&db).await;
    let (user, device) = (session.user, &*session.device_id);
    let to_device = between_devices(&db);
    let large = RawValue::from_string(json!({ "n": "x".repeat(60_000) }).to_string()).unwrap();
    let large = Delivery::from([(session.user_id.clone(), [(Target::All, large)].into())]);
    let mut sent = 0;
    let refusal = loop {
        let transaction = format!("t{sent}");
        match to_device.send(&session, "m.x", transaction.as_str().into(), &large).await {
            Ok(()) => sent += 1,
            Err(refusal) => break refusal,
        }
        assert!(sent < 700, "it is never full");
    };
    assert!(matches!(refusal, E2eeError::Limit(_)), "{refusal}");
    assert!(sent >= (32 << 20) / 61_000, "{sent}");
    let inbox = to_device.inbox(&db, user, device, (0, u64::MAX), usize::MAX).await.unwrap();
    assert_eq!(inbox.events.len(), sent);

    let refusal = to_device.send(&session, "m.x", "again".into(), &note(1)).await;
    assert!(matches!(refusal, Err(E2eeError::Limit(_))));
    let other = Session { user_id: user_id!("@bob:localhost").to_owned(), ..session.clone() };
    to_device.send(&other, "m.x", "other".into(), &large).await.unwrap();
    to_device.delivered(user, device, inbox.upto).await.unwrap();
    to_device.send(&session, "m.x", "again".into(), &note(1)).await.unwrap();
}

/// The same after a restart: it is the disk that is looked at.
#[tokio::test]
async fn many_small_messages_fill_an_inbox_too() {
    let db = Db::in_memory().await;
    let session = session(&db).await;
    let mut batch = Batch::new();
    for position in 0..10_000 {
        let message = json!({ "type": "m.x", "sender": session.user_id, "content": {} });
        let row = (session.user, session.device_id.clone(), position);
        TO_DEVICE.put(&mut batch, &row, &message.to_string().into_bytes());
    }
    db.commit(batch).await.unwrap();
    let to_device = between_devices(&db);
    let mut sent = 0;
    let refusal = loop {
        let transaction = format!("t{sent}");
        match to_device.send(&session, "m.x", transaction.as_str().into(), &note(1)).await {
            Ok(()) => sent += 1,
            Err(refusal) => break refusal,
        }
        assert!(sent < 1_100, "it is never full");
    };
    assert!(matches!(refusal, E2eeError::Limit(_)), "{refusal}");
}

#[tokio::test]
async fn a_user_sends_so_many_messages_and_then_waits() {
    let db = Db::in_memory().await;
    let session = session(&db).await;
    let rate = Rate { burst: 3, per_minute: 60 };
    let settings = RateLimits { to_device_user: rate, ..RateLimits::default() };
    let clock = Clock::manual(1_000);
    let to_device = between_devices(&db).limited_by(Limits::new(&settings, clock.clone()));
    let send = async |transaction: &str| {
        to_device.send(&session, "m.x", transaction.into(), &note(1)).await
    };
    for transaction in ["1", "2", "3"] {
        send(transaction).await.unwrap();
    }
    assert!(matches!(send("4").await, Err(E2eeError::Limit(_))));
    // One that was sent is not sent again, and costs nothing.
    send("3").await.unwrap();
    clock.advance(std::time::Duration::from_secs(1));
    send("4").await.unwrap();
    let inbox = to_device.inbox(&db, session.user, &session.device_id, (0, u64::MAX), 100).await;
    assert_eq!(inbox.unwrap().events.len(), 4);
}

#[tokio::test]
async fn a_device_is_told_when_it_has_fewer_keys() {
    let db = Db::in_memory().await;
    let session = session(&db).await;
    let keys = Keys::new(db.clone(), server_name!("localhost"), None);
    let (user, device) = (session.user, &*session.device_id);
    let are_fewer = async || {
        let told = keys.told(user, device).await.unwrap();
        keys.counts(user, device).await.unwrap().are_fewer_than(&told)
    };
    assert!(!are_fewer().await, "nothing was told before");
    keys.upload(&session, &one_time_keys(0..3)).await.unwrap();
    assert!(!are_fewer().await, "more are no news");
    keys.tell(user, device, &keys.counts(user, device).await.unwrap());
    claim(&keys).await.unwrap();
    assert!(are_fewer().await);
    keys.tell(user, device, &keys.counts(user, device).await.unwrap());
    assert!(!are_fewer().await, "it was told");
}

#[tokio::test]
async fn keys_and_messages_outlive_the_process() {
    let server = TestServer::open().await;
    let alice = server.register("alice").await;
    let keys = device_keys(&alice.user_id, &alice.device_id, 1);
    let body = json!({
        "device_keys": keys,
        "one_time_keys": { "signed_curve25519:A": { "key": "a", "signatures": {} } },
    });
    let (status, answer) = server.post("/v3/keys/upload", Some(&alice), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let messages = json!({ "messages": { &alice.user_id: { "*": { "n": 1 } } } });
    server.put("/v3/sendToDevice/m.x/t", &alice, messages.clone()).await;
    let server = server.restarted(&open_config()).await;
    server.put("/v3/sendToDevice/m.x/t", &alice, messages).await;
    let (_, answer) = server.get("/v3/sync", Some(&alice)).await;
    assert_eq!(answer["to_device"]["events"].as_array().unwrap().len(), 1);
    assert_eq!(answer["device_one_time_keys_count"]["signed_curve25519"], 1);
    let wanted = json!({ "device_keys": { &alice.user_id: [] } });
    let (_, answer) = server.post("/v3/keys/query", Some(&alice), wanted).await;
    let mut found = answer["device_keys"][&alice.user_id][&alice.device_id].clone();
    found.as_object_mut().unwrap().remove("unsigned");
    assert_eq!(found, keys);
}
