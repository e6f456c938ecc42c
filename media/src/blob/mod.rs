//! Stores for files, named by the SHA-256 of their content.
//!
//! A file is first written whole to a [`Staging`] folder on the local disk, where it is hashed and
//! bounded, and then [kept](BlobStore::keep): what a store holds is always complete, and the same
//! content is held once however often it is given.

mod arriving;
mod disk;
mod objects;
mod staging;

use std::{fmt, io, ops::Range, path::Path, str::FromStr, time::Duration};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};

pub use arriving::Arriving;
pub use disk::Disk;
pub use objects::{ObjectSettings, Objects};
pub use staging::{Incoming, Staged, Staging};

/// How much of a file is in memory at a time while it passes through.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;

/// The SHA-256 of a file's content, by which a store knows it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAHash);
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| NotAHash)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NotAHash)?;
        }
        Ok(Self(hash))
    }
}

/// A text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a SHA-256 in hexadecimal")]
pub struct NotAHash;

/// Why a file could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store has no such file.
    #[error("the file is not in the store")]
    NotFound,
    /// There is no space for it: the disk, a quota or a limit on the size of files is reached.
    #[error("there is no space left for the file")]
    Full {
        /// What the system said.
        source: io::Error,
    },
    /// The local disk failed.
    #[error("the file could not be read or written")]
    Io {
        /// What the system said.
        source: io::Error,
    },
    /// The object store failed or could not be reached.
    #[error("the object store failed")]
    Objects {
        /// What it said.
        source: object_store::Error,
    },
}

impl From<io::Error> for BlobError {
    fn from(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full { source },
            _ => Self::Io { source },
        }
    }
}

impl From<object_store::Error> for BlobError {
    fn from(source: object_store::Error) -> Self {
        match source {
            object_store::Error::NotFound { .. } => Self::NotFound,
            source => Self::Objects { source },
        }
    }
}

/// The content of a file, piece by piece.
pub type BlobStream = BoxStream<'static, Result<Bytes, BlobError>>;

/// A file that is in a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Its hash.
    pub hash: Hash,
    /// When it was put there, in ms since the Unix epoch.
    pub modified_ms: u64,
}

/// A file that programs can be given by its path. A copy is removed when this is dropped.
#[derive(Debug)]
pub enum LocalFile {
    /// The store's own file: read only.
    InStore(std::path::PathBuf),
    /// A copy.
    Copy(Staged),
}

impl LocalFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::InStore(path) => path,
            Self::Copy(copy) => copy.path(),
        }
    }
}

/// How a file fetched by a signed URL is to be labelled.
#[derive(Clone, Debug)]
pub struct Label {
    /// `Content-Type`.
    pub content_type: String,
    /// `Content-Disposition`.
    pub content_disposition: String,
}

/// Somewhere files are kept by the hash of their content.
///
/// Keeping and deleting the same file must not go on at the same time; whoever uses the store sees
/// to that.
pub trait BlobStore: Send + Sync {
    /// Puts a file into the store: it is there for good when this returns. Nothing happens if it is
    /// there already.
    fn keep(&self, staged: Staged) -> BoxFuture<'_, Result<(), BlobError>>;

    /// Part of a file. The range must lie within it.
    fn read(&self, hash: Hash, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream, BlobError>>;

    /// Size of a file in bytes; `None` if the store does not have it.
    fn size(&self, hash: Hash) -> BoxFuture<'_, Result<Option<u64>, BlobError>>;

    /// A file as one on the local disk.
    fn local(&self, hash: Hash) -> BoxFuture<'_, Result<LocalFile, BlobError>>;

    /// Removes a file; fine if there is none.
    fn delete(&self, hash: Hash) -> BoxFuture<'_, Result<(), BlobError>>;

    /// All files whose hash begins with this byte.
    fn list(&self, shard: u8) -> BoxFuture<'_, Result<Vec<Listed>, BlobError>>;

    /// An address from which anybody may fetch the file for a while; `None` if the store has no
    /// such addresses.
    fn signed_url(
        &self,
        hash: Hash,
        valid: Duration,
        label: Label,
    ) -> BoxFuture<'_, Result<Option<String>, BlobError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash = Hash(std::array::from_fn(|index| u8::try_from(index * 7).unwrap()));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert_eq!(bad.parse::<Hash>(), Err(NotAHash));
        }
    }
}
