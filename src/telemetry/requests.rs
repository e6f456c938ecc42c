//! Numbers about requests.

use std::time::Duration;

use http::{Method, StatusCode};
use metrics::{counter, gauge, histogram};

pub(super) const TOTAL: &str = "myelin_http_requests_total";
pub(super) const DURATION: &str = "myelin_http_request_duration_seconds";
pub(super) const IN_FLIGHT: &str = "myelin_http_requests_in_flight";
pub(super) const CONNECTIONS: &str = "myelin_http_connections";

/// Counts an answered request. `endpoint` is the template of a path, so that there are few of them.
pub(crate) fn record(endpoint: &str, method: &Method, status: StatusCode, took: Duration) {
    let endpoint = endpoint.to_owned();
    let method = known(method);
    let status = status.as_str().to_owned();
    histogram!(DURATION, "endpoint" => endpoint.clone(), "method" => method)
        .record(took.as_secs_f64());
    counter!(TOTAL, "endpoint" => endpoint, "method" => method, "status" => status).increment(1);
}

/// Anybody can make up methods; each would be a series of its own.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::HEAD => "HEAD",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// Counts something as there until it is dropped, also when the client goes away.
pub(crate) struct Present(&'static str);

impl Present {
    /// One more request that is being answered.
    pub(crate) fn request() -> Self {
        Self::new(IN_FLIGHT)
    }

    /// One more open connection.
    pub(crate) fn connection() -> Self {
        Self::new(CONNECTIONS)
    }

    fn new(gauge: &'static str) -> Self {
        gauge!(gauge).increment(1);
        Self(gauge)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_endpoint_method_and_status() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let collection = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let _running = Present::request();
            drop(Present::connection());
            let took = Duration::from_millis(3);
            record("/a/{b}", &Method::GET, StatusCode::OK, took);
            record("/a/{b}", &Method::GET, StatusCode::OK, took);
            record("unknown", &"BREW".parse().unwrap(), StatusCode::NOT_FOUND, took);
            let text = collection.render();
            for line in [
                r#"myelin_http_requests_total{endpoint="/a/{b}",method="GET",status="200"} 2"#,
                r#"myelin_http_requests_total{endpoint="unknown",method="other",status="404"} 1"#,
                "myelin_http_requests_in_flight 1",
                "myelin_http_connections 0",
            ] {
                assert!(text.contains(line), "{line} is not in:\n{text}");
            }
        });
    }
}
