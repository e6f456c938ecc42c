//! Real sockets, with a router that stands for the server's.

mod answers;
mod bounds;
mod life;
mod listeners;

use std::{path::Path, time::Duration};

use axum::Router;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;
use crate::{
    config::{Config, Listener, TlsFiles},
    shutdown::{Shutdown, Stopping},
};

/// Longer than anything takes; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    places: Vec<String>,
    certificates: CertificateReloader,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

/// Where a test says how it differs from the ordinary.
struct Setup {
    config: Config,
    limits: Limits,
    router: Box<dyn FnOnce(Stopping) -> Router>,
}

impl Setup {
    fn new(router: Router) -> Self {
        Self::with_stopping(move |_| router)
    }

    fn with_stopping(router: impl FnOnce(Stopping) -> Router + 'static) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let address = Some("127.0.0.1:0".parse().unwrap());
        let listener = vec![Listener { address, ..Listener::default() }];
        Self {
            config: Config { listener, ..Config::default() },
            limits: Limits::new(1024 * 1024, 100),
            router: Box::new(router),
        }
    }

    fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    async fn start(self) -> Running {
        let shutdown = Shutdown::new();
        let listeners = Listeners::open(&self.config.listener).await.unwrap();
        let (places, certificates) = (listeners.places(), listeners.certificates());
        let router = (self.router)(shutdown.stopping());
        let app = App::new(router, &self.config, self.limits, shutdown.stopping());
        let serving = tokio::spawn(listeners.serve(app));
        Running { places, certificates, shutdown, serving }
    }
}

impl Running {
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.places[0])
    }

    fn port(&self) -> u16 {
        self.places[0].rsplit(':').next().unwrap().parse().unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port())).await.unwrap()
    }

    /// Stops and waits for the end.
    async fn stop(self) {
        self.shutdown.start();
        within(self.serving).await.unwrap();
    }
}

async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(PATIENCE, work).await.expect("this does not take that long")
}

/// Reads until the server closes.
async fn read_all(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    // A reset ends it as well.
    within(stream.read_to_end(&mut bytes)).await.ok();
    String::from_utf8(bytes).unwrap()
}

/// Writes a request without a body and reads until the server closes.
async fn say(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(stream).await
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Writes a self-signed certificate for `localhost` and gives its PEM.
fn write_certificate(files: &TlsFiles) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.private_key, made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

fn tls_files(folder: &Path) -> TlsFiles {
    TlsFiles { certificate: folder.join("cert.pem"), private_key: folder.join("key.pem") }
}
