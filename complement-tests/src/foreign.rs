//! Homeservers of other people, started by a command.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Config, Process};

/// The variable with the command, as a shell reads it.
const COMMAND: &str = "HOMESERVER_COMMAND";
/// How long an answer to the question whether it is up may take.
const ANSWER: Duration = Duration::from_secs(5);

/// The command that starts another homeserver than this workspace's, if tests are to run on one.
pub(crate) fn command() -> Option<String> {
    std::env::var(COMMAND).ok()
}

/// Starts it, with its data in `directory`, on `port`, or a free one if that is 0; waits until it
/// answers.
///
/// # Errors
/// What it has said, if it does not answer within `limit`.
pub(crate) fn launch(
    line: &str,
    config: &Config,
    directory: &Path,
    port: u16,
    limit: Duration,
) -> Result<(Process, u16), String> {
    let port = if port == 0 { free_port() } else { port };
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec {line}")])
        // Where the tests run, so that the command may name a script of theirs.
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("HOMESERVER_PORT", port.to_string())
        .env("HOMESERVER_NAME", config.server_name())
        .env("HOMESERVER_DIRECTORY", directory)
        .env("HOMESERVER_SHARED_SECRET", Config::SHARED_SECRET);
    let process =
        Process::start(command).unwrap_or_else(|error| panic!("cannot start sh: {error}"));
    let end = Instant::now() + limit;
    while Instant::now() < end && !process.has_ended() {
        if answers(port).is_some() {
            return Ok((process, port));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(process.output())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Whether a homeserver says which versions it knows.
fn answers(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    let request = "GET /_matrix/client/versions HTTP/1.0\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    answer.ends_with(b" 200").then_some(())
}
