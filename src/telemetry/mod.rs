//! What the server tells about itself: logs on stderr, and numbers for Prometheus.

pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod requests;
pub(crate) mod storage;
