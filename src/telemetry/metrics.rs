//! Numbers for Prometheus: any area counts with the `metrics` macros, here they are collected.
//!
//! Nothing is collected unless `metrics.address` is set; the macros then do nothing.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use super::{process, requests, storage};

/// Panics, caught or not; each one is a bug.
pub(super) const PANICS: &str = "myelin_panics_total";

/// Seconds, from a cached answer to a long-poll.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 90.0];

/// Some ten thousand requests in a busy server.
const UPKEEP: Duration = Duration::from_secs(5);

/// Sets gauges just before they are read: for numbers that are had by asking, such as sizes of
/// storage.
pub(crate) type Gauges = Arc<dyn Fn() + Send + Sync>;

/// Starts collecting for the whole process. Later calls give the same collection.
///
/// # Errors
/// [`BuildError`] if another collector was installed.
pub(crate) fn start() -> Result<PrometheusHandle, BuildError> {
    static COLLECTION: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(collection) = COLLECTION.get() {
        return Ok(collection.clone());
    }
    let collection = PrometheusBuilder::new().set_buckets(&LATENCY_BUCKETS)?.install_recorder()?;
    describe_counter!(PANICS, "Panics; each one is a bug.");
    describe_counter!(requests::TOTAL, "Requests answered, by endpoint, method and status.");
    describe_histogram!(requests::DURATION, "Seconds until a request was answered.");
    describe_gauge!(requests::IN_FLIGHT, "Requests that are being answered.");
    describe_gauge!(requests::CONNECTIONS, "Open connections.");
    process::describe();
    storage::describe();
    // So that it is there, and 0, before the first one.
    metrics::counter!(PANICS).absolute(0);
    Ok(COLLECTION.get_or_init(|| collection).clone())
}

/// `GET /metrics` in the Prometheus text format, for a listener of its own.
pub(crate) fn routes(collection: PrometheusHandle, gauges: Vec<Gauges>) -> Router {
    Router::new().route("/metrics", get(render)).with_state(Collected { collection, gauges })
}

/// Measurements of time are kept one by one until they are read or put into their buckets, so this
/// is needed where nobody reads. Never returns.
pub(crate) async fn upkeep(collection: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        collection.run_upkeep();
    }
}

#[derive(Clone)]
struct Collected {
    collection: PrometheusHandle,
    gauges: Vec<Gauges>,
}

async fn render(State(collected): State<Collected>) -> impl IntoResponse {
    for set in &collected.gauges {
        set();
    }
    let text = collected.collection.render();
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text)
}
