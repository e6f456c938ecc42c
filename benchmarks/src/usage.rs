//! What the server's process has used, as the kernel counts it.

use std::{fs, time::Duration};

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// A process whose use of the machine is watched; none for a server elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    process: Option<u32>,
}

impl Usage {
    /// Watches the process with this ID.
    pub(crate) fn of(process: Option<u32>) -> Self {
        Self { process }
    }

    /// CPU time of all threads since the process began, those included that have ended, in
    /// milliseconds.
    ///
    /// The clock counts nanoseconds; `/proc/PID/stat` has ticks of a hundredth of a second.
    pub(crate) fn cpu_ms(self) -> Option<f64> {
        let process = Pid::from_raw(i32::try_from(self.process?).ok()?);
        let time = clock_getcpuclockid(process).and_then(clock_gettime).ok()?;
        Some(Duration::from(time).as_secs_f64() * 1000.0)
    }

    /// Memory in use now (resident set), in MiB.
    pub(crate) fn resident_mib(self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib / 1024.0)
    }
}
