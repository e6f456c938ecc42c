//! Tests over whole rooms.

#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used, reason = "these are tests")]

mod agreement;
mod attacks;
mod corpus;
mod properties;
mod support;
mod synapse;
mod verdicts;
mod work;
