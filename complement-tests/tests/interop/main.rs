//! Other people's programs talk through the server, which is killed in the middle.
//!
//! They are set up by `make test`; see `interop/` for what each of them does.

#![allow(
    clippy::indexing_slicing,
    reason = "a missing field of JSON is null, and can be assigned in place"
)]

mod bridges;
mod synapse;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use complement_tests::{Config, Process, Server};

/// matrix-js-sdk is what Element Web and Cinny are built on.
#[tokio::test]
async fn matrix_js_sdk_converses_over_a_sigkill() {
    converse("INTEROP_NODE", "javascript/conversation.mjs").await;
}

/// Encrypted, verified by emoji, with cross-signing, and a key backup that is read on a new device.
#[tokio::test]
async fn matrix_js_sdk_converses_encrypted_over_a_sigkill() {
    converse("INTEROP_NODE", "javascript/encryption.mjs").await;
}

/// The same between clients that encrypt with different libraries: matrix-js-sdk, and matrix-nio with
/// vodozemac.
#[tokio::test]
async fn matrix_js_sdk_and_matrix_nio_converse_encrypted_over_a_sigkill() {
    let Some(node) = interpreter("INTEROP_NODE") else { return };
    let Some(python) = interpreter("INTEROP_PYTHON") else { return };
    let server = Server::start(&Config::default());
    let mut command = script(&node, "javascript/encryption.mjs");
    command.env("HOMESERVER_URL", server.url()).env("OTHER_CLIENT", python);
    over_a_kill(&server, command).await;
}

/// matrix-nio is what many bots are built on.
#[tokio::test]
async fn matrix_nio_converses_over_a_sigkill() {
    converse("INTEROP_PYTHON", "python/conversation.py").await;
}

/// The Rust SDK is what Element X is built on: it syncs by simplified sliding sync, and encrypts.
#[tokio::test]
async fn the_rust_sdk_converses_encrypted_over_a_sigkill() {
    let Some(program) = interpreter("INTEROP_RUST") else { return };
    let server = Server::start(&Config::default());
    let mut command = Command::new(program);
    command.env("HOMESERVER_URL", server.url());
    over_a_kill(&server, command).await;
}

/// Hydrogen, a web client, in two browsers; pictures of them stay where `SCREENSHOTS` says.
#[tokio::test]
async fn hydrogen_shows_in_a_browser_what_was_said() {
    let Some(node) = interpreter("INTEROP_NODE") else { return };
    if interpreter("INTEROP_BROWSER_MODULES").is_none() {
        return;
    }
    let server = Server::start(&Config::default());
    let mut command = script(&node, "browser/hydrogen.mjs");
    command.env("HOMESERVER_URL", server.url());
    over_a_kill(&server, command).await;
}

/// Runs a script with the interpreter that `variable` names, and does to the server what it asks.
async fn converse(variable: &str, name: &str) {
    let Some(interpreter) = interpreter(variable) else { return };
    let server = Server::start(&Config::default());
    let mut command = script(&interpreter, name);
    command.env("HOMESERVER_URL", server.url());
    over_a_kill(&server, command).await;
}

/// Runs a script that has the server killed and started in its midst.
async fn over_a_kill(server: &Server, command: Command) {
    let mut client = Process::start_interactive(command).expect("the script runs");
    for request in ["kill", "start"] {
        let line = format!("please {request}\n");
        if let Err(output) = client.wait_for(Duration::from_mins(3), |output| output.find(&line)) {
            panic!("the client did not get as far as \"please {request}\":\n{output}");
        }
        match request {
            "kill" => server.kill(),
            _ => server.start_again(),
        }
        client.tell(&format!("done {request}\n"));
    }
    completes(client).await;
}

/// What `variable` names; none where it was not set up.
fn interpreter(variable: &str) -> Option<OsString> {
    let interpreter = std::env::var_os(variable);
    if interpreter.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{variable} is not set: the clients must be set up in CI"
        );
        println!("skipped: {variable} is not set; `make test` sets the clients up");
    }
    interpreter
}

/// A command that runs a script below `interop/`.
fn script(interpreter: &OsStr, name: &str) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name));
    command.env("PYTHONUNBUFFERED", "1");
    command
}

/// Waits until the script has said that all went well.
async fn completes(client: Process) {
    let exit = client.exit(Duration::from_mins(3)).await;
    assert!(
        exit.status.success() && exit.output.contains("conversation complete"),
        "{}: {}",
        exit.status,
        exit.output
    );
}
