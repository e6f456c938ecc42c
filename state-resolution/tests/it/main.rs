//! Tests over whole rooms.

#![allow(missing_docs, clippy::indexing_slicing, reason = "these are tests")]

mod agreement;
mod attacks;
mod properties;
mod support;
mod synapse;
mod work;
