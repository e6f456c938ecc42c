//! One measurement: operations timed one by one, and what the server used for all of them.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::Serialize;

use crate::http::CallError;
use crate::usage::Usage;

/// A line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) name: String,
    /// How often it succeeded.
    pub(crate) operations: usize,
    /// How often it failed.
    pub(crate) errors: usize,
    /// The first failure, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_error: Option<String>,
    /// From the first to the last of them.
    pub(crate) seconds: f64,
    /// Latencies in milliseconds: half of them, 95 of 100, 99 of 100, all are at most so long.
    pub(crate) p50_ms: f64,
    #[allow(missing_docs, reason = "said above")]
    pub(crate) p95_ms: f64,
    #[allow(missing_docs, reason = "said above")]
    pub(crate) p99_ms: f64,
    #[allow(missing_docs, reason = "said above")]
    pub(crate) max_ms: f64,
    /// The server's CPU time for each of them, in milliseconds.
    pub(crate) cpu_ms: Option<f64>,
    /// The server's memory afterwards (resident set), in MiB.
    pub(crate) memory_mib: Option<f64>,
}

impl Row {
    /// Operations per second.
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.seconds.max(1e-9)
    }
}

/// What one worker saw.
#[derive(Default)]
pub(crate) struct Samples {
    latencies: Vec<Duration>,
    errors: Vec<String>,
}

impl Samples {
    /// Does something and notes how long it took, or why it failed.
    pub(crate) async fn time<T>(
        &mut self,
        operation: impl Future<Output = Result<T, CallError>>,
    ) -> Option<T> {
        let began = Instant::now();
        let result = operation.await;
        match result {
            Ok(value) => {
                self.latencies.push(began.elapsed());
                Some(value)
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Notes a latency that was measured elsewhere.
    pub(crate) fn add(&mut self, latency: Duration) {
        self.latencies.push(latency);
    }

    /// Notes a failure.
    pub(crate) fn failed(&mut self, error: &CallError) {
        self.errors.push(error.to_string());
    }
}

/// Runs all workers at once, each as a task of its own, and sums up what they saw.
pub(crate) async fn measure<W>(name: &str, usage: Usage, workers: Vec<W>) -> Row
where
    W: Future<Output = Samples> + Send + 'static,
{
    let cpu_before = usage.cpu_ms();
    let began = Instant::now();
    let tasks: Vec<_> = workers.into_iter().map(tokio::spawn).collect();
    let mut all = Samples::default();
    for samples in join_all(tasks).await {
        match samples {
            Ok(samples) => {
                all.latencies.extend(samples.latencies);
                all.errors.extend(samples.errors);
            }
            Err(error) => all.errors.push(error.to_string()),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = usage.cpu_ms().zip(cpu_before).map(|(after, before)| after - before);
    all.latencies.sort_unstable();
    let operations = all.latencies.len();
    let at = |share: f64| percentile(&all.latencies, share).as_secs_f64() * 1000.0;
    let row = Row {
        name: name.to_owned(),
        operations,
        errors: all.errors.len(),
        first_error: all.errors.first().cloned(),
        seconds,
        p50_ms: at(0.5),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        cpu_ms: cpu.map(|cpu| cpu / operations.max(1) as f64),
        memory_mib: usage.resident_mib(),
    };
    crate::report::progress(&row);
    row
}

/// The smallest of the sorted values that `share` of them do not exceed.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&values, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&values, 1.0), Duration::from_millis(200));
        assert_eq!(percentile(&values[..1], 0.5), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[tokio::test]
    async fn failures_are_counted_and_not_timed() {
        let worker = async {
            let mut samples = Samples::default();
            samples.time(async { Ok(()) }).await;
            samples.time(async { Err::<(), _>(CallError::Missing("event_id")) }).await;
            samples
        };
        let row = measure("something", Usage::of(None), vec![worker]).await;
        assert_eq!((row.operations, row.errors), (1, 1));
        assert_eq!(row.first_error.as_deref(), Some("the answer has no event_id"));
        assert_eq!(row.cpu_ms, None);
    }
}
