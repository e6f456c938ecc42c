//! E-mail addresses, on a server that can send mail to a mail server of the test's own.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information>

use complement_tests::{Client, Config, Server, text};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

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
    // Old clients have another path.
    let old = json!({ "three_pid_creds": { "client_secret": "s3cret", "sid": sid } });
    alice.post("account/3pid", old).await.fails(403, "M_THREEPID_AUTH_FAILED");

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

    let another = "another@mail.test";
    let sid = request_token(&server, "account/3pid/email/requestToken", another).await;
    follow(&server, &mails.recv().await.unwrap().link()).await;
    let old = json!({ "three_pid_creds": { "client_secret": "s3cret", "sid": sid } });
    alice.post("account/3pid", old).await.ok();
    assert_eq!(alice.get("account/3pid").await.ok()["threepids"][0]["address"], another);
}

/// One address belongs to one account; whoever asks about one that nobody has learns so.
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidemailrequesttoken>
#[tokio::test]
async fn an_address_belongs_to_one_account() {
    let (server, mut mails) = server_with_mail().await;
    let alice = server.register("alice").await;
    let path = "account/3pid/email/requestToken";
    prove(&server, &alice, "alice@mail.test", &mut mails).await;

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
    let answer = alice.post("account/3pid/email/requestToken", ask("no address")).await;
    answer.fails(400, "M_INVALID_PARAM");
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

/// Mail goes out by TLS from the first byte or after `STARTTLS`, with the password given only then.
#[tokio::test]
async fn mail_is_sent_through_tls() {
    for protection in [Protection::Tls, Protection::StartTls] {
        let (server, mut mails) = server_with(protection, true).await;
        request_token(&server, "register/email/requestToken", "bob@mail.test").await;
        assert!(mails.recv().await.unwrap().link().contains("token="), "{protection:?}");
    }
}

/// A mail server whose certificate nobody vouches for gets no mail, and the client is told that
/// there was none.
#[tokio::test]
async fn a_mail_server_that_is_not_trusted_gets_nothing() {
    let (server, mut mails) = server_with(Protection::StartTls, false).await;
    let body = json!({ "client_secret": "s3cret", "email": "bob@mail.test", "send_attempt": 1 });
    let answer = server.anonymous().post("register/email/requestToken", body).await;
    assert_eq!(answer.status, 500, "{answer}");
    assert!(mails.try_recv().is_err());
}

/// A mail as it came, with its encoding taken away.
#[derive(Debug)]
pub(super) struct Mail(String);

impl Mail {
    /// What is in it, headers included.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The value of a header, which may go on over several lines.
    pub(super) fn header(&self, name: &str) -> String {
        let head = self.0.split_once("\n\n").map_or(&*self.0, |(head, _)| head);
        let head = head.replace("\n ", " ").replace("\n\t", " ");
        let value = head.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        value.map(|value| value.trim().to_owned()).unwrap_or_default()
    }

    /// The first link in the mail.
    fn link(&self) -> String {
        let begin = self.0.find("http").expect("a link in the mail");
        self.0[begin..].split_whitespace().next().unwrap_or_default().to_owned()
    }
}

/// How a connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Protection {
    None,
    Tls,
    StartTls,
}

async fn server_with_mail() -> (Server, mpsc::UnboundedReceiver<Mail>) {
    server_with(Protection::None, true).await
}

/// A server, and the mails that its mail server takes. `trusted`: it knows the certificate.
async fn server_with(
    protection: Protection,
    trusted: bool,
) -> (Server, mpsc::UnboundedReceiver<Mail>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = sending_to(&listener);
    let (sender, mails) = mpsc::unbounded_channel();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let acceptor = acceptor(&certified);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, protection, acceptor.clone(), sender.clone()));
        }
    });
    config = match protection {
        Protection::None => config,
        Protection::Tls => config.with("smtp.tls", "tls"),
        Protection::StartTls => config.with("smtp.tls", "starttls"),
    };
    // Read at start.
    let root = tempfile::NamedTempFile::new().unwrap();
    if protection != Protection::None {
        config = config.with("smtp.username", "matrix").with("smtp.password", "s3cret");
        std::fs::write(root.path(), certified.cert.pem()).unwrap();
        if trusted {
            let roots = vec![root.path().to_str().unwrap().to_owned()];
            config = config.with("outgoing.ca_certificates", roots);
        }
    }
    (Server::start(&config), mails)
}

/// The settings of a server that sends mail to whoever listens there.
pub(super) fn sending_to(listener: &TcpListener) -> Config {
    Config::default()
        .with("smtp.host", "localhost")
        .with("smtp.port", i64::from(listener.local_addr().unwrap().port()))
        .with("smtp.from", "Matrix <matrix@complement.test>")
        .with("smtp.tls", "none")
}

/// Adds an address to an account; the mail about it is taken from `mails`.
pub(super) async fn prove(
    server: &Server,
    client: &Client,
    address: &str,
    mails: &mut mpsc::UnboundedReceiver<Mail>,
) {
    let sid = request_token(server, "account/3pid/email/requestToken", address).await;
    follow(server, &mails.recv().await.unwrap().link()).await;
    let body = json!({ "client_secret": "s3cret", "sid": sid });
    client.with_password(reqwest::Method::POST, "account/3pid/add", body).await.ok();
}

fn acceptor(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der());
    let provider = rustls::crypto::ring::default_provider();
    let tls = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.unwrap())
        .unwrap();
    TlsAcceptor::from(std::sync::Arc::new(tls))
}

async fn serve(
    stream: TcpStream,
    protection: Protection,
    acceptor: TlsAcceptor,
    mails: mpsc::UnboundedSender<Mail>,
) -> std::io::Result<()> {
    match protection {
        Protection::None => take_mail(BufReader::new(stream), false, true, mails).await,
        Protection::Tls => {
            let stream = BufReader::new(acceptor.accept(stream).await?);
            take_mail(stream, true, true, mails).await
        }
        Protection::StartTls => {
            let mut stream = BufReader::new(stream);
            stream.write_all(b"220 mail.test\r\n").await?;
            let mut line = String::new();
            while stream.read_line(&mut line).await? > 0 {
                let reply: &[u8] = match line.trim_end() {
                    "STARTTLS" => break,
                    line if line.starts_with("EHLO") => b"250-mail.test\r\n250 STARTTLS\r\n",
                    _ => b"530 STARTTLS first\r\n",
                };
                stream.write_all(reply).await?;
                line.clear();
            }
            stream.write_all(b"220 go ahead\r\n").await?;
            let stream = BufReader::new(acceptor.accept(stream.into_inner()).await?);
            take_mail(stream, true, false, mails).await
        }
    }
}

/// A mail server that takes everything, with `login` after the right password only.
pub(super) async fn take_mail(
    mut stream: BufReader<impl AsyncRead + AsyncWrite + Unpin>,
    login: bool,
    greets: bool,
    mails: mpsc::UnboundedSender<Mail>,
) -> std::io::Result<()> {
    // "\0matrix\0s3cret"
    const PLAIN: &str = "AUTH PLAIN AG1hdHJpeABzM2NyZXQ=";
    if greets {
        stream.write_all(b"220 mail.test\r\n").await?;
    }
    let mut logged_in = !login;
    let mut content: Option<String> = None;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let text = line.trim_end_matches(['\r', '\n']);
        let reply: &[u8] = match (&mut content, text.get(..4).unwrap_or(text)) {
            (Some(mail), _) if text == "." => {
                // Long lines are folded, and `=` is encoded.
                let plain = mail.replace("=\n", "").replace("=3D", "=");
                let _ = mails.send(Mail(plain));
                content = None;
                b"250 taken\r\n"
            }
            (Some(mail), _) => {
                mail.push_str(text);
                mail.push('\n');
                b""
            }
            (None, "EHLO") if login => b"250-mail.test\r\n250 AUTH PLAIN\r\n",
            (None, "AUTH") => {
                logged_in = text == PLAIN;
                if logged_in { b"235 welcome\r\n" } else { b"535 no\r\n" }
            }
            (None, "MAIL" | "DATA") if !logged_in => b"530 who are you\r\n",
            (None, "DATA") => {
                content = Some(String::new());
                b"354 go on\r\n"
            }
            (None, "QUIT") => {
                stream.write_all(b"221 bye\r\n").await?;
                break;
            }
            (None, _) => b"250 fine\r\n",
        };
        stream.write_all(reply).await?;
        line.clear();
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
