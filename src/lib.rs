//! Myelin, a Matrix homeserver: one binary, RocksDB inside.
//!
//! The library holds everything; `main.rs` only starts it.

mod api;
mod clock;
mod config;
mod rooms;
mod server;
mod storage;
mod sync;
mod users;
