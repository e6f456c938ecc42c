//! What every engine must do alike.

mod batches;
mod numbers;
mod ranges;
mod reads;
mod sizes;
