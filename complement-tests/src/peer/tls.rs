//! Certificates of a test's own authority.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::serve::Listener;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Address;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Signs the certificates of all peers of this process.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
    /// Holds the file for as long as the process lives.
    _directory: TempDir,
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("authority.pem");
    std::fs::write(&file, certificate.pem()).expect("the directory can be written");
    Authority { issuer: Issuer::new(params, key), file, _directory: directory }
});

/// The file with the certificate of the authority.
pub(crate) fn authority_file() -> String {
    AUTHORITY.file.display().to_string()
}

/// The files of a new certificate for localhost, and of its key; they stand as long as the
/// process lives.
pub(crate) fn certificate_files() -> [PathBuf; 2] {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a valid name");
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &AUTHORITY.issuer).expect("a certificate");
    let directory = AUTHORITY.file.parent().expect("a file in a directory");
    [(certificate.pem(), "pem"), (key.serialize_pem(), "key")].map(|(text, kind)| {
        let file = directory.join(format!("server-{number}.{kind}"));
        std::fs::write(&file, text).expect("the directory can be written");
        file
    })
}

/// A socket of this machine that speaks TLS.
pub(crate) struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

/// Listens on a free port; its address is a server name.
pub(crate) async fn listen() -> (TlsListener, Address) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = tcp.local_addr().expect("it is bound");
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a valid name");
    // A certificate with its issuer's name would be taken for one that signed itself.
    params.distinguished_name.push(DnType::CommonName, "peer");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &AUTHORITY.issuer).expect("a certificate");
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they fit");
    (TlsListener { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) }, address)
}

impl TlsListener {
    /// What it takes to listen there again when this one is gone.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }
}

/// Listens once more where one listened before.
pub(crate) async fn listen_again(address: Address, acceptor: TlsAcceptor) -> TlsListener {
    let tcp = TcpListener::bind(address).await.expect("nobody else took the port");
    TlsListener { tcp, acceptor }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = Address;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // Whoever gives up halfway is of no interest.
            let Ok((stream, address)) = self.tcp.accept().await else { continue };
            if let Ok(Ok(stream)) = timeout(HANDSHAKE, self.acceptor.accept(stream)).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
