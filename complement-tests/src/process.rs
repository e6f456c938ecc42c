//! A process of the test's own: started, watched, signalled and ended by its ID.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::time::Instant;

/// A child whose output is kept; killed when dropped.
pub struct Process {
    child: Child,
    output: Arc<Output>,
}

/// How a process ended, and what it had said.
#[derive(Debug)]
pub struct Exit {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Standard output and error, in the order they came.
    pub output: String,
}

#[derive(Default)]
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Default)]
struct OutputState {
    text: String,
    /// Pipes that are still open.
    open: usize,
}

impl Process {
    /// Starts `command` with its output caught.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(command: Command) -> std::io::Result<Self> {
        Self::spawn(command, false)
    }

    /// Like [`start`](Self::start), for one that is [told](Self::tell) things.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start_interactive(command: Command) -> std::io::Result<Self> {
        Self::spawn(command, true)
    }

    fn spawn(command: Command, interactive: bool) -> std::io::Result<Self> {
        let mut child = spawn(command, interactive)?;
        let output = Arc::new(Output::default());
        let out = child.stdout.take().expect("standard output is piped");
        let err = child.stderr.take().expect("standard error is piped");
        output.lock().open = 2;
        Output::collect(&output, out);
        Output::collect(&output, err);
        Ok(Self { child, output })
    }

    /// The operating system's ID of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has printed.
    pub fn output(&self) -> String {
        self.output.lock().text.clone()
    }

    /// Waits until `find` finds something in the output.
    ///
    /// # Errors
    /// What was printed, if the process ended or `limit` passed first.
    pub fn wait_for<T>(
        &self,
        limit: Duration,
        find: impl Fn(&str) -> Option<T>,
    ) -> Result<T, String> {
        let end = Instant::now() + limit;
        let mut state = self.output.lock();
        loop {
            if let Some(found) = find(&state.text) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.open == 0 || left.is_zero() {
                return Err(state.text.clone());
            }
            state = match self.output.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Whether it has closed its output, as it does at its end.
    pub fn has_ended(&self) -> bool {
        self.output.lock().open == 0
    }

    /// Writes to its standard input.
    pub fn tell(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().expect("started as interactive");
        input.write_all(text.as_bytes()).expect("it reads its input");
        input.flush().expect("it reads its input");
    }

    /// Waits for the process to end by itself.
    pub async fn exit(mut self, limit: Duration) -> Exit {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                // The pipes may hold more than has been read yet.
                let _ = self.wait_for::<()>(Duration::from_secs(5), |_| None);
                return Exit { status, output: self.output() };
            }
            assert!(Instant::now() < end, "still running after {limit:?}\n{}", self.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub async fn terminate(self, limit: Duration) -> Exit {
        self.signal(Signal::TERM);
        self.exit(limit).await
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it where it stands, until [`resume`](Self::resume).
    ///
    /// Returns when every thread stands: the signal alone says so to the process, whose threads go
    /// on until each of them hears of it.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let until = Instant::now() + Duration::from_secs(10);
        while !self.stands() {
            assert!(Instant::now() < until, "the process does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether all threads are stopped (`T` in their `stat`, behind the name in brackets).
    fn stands(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id()))
            .expect("the process runs, on Linux");
        tasks.filter_map(Result::ok).all(|task| {
            std::fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| {
                stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
            })
        })
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// From now on no file it writes may grow above this size, as if the disk were full.
    pub fn limit_file_size(&self, bytes: u64) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process ID");
        let limit = Rlimit { current: Some(bytes), maximum: None };
        prlimit(Some(id), Resource::Fsize, limit).expect("the child runs");
    }

    /// Memory in use now (resident set), in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most memory that was ever in use, in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))
            .expect("the process runs, on Linux");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a line of memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    }

    /// What it has taken of the processors so far, all its threads together.
    pub fn processor_time(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        let threads = threads.expect("the process runs, on Linux");
        let nanoseconds = threads.filter_map(|thread| {
            let told = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            told.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process ID");
        kill_process(id, signal).expect("the child runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(this: &Arc<Self>, pipe: impl Read + Send + 'static) {
        let this = Arc::clone(this);
        std::thread::spawn(move || {
            let mut lines = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                this.lock().text.push_str(&String::from_utf8_lossy(&line));
                this.changed.notify_all();
                line.clear();
            }
            this.lock().open -= 1;
            this.changed.notify_all();
        });
    }
}

/// Starts a child that dies with this test process, however that ends.
///
/// `setpriv` asks the kernel for that. The kernel means the thread that started
/// the child, and the threads of tests come and go: so one lasting thread starts all.
fn spawn(command: Command, interactive: bool) -> std::io::Result<Child> {
    type Job = (Command, bool, mpsc::Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            let bound = has_setpriv();
            for (command, interactive, reply) in queue {
                let mut command = if bound { bind_to_this_thread(&command) } else { command };
                command.stdin(if interactive { Stdio::piped() } else { Stdio::null() });
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (reply, answer) = mpsc::channel();
    let jobs = starter.lock().unwrap_or_else(PoisonError::into_inner).clone();
    jobs.send((command, interactive, reply)).expect("the starting thread lasts");
    answer.recv().expect("the starting thread answers")
}

fn has_setpriv() -> bool {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "true"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn bind_to_this_thread(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        bound.current_dir(directory);
    }
    bound
}
