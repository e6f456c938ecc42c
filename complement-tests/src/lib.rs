//! A harness for black-box tests of a Matrix homeserver.
//!
//! [`Server`] is the real binary with a configuration, a port and a data
//! directory of its own, or whatever `HOMESERVER_COMMAND` starts or answers at
//! `HOMESERVER_URL`. [`Client`] is somebody who talks to it. Tests say what they send and what must come back:
//!
//! ```no_run
//! # async fn example() {
//! use complement_tests::{Server, must_match};
//! use serde_json::json;
//!
//! let server = Server::shared();
//! let alice = server.register("alice").await;
//! let room = alice.create_room(json!({ "preset": "public_chat" })).await;
//! let bob = server.register("bob").await;
//! bob.post(["join", &room], json!({})).await.ok();
//! bob.get(["rooms", "!nowhere", "state"]).await.fails(403, "M_FORBIDDEN");
//! # }
//! ```
//!
//! [`peer::Peer`] is another homeserver, driven by hand, honest or not;
//! [`federating()`] configures servers that find and trust each other.
//!
//! What goes wrong ends the test with the request and the whole answer; the
//! server's log follows. A test that passes prints nothing.

#![allow(
    clippy::indexing_slicing,
    reason = "a missing field of JSON is null, and compared as such"
)]
#![allow(clippy::needless_pass_by_value, reason = "callers write json!(…) and paths in place")]
#![allow(
    clippy::missing_panics_doc,
    reason = "a test helper has one way to say that something is wrong: it panics"
)]

mod answer;
mod appservice;
mod binary;
mod client;
mod config;
pub mod coverage;
mod federating;
mod foreign;
mod identity;
mod json;
mod keys;
pub mod peer;
mod pictures;
mod process;
#[cfg(test)]
mod scenarios;
mod server;
mod shared_secret;
mod sync;
mod waiting;

pub use answer::Answer;
pub use appservice::{Appservice, Received};
pub use binary::{homeserver_binary, use_binary};
pub use client::{Client, Path, Request, media_of};
pub use config::Config;
pub use federating::federating;
pub use identity::{Asked, IdentityServer};
pub use json::{includes, must_match, text};
pub use keys::Signer;
pub use pictures::vast_picture;
pub use process::{Exit, Process};
pub use server::Server;
pub use shared_secret::registration_mac;
pub use sync::{Sync, ephemeral, timeline};
pub use waiting::wait_until;
