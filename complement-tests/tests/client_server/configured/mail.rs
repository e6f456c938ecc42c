//! E-mail addresses, on a server that can send mail to a mail server of the test's own.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information>

use complement_tests::{Config, Server, text};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// An address is proved by the link in a mail, added with the password, and is then good for
/// logging in and for a new password.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidadd>
#[tokio::test]
async fn an_address_is_proved_added_used_and_removed() {
    let (server, mut mails) = server_with_mail().await;
    let mut alice = server.register("alice").await;
    let address = "alice@mail.test";

    // Not before the link was followed.
    let sid = request_token(&server, "account/3pid/email/requestToken", address).await;
    let mut body = json!({ "client_secret": "s3cret", "sid": sid });
    let link = mails.recv().await.unwrap().link();
    let challenge = alice.post("account/3pid/add", body.clone()).await.has_status(401);
    body["auth"] = alice.password_proof(&challenge);
    let early = alice.post("account/3pid/add", body.clone()).await;
    assert!([400, 403].contains(&early.status), "{early}");

    follow(&server, &link).await;
    let challenge =
        alice.post("account/3pid/add", json!({ "client_secret": "s3cret", "sid": sid }));
    let challenge = challenge.await.has_status(401);
    body["auth"] = alice.password_proof(&challenge);
    alice.post("account/3pid/add", body).await.ok();
    let known = alice.get("account/3pid").await.ok();
    assert_eq!(known["threepids"][0]["medium"], "email", "{known}");
    assert_eq!(known["threepids"][0]["address"], address, "{known}");

    // Logging in by the address.
    let identifier = json!({ "type": "m.id.thirdparty", "medium": "email", "address": address });
    let login = |password: &str| {
        json!({
            "type": "m.login.password", "identifier": identifier, "password": password,
        })
    };
    let answer = server.anonymous().post("login", login("a good password")).await.ok();
    assert_eq!(answer["user_id"], alice.user_id);

    // A new password for somebody who forgot the old one.
    let sid = request_token(&server, "account/password/email/requestToken", address).await;
    follow(&server, &mails.recv().await.unwrap().link()).await;
    let mut body = json!({ "new_password": "a better password" });
    let challenge = server.anonymous().post("account/password", body.clone()).await.has_status(401);
    body["auth"] = json!({
        "type": "m.login.email.identity", "session": challenge["session"],
        "threepid_creds": { "client_secret": "s3cret", "sid": sid },
    });
    server.anonymous().post("account/password", body).await.ok();
    server.anonymous().post("login", login("a good password")).await.fails(403, "M_FORBIDDEN");
    let answer = server.anonymous().post("login", login("a better password")).await.ok();
    alice = alice.logged_in(&answer, "a better password");

    let address = json!({ "medium": "email", "address": address });
    alice.post("account/3pid/delete", address).await.ok();
    assert_eq!(alice.get("account/3pid").await.ok(), json!({ "threepids": [] }));
    server.anonymous().post("login", login("a better password")).await.fails(403, "M_FORBIDDEN");
}

/// One address belongs to one account; whoever asks about one that nobody has learns so.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidemailrequesttoken>
#[tokio::test]
async fn an_address_belongs_to_one_account() {
    let (server, mut mails) = server_with_mail().await;
    let alice = server.register("alice").await;
    let path = "account/3pid/email/requestToken";
    let sid = request_token(&server, path, "alice@mail.test").await;
    follow(&server, &mails.recv().await.unwrap().link()).await;
    let body = json!({ "client_secret": "s3cret", "sid": sid });
    alice.with_password(reqwest::Method::POST, "account/3pid/add", body).await.ok();

    let ask = |address: &str| {
        json!({
            "client_secret": "other", "email": address, "send_attempt": 1,
        })
    };
    let anonymous = server.anonymous();
    anonymous.post(path, ask("alice@mail.test")).await.fails(400, "M_THREEPID_IN_USE");
    let path = "register/email/requestToken";
    anonymous.post(path, ask("alice@mail.test")).await.fails(400, "M_THREEPID_IN_USE");
    let path = "account/password/email/requestToken";
    let answer = anonymous.post(path, ask("nobody@mail.test")).await;
    assert!(
        answer.status == 200 || answer.errcode() == "M_THREEPID_NOT_FOUND",
        "it is unknown, or the server does not tell: {answer}"
    );
    let answer = anonymous.post("register/email/requestToken", ask("no address")).await;
    assert_eq!(answer.status, 400, "{answer}");
}

/// Asking again with the same attempt is the same mail; a higher attempt is another one.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registeremailrequesttoken>
#[tokio::test]
async fn one_attempt_is_one_mail() {
    let (server, mut mails) = server_with_mail().await;
    let ask = async |attempt: u64| {
        let body = json!({
            "client_secret": "s3cret", "email": "bob@mail.test", "send_attempt": attempt,
        });
        let answer = server.anonymous().post("register/email/requestToken", body).await.ok();
        text(&answer, "/sid")
    };
    let sid = ask(1).await;
    assert_eq!(ask(1).await, sid);
    assert_eq!(ask(2).await, sid);
    mails.recv().await.unwrap();
    mails.recv().await.unwrap();
    assert!(mails.try_recv().is_err(), "the repeated attempt sent a mail");
}

struct Mail(String);

impl Mail {
    /// The first link in the mail.
    fn link(&self) -> String {
        let begin = self.0.find("http").expect("a link in the mail");
        self.0[begin..].split_whitespace().next().unwrap_or_default().to_owned()
    }
}

async fn server_with_mail() -> (Server, mpsc::UnboundedReceiver<Mail>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, mails) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take_mail(stream, sender.clone()));
        }
    });
    let config = Config::default()
        .with("smtp.host", "127.0.0.1")
        .with("smtp.port", i64::from(port))
        .with("smtp.tls", "none")
        .with("smtp.from", "Matrix <matrix@complement.test>");
    (Server::start(&config), mails)
}

/// A mail server that takes everything.
async fn take_mail(stream: TcpStream, mails: mpsc::UnboundedSender<Mail>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 mail.test\r\n").await?;
    let mut content: Option<String> = None;
    while let Some(line) = lines.next_line().await? {
        let reply: &[u8] = match (&mut content, line.get(..4).unwrap_or(&line)) {
            (Some(mail), _) if line == "." => {
                // Long lines are folded, and `=` is encoded.
                let plain = mail.replace("=\n", "").replace("=3D", "=");
                let _ = mails.send(Mail(plain));
                content = None;
                b"250 taken\r\n"
            }
            (Some(mail), _) => {
                mail.push_str(&line);
                mail.push('\n');
                continue;
            }
            (None, "DATA") => {
                content = Some(String::new());
                b"354 go on\r\n"
            }
            (None, "QUIT") => {
                write.write_all(b"221 bye\r\n").await?;
                break;
            }
            (None, _) => b"250 fine\r\n",
        };
        write.write_all(reply).await?;
    }
    Ok(())
}

async fn request_token(server: &Server, path: &str, address: &str) -> String {
    let body = json!({ "client_secret": "s3cret", "email": address, "send_attempt": 1 });
    text(&server.anonymous().post(path, body).await.ok(), "/sid")
}

/// Does what somebody does who follows the link and presses the button there.
async fn follow(server: &Server, link: &str) {
    let path = format!("/{}", link.splitn(4, '/').nth(3).expect("a link with a path"));
    server.get(path.as_str()).await.ok();
    let confirmed = server.anonymous().post(path.as_str(), Value::Null).await;
    assert_eq!(confirmed.status, 200, "{confirmed}");
}
