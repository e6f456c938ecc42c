//! Application services: a bridge in the test's own process talks with the real binary.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic; a missing field of JSON is null, and compared as such"
)]

mod devices;
mod ephemeral;
mod files;
mod identity;
mod queries;
mod transactions;

use complement_tests::{Appservice, Config, Server};
use toml::Value;

/// A server that knows these application services.
fn server_with(appservices: &[&Appservice]) -> Server {
    Server::start(&config_with(appservices))
}

fn config_with(appservices: &[&Appservice]) -> Config {
    let files: Vec<Value> = appservices.iter().map(|one| one.path().into()).collect();
    Config::default().with("appservice.registrations", files)
}
