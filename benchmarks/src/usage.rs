//! What the server's process has used, as the kernel counts it.

use std::fs;

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

    /// CPU time of all threads since the process began, in milliseconds.
    pub(crate) fn cpu_ms(self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process?)).ok()?;
        // The name in parentheses may hold anything; user and system time are the
        // 14th and 15th fields of the whole.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some((user + system) as f64 * 1000.0 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Memory in use now (resident set), in MiB.
    pub(crate) fn resident_mib(self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib / 1024.0)
    }
}
