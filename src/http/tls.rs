//! Certificates: read, checked, and swapped while the server runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

use crate::config::TlsFiles;

/// Why a listener has no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The file is missing or may not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// As configured.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file can be read, but what is looked for is not in it.
    #[error("{} has no {wanted} in PEM form", path.display())]
    Missing {
        /// As configured.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
    },
    /// Broken, or the key is not the certificate's.
    #[error("{} and {} cannot be used together: {source}", certificate.display(), private_key.display())]
    Unusable {
        /// As configured.
        certificate: PathBuf,
        /// As configured.
        private_key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

/// Reads and checks both files; the result speaks HTTP/2 and HTTP/1.1.
///
/// # Errors
/// [`TlsError`], naming the file.
pub(crate) fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_error(error, &files.certificate, "certificate"))?;
    if chain.is_empty() {
        let path = files.certificate.clone();
        return Err(TlsError::Missing { path, wanted: "certificate" });
    }
    let key = PrivateKeyDer::from_pem_file(&files.private_key)
        .map_err(|error| pem_error(error, &files.private_key, "private key"))?;
    let unusable = |source| TlsError::Unusable {
        certificate: files.certificate.clone(),
        private_key: files.private_key.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    // A peer that comes back need not do the whole handshake again.
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn pem_error(error: pem::Error, path: &Path, wanted: &'static str) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::Io(source) => TlsError::Read { path, source },
        _ => TlsError::Missing { path, wanted },
    }
}

/// What a listener presents to the next connection.
#[derive(Debug)]
pub(super) struct Certificates(RwLock<Arc<ServerConfig>>);

impl Certificates {
    pub(super) fn new(config: Arc<ServerConfig>) -> Self {
        Self(RwLock::new(config))
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read())
    }

    /// For connections from now on; those that exist keep theirs.
    pub(super) fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write() = config;
    }
}
