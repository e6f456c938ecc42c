//! Pushers that tell by mail, to a mail server of the test's own.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use complement_tests::{Client, Server};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::mail::{Mail, prove, sending_to, take_mail};
use super::{pushkeys, read, set};

/// How long a mail may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
const ALICE: &str = "alice@mail.test";

/// A server that sends mail soon and seldom, what it sends, and whether its mail server works.
struct Setting {
    server: Server,
    mails: mpsc::UnboundedReceiver<Mail>,
    works: Arc<AtomicBool>,
    alice: Client,
    bob: Client,
}

impl Setting {
    /// Alice has an address; there is only one mail an hour because of one room.
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = sending_to(&listener)
            .with("email_notifications.delay_s", 1)
            .with("email_notifications.first_pause_s", 3_600)
            .with("email_notifications.client_url", "https://app.test");
        let (sender, mut mails) = mpsc::unbounded_channel();
        let works = Arc::new(AtomicBool::new(true));
        let working = Arc::clone(&works);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                if working.load(Ordering::Relaxed) {
                    tokio::spawn(take_mail(BufReader::new(stream), false, true, sender.clone()));
                } else {
                    stream.write_all(b"421 not now\r\n").await.ok();
                }
            }
        });
        let server = Server::start(&config);
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        prove(&server, &alice, ALICE, &mut mails).await;
        Self { server, mails, works, alice, bob }
    }

    async fn room(&self, name: &str) -> String {
        let room = self.bob.create_room_with(&[&self.alice]).await;
        self.bob.set_state(&room, "m.room.name", "", json!({ "name": name })).await;
        room
    }

    async fn next(&mut self) -> Mail {
        let next = tokio::time::timeout(PATIENCE, self.mails.recv()).await;
        next.expect("no mail came").expect("the mail server stopped")
    }
}

fn pusher(address: &str) -> Value {
    json!({
        "kind": "email", "app_id": "m.email", "pushkey": address, "lang": "en",
        "app_display_name": "Email Notifications", "device_display_name": address,
        "data": { "brand": "Cooking" },
    })
}

/// The path of the page on which mail is stopped.
fn unsubscribe_path(mail: &Mail) -> String {
    let link = mail.header("List-Unsubscribe");
    let link = link.trim_start_matches('<').trim_end_matches('>');
    format!("/{}", link.splitn(4, '/').nth(3).expect("a link with a path"))
}

/// One mail tells of everything that is unread, as text and as a web page in which nothing that
/// others wrote is markup.
#[tokio::test]
async fn what_stays_unread_comes_by_mail() {
    let mut setting = Setting::new().await;
    let (kitchen, garden) = (setting.room("Kitchen").await, setting.room("Garden <b>").await);
    set(&setting.alice, pusher(ALICE)).await;
    setting.bob.say(&kitchen, "The soup is ready").await;
    setting.bob.say(&garden, "<script>alert(1)</script>").await;
    let mail = setting.next().await;
    assert!(mail.header("To").contains(ALICE), "{mail:?}");
    assert_eq!(
        mail.header("Subject"),
        "[Cooking] Unread messages in Kitchen and 1 other room",
        "{mail:?}"
    );
    assert_eq!(mail.header("List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
    let text = mail.text();
    for part in [
        "has 2 unread notifications.",
        "bob",
        "The soup is ready",
        "https://app.test/#/room/",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "Garden &lt;b&gt;",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let html = text.split_once("<!DOCTYPE html>").expect("a web page").1;
    assert!(!html.contains("<script"), "{html}");
}

/// What is read in time is no mail, and a room does not make a second one soon: of what is not read
/// there the next mail tells that goes out because of another room.
#[tokio::test]
async fn what_is_read_is_no_mail_and_a_room_rests_after_one() {
    let mut setting = Setting::new().await;
    let (kitchen, garden) = (setting.room("Kitchen").await, setting.room("Garden").await);
    let attic = setting.room("Attic").await;
    set(&setting.alice, pusher(ALICE)).await;
    let seen = setting.bob.say(&kitchen, "read at once").await;
    read(&setting.alice, &kitchen, &seen).await;
    setting.bob.say(&garden, "first of the garden").await;
    let mail = setting.next().await;
    assert_eq!(mail.header("Subject"), "[Cooking] Unread messages in Garden");
    assert!(!mail.text().contains("read at once"), "{mail:?}");

    setting.bob.say(&garden, "second of the garden").await;
    setting.bob.say(&attic, "first of the attic").await;
    let mail = setting.next().await;
    let text = mail.text();
    assert!(text.contains("second of the garden") && text.contains("of the attic"), "{text}");
    assert!(!text.contains("first of the garden"), "{text}");
    assert!(text.contains("has 3 unread notifications."), "{text}");
}

/// Neither a mail server that takes nothing nor a server that is killed loses what is unread, and
/// what a mail told of is not told again.
#[tokio::test]
async fn mail_survives_failures_and_comes_once() {
    let mut setting = Setting::new().await;
    let (kitchen, garden) = (setting.room("Kitchen").await, setting.room("Garden").await);
    let attic = setting.room("Attic").await;
    set(&setting.alice, pusher(ALICE)).await;
    setting.works.store(false, Ordering::Relaxed);
    setting.bob.say(&kitchen, "before the kill").await;
    setting.server.kill_and_start_again();
    setting.works.store(true, Ordering::Relaxed);
    let mail = setting.next().await;
    assert!(mail.text().contains("before the kill"), "{mail:?}");

    // Once there is another mail, it is written down that there was the first. Of the second it may
    // not be, so that it comes again.
    setting.bob.say(&garden, "in the garden").await;
    assert!(setting.next().await.text().contains("in the garden"));
    setting.server.kill_and_start_again();
    setting.bob.say(&kitchen, "while the kitchen rests").await;
    setting.server.kill_and_start_again();
    setting.bob.say(&attic, "after the kill").await;
    let mut rested = false;
    loop {
        let mail = setting.next().await;
        let text = mail.text();
        assert!(!text.contains("before the kill"), "{text}");
        // It may go with the mail about the garden, if that comes again.
        rested |= text.contains("while the kitchen rests");
        if text.contains("after the kill") {
            assert!(rested, "nothing was said of the kitchen: {text}");
            break;
        }
        assert!(text.contains("in the garden"), "{text}");
    }
}

/// An invitation is worth a mail too.
#[tokio::test]
async fn an_invitation_comes_by_mail() {
    let mut setting = Setting::new().await;
    set(&setting.alice, pusher(ALICE)).await;
    let room = setting.bob.create_room(json!({ "name": "Kitchen" })).await;
    setting.bob.invite(&room, &setting.alice.user_id).await;
    let mail = setting.next().await;
    assert_eq!(mail.header("Subject"), "[Cooking] You are invited to Kitchen");
}

/// The link in a mail stops it without logging in, and not before a button is pressed: by people on
/// the page, or by their mail program with one request.
/// Spec: <https://www.rfc-editor.org/rfc/rfc8058>
#[tokio::test]
async fn mail_is_stopped_by_its_link() {
    let mut setting = Setting::new().await;
    let kitchen = setting.room("Kitchen").await;
    set(&setting.alice, pusher(ALICE)).await;
    setting.bob.say(&kitchen, "hello").await;
    let mail = setting.next().await;
    let path = unsubscribe_path(&mail);
    let stranger = setting.server.anonymous();
    let page = stranger.get(path.as_str()).await;
    assert_eq!(page.status, 200, "{page}");
    assert_eq!(pushkeys(&setting.alice).await, [ALICE], "looking at the page changes nothing");

    let stop = || {
        let request = stranger.request(Method::POST, path.as_str());
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.raw("List-Unsubscribe=One-Click")
    };
    assert_eq!(stop().await.status, 200);
    assert!(pushkeys(&setting.alice).await.is_empty());
    assert_eq!(stop().await.status, 200, "again it is the same");

    // Of another pusher, and of none.
    set(&setting.alice, pusher(ALICE)).await;
    let (start, token) = path.split_at(path.len() - 4);
    let other = if token == "AAAA" { "BBBB" } else { "AAAA" };
    stranger.request(Method::POST, format!("{start}{other}").as_str()).await;
    assert_eq!(pushkeys(&setting.alice).await, [ALICE]);
    for token in ["", "%3Cb%3E", "abc"] {
        let path = format!("/_myelin/client/email/unsubscribe?token={token}");
        assert_eq!(stranger.request(Method::POST, path.as_str()).await.status, 400, "{token}");
    }
}

/// Mail goes only to addresses of the user's own, and no longer than they are that.
#[tokio::test]
async fn mail_goes_to_ones_own_addresses_only() {
    let setting = Setting::new().await;
    let (alice, bob) = (&setting.alice, &setting.bob);
    for (client, address) in [(bob, ALICE), (alice, "other@mail.test"), (alice, "nonsense")] {
        let answer = client.post("pushers/set", pusher(address)).await;
        answer.fails(400, "M_THREEPID_NOT_FOUND");
    }
    let mut wrong = pusher(ALICE);
    wrong["app_id"] = json!("org.example.app");
    alice.post("pushers/set", wrong).await.fails(400, "M_INVALID_PARAM");
    let shouted = pusher("Alice@Mail.test");
    set(alice, shouted).await;
    let known = alice.get("pushers").await.ok();
    assert_eq!(known["pushers"][0]["kind"], "email", "{known}");

    let address = json!({ "medium": "email", "address": ALICE });
    alice.post("account/3pid/delete", address).await.ok();
    assert!(pushkeys(alice).await.is_empty());
}

/// A pusher that is switched off sends no mail, also not later about what happened meanwhile.
#[tokio::test]
async fn mail_is_switched_off_and_on() {
    let mut setting = Setting::new().await;
    let (kitchen, garden) = (setting.room("Kitchen").await, setting.room("Garden").await);
    let with = |on: bool| {
        let mut body = pusher(ALICE);
        body["enabled"] = json!(on);
        body
    };
    set(&setting.alice, with(false)).await;
    setting.bob.say(&kitchen, "in silence").await;
    set(&setting.alice, with(true)).await;
    setting.bob.say(&garden, "aloud").await;
    let mail = setting.next().await;
    assert!(mail.text().contains("aloud") && !mail.text().contains("in silence"), "{mail:?}");
}

/// Where the server is told to send no such mail there are no pushers of this kind.
#[tokio::test]
async fn mail_may_be_switched_off_by_the_operator() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = sending_to(&listener).with("email_notifications.enabled", false);
    for server in [Server::start(&config), Server::shared()] {
        let alice = server.register("alice").await;
        alice.post("pushers/set", pusher(ALICE)).await.fails(400, "M_INVALID_PARAM");
        assert!(pushkeys(&alice).await.is_empty());
    }
}
