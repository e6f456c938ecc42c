//! What tests and benches share.

#![allow(
    dead_code,
    unused_imports,
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "each user takes a part"
)]

mod note;
pub mod oracle;
mod pdu;
mod random;
pub mod scenarios;
mod sim;
mod story;

pub use note::note;
pub use pdu::{Pdu, event_id};
pub use random::Random;
pub use sim::{Chances, Named, Sim, USERS, name, named, new_id, new_pdu, numbered};
pub use story::{ALICE, BOB, CAROL, Story};
