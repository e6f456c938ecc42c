//! Files on their way into a store: hashed and written as they come, removed unless they are kept.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{Arriving, BlobError, Hash, PIECE_BYTES, arriving::Progress};

/// How much of a file's beginning is remembered, to tell its kind.
const HEAD_BYTES: usize = 512;

/// A folder for files that are not complete yet. Only one process may use it.
#[derive(Clone, Debug)]
pub struct Staging(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    next: AtomicU64,
}

impl Staging {
    /// Clears what an earlier process left in the folder. It is made when it is needed.
    ///
    /// # Errors
    /// [`BlobError`] if the disk fails.
    pub fn open(path: &Path) -> Result<Self, BlobError> {
        match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            left => {
                for left in left? {
                    fs::remove_file(left?.path())?;
                }
            }
        }
        Ok(Self(Arc::new(Folder { path: path.to_owned(), next: AtomicU64::new(0) })))
    }

    /// Begins a file.
    pub fn begin(&self) -> Incoming {
        Incoming {
            folder: Arc::clone(&self.0),
            open: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            bytes: 0,
            head: Vec::new(),
            progress: watch::Sender::default(),
        }
    }
}

/// A file that is being received. Dropping it removes what was written.
#[derive(Debug)]
pub struct Incoming {
    folder: Arc<Folder>,
    /// `None` until something was written.
    open: Option<Open>,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    bytes: u64,
    head: Vec<u8>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    hasher: Sha256,
    path: TemporaryPath,
}

impl Open {
    fn create(folder: &Folder) -> io::Result<Self> {
        let number = folder.next.fetch_add(1, Ordering::Relaxed);
        let path = TemporaryPath(folder.path.join(format!("{number:016x}")));
        let open = || File::options().read(true).write(true).create_new(true).open(&path.0);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&folder.path)?;
                open()?
            }
            file => file?,
        };
        Ok(Self { file: Arc::new(file), hasher: Sha256::new(), path })
    }

    fn write(&mut self, pieces: Vec<Bytes>) -> io::Result<()> {
        for piece in pieces {
            self.hasher.update(&piece);
            (&*self.file).write_all(&piece)?;
        }
        Ok(())
    }
}

/// The path of a file that is removed with it.
#[derive(Debug)]
struct TemporaryPath(PathBuf);

impl Drop for TemporaryPath {
    fn drop(&mut self) {
        // Absent once it was moved into the store; whatever else is left goes at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

impl Incoming {
    /// Bytes received so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The beginning, up to 512 bytes.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// A way to read the file before it is complete. `None` before the first bytes are on disk.
    pub fn read_along(&self) -> Option<Arriving> {
        let file = Arc::clone(&self.open.as_ref()?.file);
        Some(Arriving { file, progress: self.progress.subscribe() })
    }

    /// Adds a piece. It is in memory until enough for a write has come together.
    ///
    /// # Errors
    /// [`BlobError`] if the disk fails or is full; the file cannot be finished then.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), BlobError> {
        self.bytes += piece.len() as u64;
        let missing = HEAD_BYTES.saturating_sub(self.head.len()).min(piece.len());
        self.head.extend(piece.iter().take(missing));
        self.waiting_bytes += piece.len();
        self.waiting.push(piece);
        if self.waiting_bytes >= PIECE_BYTES { self.flush(false).await } else { Ok(()) }
    }

    /// Writes what waits; `last`: and brings the file to the disk.
    async fn flush(&mut self, last: bool) -> Result<(), BlobError> {
        let pieces = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let (open, folder) = (self.open.take(), Arc::clone(&self.folder));
        let written = blocking(move || {
            let mut open = match open {
                Some(open) => open,
                None => Open::create(&folder)?,
            };
            open.write(pieces)?;
            if last {
                open.file.sync_data()?;
            }
            Ok(open)
        });
        self.open = Some(written.await?);
        self.progress.send_replace(Progress { bytes: self.bytes, whole: last });
        Ok(())
    }

    /// The whole file, on disk.
    ///
    /// # Errors
    /// [`BlobError`] if the disk fails or is full.
    pub async fn finish(mut self) -> Result<Staged, BlobError> {
        self.flush(true).await?;
        let Some(open) = self.open.take() else {
            return Err(BlobError::NotFound);
        };
        let hash = Hash(open.hasher.finalize().into());
        Ok(Staged { hash, bytes: self.bytes, head: self.head, path: open.path })
    }
}

/// A complete file that is on disk but not in a store yet. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    hash: Hash,
    bytes: u64,
    head: Vec<u8>,
    path: TemporaryPath,
}

impl Staged {
    /// SHA-256 of the content.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The beginning, up to 512 bytes.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path.0
    }
}

/// Runs what waits for the disk away from the threads that serve everybody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => Err(BlobError::Io { source: io::Error::other(failed) }),
    }
}
