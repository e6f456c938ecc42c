//! What tests and benches share.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each user takes a part")]

pub mod oracle;
mod pdu;
mod random;
pub mod scenarios;
mod sim;

pub use pdu::{Pdu, event_id};
pub use random::Random;
pub use sim::{Chances, Named, Sim, USERS, name, named, new_id, new_pdu, numbered};
