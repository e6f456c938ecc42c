//! Synapse, with which this server federates over TLS.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use complement_tests::{Config, Process, Server};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(2);

/// Rooms of several versions on either server, entered and left in all ways; then each of them is
/// away for a while and catches up; and an encrypted conversation, begun on either side.
#[tokio::test]
async fn synapse_federates_and_either_server_catches_up_after_an_absence() {
    let Some(python) = super::interpreter("INTEROP_SYNAPSE_PYTHON") else { return };
    let Some(node) = super::interpreter("INTEROP_NODE") else { return };
    let directory = TempDir::new().expect("a temporary directory");
    let authority = Authority::new(directory.path());
    let (myelin_name, myelin_port) = free_name();
    let (synapse_name, synapse_port) = free_name();

    let (certificate, key) = authority.certify("myelin");
    let (certificate, key) = (certificate.display(), key.display());
    let tls = format!("{{ certificate = \"{certificate}\", private_key = \"{key}\" }}");
    let config = Config::default()
        .with("server_name", myelin_name.as_str())
        .with("outgoing.ca_certificates", vec![authority.file().display().to_string()])
        .with("outgoing.allow_private_addresses", true)
        .with("presence.enabled", true)
        .with_listener("{ address = \"127.0.0.1:0\" }")
        .with_listener(&format!("{{ address = \"127.0.0.1:{myelin_port}\", tls = {tls} }}"));
    let myelin = Server::start(&config);
    let synapse = Synapse::new(&python, directory.path(), &authority, &synapse_name, synapse_port);
    let mut running = Some(synapse.start());

    let mut command = super::script(&python, "synapse/conversation.py");
    command
        .env("MYELIN_URL", format!("https://{myelin_name}"))
        .env("SYNAPSE_URL", format!("https://{synapse_name}"))
        .env("CA_FILE", authority.file());
    let mut client = Process::start_interactive(command).expect("Python runs");
    for request in [
        "stop myelin",
        "start myelin",
        "stop synapse",
        "start synapse",
        "stop synapse again",
        "stop myelin again",
        "start synapse again",
        "start myelin again",
    ] {
        let line = format!("please {request}\n");
        if let Err(output) = client.wait_for(PATIENCE, |output| output.find(&line)) {
            let log = running.as_ref().map(Process::output).unwrap_or_default();
            panic!("the client did not get as far as \"please {request}\":\n{log}\n{output}");
        }
        match request.trim_end_matches(" again") {
            "stop myelin" => myelin.kill(),
            "start myelin" => myelin.start_again(),
            "stop synapse" => running = None,
            _ => running = Some(synapse.start()),
        }
        client.tell(&format!("done {request}\n"));
    }
    super::completes(client).await;

    for (home, other) in [(&myelin_name, &synapse_name), (&synapse_name, &myelin_name)] {
        let mut command = super::script(&node, "javascript/encryption.mjs");
        command
            .env("HOMESERVER_URL", format!("https://{home}"))
            .env("OTHER_HOMESERVER_URL", format!("https://{other}"))
            .env("NODE_EXTRA_CA_CERTS", authority.file());
        super::over_a_kill(&myelin, command).await;
    }
}

/// A server name on this machine, and its port, which was free a moment ago.
///
/// The port is part of the name, so it must be known before the server starts.
fn free_name() -> (String, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    (format!("localhost:{port}"), port)
}

/// Signs the certificates of both servers; keeps its files in `directory`.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    fn new(directory: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let authority =
            Self { issuer: Issuer::new(params, key), directory: directory.to_path_buf() };
        write(&authority.file(), &certificate.pem());
        authority
    }

    fn file(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// The files of a certificate for localhost, and of its key.
    fn certify(&self, owner: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a valid name");
        // A certificate with its issuer's name would be taken for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, "localhost");
        // Newer versions of OpenSSL insist on it.
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = ["pem", "key"].map(|kind| self.directory.join(format!("{owner}.{kind}")));
        write(&files[0], &certificate.pem());
        write(&files[1], &key.serialize_pem());
        let [certificate, key] = files;
        (certificate, key)
    }
}

/// A Synapse that can be started again; killed when its process is dropped.
struct Synapse {
    python: OsString,
    environment: Vec<(&'static str, OsString)>,
}

impl Synapse {
    fn new(
        python: &OsString,
        directory: &Path,
        authority: &Authority,
        server_name: &str,
        port: u16,
    ) -> Self {
        let (certificate, key) = authority.certify("synapse");
        let environment = vec![
            ("HOMESERVER_NAME", server_name.into()),
            ("HOMESERVER_PORT", port.to_string().into()),
            ("HOMESERVER_DIRECTORY", directory.into()),
            ("HOMESERVER_CERTIFICATE", certificate.into()),
            ("HOMESERVER_KEY", key.into()),
            ("HOMESERVER_AUTHORITY", authority.file().into()),
        ];
        Self { python: python.clone(), environment }
    }

    fn start(&self) -> Process {
        let mut command = super::script(&self.python, "synapse/start.py");
        command.envs(self.environment.clone());
        let process = Process::start(command).expect("Python runs");
        let listens = |output: &str| output.find("Synapse now listening on");
        if let Err(output) = process.wait_for(PATIENCE, listens) {
            panic!("Synapse does not start:\n{output}");
        }
        process
    }
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).expect("the temporary directory can be written");
}
