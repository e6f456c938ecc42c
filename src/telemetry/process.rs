//! Numbers about the process, under the names that Prometheus' own clients use.

use std::{fs, time::Duration};

use metrics::{describe_gauge, gauge};

const RESIDENT: &str = "process_resident_memory_bytes";
const PEAK: &str = "myelin_process_peak_resident_memory_bytes";
const THREADS: &str = "process_threads";
const OPEN_FILES: &str = "process_open_fds";
const MAX_FILES: &str = "process_max_fds";
const CPU: &str = "process_cpu_seconds_total";
const START: &str = "process_start_time_seconds";

pub(super) fn describe() {
    describe_gauge!(RESIDENT, "Memory in use, in bytes.");
    describe_gauge!(PEAK, "Most memory that was ever in use, in bytes.");
    describe_gauge!(THREADS, "Threads.");
    describe_gauge!(OPEN_FILES, "Open files and connections.");
    describe_gauge!(MAX_FILES, "Files and connections that may be open.");
    describe_gauge!(CPU, "Processor time used, in seconds.");
    describe_gauge!(START, "When the server started, in seconds since the Unix epoch.");
}

/// Sets the gauges; what the system does not tell is left out.
#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub(crate) fn set_gauges(started_at: Duration) {
    gauge!(START).set(started_at.as_secs_f64());
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        for (gauge, field, unit) in
            [(RESIDENT, "VmRSS:", 1024), (PEAK, "VmHWM:", 1024), (THREADS, "Threads:", 1)]
        {
            if let Some(value) = field_of(&status, field) {
                gauge!(gauge).set((value * unit) as f64);
            }
        }
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        gauge!(OPEN_FILES).set(files.count() as f64);
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        gauge!(MAX_FILES).set(limit as f64);
    }
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    gauge!(CPU).set(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9);
}

/// The number behind a name in `/proc/self/status`.
fn field_of(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Allows as many open files as the system lets this user have, and says how many that is.
///
/// Every connection is one, and so is every file of the database. Most systems start programs with
/// room for 1,024, because of old ones that break with more.
pub(crate) fn allow_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
    .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "VmRSSx:\t1 kB\nVmRSS:\t   2048 kB\nThreads:\t7\n";
        assert_eq!(field_of(status, "VmRSS:"), Some(2048));
        assert_eq!(field_of(status, "Threads:"), Some(7));
        assert_eq!(field_of(status, "VmHWM:"), None);
    }
}
