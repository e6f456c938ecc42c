//! E-mail addresses, proved by a mail.

use super::*;

#[tokio::test]
async fn addresses_cannot_be_proved_without_a_mail_server_and_telephones_never() {
    let server = TestServer::open().await;
    let email = json!({ "client_secret": "s", "email": "a@b.example", "send_attempt": 1 });
    let phone = json!({
        "client_secret": "s", "country": "AT", "phone_number": "1234", "send_attempt": 1,
    });
    for path in ["register", "account/password", "account/3pid"] {
        let path_of = format!("/v3/{path}/email/requestToken");
        let answer = server.post(&path_of, None, email.clone()).await;
        assert_eq!(refused(&answer), (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"));
        let path_of = format!("/v3/{path}/msisdn/requestToken");
        let answer = server.post(&path_of, None, phone.clone()).await;
        assert_eq!(refused(&answer), (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"));
    }
}

/// Takes mails on a local port, and hands out their links.
async fn mail_sink() -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mails, received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mails = mails.clone();
            tokio::spawn(async move {
                let (read, mut write) = stream.split();
                let mut lines = BufReader::new(read).lines();
                write.write_all(b"220 sink\r\n").await.ok();
                let (mut in_data, mut mail) = (false, String::new());
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer = match line.as_str() {
                        "." if in_data => {
                            in_data = false;
                            mails.send(std::mem::take(&mut mail)).ok();
                            "250 taken\r\n"
                        }
                        text if in_data => {
                            mail.push_str(text);
                            mail.push('\n');
                            continue;
                        }
                        "DATA" => {
                            in_data = true;
                            "354 go on\r\n"
                        }
                        _ => "250 fine\r\n",
                    };
                    write.write_all(answer.as_bytes()).await.ok();
                }
            });
        }
    });
    (port, received)
}

/// From the request for a mail to the address on the account, and a password that is reset by it.
#[tokio::test]
async fn an_email_address_is_proved_by_its_link() {
    let (port, mut mails) = mail_sink().await;
    let mut config = open_config();
    config.smtp = Some(crate::config::Smtp {
        host: "127.0.0.1".to_owned(),
        port: Some(port),
        tls: crate::config::SmtpTls::None,
        username: None,
        password: None,
        from: "Matrix <matrix@localhost>".to_owned(),
    });
    let server = TestServer::new(&config).await;
    let alice = server.register("alice").await;
    let ask = |path: &'static str, attempt: u64| {
        let body = json!({
            "client_secret": "monkeys", "email": "Alice@Example.org", "send_attempt": attempt,
        });
        let server = &server;
        async move { server.post(&format!("/v3/{path}/email/requestToken"), None, body).await }
    };
    let unknown = ask("account/password", 1).await;
    assert_eq!(refused(&unknown), (400, "M_THREEPID_NOT_FOUND"));

    let (status, answer) = ask("account/3pid", 1).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let mail = mails.recv().await.unwrap();
    // The same attempt again sends no mail; the next one does.
    assert_eq!(ask("account/3pid", 1).await.1, answer);
    assert!(mails.try_recv().is_err());

    let add = json!({
        "client_secret": "monkeys",
        "sid": answer["sid"],
        "auth": {
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "secret",
        },
    });
    let early = server.post("/v3/account/3pid/add", Some(&alice), add.clone()).await;
    assert_eq!(refused(&early), (403, "M_THREEPID_AUTH_FAILED"));
    follow(&server, &mail).await;
    let added = server.post("/v3/account/3pid/add", Some(&alice), add).await;
    assert_eq!(added, (StatusCode::OK, json!({})));
    let (_, list) = server.get("/v3/account/3pid", Some(&alice)).await;
    assert_eq!(list["threepids"][0]["address"], "alice@example.org");
    assert_eq!(refused(&ask("register", 1).await), (400, "M_THREEPID_IN_USE"));

    let mut login = password_login("");
    login["identifier"] = json!({
        "type": "m.id.thirdparty", "medium": "email", "address": "alice@example.org",
    });
    assert_eq!(server.post("/v3/login", None, login.clone()).await.0, StatusCode::OK);

    let (_, answer) = ask("account/password", 1).await;
    follow(&server, &mails.recv().await.unwrap()).await;
    let reset = json!({
        "new_password": "better",
        "auth": {
            "type": "m.login.email.identity",
            "threepid_creds": { "sid": answer["sid"], "client_secret": "monkeys" },
        },
    });
    let (status, answer) = server.post("/v3/account/password", None, reset).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    login["password"] = json!("better");
    assert_eq!(server.post("/v3/login", None, login).await.0, StatusCode::OK);
}

/// Clicks the button on the page behind a mail's link.
async fn follow(server: &TestServer, mail: &str) {
    // Long lines are broken with a `=` at their end.
    let mail = mail.replace("=\n", "").replace("=3D", "=");
    let start = mail.find("/_myelin/").unwrap();
    let link = mail[start..].split_whitespace().next().unwrap();
    let (status, _) = server.request(Method::GET, link, None, None).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = server.request(Method::POST, link, None, None).await;
    assert_eq!(status, StatusCode::OK);
    let forged = link.replace("token=", "token=x");
    let (status, _) = server.request(Method::POST, &forged, None, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
