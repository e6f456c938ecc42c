//! HTTP in, domain call, HTTP out: who is asking, which endpoint, which error.

pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod extract;
pub(crate) mod router;
