//! One picture out of a video, by a program.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::{blob::LocalFile, kind::Kind};

/// The largest picture taken from the program.
const MAX_PICTURE_BYTES: u64 = 64 * 1024 * 1024;
/// Programs that run at once.
const AT_ONCE: usize = 2;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PosterError {
    /// No video of a kind that the program is given.
    #[error("the file is no video that a picture can be taken of")]
    NotAVideo,
    /// The program found no picture in it.
    #[error("no picture was found in the video")]
    NoPicture,
    /// It took too long and was ended.
    #[error("the video takes too long to read")]
    TooSlow,
    /// The program could not be run.
    #[error("the program for videos could not be run")]
    Program {
        /// What the system said.
        source: io::Error,
    },
}

/// Takes pictures out of videos with `ffmpeg`. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Posters {
    program: PathBuf,
    time: Duration,
    places: Arc<Semaphore>,
}

impl Posters {
    /// With this program, which may run for so long.
    pub fn new(program: PathBuf, time: Duration) -> Self {
        Self { program, time, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The first picture of a video, as PNG.
    ///
    /// # Errors
    /// [`PosterError`] if there is none or it can't be had in time.
    pub async fn poster(&self, file: Arc<LocalFile>, kind: Kind) -> Result<Bytes, PosterError> {
        // The format is said, not guessed by the program: there are formats that name other files.
        let format = match kind {
            Kind::Mp4 => "mov",
            Kind::Matroska => "matroska",
            Kind::Ogg => "ogg",
            _ => return Err(PosterError::NotAVideo),
        };
        let _place = self.places.acquire().await.map_err(|_| PosterError::NoPicture)?;
        let mut child = Running(self.start(format, file.path())?);
        let output = child.0.stdout.take();
        let reading = tokio::task::spawn_blocking(move || {
            let mut picture = Vec::new();
            if let Some(output) = output {
                output.take(MAX_PICTURE_BYTES + 1).read_to_end(&mut picture)?;
            }
            io::Result::Ok(picture)
        });
        let read = tokio::time::timeout(self.time, reading).await;
        // Dropped here, so ended if it still runs.
        drop(child);
        let picture = match read {
            Err(_elapsed) => return Err(PosterError::TooSlow),
            Ok(Err(failed)) => return Err(program(io::Error::other(failed))),
            Ok(Ok(picture)) => picture.map_err(program)?,
        };
        if picture.is_empty() || picture.len() as u64 > MAX_PICTURE_BYTES {
            return Err(PosterError::NoPicture);
        }
        Ok(picture.into())
    }

    fn start(&self, format: &str, path: &Path) -> Result<Child, PosterError> {
        Command::new(&self.program)
            .args(["-nostdin", "-v", "error", "-threads", "1"])
            .args(["-protocol_whitelist", "file", "-f", format, "-i"])
            .arg(path)
            .args(["-an", "-sn", "-dn", "-frames:v", "1"])
            .args(["-f", "image2pipe", "-c:v", "png", "pipe:1"])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(program)
    }
}

fn program(source: io::Error) -> PosterError {
    PosterError::Program { source }
}

/// A program that does not outlive whoever waits for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(20);

    async fn ask(program: &str, time: Duration, kind: Kind) -> Result<Bytes, PosterError> {
        let file = Arc::new(LocalFile::InStore("/a/video".into()));
        Posters::new(program.into(), time).poster(file, kind).await
    }

    #[tokio::test]
    async fn the_program_is_told_the_format_and_may_open_files_only() {
        let told = ask("/bin/echo", TIME, Kind::Mp4).await.unwrap();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("-protocol_whitelist file -f mov -i /a/video"), "{told}");
        for kind in [Kind::Png, Kind::Gif] {
            let refused = ask("/bin/echo", TIME, kind).await;
            assert!(matches!(refused, Err(PosterError::NotAVideo)), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_program_that_fails_is_an_error() {
        let nothing = ask("/bin/false", TIME, Kind::Ogg).await;
        assert!(matches!(nothing, Err(PosterError::NoPicture)), "{nothing:?}");
        let missing = ask("/nonexistent/ffmpeg", TIME, Kind::Ogg).await;
        assert!(matches!(missing, Err(PosterError::Program { .. })), "{missing:?}");
    }
}
