//! Myelin, a Matrix homeserver: one binary, RocksDB inside.
//!
//! The library holds everything; `main.rs` only starts it.

mod api;
mod appservice;
mod cli;
mod clock;
mod config;
mod content;
mod e2ee;
mod federation;
mod http;
mod identity;
mod outgoing;
mod previews;
mod push;
mod rooms;
mod server;
mod shutdown;
mod storage;
mod sync;
mod telemetry;
mod to_the_end;
mod users;

/// Runs the command line that the process was started with.
pub fn run() -> std::process::ExitCode {
    cli::run()
}

#[cfg(feature = "bench")]
#[doc(hidden)]
pub use api::bench as request_bench;

#[cfg(feature = "bench")]
#[doc(hidden)]
pub use storage::bench;

#[cfg(feature = "bench")]
#[doc(hidden)]
pub use push::bench as push_bench;

#[cfg(feature = "bench")]
#[doc(hidden)]
pub use rooms::bench as event_bench;

#[cfg(feature = "bench")]
#[doc(hidden)]
pub use rooms::search_bench;
