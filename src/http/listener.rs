//! Listening sockets: bound before anything else starts, so that a port in use is told at once.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::{
    App, TlsError, connection,
    peer::Peer,
    tls::{self, Certificates},
};
use crate::{config::Listener, shutdown::Stopping, telemetry::requests};

/// After an error such as "too many open files", which the next attempt would meet as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a listener could not be opened. The message names its place in the configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Somebody else has the port or the socket file.
    #[error(
        "{key}: {place} is in use by another program (another myelin?); stop that one or choose \
         another place"
    )]
    InUse {
        /// `listener[0]`
        key: String,
        /// Address or path.
        place: String,
    },
    /// The system does not allow it.
    #[error("{key}: cannot listen on {place}")]
    Bind {
        /// `listener[0]`
        key: String,
        /// Address or path.
        place: String,
        /// What it said.
        source: io::Error,
    },
    /// There is no certificate.
    #[error("{key}.tls: {source}")]
    Tls {
        /// `listener[0]`
        key: String,
        /// What is wrong with it.
        source: TlsError,
    },
}

/// Every open listener.
#[derive(Debug)]
pub(crate) struct Listeners(Vec<Open>);

#[derive(Debug)]
struct Open {
    key: String,
    /// As configured, to find it again when the configuration is read again.
    configured: Listener,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Tls(TcpListener, Arc<Certificates>),
    Unix(UnixListener, PathBuf),
}

/// Swaps the certificates of listeners that are already running.
#[derive(Debug)]
pub(crate) struct CertificateReloader(Vec<(Listener, String, Arc<Certificates>)>);

impl Listeners {
    /// Opens all of them or none.
    ///
    /// # Errors
    /// [`ListenError`] of the first one that fails.
    pub(crate) async fn open(configured: &[Listener]) -> Result<Self, ListenError> {
        let mut open = Vec::new();
        for (index, listener) in configured.iter().enumerate() {
            open.push(Open::new(format!("listener[{index}]"), listener).await?);
        }
        Ok(Self(open))
    }

    /// Opens the one for metrics.
    ///
    /// # Errors
    /// [`ListenError`] if it fails.
    pub(crate) async fn open_metrics(address: SocketAddr) -> Result<Self, ListenError> {
        let listener = Listener { address: Some(address), ..Listener::default() };
        Ok(Self(vec![Open::new("metrics.address".to_owned(), &listener).await?]))
    }

    /// `http://127.0.0.1:8008`, `https://0.0.0.0:8448`, `unix:/run/myelin.sock`: with the real port.
    pub(crate) fn places(&self) -> Vec<String> {
        self.0.iter().map(|open| open.socket.to_string()).collect()
    }

    /// For [`CertificateReloader::reload`] while the listeners run.
    pub(crate) fn certificates(&self) -> CertificateReloader {
        let with_tls = self.0.iter().filter_map(|open| match &open.socket {
            Socket::Tls(_, certificates) => {
                Some((open.configured.clone(), open.key.clone(), Arc::clone(certificates)))
            }
            _ => None,
        });
        CertificateReloader(with_tls.collect())
    }

    /// Accepts connections until the server stops; returns when the requests that were running have
    /// been answered, or when their time is over.
    pub(crate) async fn serve(self, app: App) {
        let connections = Arc::new(Semaphore::new(app.limits().connections));
        let mut running = JoinSet::new();
        for open in self.0 {
            running.spawn(open.serve(app.clone(), Arc::clone(&connections)));
        }
        while running.join_next().await.is_some() {}
    }
}

impl CertificateReloader {
    /// Reads the certificates again, from where the configuration now says they are.
    ///
    /// A listener whose new certificate is unusable keeps the old one.
    ///
    /// # Errors
    /// Every [`ListenError`] met.
    pub(crate) fn reload(&self, configured: &[Listener]) -> Vec<ListenError> {
        let mut errors = Vec::new();
        for (listener, key, certificates) in &self.0 {
            let now = configured.iter().find(|now| now.address == listener.address);
            let Some(files) = now.unwrap_or(listener).tls.as_ref().or(listener.tls.as_ref()) else {
                continue;
            };
            match tls::load(files) {
                Ok(config) => certificates.replace(config),
                Err(source) => errors.push(ListenError::Tls { key: key.clone(), source }),
            }
        }
        errors
    }
}

impl Open {
    async fn new(key: String, configured: &Listener) -> Result<Self, ListenError> {
        let socket = match (&configured.address, &configured.unix_socket) {
            (_, Some(path)) => {
                let mode = configured.mode().unwrap_or(0o600);
                let listener = bind_unix(path, mode)
                    .await
                    .map_err(|source| bind_error(&key, path.display(), source))?;
                Socket::Unix(listener, path.clone())
            }
            (Some(address), None) => {
                // First, so that an unreadable certificate does not take the port for a moment.
                let tls = configured.tls.as_ref().map(tls::load).transpose();
                let tls = tls.map_err(|source| ListenError::Tls { key: key.clone(), source })?;
                let listener = TcpListener::bind(address)
                    .await
                    .map_err(|source| bind_error(&key, address, source))?;
                match tls {
                    Some(tls) => Socket::Tls(listener, Arc::new(Certificates::new(tls))),
                    None => Socket::Tcp(listener),
                }
            }
            (None, None) => {
                let source = io::ErrorKind::InvalidInput.into();
                return Err(ListenError::Bind { key, place: "nothing".to_owned(), source });
            }
        };
        Ok(Self { key, configured: configured.clone(), socket })
    }

    async fn serve(self, app: App, permits: Arc<Semaphore>) {
        let stopping = app.stopping().clone();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&permits) => accepted,
                () = stopping.wait() => break,
                Some(_) = connections.join_next() => continue,
            };
            let Some((stream, permit)) = accepted else { continue };
            let app = app.clone();
            let present = app.is_measured().then(requests::Present::connection);
            connections.spawn(async move {
                stream.serve(app).await;
                drop((permit, present));
            });
        }
        self.close();
        let deadline = tokio::time::Instant::now() + app.limits().grace;
        let rest = async { while connections.join_next().await.is_some() {} };
        if timeout_at(deadline, rest).await.is_err() {
            warn!(connections = connections.len(), "connections were cut, since they did not end");
        }
    }

    async fn accept(
        &self,
        permits: &Arc<Semaphore>,
    ) -> Option<(Accepted, tokio::sync::OwnedSemaphorePermit)> {
        let permit = Arc::clone(permits).acquire_owned().await.ok()?;
        let accepted = match &self.socket {
            Socket::Tcp(listener) => {
                listener.accept().await.map(|(stream, from)| Accepted::Tcp(stream, from))
            }
            Socket::Tls(listener, certificates) => listener.accept().await.map(|(stream, from)| {
                Accepted::Tls(stream, from, TlsAcceptor::from(certificates.current()))
            }),
            Socket::Unix(listener, _) => {
                listener.accept().await.map(|(stream, _)| Accepted::Unix(stream))
            }
        };
        match accepted {
            Ok(accepted) => Some((accepted, permit)),
            Err(error) => {
                warn!(%error, listener = self.key, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    /// New connections are refused from now on.
    fn close(self) {
        if let Socket::Unix(listener, path) = self.socket {
            drop(listener);
            // Somebody else may have cleared it away; then nothing is left to do.
            std::fs::remove_file(path).ok();
        }
    }
}

/// A connection on which nothing was said yet.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Tls(TcpStream, SocketAddr, TlsAcceptor),
    Unix(UnixStream),
}

impl Accepted {
    async fn serve(self, app: App) {
        if let Self::Tcp(stream, _) | Self::Tls(stream, ..) = &self {
            // Answers are written whole, so there is nothing to wait for.
            stream.set_nodelay(true).ok();
        }
        match self {
            Self::Tcp(stream, from) => connection::serve(stream, Peer::Tcp(from.ip()), app).await,
            Self::Unix(stream) => connection::serve(stream, Peer::Unix, app).await,
            // Several kilobytes, which connections without TLS would have to have room for too.
            Self::Tls(stream, from, acceptor) => {
                Box::pin(serve_tls(stream, from, acceptor, app)).await;
            }
        }
    }
}

async fn serve_tls(stream: TcpStream, from: SocketAddr, acceptor: TlsAcceptor, app: App) {
    let handshake = timeout(app.limits().first_request, acceptor.accept(stream));
    match unless_stopping(app.stopping(), handshake).await {
        Some(Ok(Ok(stream))) => connection::serve(stream, Peer::Tcp(from.ip()), app).await,
        Some(Ok(Err(error))) => debug!(%error, "TLS handshake failed"),
        Some(Err(_elapsed)) => debug!("TLS handshake took too long"),
        None => {}
    }
}

async fn unless_stopping<T>(stopping: &Stopping, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stopping.wait() => None,
    }
}

/// A socket file that nobody listens on is left over from a server that was killed.
async fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let is_socket = std::fs::symlink_metadata(path)
        .is_ok_and(|found| std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()));
    if is_socket {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

fn bind_error(key: &str, place: impl fmt::Display, source: io::Error) -> ListenError {
    let (key, place) = (key.to_owned(), place.to_string());
    if source.kind() == io::ErrorKind::AddrInUse {
        ListenError::InUse { key, place }
    } else {
        ListenError::Bind { key, place, source }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, listener) = match self {
            Self::Tcp(listener) => ("http", listener),
            Self::Tls(listener, _) => ("https", listener),
            Self::Unix(_, path) => return write!(f, "unix:{}", path.display()),
        };
        match listener.local_addr() {
            Ok(address) => write!(f, "{scheme}://{address}"),
            Err(error) => write!(f, "{scheme}://? ({error})"),
        }
    }
}
