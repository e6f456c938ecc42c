//! Asking a virus scanner about a file: the part spoken with `clamd`.

use std::{io, time::Duration};

use futures::StreamExt as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::blob::{BlobError, BlobStream};

/// The longest answer that makes sense.
const MAX_ANSWER_BYTES: u64 = 4096;

/// What a scanner says about a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing was found.
    Clean,
    /// Something was found.
    Infected {
        /// What, in the scanner's words.
        what: String,
    },
}

/// Why a scanner said nothing.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It can't be reached or broke off.
    #[error("the scanner cannot be reached")]
    Unreachable {
        /// What the system said.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("the scanner did not answer in time")]
    TooSlow,
    /// It answered something that is no verdict.
    #[error("the scanner answered `{answer}`")]
    NoVerdict {
        /// What it said.
        answer: String,
    },
    /// The file could not be had.
    #[error("the file could not be read")]
    Blob(#[from] BlobError),
}

impl From<io::Error> for ScanError {
    fn from(source: io::Error) -> Self {
        Self::Unreachable { source }
    }
}

/// Where a `clamd` listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Clamd {
    /// Path of a Unix socket.
    Unix(std::path::PathBuf),
    /// Host and port.
    Tcp(String),
}

impl Clamd {
    /// Asks about a file.
    ///
    /// # Errors
    /// [`ScanError`] if there is no verdict within `time`.
    pub async fn scan(&self, file: BlobStream, time: Duration) -> Result<Verdict, ScanError> {
        let asked = async {
            match self {
                Self::Unix(path) => converse(UnixStream::connect(path).await?, file).await,
                Self::Tcp(address) => converse(TcpStream::connect(address).await?, file).await,
            }
        };
        timeout(time, asked).await.map_err(|_| ScanError::TooSlow)?
    }
}

/// `INSTREAM`: pieces with their length before them, then a length of 0, then the verdict.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut file: BlobStream,
) -> Result<Verdict, ScanError> {
    let (read, mut write) = tokio::io::split(stream);
    let sending = async {
        write.write_all(b"zINSTREAM\0").await?;
        while let Some(piece) = file.next().await {
            let piece = piece?;
            // A length of 0 would be the end.
            for part in piece.chunks(1 << 20).filter(|part| !part.is_empty()) {
                let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
                write.write_all(&length.to_be_bytes()).await?;
                write.write_all(part).await?;
            }
        }
        write.write_all(&[0; 4]).await?;
        Ok::<(), ScanError>(write.flush().await?)
    };
    let mut answer = Vec::new();
    let mut read = read.take(MAX_ANSWER_BYTES);
    let (sent, heard) = tokio::join!(sending, read.read_to_end(&mut answer));
    // One that has seen enough answers and closes before it was given everything.
    if let Some(verdict) = verdict(&answer) {
        return Ok(verdict);
    }
    sent?;
    heard?;
    Err(ScanError::NoVerdict { answer: String::from_utf8_lossy(&answer).into_owned() })
}

fn verdict(answer: &[u8]) -> Option<Verdict> {
    let answer = std::str::from_utf8(answer).ok()?.trim_end_matches(['\0', '\n']);
    let said = answer.strip_prefix("stream: ")?;
    match said.strip_suffix(" FOUND") {
        Some(what) => Some(Verdict::Infected { what: what.to_owned() }),
        None => (said == "OK").then_some(Verdict::Clean),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;
    use tokio::net::TcpListener;

    use super::*;

    /// A scanner that finds the word `virus`; answers `answer` if that is given.
    async fn scanner(answer: Option<&'static [u8]>) -> Clamd {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut command = [0; 10];
            stream.read_exact(&mut command).await.unwrap();
            assert_eq!(&command, b"zINSTREAM\0");
            let mut file = Vec::new();
            loop {
                let length = stream.read_u32().await.unwrap();
                if length == 0 {
                    break;
                }
                let mut piece = vec![0; length as usize];
                stream.read_exact(&mut piece).await.unwrap();
                file.extend(piece);
            }
            let found = file.windows(5).any(|window| window == b"virus");
            let usual: &[u8] = if found { b"stream: Test.Word FOUND\0" } else { b"stream: OK\0" };
            stream.write_all(answer.unwrap_or(usual)).await.unwrap();
        });
        Clamd::Tcp(address)
    }

    fn file(pieces: &[&'static str]) -> BlobStream {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        stream::iter(pieces).boxed()
    }

    const TIME: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_file_goes_over_in_pieces_and_a_verdict_comes_back() {
        let clean = scanner(None).await.scan(file(&["some ", "", "text"]), TIME).await;
        assert_eq!(clean.unwrap(), Verdict::Clean);
        let found = scanner(None).await.scan(file(&["a vi", "rus"]), TIME).await;
        assert_eq!(found.unwrap(), Verdict::Infected { what: "Test.Word".into() });
    }

    #[tokio::test]
    async fn what_is_no_verdict_is_an_error() {
        for answer in [&b""[..], b"INSTREAM size limit exceeded. ERROR\0", b"stream: OKAY\0"] {
            let asked = scanner(Some(answer)).await.scan(file(&["x"]), TIME).await;
            assert!(matches!(asked, Err(ScanError::NoVerdict { .. })), "{asked:?}");
        }
        let nobody = Clamd::Unix("/nonexistent/clamd".into()).scan(file(&["x"]), TIME).await;
        assert!(matches!(nobody, Err(ScanError::Unreachable { .. })), "{nobody:?}");
    }
}
