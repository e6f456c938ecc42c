//! Tables of what was measured.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::measure::Row;

/// All that was measured with one server.
#[derive(Serialize)]
pub(crate) struct Report {
    /// The server.
    pub(crate) server: String,
    /// Its memory before the first request, in MiB.
    pub(crate) idle_mib: Option<f64>,
    /// Its memory after the last, in MiB.
    pub(crate) after_mib: Option<f64>,
    /// In the order they were taken.
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(server: &str) -> Self {
        Self { server: server.to_owned(), idle_mib: None, after_mib: None, rows: Vec::new() }
    }
}

/// Says at once how a measurement came out: the whole takes minutes.
pub(crate) fn progress(row: &Row) {
    eprintln!("{}", line(row));
    if let Some(error) = &row.first_error {
        eprintln!("    first error: {error}");
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.server)?;
        writeln!(
            f,
            "{:<48}{:>8}{:>7}{:>10}{:>9}{:>9}{:>9}{:>9}{:>10}{:>9}",
            "", "count", "errors", "per s", "p50 ms", "p95 ms", "p99 ms", "max ms", "CPU ms", "MiB"
        )?;
        for row in &self.rows {
            writeln!(f, "{}", line(row))?;
        }
        let memory = [("before the first request", self.idle_mib), ("at the end", self.after_mib)];
        for (when, mib) in memory {
            writeln!(f, "{:<48}{:>81}", format!("memory {when}"), figure(mib, 1))?;
        }
        Ok(())
    }
}

fn line(row: &Row) -> String {
    format!(
        "{:<48}{:>8}{:>7}{:>10.1}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>10}{:>9}",
        row.name,
        row.operations,
        row.errors,
        row.rate(),
        row.p50_ms,
        row.p95_ms,
        row.p99_ms,
        row.max_ms,
        figure(row.cpu_ms, 3),
        figure(row.memory_mib, 1),
    )
}

fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// The server's CPU time and the median for each operation, as a Markdown table.
pub(crate) fn side_by_side(reports: &[Report]) -> String {
    let servers: Vec<&str> = reports.iter().map(|report| report.server.as_str()).collect();
    let mut lines = vec![
        format!("| CPU ms (median ms) | {} |", servers.join(" | ")),
        format!("|---|{}", "---|".repeat(reports.len())),
    ];
    for row in reports.first().map(|report| report.rows.as_slice()).unwrap_or_default() {
        let cells = reports.iter().map(|report| {
            let row = report.rows.iter().find(|other| other.name == row.name);
            row.map(|row| format!("{} ({:.2})", figure(row.cpu_ms, 3), row.p50_ms))
        });
        let cells: Vec<String> = cells.map(Option::unwrap_or_default).collect();
        lines.push(format!("| {} | {} |", row.name, cells.join(" | ")));
    }
    let memory = reports
        .iter()
        .map(|report| format!("{} / {}", figure(report.idle_mib, 0), figure(report.after_mib, 0)));
    let memory: Vec<String> = memory.collect();
    lines.push(format!("| memory idle / after all of it (MiB) | {} |", memory.join(" | ")));
    lines.join("\n")
}
