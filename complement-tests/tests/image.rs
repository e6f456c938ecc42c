//! The entry point of the image for the Complement suite, as a script: what is asked of a homeserver
//! there holds.

#![allow(clippy::indexing_slicing, reason = "a missing field of JSON is null")]

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use complement_tests::{Client, Process, homeserver_binary, registration_mac, text, wait_until};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use reqwest::Certificate;
use serde_json::json;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);

/// A "container": the entry point with directories and ports of its own.
struct Image {
    process: Process,
    name: String,
    port: u16,
    directory: TempDir,
}

/// Writes `ca.crt` and `ca.key`, as the suite does.
fn authority(directory: &Path) -> Vec<u8> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, "Complement CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    std::fs::write(directory.join("ca.crt"), &certificate).expect("it can be written");
    std::fs::write(directory.join("ca.key"), key.serialize_pem()).expect("it can be written");
    certificate.into_bytes()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

fn run(ca: &Path, directory: &Path, name: &str, clients: u16) -> Process {
    let servers = name.rsplit(':').next().expect("a name with a port");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/entrypoint.sh");
    let mut command = Command::new(script);
    command
        .env("SERVER_NAME", name)
        .env("COMPLEMENT_CA", ca)
        .env("COMPLEMENT_APPSERVICES", directory)
        .env("MYELIN_DATA", directory.join("data"))
        .env("MYELIN_BIN", homeserver_binary())
        .env("LISTEN_ADDRESS", "127.0.0.1")
        .env("CLIENT_PORT", clients.to_string())
        .env("SERVER_PORT", servers);
    let process = Process::start(command).expect("the entry point runs");
    let listens = format!("listening on http://127.0.0.1:{clients}");
    if let Err(output) = process.wait_for(PATIENCE, |output| output.find(&listens)) {
        panic!("the server does not start:\n{output}");
    }
    process
}

impl Image {
    fn start(ca: &Path) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let (name, port) = (format!("localhost:{}", free_port()), free_port());
        let process = run(ca, directory.path(), &name, port);
        Self { process, name, port, directory }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// An account by the shared secret that the suite knows.
    async fn register(&self, name: &str) -> Client {
        let anonymous = Client::with_http(client(None), &self.url());
        let path = "/_synapse/admin/v1/register";
        let nonce = text(&anonymous.get(path).await.ok(), "/nonce");
        let body = json!({
            "nonce": nonce, "username": name, "password": "secret", "admin": false,
            "mac": registration_mac("complement", &nonce, name, "secret", false),
        });
        let answer = anonymous.post(path, body).await.ok();
        anonymous.logged_in(&answer, "secret")
    }
}

fn client(authority: Option<&[u8]>) -> reqwest::Client {
    // Nobody minds who was first.
    rustls::crypto::ring::default_provider().install_default().ok();
    let trusted = authority.map(|pem| Certificate::from_pem(pem).expect("a certificate"));
    reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .tls_certs_only(trusted)
        .build()
        .expect("a client")
}

#[tokio::test]
async fn servers_of_the_image_federate_and_keep_their_data() {
    let ca = TempDir::new().expect("a temporary directory");
    let certificate = authority(ca.path());
    let (mut one, other) = (Image::start(ca.path()), Image::start(ca.path()));

    // The certificate is for the name, by the authority.
    let federation =
        Client::with_http(client(Some(&certificate)), &format!("https://{}", one.name));
    let version = federation.get("/_matrix/federation/v1/version").await.ok();
    assert_eq!(version["server"]["name"], "myelin", "{version}");
    let strangers = Client::with_http(client(None), &format!("https://{}", one.name));
    assert!(strangers.get("/_matrix/federation/v1/version").attempt().await.is_err());

    let (alice, bob) = (one.register("alice").await, other.register("bob").await);
    assert_eq!(alice.user_id, format!("@alice:{}", one.name));
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.post(format!("join/{room}?via={}", one.name), json!({})).await.ok();
    let said = alice.say(&room, "hello").await;
    bob.sync().until_event(&room, &said).await;

    // `docker stop` and `docker start`.
    let ended = one.process.terminate(PATIENCE).await;
    assert!(ended.status.success(), "{}", ended.output);
    one.process = run(ca.path(), one.directory.path(), &one.name, one.port);
    alice.get("account/whoami").await.ok();
    let answered = bob.say(&room, "welcome back").await;
    wait_until("what was said", async || {
        let event = alice.get(["rooms", &room, "event", &answered]).await;
        (event.status == 200).then_some(())
    })
    .await;
}
