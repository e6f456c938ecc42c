//! Reading files while they arrive.

use std::{fs::File, os::unix::fs::FileExt as _, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::sync::watch;

use super::{BlobError, BlobStream, PIECE_BYTES, staging::blocking};

/// How far a file has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Bytes on disk.
    pub(super) bytes: u64,
    /// Whether that is all of it.
    pub(super) whole: bool,
}

/// A file that can be read while it is still received.
#[derive(Clone, Debug)]
pub struct Arriving {
    pub(super) file: Arc<File>,
    pub(super) progress: watch::Receiver<Progress>,
}

impl Arriving {
    /// All of the file, as it comes. Ends with an error if the rest will not come.
    pub fn read(self) -> BlobStream {
        let pieces = stream::unfold(Some((self, 0)), |state| async move {
            let (mut arriving, at) = state?;
            match arriving.piece(at).await {
                Ok(None) => None,
                Ok(Some(piece)) => {
                    let next = at + piece.len() as u64;
                    Some((Ok(piece), Some((arriving, next))))
                }
                Err(error) => Some((Err(error), None)),
            }
        });
        pieces.boxed()
    }

    /// What follows after `at` bytes, once there is something.
    async fn piece(&mut self, at: u64) -> Result<Option<Bytes>, BlobError> {
        let progress = self.progress.wait_for(|now| now.bytes > at || now.whole).await;
        // Whoever wrote it has given up.
        let Ok(Progress { bytes, .. }) = progress.map(|now| *now) else {
            return Err(BlobError::NotFound);
        };
        let left = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
        if left == 0 {
            return Ok(None);
        }
        let file = Arc::clone(&self.file);
        let piece = blocking(move || {
            let mut piece = vec![0; left];
            file.read_exact_at(&mut piece, at)?;
            Ok(piece)
        });
        Ok(Some(piece.await?.into()))
    }
}
