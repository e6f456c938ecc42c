//! Other people's clients talk through the server, which is killed in the middle.
//!
//! The clients are set up by `make test`; see `interop/` for what each of them does.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use complement_tests::{Config, Process, Server};

/// matrix-js-sdk is what Element Web and Cinny are built on.
#[tokio::test]
async fn matrix_js_sdk_converses_over_a_sigkill() {
    converse("INTEROP_NODE", "javascript/conversation.mjs").await;
}

/// Encrypted, with cross-signing, and a key backup that is read on a new device.
#[tokio::test]
async fn matrix_js_sdk_converses_encrypted_over_a_sigkill() {
    converse("INTEROP_NODE", "javascript/encryption.mjs").await;
}

/// matrix-nio is what many bots are built on.
#[tokio::test]
async fn matrix_nio_converses_over_a_sigkill() {
    converse("INTEROP_PYTHON", "python/conversation.py").await;
}

/// Runs a script with the interpreter that `variable` names, and does to the server what it asks.
async fn converse(variable: &str, script: &str) {
    let Some(interpreter) = std::env::var_os(variable) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "{variable} is not set: the clients must be set up in CI"
        );
        println!("skipped: {variable} is not set; `make test` sets the clients up");
        return;
    };
    let server = Server::start(&Config::default());
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
    let mut command = Command::new(interpreter);
    command.arg(scripts.join(script)).env("HOMESERVER_URL", server.url());
    command.env("PYTHONUNBUFFERED", "1");
    let mut client = Process::start_interactive(command)
        .unwrap_or_else(|error| panic!("cannot start {variable}: {error}"));

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
    let exit = client.exit(Duration::from_mins(3)).await;
    assert!(
        exit.status.success() && exit.output.contains("conversation complete"),
        "{}: {}",
        exit.status,
        exit.output
    );
}
