//! Finding the binary under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// From now on this is the homeserver to test. Only before the first one is started.
pub fn use_binary(path: &Path) {
    BINARY.get_or_init(|| path.to_owned());
}

/// Path of the homeserver to test: `MYELIN_BIN`, or else a fresh build.
///
/// Clones of the repository may share a target directory, where each build puts
/// its binary at the same path. So the build happens under a lock, and what it
/// made is kept under a name that only this clone uses.
pub fn homeserver_binary() -> &'static Path {
    BINARY.get_or_init(|| match std::env::var_os("MYELIN_BIN") {
        Some(path) => PathBuf::from(path),
        None => build().unwrap_or_else(|error| panic!("cannot build the homeserver: {error}")),
    })
}

fn build() -> Result<PathBuf, std::io::Error> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member has a root");
    let target = target_directory(workspace)?;
    let lock = fs::File::create(target.join("complement-tests.lock"))?;
    lock.lock()?;

    let output = cargo(workspace)
        .args(["build", "--locked", "--workspace", "--bin", "myelin"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()?;
    let built = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    let Some(built) = built.filter(|_| output.status.success()) else {
        return Err(std::io::Error::other(format!("cargo build ended with {}", output.status)));
    };

    let kept = target.join(format!("complement-tests-{:016x}", fingerprint(workspace)));
    let fresh = kept.with_extension(std::process::id().to_string());
    fs::hard_link(&built, &fresh)?;
    // Renamed over the old one, which another test process may be running.
    fs::rename(&fresh, &kept)?;
    Ok(kept)
}

fn target_directory(workspace: &Path) -> Result<PathBuf, std::io::Error> {
    let output = cargo(workspace)
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let target = metadata["target_directory"].as_str().unwrap_or("target");
    let target = workspace.join(target);
    fs::create_dir_all(&target)?;
    Ok(target)
}

fn cargo(workspace: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace).stdin(Stdio::null());
    command
}

/// FNV-1a: the same in every process, unlike the standard library's hashers.
fn fingerprint(path: &Path) -> u64 {
    path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
