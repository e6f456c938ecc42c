//! Thumbnails, on a few threads of their own and in bounded memory, pixels and time.

mod render;
mod size;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, TryAcquireError},
    time::{Instant, timeout},
};

use crate::blob::{BlobError, LocalFile};

pub use size::{Method, Size};

/// Jobs that wait for a thread; more are refused.
const MAX_WAITING: usize = 256;
/// How long a job waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// What pictures may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pictures worked on at once.
    pub workers: usize,
    /// The largest picture, width times height; of an animation, of one frame.
    pub max_pixels: u64,
    /// Memory for decoded pictures, all workers together, in bytes.
    pub memory_bytes: u64,
    /// The longest that one picture may take.
    pub time: Duration,
    /// The longest animation that is made smaller; of longer ones only the first frame is.
    pub max_frames: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: 2,
            max_pixels: 40_000_000,
            memory_bytes: 512 * 1024 * 1024,
            time: Duration::from_secs(20),
            max_frames: 200,
        }
    }
}

/// Why there is no thumbnail.
#[derive(Debug, thiserror::Error)]
pub enum ThumbnailError {
    /// No picture of a kind that thumbnails are made of.
    #[error("the file is no picture that a thumbnail can be made of")]
    NotAPicture,
    /// It is broken, or not what it says.
    #[error("the picture cannot be read")]
    Broken {
        /// What the decoder said.
        source: image::ImageError,
    },
    /// It has too many pixels.
    #[error("the picture of {width} × {height} pixels is too large")]
    TooLarge {
        /// As the file says.
        width: u32,
        /// As the file says.
        height: u32,
    },
    /// It took too long.
    #[error("the picture takes too long to read")]
    TooSlow,
    /// Too many others are being made.
    #[error("too many pictures are being worked on")]
    Busy,
    /// The file could not be had.
    #[error("the file could not be read")]
    Blob(#[from] BlobError),
}

impl From<image::ImageError> for ThumbnailError {
    fn from(source: image::ImageError) -> Self {
        match source {
            image::ImageError::IoError(error) if error.kind() == io::ErrorKind::TimedOut => {
                Self::TooSlow
            }
            source => Self::Broken { source },
        }
    }
}

/// What a file says about its picture.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Picture {
    /// Width in pixels, as it is shown.
    pub width: u32,
    /// Height in pixels, as it is shown.
    pub height: u32,
}

/// What came of a wish for a thumbnail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Rendered {
    /// The picture is no larger than that: the file itself should be served, as this type.
    Original {
        /// What it really is.
        content_type: &'static str,
    },
    /// A smaller picture.
    Made {
        /// Media type.
        content_type: &'static str,
        /// The file.
        bytes: Vec<u8>,
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
}

/// Where a picture comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(Arc<LocalFile>),
    /// Memory.
    Bytes(bytes::Bytes),
}

impl Source {
    /// A file of which only the path is known.
    pub fn path(path: PathBuf) -> Self {
        Self::File(Arc::new(LocalFile::InStore(path)))
    }
}

/// Makes thumbnails. Cloning is cheap; clones share the limits.
#[derive(Clone, Debug)]
pub struct Thumbnailer {
    limits: Limits,
    waiting: Arc<Semaphore>,
    workers: Arc<Semaphore>,
    /// In KiB.
    memory: Arc<Semaphore>,
}

impl Thumbnailer {
    /// Within these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            workers: Arc::new(Semaphore::new(limits.workers.max(1))),
            memory: Arc::new(Semaphore::new(kib(limits.memory_bytes).max(1) as usize)),
            limits,
        }
    }

    /// Makes a thumbnail; `animated`: one that moves, if the picture does.
    ///
    /// # Errors
    /// [`ThumbnailError`] if the picture can't be read within the limits.
    pub async fn thumbnail(
        &self,
        source: Source,
        size: Size,
        animated: bool,
    ) -> Result<Rendered, ThumbnailError> {
        self.work(source, move |source, limits, until| {
            render::thumbnail(source, limits, until, size, animated)
        })
        .await
    }

    /// Size of a picture, told by its head only.
    ///
    /// # Errors
    /// [`ThumbnailError`] if it is no picture or too large a one.
    pub async fn picture(&self, source: Source) -> Result<Picture, ThumbnailError> {
        let limits = self.limits;
        let until = Instant::now() + limits.time;
        blocking(move || Ok(render::probe(&source, &limits, until)?.picture)).await
    }

    /// The blurhash of a picture.
    ///
    /// # Errors
    /// [`ThumbnailError`] if the picture can't be read within the limits.
    pub async fn blurhash(&self, source: Source) -> Result<String, ThumbnailError> {
        self.work(source, render::blurhash).await
    }

    /// Runs a job when there is a thread and memory for it.
    async fn work<T: Send + 'static>(
        &self,
        source: Source,
        job: impl FnOnce(&Source, &Limits, Instant) -> Result<T, ThumbnailError> + Send + 'static,
    ) -> Result<T, ThumbnailError> {
        let _place = self.waiting.try_acquire().map_err(|refused| match refused {
            TryAcquireError::NoPermits | TryAcquireError::Closed => ThumbnailError::Busy,
        })?;
        let worker = timeout(PATIENCE, Arc::clone(&self.workers).acquire_owned());
        let Ok(Ok(worker)) = worker.await else { return Err(ThumbnailError::Busy) };
        let limits = self.limits;
        let until = Instant::now() + limits.time;
        let (source, probed) = blocking(move || {
            let probed = render::probe(&source, &limits, until)?;
            Ok((source, probed))
        })
        .await?;
        // A picture that would need all memory at once may have it all.
        let needed = kib(probed.memory_bytes).min(kib(limits.memory_bytes).max(1));
        let memory = timeout(PATIENCE, Arc::clone(&self.memory).acquire_many_owned(needed));
        let Ok(Ok(memory)) = memory.await else { return Err(ThumbnailError::Busy) };
        let until = Instant::now() + limits.time;
        blocking(move || {
            let done = job(&source, &limits, until);
            // Held by the thread, which goes on also if nobody waits for it any more.
            drop((worker, memory));
            done
        })
        .await
    }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ThumbnailError> + Send + 'static,
) -> Result<T, ThumbnailError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) if failed.is_panic() => {
            tracing::error!("a decoder of pictures panicked");
            Err(ThumbnailError::NotAPicture)
        }
        // The runtime is stopping.
        Err(_) => Err(ThumbnailError::Busy),
    }
}

#[cfg(test)]
mod tests;
