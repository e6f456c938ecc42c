//! TCP, TLS and Unix sockets, and what is said if one cannot be opened.

use std::os::unix::fs::PermissionsExt as _;

use tokio::net::UnixStream;

use super::*;

fn tls_client(certificate: &str) -> reqwest::ClientBuilder {
    let certificate = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([certificate])
}

async fn start_tls(folder: &Path) -> (Running, String, TlsFiles) {
    let files = tls_files(folder);
    let certificate = write_certificate(&files);
    let server = Setup::new(Router::new())
        .config(|config| config.listener[0].tls = Some(files.clone()))
        .start()
        .await;
    assert!(server.places[0].starts_with("https://127.0.0.1:"));
    (server, certificate, files)
}

fn localhost(server: &Running) -> String {
    format!("https://localhost:{}/health", server.port())
}

#[tokio::test]
async fn tls_speaks_http_1_and_http_2() {
    let folder = tempfile::tempdir().unwrap();
    let (server, certificate, _) = start_tls(folder.path()).await;
    let answer =
        tls_client(&certificate).build().unwrap().get(localhost(&server)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
    let old = tls_client(&certificate).http1_only().build().unwrap();
    let answer = old.get(localhost(&server)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_11));
    server.stop().await;
}

#[tokio::test]
async fn plain_http_2_is_understood() {
    let server = Setup::new(Router::new()).start().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let answer = client.get(server.url("/health")).send().await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    server.stop().await;
}

#[tokio::test]
async fn new_connections_get_the_new_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (server, old, files) = start_tls(folder.path()).await;
    let listener = Listener {
        address: Some("127.0.0.1:0".parse().unwrap()),
        tls: Some(files.clone()),
        ..Listener::default()
    };
    let new = write_certificate(&files);
    assert!(server.certificates.reload(std::slice::from_ref(&listener)).is_empty());
    let ask = |certificate: &str| {
        let client = tls_client(certificate).build().unwrap();
        client.get(localhost(&server)).send()
    };
    assert!(ask(&old).await.is_err());
    assert_eq!(ask(&new).await.unwrap().status(), 200);

    std::fs::write(&files.private_key, "nonsense").unwrap();
    let errors = server.certificates.reload(&[listener]);
    assert!(errors[0].to_string().contains("key.pem has no private key"), "{}", errors[0]);
    assert_eq!(ask(&new).await.unwrap().status(), 200);
    server.stop().await;
}

/// Whoever does not speak TLS must not hold up the others.
#[tokio::test]
async fn a_handshake_that_never_ends_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let files = tls_files(folder.path());
    write_certificate(&files);
    let server = Setup::new(Router::new())
        .config(|config| config.listener[0].tls = Some(files))
        .limits(|limits| limits.first_request = Duration::from_millis(50))
        .start()
        .await;
    let mut stream = server.connect().await;
    assert_eq!(read_all(&mut stream).await, "");
    server.stop().await;
}

#[tokio::test]
async fn a_unix_socket_is_made_served_and_cleared_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    // Left over from a server that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Setup::new(Router::new())
        .config(|config| {
            config.listener = vec![Listener {
                unix_socket: Some(path.clone()),
                unix_socket_mode: Some("600".to_owned()),
                ..Listener::default()
            }];
        })
        .start()
        .await;
    assert_eq!(server.places[0], format!("unix:{}", path.display()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let ask = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 200"));

    let again = [Listener { unix_socket: Some(path.clone()), ..Listener::default() }];
    let error = Listeners::open(&again).await.unwrap_err();
    assert!(error.to_string().contains("is in use by another program"), "{error}");
    server.stop().await;
    assert!(!path.exists());
}

/// A file of the operator's is not taken for a left-over socket.
#[tokio::test]
async fn an_ordinary_file_is_not_replaced_by_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letter.txt");
    std::fs::write(&path, "dear").unwrap();
    let listener = [Listener { unix_socket: Some(path.clone()), ..Listener::default() }];
    Listeners::open(&listener).await.unwrap_err();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "dear");
}

#[tokio::test]
async fn a_port_in_use_is_said_to_be() {
    let server = Setup::new(Router::new()).start().await;
    let address = Some(format!("127.0.0.1:{}", server.port()).parse().unwrap());
    let error = Listeners::open(&[Listener { address, ..Listener::default() }]).await.unwrap_err();
    let said = format!("listener[0]: 127.0.0.1:{} is in use by another program", server.port());
    assert!(error.to_string().starts_with(&said), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn unusable_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let files = tls_files(folder.path());
    let open = || async {
        let listener = Listener {
            address: Some("127.0.0.1:0".parse().unwrap()),
            tls: Some(files.clone()),
            ..Listener::default()
        };
        Listeners::open(&[listener]).await.unwrap_err().to_string()
    };
    let error = open().await;
    assert!(error.starts_with("listener[0].tls: cannot read ") && error.contains("cert.pem"));
    std::fs::write(&files.certificate, "no PEM").unwrap();
    let error = open().await;
    assert!(error.contains("cert.pem has no certificate in PEM form"), "{error}");
    write_certificate(&files);
    let own_key = std::fs::read(&files.private_key).unwrap();
    let certificate = std::fs::read(&files.certificate).unwrap();
    write_certificate(&files);
    std::fs::write(&files.certificate, certificate).unwrap();
    let error = open().await;
    assert!(error.contains("cannot be used together"), "{error}");
    std::fs::write(&files.private_key, own_key).unwrap();
    std::fs::remove_file(&files.private_key).unwrap();
    let error = open().await;
    assert!(error.contains("cannot read ") && error.contains("key.pem"), "{error}");
}
