//! Web push: a push service of the test's own, and devices that can read what is left there.
//!
//! Spec: MSC4174, <https://www.rfc-editor.org/rfc/rfc8291>, <https://www.rfc-editor.org/rfc/rfc8292>

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use complement_tests::{Client, Server, must_match, text};
use p256::{PublicKey, SecretKey, ecdh::diffie_hellman, elliptic_curve::sec1::ToSec1Point};
use ring::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
};
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::gateway::{Request, read_request};

const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

struct Device {
    key: SecretKey,
}

impl Device {
    fn new(seed: u8) -> Self {
        Self { key: SecretKey::from_slice(&[seed; 32]).unwrap() }
    }

    fn public(&self) -> Vec<u8> {
        self.key.public_key().to_sec1_point(false).as_bytes().to_vec()
    }

    /// What a message says, whose headers are those of the RFC.
    fn read(&self, message: &[u8]) -> Value {
        let (salt, rest) = message.split_at(16);
        assert_eq!(rest[..5], [0, 0, 16, 0, 65], "records of 4,096 bytes, a key of 65");
        let (sender, record) = rest[5..].split_at(65);
        let theirs = PublicKey::from_sec1_bytes(sender).unwrap();
        let shared = diffie_hellman(self.key.to_nonzero_scalar(), theirs.as_affine());
        let auth = BASE64.decode(AUTH).unwrap();
        let both = Salt::new(HKDF_SHA256, &auth).extract(shared.raw_secret_bytes());
        let secret: [u8; 32] = derive(&both, &[b"WebPush: info\0", &self.public(), sender]);
        let key = Salt::new(HKDF_SHA256, salt).extract(&secret);
        let cek: [u8; 16] = derive(&key, &[b"Content-Encoding: aes128gcm\0"]);
        let nonce: [u8; 12] = derive(&key, &[b"Content-Encoding: nonce\0"]);
        let cek = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &cek).unwrap());
        let mut record = record.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = cek.open_in_place(nonce, Aad::empty(), &mut record).unwrap();
        assert_eq!(plain.last(), Some(&2), "the last record");
        serde_json::from_slice(&plain[..plain.len() - 1]).unwrap()
    }
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive<const N: usize>(from: &Prk, info: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    from.expand(info, Bytes(N)).unwrap().fill(&mut out).unwrap();
    out
}

/// A push service that answers with a status, and what was left there.
struct Service {
    port: u16,
    status: watch::Sender<u16>,
    messages: mpsc::UnboundedReceiver<Request>,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, messages) = mpsc::unbounded_channel();
        let (status, current) = watch::channel(201);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, current) = (sender.clone(), current.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Ok(Some(request)) = read_request(&mut stream).await {
                        let status = *current.borrow();
                        let _ = sender.send(request);
                        let answer = format!("HTTP/1.1 {status} Any\r\ncontent-length: 0\r\n\r\n");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, status, messages }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/send/abc", self.port)
    }

    /// The next message, whose request is as RFC 8030 wants it and signed by `vapid`.
    async fn next(&mut self, vapid: &str) -> Vec<u8> {
        let request = self.messages.recv().await.unwrap();
        assert_eq!(request.line, "POST /send/abc HTTP/1.1");
        let header = |name: &str| request.header(name).unwrap_or_default();
        assert_eq!(header("content-encoding"), "aes128gcm");
        assert!(header("ttl").parse::<u64>().is_ok_and(|ttl| ttl > 0));
        assert!(["high", "normal"].contains(&&*header("urgency")));
        let authorization = header("authorization");
        let rest = authorization.strip_prefix("vapid t=").unwrap();
        let (token, key) = rest.split_once(", k=").unwrap();
        assert_eq!(key, vapid);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let verifier =
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, BASE64.decode(key).unwrap());
        verifier.verify(signed.as_bytes(), &BASE64.decode(signature).unwrap()).unwrap();
        let claims = BASE64.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["aud"], format!("http://127.0.0.1:{}", self.port));
        request.body
    }
}

async fn vapid(client: &Client) -> String {
    let capabilities = client.get("capabilities").await.ok();
    let webpush = &capabilities["capabilities"]["org.matrix.msc4174.webpush"];
    assert_eq!(webpush["enabled"], true);
    text(webpush, "/vapid")
}

fn pusher(service: &Service, device: &Device) -> Value {
    json!({
        "kind": "org.matrix.msc4174.webpush", "app_id": "org.example.web", "lang": "en",
        "pushkey": BASE64.encode(device.public()), "app_display_name": "App",
        "device_display_name": "Browser", "data": { "url": service.url(), "auth": AUTH },
    })
}

async fn ack(client: &Client, message: &Value) -> complement_tests::Answer {
    let path = "/_matrix/client/unstable/org.matrix.msc4174/pushers/ack";
    client.post(path, message.clone()).await
}

/// MSC4174: "the server MUST respond with 201 [...] The homeserver doesn't send any notification -
/// except the one to validate the pusher - to the pusher, until the Pusher is activated."
#[tokio::test]
async fn a_browser_is_told_what_only_it_can_read_once_it_has_answered() {
    let (server, mut service, device) = (super::server(), Service::start().await, Device::new(7));
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let vapid = vapid(&alice).await;
    let room = bob.create_room_with(&[&alice]).await;
    alice.post("pushers/set", pusher(&service, &device)).await.has_status(201);
    let question = device.read(&service.next(&vapid).await);
    assert_eq!(question["app_id"], "org.example.web");

    bob.say(&room, "not yet").await;
    let listed = alice.get("pushers").await.ok();
    assert_eq!(listed["pushers"][0]["data"]["activated"], false, "{listed}");
    let wrong = json!({ "app_id": "org.example.web", "ack_token": "wrong" });
    ack(&alice, &wrong).await.fails(400, "M_UNKNOWN_ACTIVATION_TOKEN");
    let other = json!({ "app_id": "org.example.other", "ack_token": "wrong" });
    ack(&alice, &other).await.fails(404, "M_NOT_FOUND");
    ack(&bob, &question).await.fails(404, "M_NOT_FOUND");
    ack(&alice, &question).await.ok();
    let listed = alice.get("pushers").await.ok();
    assert_eq!(listed["pushers"][0]["data"]["activated"], true, "{listed}");

    let event = bob.say(&room, "now").await;
    let told = device.read(&service.next(&vapid).await);
    must_match(
        &told,
        &json!({
            "event_id": event, "room_id": room, "type": "m.room.message", "sender": bob.user_id,
            "content": { "body": "now" }, "unread": 2, "prio": "high",
        }),
    );
    assert!(told.get("devices").is_none(), "{told}");
    // What is too long for a push service is told without its content.
    let event = bob.say(&room, &"long ".repeat(2_000)).await;
    let told = device.read(&service.next(&vapid).await);
    assert_eq!((&told["event_id"], &told["content"]), (&json!(event), &Value::Null));

    // Set again it stays active; elsewhere it has to be activated anew.
    alice.post("pushers/set", pusher(&service, &device)).await.has_status(200);
    let mut moved = pusher(&service, &device);
    moved["data"]["url"] = json!(format!("{}?x", service.url()));
    alice.post("pushers/set", moved).await.has_status(201);
}

/// MSC4174: "the homeserver deletes the registration if it receives a 404, 410 or 403".
#[tokio::test]
async fn a_browser_that_is_gone_is_forgotten() {
    let (server, mut service, device) = (super::server(), Service::start().await, Device::new(9));
    let alice = active(&server, &mut service, &device).await;
    let bob = server.register("bob").await;
    let room = bob.create_room_with(&[&alice]).await;
    service.status.send_replace(410);
    bob.say(&room, "hello").await;
    while !super::pushkeys(&alice).await.is_empty() {
        tokio::task::yield_now().await;
    }
}

async fn active(server: &Server, service: &mut Service, device: &Device) -> Client {
    let alice = server.register("alice").await;
    let vapid = vapid(&alice).await;
    alice.post("pushers/set", pusher(service, device)).await.has_status(201);
    ack(&alice, &device.read(&service.next(&vapid).await)).await.ok();
    alice
}

/// Keys that are none, and addresses that nobody may be called at, are refused.
#[tokio::test]
async fn web_pushers_that_make_no_sense_are_refused() {
    let (server, service, device) = (super::server(), Service::start().await, Device::new(7));
    let alice = server.register("alice").await;
    for (pointer, value) in [
        ("/pushkey", json!("abc")),
        ("/pushkey", json!(BASE64.encode([2; 65]))),
        ("/data/auth", json!("abc")),
        ("/data/auth", json!(5)),
        ("/data/url", json!("ftp://127.0.0.1/")),
    ] {
        let mut body = pusher(&service, &device);
        *body.pointer_mut(pointer).unwrap() = value;
        alice.post("pushers/set", body).await.fails(400, "M_INVALID_PARAM");
    }
    let mut body = pusher(&service, &device);
    body["data"] = json!({ "url": service.url() });
    alice.post("pushers/set", body).await.fails(400, "M_MISSING_PARAM");
}
