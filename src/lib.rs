//! Myelin, a Matrix homeserver: one binary, RocksDB inside.
//!
//! The library holds everything; `main.rs` only starts it.

mod clock;
mod rooms;
mod storage;
