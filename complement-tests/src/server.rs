//! A homeserver under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{Client, Config, Exit, Path as RequestPath, Process, foreign, homeserver_binary};

/// How long a server may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running homeserver: the binary, started for this test, or that which `HOMESERVER_COMMAND`
/// starts, or the one at `HOMESERVER_URL`.
///
/// When a test fails its server's log is printed, from where the test began.
pub struct Server {
    inner: Arc<Inner>,
    log_start: usize,
}

struct Inner {
    url: String,
    /// Absent if the server is somebody else's.
    own: Option<Own>,
}

struct Own {
    process: Mutex<Option<Process>>,
    config: Mutex<Config>,
    directory: TempDir,
    port: u16,
    /// What processes before the current one printed.
    earlier: Mutex<String>,
}

impl Server {
    /// A server with the default [`Config`], shared by the tests that run at the time.
    ///
    /// Tests of it use users and rooms of their own. With `HOMESERVER_URL` it is
    /// the server there, which must allow registration without proof.
    pub fn shared() -> Self {
        static SHARED: Mutex<Weak<Inner>> = Mutex::new(Weak::new());
        if let Ok(url) = std::env::var("HOMESERVER_URL") {
            let url = url.trim_end_matches('/').to_owned();
            return Self { inner: Arc::new(Inner { url, own: None }), log_start: 0 };
        }
        let mut shared = lock(&SHARED);
        let inner = shared.upgrade().unwrap_or_else(|| Arc::new(Inner::start(&Config::default())));
        *shared = Arc::downgrade(&inner);
        let log_start = inner.log().len();
        Self { inner, log_start }
    }

    /// A server of the test's own.
    pub fn start(config: &Config) -> Self {
        assert!(
            std::env::var_os("HOMESERVER_URL").is_none(),
            "this test starts a server of its own and cannot use the one at HOMESERVER_URL"
        );
        assert!(
            foreign::command().is_none() || *config == Config::default(),
            "this test configures its server, and only this workspace's one knows what it says"
        );
        Self { inner: Arc::new(Inner::start(config)), log_start: 0 }
    }

    /// A server that was given neither file nor settings, but for a free port.
    pub fn start_without_file() -> Self {
        Self::start(&Config::nothing())
    }

    /// Runs the binary with `arguments` and a configuration, until it ends by itself.
    pub async fn run(config: &Config, arguments: &[&str]) -> Exit {
        let directory = TempDir::new().expect("a temporary directory");
        let file = write_config(config, directory.path(), 0);
        let mut command = Command::new(homeserver_binary());
        command.args(arguments).arg("--config").arg(file).current_dir(directory.path());
        start(command, &[]).exit(PATIENCE).await
    }

    /// Where it answers, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// Its server name, as its configuration says; that of the default one if it is not of this
    /// test.
    pub fn name(&self) -> String {
        match &self.inner.own {
            Some(own) => lock(&own.config).server_name(),
            None => Config::default().server_name(),
        }
    }

    /// Somebody without an account.
    pub fn anonymous(&self) -> Client {
        Client::new(&self.inner.url)
    }

    /// A new user, logged in; `name` becomes part of a user ID that is used once.
    pub async fn register(&self, name: &str) -> Client {
        Client::register(&self.inner.url, &unique(name), "a good password").await
    }

    /// A new user with administrator rights, by the shared secret.
    pub async fn register_admin(&self, name: &str) -> Client {
        let anonymous = self.anonymous();
        let path = "/_synapse/admin/v1/register";
        let nonce = crate::text(&anonymous.get(path).await.ok(), "/nonce");
        let (name, password) = (unique(name), "a good password");
        let secret = Config::SHARED_SECRET;
        let body = json!({
            "nonce": nonce, "username": name, "password": password, "admin": true,
            "mac": crate::registration_mac(secret, &nonce, &name, password, true),
        });
        let answer = anonymous.post(path, body).await.ok();
        anonymous.logged_in(&answer, password)
    }

    /// What the server has logged since this test got it.
    pub fn log(&self) -> String {
        self.inner.log().get(self.log_start..).unwrap_or_default().to_owned()
    }

    /// Its configuration, data and whatever a test puts there.
    pub fn directory(&self) -> &Path {
        self.own().directory.path()
    }

    /// Waits until the log shows what `find` looks for.
    pub fn wait_for_log<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        match self.process().wait_for(PATIENCE, find) {
            Ok(found) => found,
            Err(log) => panic!("the log does not show what was expected:\n{log}"),
        }
    }

    /// Memory in use now (resident set), in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.process().resident_kib()
    }

    /// The most memory that was ever in use, in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.process().peak_kib()
    }

    /// What it has taken of the processors so far, by the threads that it has now.
    pub fn processor_time(&self) -> Duration {
        self.process().processor_time()
    }

    /// From now on no file it writes may grow above this size, as if the disk were full.
    pub fn limit_file_size(&self, bytes: u64) {
        self.process().limit_file_size(bytes);
    }

    /// Ends it without warning (SIGKILL).
    pub fn kill(&self) {
        let own = self.own();
        if let Some(mut process) = lock(&own.process).take() {
            process.kill();
            lock(&own.earlier).push_str(&process.output());
        }
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    pub async fn terminate(&self) -> Exit {
        let own = self.own();
        let process = lock(&own.process).take().expect("the server runs");
        let exit = process.terminate(PATIENCE).await;
        lock(&own.earlier).push_str(&exit.output);
        exit
    }

    /// Starts it again with the same data and at the same address.
    pub fn start_again(&self) {
        let own = self.own();
        let config = lock(&own.config).clone();
        let end = Instant::now() + PATIENCE;
        loop {
            match own.launch(&config) {
                Ok((process, _)) => {
                    *lock(&own.process) = Some(process);
                    return;
                }
                // Somebody's outgoing connection may hold the port for a moment.
                Err(log) if log.contains("in use") && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(log) => panic!("the server did not start again:\n{log}"),
            }
        }
    }

    /// Runs the binary with `arguments` on the data of this server, which must have stopped, until
    /// it ends by itself.
    pub async fn run_on_data(&self, arguments: &[&str]) -> Exit {
        let own = self.own();
        let config = lock(&own.config).clone();
        let file = write_config(&config, own.directory.path(), own.port);
        let mut command = Command::new(homeserver_binary());
        command.args(arguments).arg("--config").arg(file).current_dir(own.directory.path());
        start(command, &[]).exit(PATIENCE).await
    }

    /// Kills it (SIGKILL) and starts it again.
    pub fn kill_and_start_again(&self) {
        self.kill();
        self.start_again();
    }

    /// Changes the configuration file; the server reads it when it starts again.
    pub fn configure(&self, change: impl FnOnce(Config) -> Config) {
        let own = self.own();
        let mut config = lock(&own.config);
        *config = change(config.clone());
        write_config(&config, own.directory.path(), own.port);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.process().hang_up();
    }

    /// Stops the process where it stands: connections stay, nothing is answered.
    pub fn pause(&self) {
        self.process().pause();
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.process().resume();
    }

    fn own(&self) -> &Own {
        self.inner.own.as_ref().expect("only a server that the test started can be controlled")
    }

    fn process(&self) -> impl std::ops::Deref<Target = Process> {
        struct Running<'a>(MutexGuard<'a, Option<Process>>);
        impl std::ops::Deref for Running<'_> {
            type Target = Process;
            fn deref(&self) -> &Process {
                self.0.as_ref().expect("the server runs")
            }
        }
        Running(lock(&self.own().process))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() && self.inner.own.is_some() {
            println!("---- log of the server ----\n{}---- end of log ----", self.log());
        }
    }
}

impl Inner {
    fn start(config: &Config) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let mut own = Own {
            process: Mutex::new(None),
            config: Mutex::new(config.clone()),
            directory,
            port: 0,
            earlier: Mutex::new(String::new()),
        };
        let (process, port) =
            own.launch(config).unwrap_or_else(|log| panic!("the server did not start:\n{log}"));
        own.process = Mutex::new(Some(process));
        own.port = port;
        Self { url: format!("http://127.0.0.1:{port}"), own: Some(own) }
    }

    fn log(&self) -> String {
        let Some(own) = &self.own else { return String::new() };
        let earlier = lock(&own.earlier).clone();
        let current = lock(&own.process).as_ref().map(Process::output).unwrap_or_default();
        earlier + &current
    }
}

impl Own {
    /// Starts the process and waits until its first plain HTTP listener is up.
    fn launch(&self, config: &Config) -> Result<(Process, u16), String> {
        if let Some(line) = foreign::command() {
            return foreign::launch(&line, config, self.directory.path(), self.port, PATIENCE);
        }
        let mut command = Command::new(homeserver_binary());
        command.current_dir(self.directory.path());
        let own = if config.is_nothing() {
            vec![("MYELIN_LISTENER__0__ADDRESS", format!("127.0.0.1:{}", self.port))]
        } else {
            let file = write_config(config, self.directory.path(), self.port);
            command.arg("--config").arg(file);
            Vec::new()
        };
        let process = start(command, &own);
        let port = process.wait_for(PATIENCE, |output| {
            let port = output.split("listening on http://127.0.0.1:").nth(1)?;
            let digits = port.split_once(|c: char| !c.is_ascii_digit())?.0;
            digits.parse().ok()
        })?;
        Ok((process, port))
    }
}

fn write_config(config: &Config, directory: &Path, port: u16) -> PathBuf {
    let file = directory.join("myelin.toml");
    std::fs::write(&file, config.to_toml(&directory.join("data"), port))
        .expect("the temporary directory can be written");
    file
}

/// Starts the homeserver without what the surroundings of the test may have set.
fn start(mut command: Command, settings: &[(&str, String)]) -> Process {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MYELIN_") {
            command.env_remove(name);
        }
    }
    for (name, value) in settings {
        command.env(name, value);
    }
    Process::start(command).unwrap_or_else(|error| {
        panic!("cannot start {}: {error}", homeserver_binary().display());
    })
}

/// A localpart that no other test, and no other run of this one, uses.
pub(crate) fn unique(name: &str) -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static RUN: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let run = RUN.get_or_init(|| RandomState::new().build_hasher().finish()) & 0xffff_ffff;
    format!("{name}-{run:08x}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Sends a request without an account; `path` as for [`Client`].
    pub async fn get(&self, path: impl RequestPath) -> crate::Answer {
        self.anonymous().request(Method::GET, path).await
    }
}
