//! HTTP in, domain call, HTTP out: who is asking, which endpoint, which error.

pub(crate) mod admin;
#[cfg(feature = "bench")]
pub mod bench;
pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod extract;
mod file;
mod guests;
pub(crate) mod json;
pub(crate) mod router;
pub(crate) mod server;
mod standing;
#[cfg(test)]
pub(crate) mod testing;
