//! Bridges made with other people's frameworks; the server and the bridge are killed in the middle.

use std::net::TcpListener;
use std::path::Path;

use complement_tests::{Config, Server};
use serde_json::json;

use super::{interpreter, over_a_kill, script};

/// mautrix is what most of today's bridges are made with: ghosts, a puppet, a room that is made when
/// it is asked for, end-to-bridge encryption without `/sync`.
#[tokio::test]
async fn a_mautrix_bridge_loses_and_doubles_nothing_over_a_sigkill() {
    let features = ["receive_ephemeral", "org.matrix.msc3202", "io.element.msc4190"];
    bridge("INTEROP_PYTHON", "python/bridge_conversation.py", &features).await;
}

/// matrix-appservice-bridge is what the older bridges are made with. It knows typing and receipts by
/// their first name only.
#[tokio::test]
async fn a_javascript_bridge_loses_and_doubles_nothing_over_a_sigkill() {
    let features = ["de.sorunome.msc2409.push_ephemeral"];
    bridge("INTEROP_NODE", "javascript/bridge_conversation.mjs", &features).await;
}

/// Runs a script that starts a bridge, whose registration asks for these features, and talks over
/// it.
async fn bridge(variable: &str, name: &str, features: &[&str]) {
    let Some(interpreter) = interpreter(variable) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let port = free_port();
    let mut registration = json!({
        "id": "net",
        "url": format!("http://127.0.0.1:{port}"),
        "as_token": "as-token-of-net",
        "hs_token": "hs-token-of-net",
        "sender_localpart": "_net_bot",
        "rate_limited": false,
        "namespaces": {
            "users": [{ "exclusive": true, "regex": "@_net_.*" }],
            "aliases": [{ "exclusive": true, "regex": "#_net_.*" }],
        },
    });
    for feature in features {
        registration[feature] = json!(true);
    }
    let registration = write(directory.path(), "bridge.json", &registration);
    // It is told nothing, but may speak for everybody.
    let puppets = write(
        directory.path(),
        "puppets.json",
        &json!({
            "id": "puppets",
            "url": null,
            "as_token": "as-token-of-puppets",
            "hs_token": "hs-token-of-puppets",
            "sender_localpart": "_puppets_bot",
            "rate_limited": false,
            "namespaces": { "users": [{ "exclusive": false, "regex": "@.*:complement\\.test" }] },
        }),
    );
    let registrations = vec![registration.clone(), puppets.clone()];
    let server = Server::start(&Config::default().with("appservice.registrations", registrations));
    let mut command = script(&interpreter, name);
    command.env("HOMESERVER_URL", server.url());
    command.env("REGISTRATION", registration).env("PUPPETS", puppets);
    command.env("BRIDGE_PORT", port.to_string());
    over_a_kill(&server, command).await;
}

/// Registration files are YAML, of which JSON is a part.
fn write(directory: &Path, name: &str, registration: &serde_json::Value) -> String {
    let path = directory.join(name);
    std::fs::write(&path, registration.to_string()).expect("the directory can be written");
    path.to_string_lossy().into_owned()
}

/// A port that nobody listens on: the bridge listens there each time it is started.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
