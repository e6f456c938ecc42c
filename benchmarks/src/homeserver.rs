//! The server under load: one that is there, or one started here with empty data.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use complement_tests::Process;
use serde_json::json;
use tempfile::TempDir;

use crate::BenchError;
use crate::usage::Usage;

const PATIENCE: Duration = Duration::from_mins(2);

/// A homeserver that runs.
pub(crate) struct Homeserver {
    /// What the tables call it.
    pub(crate) name: String,
    /// Where its client API is.
    pub(crate) url: String,
    /// Its process.
    pub(crate) usage: Usage,
    /// Ends with it; none for one that was there.
    own: Option<Own>,
}

/// What a server that was started here has.
struct Own {
    /// None while it is stopped.
    process: Option<Process>,
    directory: TempDir,
    port: u16,
}

/// A homeserver that can be started.
pub(crate) enum Start {
    /// This binary.
    Myelin(PathBuf),
    /// By this Python interpreter.
    Synapse(PathBuf),
}

impl Homeserver {
    /// One that runs already.
    pub(crate) fn at(url: &str, process: Option<u32>) -> Self {
        Self { name: url.to_owned(), url: url.to_owned(), usage: Usage::of(process), own: None }
    }

    /// Stops it. Where its data are.
    pub(crate) async fn stop(&mut self) -> Result<PathBuf, BenchError> {
        let missing = || BenchError::Start("the server was not started here".to_owned());
        let own = self.own.as_mut().ok_or_else(missing)?;
        let process = own.process.take().ok_or_else(missing)?;
        let exit = process.terminate(PATIENCE).await;
        if !exit.status.success() {
            return Err(BenchError::Start(format!("it stopped badly:\n{}", exit.output)));
        }
        Ok(own.directory.path().to_owned())
    }

    /// Starts it again with its data.
    pub(crate) fn start_again(&mut self, start: &Start) -> Result<(), BenchError> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let process = start.launch(own.directory.path(), own.port)?;
        self.usage = Usage::of(Some(process.id()));
        own.process = Some(process);
        Ok(())
    }
}

impl Start {
    /// Starts it with empty data, open registration and no limits of rates.
    pub(crate) fn empty(&self) -> Result<Homeserver, BenchError> {
        let directory = TempDir::new()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = self.launch(directory.path(), port)?;
        Ok(Homeserver {
            name: self.name().to_owned(),
            url: format!("http://127.0.0.1:{port}"),
            usage: Usage::of(Some(process.id())),
            own: Some(Own { process: Some(process), directory, port }),
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Myelin(_) => "myelin",
            Self::Synapse(_) => "Synapse",
        }
    }

    fn launch(&self, directory: &Path, port: u16) -> Result<Process, BenchError> {
        let name = self.name();
        let (command, sign) = match self {
            Self::Myelin(binary) => (myelin(binary, directory, port)?, "listening"),
            Self::Synapse(python) => {
                (synapse(python, directory, port)?, "Synapse now listening on")
            }
        };
        let process = Process::start(command)?;
        let ready = process.wait_for(PATIENCE, |output| output.find(sign));
        ready.map_err(|output| BenchError::Start(format!("{name} does not start:\n{output}")))?;
        // What start-up itself takes shall be over.
        std::thread::sleep(Duration::from_secs(3));
        Ok(process)
    }
}

/// Password hashes are cheap with either server: what they cost is the operator's choice.
fn myelin(binary: &Path, directory: &Path, port: u16) -> Result<Command, std::io::Error> {
    let config = format!(
        "server_name = \"bench.test\"\n\
         data_dir = \"{}\"\n\
         [[listener]]\naddress = \"127.0.0.1:{port}\"\n\
         [registration]\nenabled = true\nrequire_token = false\n\
         [rate_limits]\nenabled = false\n\
         [password]\nargon2_memory_kib = 64\n",
        directory.join("data").display(),
    );
    let file = directory.join("myelin.toml");
    std::fs::write(&file, config)?;
    let mut command = Command::new(binary);
    command.current_dir(directory).arg("--config").arg(file);
    Ok(command)
}

fn synapse(python: &Path, directory: &Path, port: u16) -> Result<Command, std::io::Error> {
    let unlimited = json!({ "per_second": 100_000, "burst_count": 100_000 });
    let mut config = json!({
        "server_name": "bench.test",
        "listeners": [{
            "port": port,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "resources": [{ "names": ["client"], "compress": false }],
        }],
        "database": { "name": "sqlite3", "args": { "database": directory.join("synapse.db") } },
        "media_store_path": directory.join("media"),
        "pid_file": directory.join("synapse.pid"),
        "signing_key": format!("ed25519 a_test {}", "A".repeat(43)),
        "macaroon_secret_key": "a secret",
        "form_secret": "a secret",
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "bcrypt_rounds": 4,
        "report_stats": false,
        "trusted_key_servers": [],
        "rc_joins": { "local": unlimited, "remote": unlimited },
        "rc_login": { "address": unlimited, "account": unlimited },
        "rc_invites": { "per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited },
    });
    for limit in ["rc_message", "rc_registration", "rc_joins_per_room", "rc_room_creation"] {
        config[limit] = unlimited.clone();
    }
    let file = directory.join("synapse.yaml");
    // What is JSON is YAML too.
    std::fs::write(&file, config.to_string())?;
    let mut command = Command::new(python);
    command
        .current_dir(directory)
        .args(["-m", "synapse.app.homeserver", "--config-path"])
        .arg(file)
        .env("PYTHONUNBUFFERED", "1");
    Ok(command)
}
